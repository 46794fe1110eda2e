/* A panel of numbers of 8 bits from the rows of a weight, for vectors of one length; see int8.h.
 *
 * A lane holds four bytes of a row: what a type does to the bytes of a block it does to as many rows
 * at once, and the numbers come out as the panel has them. What includes this defines NAME and
 * TARGET; LANES; and on vectors of so many words or floats
 *
 *   TAKE(from, offsets, words)  four vectors: 16 bytes of the rows at these offsets
 *   HALVES(words)               floats of the lower two bytes
 *   LOOK_UP(words)              the numbers of IQ4 for bytes below 16, with an offset of 128
 *   MOST_PARTS                  that a group of numbers with eight bits may have, see int8.h: 1 or 2
 *   TAKE_NUMBERS(type, from, offsets, lines)  32 of the rows, F32, F16 or BF16, in up to 32 vectors
 *   GREATEST_OF(type, lines)    the bits of their greatest magnitudes, where NaN is the greatest
 *   NUMBER_OF(type, lines, n)   floats
 *   TO_BYTES(floats, there)     four, rounded to nearest, ties to even, in bytes of integers; or zeros
 *
 * or, in place of the last four,
 *
 *   ROUND_ROW(type, from, bytes, scales)  256 floats of a row as bytes, and the scales of eight groups
 *   TAKE_LINE(from, places, words)        sixteen vectors: 64 bytes of the rows, which are two groups
 *   ROUNDED_AT(type, half, n)             which of them has numbers 4 n to 4 n + 3 of either
 *
 * and may define
 *
 *   TAKE_TWO(from, offsets, words)  eight vectors: 32 bytes of the rows
 *   HALVES_AT(from, offsets)        floats of two bytes of the rows
 *   ROOM_FOR_BYTES                  where numbers may have all of eight bits, without a sign
 *   ADD_128_TIMES(sums, words)      128 times four signed numbers added to each sum: x may be without sign
 *
 * What is decoded goes into a panel or, where DOT is defined, is multiplied with up to INT8_FEWEST
 * columns of x at once, with the sums that a panel would give:
 *
 *   DOT(sums, words, x, offset) four products of numbers added to each sum; x is four of its numbers
 *   EIGHT_BITS_OFFSET           what DOT leaves of the offset of numbers with eight bits
 *   NATIVE(integers)            as the instructions below take them, which int8_multiply.h has, too:
 *                               SPREAD, SPREAD_WORD, SPREAD_PAIR, ADD_PAIRS, ZERO_INTEGERS, TO_FLOATS,
 *                               MULTIPLY, ADD_PRODUCT, SUBTRACT_PRODUCT
 */

#define JOIN(a, b) a##b
#define NAMED(a, b) JOIN(a, b)
#define OF(part) NAMED(NAME, part)
#define INLINE TARGET static inline __attribute__((always_inline))

typedef uint32_t OF(_words) __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t OF(_integers) __attribute__((vector_size(4 * LANES), may_alias));
typedef uint8_t OF(_bytes) __attribute__((vector_size(4 * LANES), may_alias));
typedef int16_t OF(_shorts) __attribute__((vector_size(4 * LANES), may_alias));
typedef float OF(_floats) __attribute__((vector_size(4 * LANES), may_alias));
#define WORDS OF(_words)
#define INTEGERS OF(_integers)
#define BYTES OF(_bytes)
#define SHORTS OF(_shorts)
#define FLOATS OF(_floats)

enum { OF(_line) = 4 * INT8_ROWS, OF(_numbers) = INT8_ROWS * INT8_GROUP };
#define LINE OF(_line)
#define NUMBERS OF(_numbers)

/* Where what is decoded goes: groups of a panel, `step` apart, or y, a sum of each row for `columns`
 * of x. */
