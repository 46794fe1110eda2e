/* A panel times up to six columns, in numbers of 8 bits, for one kind of instructions.
 *
 * What includes this defines NAME and TARGET; the vectors FLOATS and INTEGERS, LANES of 4 bytes, and
 * what is done to them; MOST_COLUMNS that the registers have room for; EIGHT_BITS_OFFSET, what is
 * left of the offset of numbers with eight bits; PUT_ROWS, which stores; and NAME_products, which
 * adds `count` times four products of numbers to the sums of two vectors of rows.
 */

#define JOIN(a, b) a##b
#define NAMED(a, b) JOIN(a, b)
#define OF(part) NAMED(NAME, part)

TARGET static inline __attribute__((always_inline)) void OF(_part)(
    const Job *job, const Step *step, int row, int first, const int columns, const int halves,
    const int has_minima, const int offset, const int bits) {
    const int64_t groups = blocks_of(job->width, INT8_GROUP);
    const int64_t group_bytes = INT8_ROWS * (INT8_GROUP + 4 * halves * (1 + has_minima));
    const char *w = step->panel + 4 * row;
    const Int8Activations *x =
        (const Int8Activations *)step->packed + step->column / INT8_COLUMNS * groups;
    FLOATS y[MOST_COLUMNS][2];
    for (int c = 0; c < columns; c++) {
        y[c][0] = y[c][1] = ZERO();
    }
    for (int64_t g = 0; g < groups; g++, w += group_bytes, x++) {
        const float *scales = (const float *)(w + INT8_ROWS * INT8_GROUP);
        const float *minima = scales + halves * INT8_ROWS;
#pragma GCC unroll 2
        for (int half = 0; half < halves; half++, scales += INT8_ROWS, minima += INT8_ROWS) {
            /* Times the sums of both halves of x: -offset times the sum of this part. */
            const INTEGERS weights =
                SPREAD_PAIR(half ? 0 : -offset, half || halves == 1 ? -offset : 0);
            INTEGERS s[MOST_COLUMNS][2];
#pragma GCC unroll 8
            for (int c = 0; c < columns; c++) {
                s[c][0] = s[c][1] = offset ? ADD_PAIRS(SPREAD_WORD(x->sums[first + c]), weights)
                                           : ZERO_INTEGERS();
            }
            OF(_products)(w + half * 16 * INT8_ROWS, x->numbers[first] + half * 16, 8 / halves,
                          columns, bits, s);
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
        }
    }
    for (int c = 0; c < at_most(columns, job->columns - step->column - first); c++) {
        float *to = step->y + (step->column + first + c) * job->rows;
        PUT_ROWS(job, step->bias, y[c][0], to, step->row + row);
        PUT_ROWS(job, step->bias, y[c][1], to, step->row + row + LANES);
    }
}

/* One copy for each kind of encoding and number of columns, so that nothing is decided inside. */
#define KIND(kind, halves, has_minima, offset, bits)                                             \
    TARGET static void OF(kind)(const Job *job, const Step *step, int row, int first, int some) {  \
        if (some == MOST_COLUMNS) {                                                              \
            OF(_part)(job, step, row, first, MOST_COLUMNS, halves, has_minima, offset, bits);    \
        } else {                                                                                 \
            OF(_part)(job, step, row, first, 1, halves, has_minima, offset, bits);               \
        }                                                                                        \
    }
KIND(_q8, 1, 0, EIGHT_BITS_OFFSET, 8)
KIND(_q6, 2, 0, 32, 6)
KIND(_q5_minima, 1, 1, 0, 5)
KIND(_q5, 1, 0, 16, 5)
KIND(_q4_minima, 1, 1, 0, 4)
KIND(_q4, 1, 0, 8, 4)
KIND(_q3, 2, 0, 4, 4)
KIND(_q2, 2, 1, 0, 4)

static void OF(_multiply)(const Job *job, const Step *step) {
    const int64_t left = at_most(INT8_COLUMNS, job->columns - step->column);
    for (int row = 0; row < INT8_ROWS; row += 2 * LANES) {
        for (int first = 0, some; first < left; first += some) {
            some = left - first > 1 ? MOST_COLUMNS : 1;
            switch (job->weight_type) {
            case Q6_K: OF(_q6)(job, step, row, first, some); break;
            case Q5_0: OF(_q5)(job, step, row, first, some); break;
            case Q5_1: case Q5_K: OF(_q5_minima)(job, step, row, first, some); break;
            case Q4_0: OF(_q4)(job, step, row, first, some); break;
            case Q4_1: case Q4_K: OF(_q4_minima)(job, step, row, first, some); break;
            case Q3_K: OF(_q3)(job, step, row, first, some); break;
            case Q2_K: OF(_q2)(job, step, row, first, some); break;
            default: OF(_q8)(job, step, row, first, some);
            }
        }
    }
}

#undef KIND
#undef OF
#undef NAMED
#undef JOIN
