/* A panel times up to six columns, in numbers of 8 bits, for one kind of instructions; and rows as
 * they lie times few columns, with the same sums in the same order.
 *
 * What includes this defines NAME and TARGET; the vectors FLOATS and INTEGERS, LANES of 4 bytes, and
 * what is done to them; MOST_COLUMNS that the registers have room for; EIGHT_BITS_OFFSET, what is
 * left of the offset of numbers with eight bits; PUT_ROWS, which stores results; DECODE, of
 * int8_decode.h; and NAME_products, which adds `count` times four products of numbers to the sums of
 * two vectors of rows.
 */

#define JOIN(a, b) a##b
#define NAMED(a, b) JOIN(a, b)
#define OF(part) NAMED(NAME, part)

/* Columns from `first` on of some groups of numbers; sums of earlier groups are in `sums`, and go
 * back there, unless these are the first, or the last. */
typedef struct {
    const char *w;            /* of two vectors of rows */
    const Int8Activations *x; /* as many groups */
    int64_t groups;
    float *sums; /* [INT8_COLUMNS][INT8_ROWS], from these rows on */
    int begins, ends;
    int64_t row, column;
    int first;
} OF(_Part);

TARGET static inline __attribute__((always_inline)) void OF(_part)(
    const Job *job, const Step *step, const OF(_Part) *part, const int columns, const int halves,
    const int has_minima, const int offset, const int bits) {
    const int64_t group_bytes = INT8_ROWS * (INT8_GROUP + 4 * halves * (1 + has_minima));
    const int first = part->first;
    const char *w = part->w;
    const Int8Activations *x = part->x;
    float *kept = part->sums + first * INT8_ROWS;
    FLOATS y[MOST_COLUMNS][2];
    for (int c = 0; c < columns; c++) {
        y[c][0] = part->begins ? ZERO() : LOAD(kept + c * INT8_ROWS);
        y[c][1] = part->begins ? ZERO() : LOAD(kept + c * INT8_ROWS + LANES);
    }
    for (int64_t g = 0; g < part->groups; g++, w += group_bytes, x++) {
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
    if (!part->ends) {
        for (int c = 0; c < columns; c++) {
            STORE(kept + c * INT8_ROWS, y[c][0]);
            STORE(kept + c * INT8_ROWS + LANES, y[c][1]);
        }
        return;
    }
    for (int c = 0; c < at_most(columns, job->columns - part->column - first); c++) {
        float *to = step->y + (part->column + first + c) * job->rows;
        PUT_ROWS(job, step->bias, y[c][0], to, part->row);
        PUT_ROWS(job, step->bias, y[c][1], to, part->row + LANES);
    }
}

/* One copy for each kind of encoding and number of columns, so that nothing is decided inside. */
#define KIND(kind, halves, has_minima, offset, bits)                                              \
    TARGET static void OF(kind)(const Job *job, const Step *step, const OF(_Part) *part, int some) { \
        switch (some) {                                                                           \
        case 1: OF(_part)(job, step, part, 1, halves, has_minima, offset, bits); break;           \
        case 2: OF(_part)(job, step, part, 2, halves, has_minima, offset, bits); break;           \
        case 4: OF(_part)(job, step, part, MOST_COLUMNS < 4 ? MOST_COLUMNS : 4, halves, has_minima, offset, bits); break;           \
        default: OF(_part)(job, step, part, MOST_COLUMNS, halves, has_minima, offset, bits);      \
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

/* How many of the columns that are left to multiply at once; what is not there is zeros. */
static inline int OF(_some)(int64_t left) {
    const int least = left <= 2 ? (int)left : 4;
    return left > 4 || least > MOST_COLUMNS ? MOST_COLUMNS : least;
}

/* 32 rows times the columns of a block of x. */
static void OF(_step)(const Job *job, const Step *step, OF(_Part) part) {
    const char *w = part.w;
    float *sums = part.sums;
    const int64_t left = at_most(INT8_COLUMNS, job->columns - part.column);
    for (int row = 0; row < INT8_ROWS; row += 2 * LANES, part.row += 2 * LANES) {
        part.w = w + 4 * row;
        part.sums = sums + row;
        for (int some = part.first = 0; part.first < left; part.first += some) {
            some = OF(_some)(left - part.first);
            switch (job->weight_type) {
            case Q6_K: OF(_q6)(job, step, &part, some); break;
            case Q5_0: OF(_q5)(job, step, &part, some); break;
            case Q5_1: case Q5_K: OF(_q5_minima)(job, step, &part, some); break;
            case Q4_0: OF(_q4)(job, step, &part, some); break;
            case Q4_1: case Q4_K: OF(_q4_minima)(job, step, &part, some); break;
            case Q3_K: OF(_q3)(job, step, &part, some); break;
            case Q2_K: OF(_q2)(job, step, &part, some); break;
            default: OF(_q8)(job, step, &part, some);
            }
        }
    }
}

static void OF(_multiply)(const Job *job, const Step *step) {
    const int64_t groups = blocks_of(job->width, INT8_GROUP);
    const OF(_Part) part = {
        .w = step->panel, .groups = groups, .begins = 1, .ends = 1,
        .x = (const Int8Activations *)step->packed + step->column / INT8_COLUMNS * groups,
        .row = step->row, .column = step->column,
    };
    OF(_step)(job, step, part);
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

/* Some numbers of 32 rows are decoded and multiplied while they are in the first cache. */
static void OF(_few)(const Job *job, const Step *step, int64_t rows) {
#ifdef SUMS
    if (job->columns <= INT8_FEWEST && job->weight_type != F32 && job->weight_type != F16 &&
        job->weight_type != BF16) {
        OF(_fewest)(job, step, rows);
        return;
    }
#endif
    char span[INT8_SPAN * INT8_ROWS * 3 / 2] __attribute__((aligned(64)));
    float sums[INT8_FEW * INT8_ROWS] __attribute__((aligned(64)));
    const int64_t groups = blocks_of(job->width, INT8_GROUP);
    for (int64_t row = 0; row < rows; row += INT8_ROWS) {
        for (int64_t start = 0; start < job->width; start += INT8_SPAN) {
            const int64_t end = at_most(start + INT8_SPAN, job->width);
            DECODE(job, step->panel + row * job->row_bytes, rows - row, start, end, span);
            OF(_Part) part = {
                .w = span, .groups = blocks_of(end - start, INT8_GROUP), .sums = sums,
                .begins = start == 0, .ends = end == job->width,
                .x = (const Int8Activations *)step->packed + start / INT8_GROUP,
                .row = step->row + row,
            };
            for (; part.column < job->columns; part.column += INT8_COLUMNS) {
                OF(_step)(job, step, part);
                part.x += groups;
                part.sums += INT8_COLUMNS * INT8_ROWS;
            }
        }
    }
}

#undef KIND
#undef OF
#undef NAMED
#undef JOIN