typedef struct {
    int columns; /* 0: into the panel */
    char *to;
    int64_t step;
    int parts; /* of a group */
    const Int8Activations *x;
    int halves, minima, offset; /* of the type */
    int begun; /* whether x is without sign: numbers have one, and what sums begin from is put, too */
    OF(_integers) sums[8][2][INT8_FEWEST];
    OF(_floats) y[INT8_FEWEST];
    const char *next; /* of the weight, fetched meanwhile */
    int lines;        /* for each time that something is taken */
} OF(_sink);

INLINE void OF(_fetch)(OF(_sink) *sink, int lines) {
    /* A loop that stays one: else a compiler has all of a block fetched first, which is too much at a
     * time. */
#pragma GCC unroll 1
    for (int i = 0; i < lines; i++, sink->next += 64) {
        __builtin_prefetch(sink->next, 0, 2);
        __builtin_prefetch(sink->next + INT8_FURTHER, 0, 2);
        __builtin_prefetch(sink->next + 2 * INT8_FURTHER, 0, 2);
    }
}

INLINE void OF(_take)(OF(_sink) *sink, const char *from, const int64_t *offsets, WORDS words[4]) {
    OF(_fetch)(sink, sink->lines);
    TAKE(from, offsets, words);
}

#ifndef ROOM_FOR_BYTES
#define ROOM_FOR_BYTES 0
#endif

INLINE void OF(_take_two)(OF(_sink) *sink, const char *from, const int64_t *offsets, WORDS words[8]) {
#ifdef TAKE_TWO
    OF(_fetch)(sink, 2 * sink->lines);
    TAKE_TWO(from, offsets, words);
#else
    OF(_take)(sink, from, offsets, words);
    OF(_take)(sink, from + 16, offsets, words + 4);
#endif
}

INLINE FLOATS OF(_halves_at)(OF(_sink) *sink, const char *from, const int64_t *offsets) {
#ifdef HALVES_AT
    (void)sink;
    return (FLOATS)HALVES_AT(from, offsets);
#else
    WORDS head[4];
    OF(_take)(sink, from, offsets, head);
    return HALVES(head[0]);
#endif
}

/* The numbers 4 n to 4 n + 3 of a group. */
INLINE void OF(_put)(OF(_sink) *sink, int group, int n, WORDS numbers) {
    char *to = sink->to + group * sink->step + n * LINE;
#ifdef ADD_128_TIMES
    if (!sink->columns && sink->begun) {
        const int half = sink->halves == 2 ? n / 4 : 0;
        const int first = sink->halves == 2 ? n % 4 == 0 : n == 0;
        WORDS less = numbers ^ 0x80808080;
        if (sink->offset != 128) {
            less = (WORDS)((BYTES)numbers - (uint8_t)sink->offset);
        }
        INTEGERS *sums = &sink->sums[group][half][0];
        *(WORDS *)(void *)to = less;
        *sums = (INTEGERS)ADD_128_TIMES(first ? ZERO_INTEGERS() : NATIVE(*sums), NATIVE(less));
        return;
    }
#endif
    if (!sink->columns && sink->parts == 1) {
        *(WORDS *)(void *)to = numbers;
        return;
    }
    if (!sink->columns) {
        const SHORTS both = (SHORTS)(numbers ^ 0x80808080);
        *(SHORTS *)(void *)to = both << 8 >> 8;
        *(SHORTS *)(void *)(to + NUMBERS) = both >> 8;
        return;
    }
#ifdef DOT
    const int half = sink->halves == 2 ? n / 4 : 0;
    const int first = sink->halves == 2 ? n % 4 == 0 : n == 0;
    const int offset = sink->offset == 128 ? EIGHT_BITS_OFFSET : sink->offset;
#pragma GCC unroll 4
    for (int c = 0; c < sink->columns; c++) {
        const Int8Activations *x = sink->x + group;
        INTEGERS sums = sink->sums[group][half][c];
        if (first) { /* times the sums of both halves of x: -offset times the sum of this part */
            sums = (INTEGERS)(offset ? ADD_PAIRS(SPREAD_WORD(x->sums[c]),
                                                 SPREAD_PAIR(half ? 0 : -offset,
                                                             half || sink->halves == 1 ? -offset : 0))
                                     : ZERO_INTEGERS());
        }
        sink->sums[group][half][c] = (INTEGERS)DOT(
            NATIVE(sums), NATIVE(numbers), SPREAD_WORD(x->numbers[c] + 4 * n), sink->offset);
    }
#endif
}

