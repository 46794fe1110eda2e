/* Rows as they lie times any number of columns, in numbers of 8 bits, for one kind of instructions.
 *
 * What includes this defines NAME and TARGET; the vectors FLOATS and INTEGERS, LANES of 4 bytes, and
 * what is done to them; MOST_COLUMNS that the registers have room for, and HOLDS_SUMS, whether for
 * their float sums beside those of a group as well; EIGHT_BITS_OFFSET, what is left of the offset of
 * numbers with eight bits, and EIGHT_BITS_PARTS, those that a group of them has; PUT_ROWS, which
 * stores results; DECODE, of int8_decode.h; and NAME_products, which adds `count` times four products
 * of numbers to the sums of two vectors of rows. Where it defines LOAD_INTEGERS, x may be without sign,
 * and NAME_unsigned_products does the same with that.
 */

#define JOIN(a, b) a##b
#define NAMED(a, b) JOIN(a, b)
#define OF(part) NAMED(NAME, part)

/* Columns from `first` on of some groups of numbers, of two vectors of rows; sums of earlier groups are
 * in `sums` [INT8_COLUMNS][INT8_ROWS], unless these are the first, and go back there. Told one by one:
 * a structure would be read before it is written. */
#define GROUPS                                                                                    \
    const char *w, const Int8Activations *x, int64_t groups, float *sums, int begins, int first

#define INLINE TARGET static inline __attribute__((always_inline))

/* In place of an offset: x is without sign, and sums begin from what is in the panel. */
#define BEGUN -1

INLINE void OF(_take_up)(const float *sums, FLOATS y[MOST_COLUMNS][2], const int columns) {
#pragma GCC unroll 8
    for (int c = 0; c < columns; c++, sums += INT8_ROWS) {
        y[c][0] = LOAD(sums);
        y[c][1] = LOAD(sums + LANES);
    }
}

INLINE void OF(_put_down)(float *sums, FLOATS y[MOST_COLUMNS][2], const int columns) {
#pragma GCC unroll 8
    for (int c = 0; c < columns; c++, sums += INT8_ROWS) {
        STORE(sums, y[c][0]);
        STORE(sums + LANES, y[c][1]);
    }
}

