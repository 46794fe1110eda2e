/* Products of weights decoded to 8 bits with activations rounded to 8 bits: what lies where.
 *
 * 32 numbers of a row of x share a scale, their greatest magnitude / 127; the numbers are in
 * -127 ... 127. A weight keeps the numbers, scales and minima that its file has:
 *
 *   weight = scale * (number - offset)         Q8_0 Q6_K Q5_0 Q4_0 Q3_K IQ4_NL IQ4_XS, floats
 *   weight = scale * number - minimum          Q5_K Q5_1 Q4_K Q4_1 Q2_K
 *
 * with numbers without sign. A product is the exact sum of the products of the numbers of a group,
 * times both scales; offset and minimum are multiplied with the sum of the numbers of x.
 *
 *   panel  [groups] of numbers [8][32 rows][4], scales [halves][32 rows], and minima likewise
 *   x      [width / 256][columns / 6][groups] of Int8Activations
 *
 * where the groups are those of a span of 256 numbers, or of what is left of a row.
 *
 * Many columns of x have numbers without sign for a weight with an offset, 128 more than they are, and
 * those of the weight have one, less the offset. Sums of products of a group or of its half begin from
 * what makes up for that, which stands in front of the scales, [halves][32 rows] of 32 bits.
 *
 * A job of two parts has numbers of 16 bits, those of the weight with a sign: a group of x is two
 * structures, even numbers and odd ones, and in a panel numbers [8][32 rows][2] of either. Sums and
 * offsets are left out.
 */

#ifndef GRANITE_GGUF_INT8_H
#define GRANITE_GGUF_INT8_H

#include "job.h"

enum { INT8_GROUP = 32, INT8_ROWS = 32, INT8_COLUMNS = 6, INT8_SPAN = 256 };
/* Columns, at most, that rows are multiplied with while they are decoded; and from how many on it pays
 * to sum up the numbers of a weight. */
enum { INT8_FEWEST = 4, INT8_MANY = 24 };

/* How x is packed: with a sign, in two parts, or without a sign. */
enum { INT8_SIGNED = 0, INT8_PARTS = 1, INT8_UNSIGNED = 2 };

typedef struct {
    int8_t numbers[INT8_COLUMNS][INT8_GROUP];
    float scales[INT8_COLUMNS];
    int16_t sums[INT8_COLUMNS][2]; /* of the numbers of either half of a group */
    float offsets[INT8_COLUMNS];   /* scale * sum */
} Int8Activations;

/* Lines that are fetched each time that 16 bytes of 16 rows are taken: what is taken, and all of it
 * again so many bytes on and twice as many, as a processor that has too much to fetch leaves some out. */
enum { INT8_LINES = 4, INT8_FURTHER = 2048 };

/* What the 16 numbers of IQ4 stand for, with an offset of 128. */
#define INT8_TABLE                                                                                \
    _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, (char)129, (char)141, (char)153, (char)166,    \
                  (char)181, (char)197, (char)217, (char)241)

int64_t int8_group_bytes(const Job *job);

/* Whether a type is decoded here; floats are rounded, which `exact` forbids. */
int int8_takes(int64_t type, int64_t exact, int64_t columns);
void int8_plan(Job *job);

/* The same where instructions multiply numbers with and without sign, in either order. */
void int8_plan_unsigned(Job *job);

/* Whether rows may be multiplied while they are decoded. */
int int8_fewest(const Job *job);

void int8_pack(const Job *job, const char *x, int64_t column, int64_t start, char *packed);

/* Where x is packed, from a column and a number on that begin a block and a span. */
Int8Activations *int8_place(const Job *job, char *packed, int64_t column, int64_t start);

/* A column that x has not: zeros. */
void int8_leave_out(const Job *job, Int8Activations *to, int64_t column);

#endif