/* The scales of a group, one or two, when its numbers are there, and behind them the minima; in front
 * of them what sums begin from. */
INLINE void OF(_put_factors)(OF(_sink) *sink, int group, const FLOATS *factors) {
    if (!sink->columns) {
        char *to = sink->to + group * sink->step + sink->parts * NUMBERS;
#ifdef ADD_128_TIMES
        if (sink->begun) {
#pragma GCC unroll 2
            for (int half = 0; half < sink->halves; half++, to += LINE) {
                *(INTEGERS *)(void *)to = -sink->sums[group][half][0];
            }
        }
#endif
#pragma GCC unroll 4
        for (int line = 0; line < sink->halves * (1 + sink->minima); line++, to += LINE) {
            *(FLOATS *)(void *)to = factors[line];
        }
        return;
    }
#ifdef DOT
    const Int8Activations *x = sink->x + group;
#pragma GCC unroll 2
    for (int half = 0; half < sink->halves; half++) {
#pragma GCC unroll 4
        for (int c = 0; c < sink->columns; c++) {
            FLOATS y = ADD_PRODUCT(TO_FLOATS(NATIVE(sink->sums[group][half][c])),
                                   MULTIPLY(factors[half], SPREAD(x->scales[c])), sink->y[c]);
            if (sink->minima) {
                const float sum = sink->halves == 1 ? x->offsets[c]
                                                    : x->scales[c] * (float)x->sums[c][half];
                y = SUBTRACT_PRODUCT(factors[sink->halves + half], SPREAD(sum), y);
            }
            sink->y[c] = y;
        }
    }
#endif
}

#include "int8_types.h"

#ifdef ROUND_ROW
#define FLOATS_AT_ONCE INT8_SPAN
#else
#define FLOATS_AT_ONCE INT8_GROUP
#endif

/* 32 or 256 numbers of as many rows as there are lanes: the type, its name here, its scales of a
 * group, whether it has minima, the offset of its numbers, and how it is decoded. */
#define WITH_OFFSET(ROW)                                                                          \
    ROW(Q8_0, q8_0, 1, 0, 128, OF(_q8_0)(from, offsets, &sink))                                   \
    ROW(Q5_0, q5_0, 1, 0, 16, OF(_q45)(from, offsets, &sink, 1, 0))                               \
    ROW(Q4_0, q4_0, 1, 0, 8, OF(_q45)(from, offsets, &sink, 0, 0))                                \
    ROW(IQ4_NL, iq4_nl, 1, 0, 128, OF(_q45)(from, offsets, &sink, 0, 1))                          \
    ROW(IQ4_XS, iq4_xs, 1, 0, 128, OF(_iq4_xs)(from, offsets, &sink))                             \
    ROW(Q6_K, q6_k, 2, 0, 32, OF(_q6_k)(from, offsets, &sink))                                    \
    ROW(Q3_K, q3_k, 2, 0, 4, OF(_q3_k)(from, offsets, &sink))
#define WITH_MINIMA(ROW)                                                                          \
    ROW(Q5_1, q5_1, 1, 1, 0, OF(_q45)(from, offsets, &sink, 1, 0))                                \
    ROW(Q4_1, q4_1, 1, 1, 0, OF(_q45)(from, offsets, &sink, 0, 0))                                \
    ROW(Q5_K, q5_k, 1, 1, 0, OF(_q45_k)(from, offsets, &sink, 1))                                 \
    ROW(Q4_K, q4_k, 1, 1, 0, OF(_q45_k)(from, offsets, &sink, 0))                                 \
    ROW(Q2_K, q2_k, 2, 1, 0, OF(_q2_k)(from, offsets, &sink))