INLINE void OF(_part)(GROUPS, const int columns, const int halves, const int has_minima,
                      const int offset, const int bits) {
    const int parts = bits == 8 ? EIGHT_BITS_PARTS : 1;
    const int begun = offset == BEGUN;
    const int64_t lines = halves * (1 + (has_minima || begun));
    const int64_t group_bytes = INT8_ROWS * (parts * INT8_GROUP + 4 * lines);
    FLOATS y[MOST_COLUMNS][2];
    sums += first * INT8_ROWS;
    if (begins) {
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) {
            y[c][0] = y[c][1] = ZERO();
        }
        if (!HOLDS_SUMS) {
            OF(_put_down)(sums, y, columns);
        }
    } else if (HOLDS_SUMS) {
        OF(_take_up)(sums, y, columns);
    }
    for (int64_t g = 0; g < groups; g++, w += group_bytes, x += parts) {
        const float *begin = (const float *)(w + parts * INT8_ROWS * INT8_GROUP);
        const float *scales = begin + begun * halves * INT8_ROWS, *minima = scales + halves * INT8_ROWS;
#pragma GCC unroll 1
        for (int half = 0; half < halves;
             half++, begin += INT8_ROWS, scales += INT8_ROWS, minima += INT8_ROWS) {
            const char *numbers = w + half * 16 * INT8_ROWS;
            const int8_t *others = x->numbers[first] + half * 16;
            INTEGERS s[MOST_COLUMNS][2];
#ifdef LOAD_INTEGERS
            if (begun) {
#pragma GCC unroll 8
                for (int c = 0; c < columns; c++) {
                    s[c][0] = LOAD_INTEGERS(begin);
                    s[c][1] = LOAD_INTEGERS(begin + LANES);
                }
                OF(_unsigned_products)(numbers, others, 8 / halves, columns, s);
            }
#endif
            if (!begun) {
                /* Times the sums of both halves of x: -offset times the sum of this part. */
                const INTEGERS weights =
                    SPREAD_PAIR(half ? 0 : -offset, half || halves == 1 ? -offset : 0);
#pragma GCC unroll 8
                for (int c = 0; c < columns; c++) {
                    s[c][0] = s[c][1] = offset ? ADD_PAIRS(SPREAD_WORD(x->sums[first + c]), weights)
                                               : ZERO_INTEGERS();
                }
                OF(_products)(numbers, others, 8 / halves, columns, bits, s);
            }
            if (!HOLDS_SUMS) {
                __asm__ volatile("" ::: "memory"); /* or a compiler would hold some all along */
                OF(_take_up)(sums, y, columns);
            }
            const FLOATS scale_a = LOAD(scales), scale_b = LOAD(scales + LANES);
#pragma GCC unroll 8
            for (int c = 0; c < columns; c++) {
                const FLOATS scale = SPREAD(x->scales[first + c]);
                y[c][0] = ADD_PRODUCT(TO_FLOATS(s[c][0]), MULTIPLY(scale_a, scale), y[c][0]);
                y[c][1] = ADD_PRODUCT(TO_FLOATS(s[c][1]), MULTIPLY(scale_b, scale), y[c][1]);
            }
            if (has_minima) {
                const FLOATS minimum_a = LOAD(minima), minimum_b = LOAD(minima + LANES);
#pragma GCC unroll 8
                for (int c = 0; c < columns; c++) {
                    const FLOATS sum =
                        SPREAD(halves == 1 ? x->offsets[first + c]
                                           : x->scales[first + c] * (float)x->sums[first + c][half]);
                    y[c][0] = SUBTRACT_PRODUCT(minimum_a, sum, y[c][0]);
                    y[c][1] = SUBTRACT_PRODUCT(minimum_b, sum, y[c][1]);
                }
            }
            if (!HOLDS_SUMS) {
                OF(_put_down)(sums, y, columns);
            }
        }
    }
    if (HOLDS_SUMS) {
        OF(_put_down)(sums, y, columns);
    }
}

/* One copy for each kind of encoding and number of columns, so that nothing is decided inside. */
#define KIND(kind, halves, has_minima, offset, bits)                                              \
    TARGET static void OF(kind)(GROUPS, int some) {                                               \
        switch (some) {                                                                           \
        case 1: OF(_part)(w, x, groups, sums, begins, first, 1, halves, has_minima, offset, bits); break; \
        case 2: OF(_part)(w, x, groups, sums, begins, first, 2, halves, has_minima, offset, bits); break; \
        case 4: OF(_part)(w, x, groups, sums, begins, first, MOST_COLUMNS < 4 ? MOST_COLUMNS : 4, halves, has_minima, offset, bits); break; \
        default: OF(_part)(w, x, groups, sums, begins, first, MOST_COLUMNS, halves, has_minima, offset, bits); \
        }                                                                                         \
    }
KIND(_q8, 1, 0, EIGHT_BITS_OFFSET, 8)
KIND(_q6, 2, 0, 32, 6)
KIND(_q5_minima, 1, 1, 0, 5)
KIND(_q5, 1, 0, 16, 5)
KIND(_q4_minima, 1, 1, 0, 4)
KIND(_q4, 1, 0, 8, 4)
KIND(_q3, 2, 0, 4, 4)
KIND(_q2, 2, 1, 0, 4)

typedef void (*OF(_Kind))(GROUPS, int some);

#ifdef LOAD_INTEGERS
KIND(_begun, 1, 0, BEGUN, 8)
KIND(_begun_halves, 2, 0, BEGUN, 8)

static OF(_Kind) OF(_begun_of)(int64_t type) {
    return type == Q6_K || type == Q3_K ? OF(_begun_halves) : OF(_begun);
}
#endif

static OF(_Kind) OF(_kind_of)(const Job *job) {
#ifdef LOAD_INTEGERS
    if (job->packing == INT8_UNSIGNED) {
        return OF(_begun_of)(job->weight_type);
    }
#endif
    switch (job->weight_type) {
    case Q6_K: return OF(_q6);
    case Q5_0: return OF(_q5);
    case Q5_1: case Q5_K: return OF(_q5_minima);
    case Q4_0: return OF(_q4);
    case Q4_1: case Q4_K: return OF(_q4_minima);
    case Q3_K: return OF(_q3);
    case Q2_K: return OF(_q2);
    default: return OF(_q8);
    }
}

