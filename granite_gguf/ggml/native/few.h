/* Rows of a weight, as they lie, times few columns: a row in each lane, and every number of x in all
 * of them. Of x no more columns lie side by side than are multiplied, so that it stays in the first
 * cache; what is added up is the same as for many columns, in the same order.
 *
 * What includes this defines TARGET; the vectors FLOATS of LANES floats; FEW, the most columns, and
 *
 *   TAKEN_BYTES                       of a row, taken at once: best a line of the cache, for which
 *                                     there may be no room when the other rows have been read
 *   TAKEN(type)                       numbers, or pairs of them, that these are
 *   TAKE(type, from, offsets, words)  takes them from the rows at these offsets, to 4 bytes each: lane
 *                                     n of the results is row n's
 *   SPREAD_WORD(from)                 4 bytes in every lane
 *   ADD_PRODUCT(a, b, sum)
 *   PUT_ROWS                          which stores results
 */

/* Columns of x that lie side by side: as many as are multiplied, or 16 of them. */
static inline int64_t few_beside(int64_t columns) {
    return columns <= 2 ? columns : columns <= 4 ? 4 : columns <= 8 ? 8 : 16;
}

TARGET static inline __attribute__((always_inline)) void few_words(
    const char *from, const int64_t *offsets, const int type, const char *x, int64_t first,
    int64_t end, FLOATS *sums, const int columns) {
    const int taken = TAKEN(type), beside = columns <= 8 ? columns : 16;
    FLOATS words[TAKEN_BYTES / 2];
    TAKE(type, from, offsets, words);
#pragma GCC unroll 32
    for (int n = 0; n < taken; n++) {
        if (n >= first && n < end) {
#pragma GCC unroll 16
            for (int c = 0; c < columns; c++) {
                sums[c] =
                    ADD_PRODUCT(words[n], SPREAD_WORD(x + 4 * (beside * (n - first) + c)), sums[c]);
            }
        }
    }
}

/* `depth` is a row's length in numbers or pairs of 4 bytes. Rows that begin within a line of the cache
 * are taken by whole lines all the same, of which what is not theirs does not count; a line is of one
 * page, so that it can be read wherever a row has a part of it. What crosses a line would take two of
 * them, and where rows lie a power of two apart the second is gone when it is wanted. */
TARGET static inline __attribute__((always_inline)) void few_part(
    const Job *job, const Step *step, int64_t rows, int64_t depth, const int type,
    const int columns) {
    const int beside = columns <= 8 ? columns : 16;
    const int64_t bytes = TAKEN_BYTES, row_bytes = job->width * job->block_bytes;
    const int64_t beyond = (int64_t)((uintptr_t)step->panel % TAKEN_BYTES);
    const int64_t aside = job->row_bytes % bytes || beyond % 4 ? 0 : beyond;
    for (int64_t row = 0; row < rows; row += LANES) {
        /* Where there are no more rows, the last one stands in for them. */
        const char *from = step->panel + row * job->row_bytes, *x = step->packed;
        const char *next = from + LANES * job->row_bytes;
        int64_t offsets[LANES], padded[LANES], left = row_bytes;
        for (int64_t i = 0; i < LANES; i++) {
            offsets[i] = at_most(i, rows - row - 1) * job->row_bytes;
            padded[i] = i * bytes;
        }
        FLOATS sums[FEW];
#pragma GCC unroll 16
        for (int c = 0; c < columns; c++) {
            sums[c] = (FLOATS){0};
        }
        if (aside) {
            const int64_t first = aside * TAKEN(type) / bytes;
            few_words(from - aside, offsets, type, x, first, TAKEN(type), sums, columns);
            from += bytes - aside;
            left -= bytes - aside;
            x += 4 * beside * (TAKEN(type) - first);
        }
        for (; left >= bytes; left -= bytes, from += bytes, x += 4 * beside * TAKEN(type)) {
            /* Each line twice: a processor that has too much to fetch leaves some out. */
            for (int64_t i = 0; i < LANES * bytes; i += 64) {
                __builtin_prefetch(next + i, 0, 2);
                __builtin_prefetch(next + 4 * LANES * bytes + i, 0, 2);
            }
            next += LANES * bytes;
            few_words(from, offsets, type, x, 0, TAKEN(type), sums, columns);
        }
        if (left && aside) {
            few_words(from, offsets, type, x, 0, aside * TAKEN(type) / bytes, sums, columns);
        } else if (left) {
            char tail[LANES * TAKEN_BYTES] = {0};
            for (int64_t i = 0; i < LANES; i++) {
                memcpy(tail + padded[i], from + offsets[i], (size_t)left);
            }
            few_words(tail, padded, type, x, 0, depth % TAKEN(type), sums, columns);
        }
#pragma GCC unroll 16
        for (int c = 0; c < columns; c++) {
            if (c < job->columns) {
                PUT_ROWS(job, step->bias, sums[c], step->y + c * job->rows, step->row + row);
            }
        }
    }
}

/* One copy for each number of columns, so that sums stay in registers. */
#define FEW_OF(name, type)                                                                        \
    TARGET static void name(const Job *job, const Step *step, int64_t rows, int64_t depth) {      \
        switch (job->columns) {                                                                   \
        case 1: few_part(job, step, rows, depth, type, 1); break;                                 \
        case 2: few_part(job, step, rows, depth, type, 2); break;                                 \
        case 3: case 4: few_part(job, step, rows, depth, type, 4); break;                         \
        case 5: case 6: case 7: case 8: few_part(job, step, rows, depth, type, 8); break;         \
        default: few_part(job, step, rows, depth, type, FEW);                                     \
        }                                                                                         \
    }

/* For kernels with float32 products. */
#define FEW_FLOATS                                                                                \
    FEW_OF(few_f32, F32)                                                                          \
    FEW_OF(few_f16, F16)                                                                          \
    FEW_OF(few_bf16, BF16)                                                                        \
    static void few(const Job *job, const Step *step, int64_t rows) {                             \
        switch (job->weight_type) {                                                               \
        case F32: few_f32(job, step, rows, job->width); break;                                    \
        case F16: few_f16(job, step, rows, job->width); break;                                    \
        default: few_bf16(job, step, rows, job->width);                                           \
        }                                                                                         \
    }                                                                                             \
    static void plan_few(Job *job) {                                                              \
        const int64_t type = job->weight_type;                                                    \
        plan(job);                                                                                \
        job->direct = job->columns <= FEW && (type == F32 || type == F16 || type == BF16);        \
        if (job->direct) {                                                                        \
            job->beside = few_beside(job->columns);                                               \
            job->packing = 100 + job->beside;                                                     \
        }                                                                                         \
        job->panel_bytes = job->direct ? 0 : job->panel_bytes;                                    \
    }