#define FLOATING(ROW)                                                                             \
    ROW(F32, f32, 1, 0, 128, OF(_rounded)(from, offsets, &sink, F32))                             \
    ROW(F16, f16, 1, 0, 128, OF(_rounded)(from, offsets, &sink, F16))                             \
    ROW(BF16, bf16, 1, 0, 128, OF(_rounded)(from, offsets, &sink, BF16))

typedef void (*OF(_block))(const char *, const int64_t *, char *, int64_t, int);

#define BLOCK(prefix, name, scales, has_minima, taken_off, has_begun, call)                       \
    TARGET static void OF(prefix##name)(const char *from, const int64_t *offsets, char *to,       \
                                        int64_t step, int parts) {                                \
        OF(_sink) sink = {.to = to, .step = step, .halves = scales, .minima = has_minima,         \
                          .parts = MOST_PARTS == 2 && taken_off == 128 ? parts : 1,               \
                          .offset = taken_off, .begun = has_begun};                               \
        (void)parts;                                                                              \
        call;                                                                                     \
    }
#define TO_PANEL(type, name, scales, has_minima, taken_off, call)                                 \
    BLOCK(_block_, name, scales, has_minima, taken_off, 0, call)
#define TO_BEGUN_PANEL(type, name, scales, has_minima, taken_off, call)                           \
    BLOCK(_begun_, name, scales, has_minima, taken_off, 1, call)
#define BLOCK_OF(type, name, ...) case type: return OF(_block_##name);
#define BEGUN_OF(type, name, ...) case type: return OF(_begun_##name);
WITH_OFFSET(TO_PANEL)
WITH_MINIMA(TO_PANEL)
FLOATING(TO_PANEL)
#ifdef ADD_128_TIMES
WITH_OFFSET(TO_BEGUN_PANEL)
FLOATING(TO_BEGUN_PANEL)
#endif

static OF(_block) OF(_block_of)(const Job *job) {
#ifdef ADD_128_TIMES
    if (job->packing == INT8_UNSIGNED) {
        switch (job->weight_type) {
            WITH_OFFSET(BEGUN_OF)
            FLOATING(BEGUN_OF)
        }
    }
#endif
    switch (job->weight_type) {
        WITH_OFFSET(BLOCK_OF)
        WITH_MINIMA(BLOCK_OF)
        FLOATING(BLOCK_OF)
    }
    return NULL;
}

/* Numbers `start` to `end`, which are whole spans but at the end of a row. */
TARGET static void OF(_decode_span)(const Job *job, const char *rows, int64_t count, int64_t start,
                                    int64_t end, char *panel) {
    const OF(_block) block = OF(_block_of)(job);
    const int64_t numbers = job->block_numbers == 1 ? FLOATS_AT_ONCE : job->block_numbers;
    const int64_t bytes = numbers / job->block_numbers * job->block_bytes;
    const int64_t span = INT8_SPAN / job->block_numbers * job->block_bytes;
    const int64_t step = int8_group_bytes(job), whole = end / numbers * numbers;
    for (int64_t first = 0; first < INT8_ROWS && first < count; first += LANES) {
        /* Where there are no more rows, the last one stands in for them. */
        int64_t offsets[LANES], padded[LANES];
        for (int64_t i = 0; i < LANES; i++) {
            offsets[i] = at_most(first + i, count - 1) * job->row_bytes;
            padded[i] = i * 4 * FLOATS_AT_ONCE;
        }
        const char *from = rows + start / INT8_SPAN * span;
        char *to = panel + 4 * first;
        for (int64_t k = start; k < whole; k += numbers, from += bytes) {
            block(from, offsets, to, step, (int)job->parts);
            to += numbers / INT8_GROUP * step;
        }
        if (whole < end) {
            char tail[LANES * 4 * FLOATS_AT_ONCE] = {0};
            for (int64_t i = 0; i < LANES; i++) {
                memcpy(tail + padded[i], from + offsets[i],
                       (size_t)((end - whole) * job->block_bytes));
            }
            block(tail, padded, to, step, (int)job->parts);
        }
    }
}