/* How many of the columns that are left to multiply at once; what is not there is zeros. */
static inline int OF(_some)(int64_t left) {
    const int least = left <= 2 ? (int)left : 4;
    return left > 4 || least > MOST_COLUMNS ? MOST_COLUMNS : least;
}

#ifdef SUMS
/* Rows are multiplied with the fewest columns while they are decoded. */
TARGET static void OF(_fewest)(const Job *job, const Step *step, int64_t rows) {
    for (int64_t row = 0; row < rows; row += LANES) {
        FLOATS y[INT8_FEWEST];
        SUMS(job, step->panel + row * job->row_bytes, rows - row, step->packed, (void *)y);
        for (int64_t c = 0; c < job->columns; c++) {
            PUT_ROWS(job, step->bias, y[c], step->y + c * job->rows, step->row + row);
        }
    }
}
#endif

INLINE void OF(_put_sums)(const Job *job, const float *bias, const float *sums, float *y, int64_t row,
                          int columns) {
    for (int c = 0; c < columns; c++, sums += INT8_ROWS, y += job->rows) {
        for (int n = 0; n < INT8_ROWS; n += LANES) {
            PUT_ROWS(job, bias, LOAD(sums + n), y, row + n);
        }
    }
}

/* A span of the numbers of 32 rows is decoded, and multiplied with all columns while it is in the
 * first cache. Where it is the last one, sums go into y as soon as they are there, so that nothing
 * waits for lines of y, which lie far apart. */
TARGET static void OF(_few)(const Job *job, const Step *step, int64_t rows) {
#ifdef SUMS
    if (int8_fewest(job)) {
        OF(_fewest)(job, step, rows);
        return;
    }
#endif
    char span[INT8_SPAN * INT8_ROWS * 5 / 2] __attribute__((aligned(64)));
    const int64_t blocks = blocks_of(job->columns, INT8_COLUMNS);
    const OF(_Kind) multiply = OF(_kind_of)(job);
    for (int64_t row = 0; row < rows; row += INT8_ROWS) {
        for (int64_t start = 0, end; start < job->width; start = end) {
            end = at_most(start + INT8_SPAN, job->width);
            const int ends = end == job->width;
            const char *from = step->panel + row * job->row_bytes;
            DECODE(job, from, rows - row, start, end, span);
            /* As much of the next rows as has been decoded of these, some with each block of x. */
            const char *next = from + INT8_ROWS * (job->row_bytes + bytes_of(job, start));
            Ahead ahead = {next, next + INT8_ROWS * bytes_of(job, end - start), 0};
            ahead.lines = blocks_of(blocks_of(ahead.end - ahead.from, 64), blocks);
            const int64_t groups = blocks_of(end - start, INT8_GROUP);
            const Int8Activations *x =
                (const Int8Activations *)step->packed + job->parts * (start / INT8_GROUP * blocks);
            float *sums = (float *)(void *)step->room;
            for (int64_t column = 0; column < job->columns; column += INT8_COLUMNS) {
                const int left = (int)at_most(INT8_COLUMNS, job->columns - column);
                float *y = step->y + column * job->rows;
                fetch(&ahead);
                if (ends) {
                    fetch_places(job, y + step->row + row, INT8_ROWS, left);
                }
                for (int first = 0, some; first < left; first += some) {
                    some = OF(_some)(left - first);
                    for (int n = 0; n < INT8_ROWS; n += 2 * LANES) {
                        multiply(span + 4 * n, x, groups, sums + n, start == 0, first, some);
                    }
                }
                if (ends) {
                    OF(_put_sums)(job, step->bias, sums, y, step->row + row, left);
                }
                x += job->parts * groups;
                sums += INT8_COLUMNS * INT8_ROWS;
            }
        }
    }
}

#undef BEGUN
#undef KIND
#undef GROUPS
#undef INLINE
#undef OF
#undef NAMED
#undef JOIN