#ifdef DOT
/* As many rows as there are lanes, times the fewest columns: quantized rows are whole blocks. */
#define TO_SUMS(type, name, scales, has_minima, taken_off, call)                                        \
    INLINE void OF(_sums_##name)(const Job *job, const char *rows, const int64_t *offsets,        \
                                 const Int8Activations *x, FLOATS *y, const int columns) {        \
        const int64_t numbers = at_least(job->block_numbers, INT8_GROUP);                         \
        const int64_t bytes = numbers / job->block_numbers * job->block_bytes;                    \
        OF(_sink) sink = {.columns = columns, .halves = scales, .minima = has_minima,             \
                          .offset = taken_off, .x = x, .lines = INT8_LINES * LANES / 16};         \
        const char *from = rows;                                                                  \
        for (int64_t k = 0; k < job->width; k += numbers, from += bytes) {                        \
            sink.next = rows + LANES * (job->row_bytes + (from - rows));                          \
            call;                                                                                 \
            sink.x += numbers / INT8_GROUP;                                                       \
        }                                                                                         \
        for (int c = 0; c < columns; c++) {                                                       \
            y[c] = sink.y[c];                                                                     \
        }                                                                                         \
    }                                                                                             \
    TARGET static void OF(_few_##name)(const Job *job, const char *rows, const int64_t *offsets,  \
                                       const Int8Activations *x, FLOATS *y) {                     \
        switch (job->columns) {                                                                   \
        case 1: OF(_sums_##name)(job, rows, offsets, x, y, 1); break;                             \
        case 2: OF(_sums_##name)(job, rows, offsets, x, y, 2); break;                             \
        case 3: OF(_sums_##name)(job, rows, offsets, x, y, 3); break;                             \
        default: OF(_sums_##name)(job, rows, offsets, x, y, INT8_FEWEST);                         \
        }                                                                                         \
    }
WITH_OFFSET(TO_SUMS)
WITH_MINIMA(TO_SUMS)

typedef void (*OF(_to_sums))(const Job *, const char *, const int64_t *, const Int8Activations *,
                             FLOATS *);

#define FEW_OF(type, name, ...) case type: return OF(_few_##name);
static OF(_to_sums) OF(_few_of)(int64_t type) {
    switch (type) {
        WITH_OFFSET(FEW_OF)
        WITH_MINIMA(FEW_OF)
    }
    return NULL;
}

/* Sums of rows, as many as lanes, for the fewest columns. Where there are no more rows, the last one
 * stands in for them. */
static void OF(_sums)(const Job *job, const char *rows, int64_t count, const char *packed,
                      FLOATS *y) {
    int64_t offsets[LANES];
    for (int64_t i = 0; i < LANES; i++) {
        offsets[i] = at_most(i, count - 1) * job->row_bytes;
    }
    OF(_few_of)(job->weight_type)(job, rows, offsets, (const Int8Activations *)packed, y);
}
#undef FEW_OF
#undef TO_SUMS
#endif

#undef FLOATS_AT_ONCE
#undef BEGUN_OF
#undef BLOCK_OF
#undef TO_BEGUN_PANEL
#undef TO_PANEL
#undef BLOCK
#undef FLOATING
#undef WITH_MINIMA
#undef WITH_OFFSET
#undef LINE
#undef NUMBERS
#undef SHORTS
#undef BYTES
#undef WORDS
#undef INTEGERS
#undef FLOATS
#undef INLINE
#undef OF
#undef NAMED
#undef JOIN
