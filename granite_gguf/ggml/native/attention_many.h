/* Attention of many queries: a panel of them meets all keys while what they score stays in a core's
 * cache. Queries are multiplied as rows of a weight, keys and values as x, so that the scores of a
 * panel lie as the panel that is multiplied with the values.
 *
 *   queries  a panel, times the scale
 *   keys     x of a column for each key; distances likewise
 *   scores   [keys / 16][PANEL_ROWS queries][16 keys]
 *   values   x of a column for each number of a head
 *
 * Every query has its own sums, in an order that does not depend on other queries.
 *
 * Included behind attention_parts.h, where PACK and multiply_columns(panel, apart, on, x, depth, sums,
 * rows, columns, ahead) are as floats.h has them, of numbers of NUMBER_BYTES, in panels
 * [width / NUMBERS][rows][NUMBERS]. Where these are no floats, OTHER_NUMBERS is defined, and by it
 * `pack_queries`, `pack_values` and `to_panel`.
 */

/* What a thread has in its room. */
enum { KEYS, VALUES, DISTANCES, QUERIES, SCORES, POSITIONS, SUMS, WIDENED, PLACES };

static inline int64_t padded(int64_t count, int64_t size) { return blocks_of(count, size) * size; }

/* Of the scores of a panel's queries with distances, row by row. Rows start up to so many apart, and
 * at any place of a block. */
static inline int64_t position_stride(const Attention *job) {
    return padded(job->keys + 2 * COLUMNS + PANEL_ROWS, COLUMNS);
}

/* Where these begin, and where the last one ends. */
static void places(const Attention *job, int64_t at[PLACES + 1]) {
    const int64_t dim = padded(job->head_dim, NUMBERS), keys = padded(job->keys, NUMBERS);
    const int64_t bytes[PLACES] = {
        [KEYS] = NUMBER_BYTES * dim * padded(job->keys, COLUMNS),
        [VALUES] = NUMBER_BYTES * keys * padded(job->head_dim, COLUMNS),
        [DISTANCES] = NUMBER_BYTES * dim * padded(job->distances, COLUMNS),
        [QUERIES] = NUMBER_BYTES * dim * PANEL_ROWS,
        [SCORES] = 4 * keys * PANEL_ROWS,
        [POSITIONS] = job->distances ? 4 * PANEL_ROWS * position_stride(job) : 0,
        [SUMS] = 4 * BLOCKS * COLUMNS * PANEL_ROWS,
        [WIDENED] = 4 * COLUMNS * job->head_dim,
    };
    at[0] = 0;
    for (int i = 0; i < PLACES; i++) {
        at[i + 1] = at[i] + padded(bytes[i], 64);
    }
}

static int64_t attend_room(const Attention *job) {
    int64_t at[PLACES + 1];
    places(job, at);
    return at[PLACES];
}

#ifndef OTHER_NUMBERS
TARGET static void pack_queries(const Attention *job, const char *q, int64_t count, char *panel) {
    float *to = (float *)(void *)panel;
    const int64_t dim = job->head_dim;
    for (int64_t r = 0; r < PANEL_ROWS; r++) {
        const float *row = (const float *)(const void *)(q + r * job->q_row);
        for (int64_t d = 0; d < dim; d += LANES) {
            const Vector numbers = r < count ? load(row + d) * (float)job->scale : all(0.0f);
            store(to + d / NUMBERS * PANEL + r * NUMBERS + d % NUMBERS, numbers);
        }
    }
}

TARGET static void pack_values(const Attention *job, const char *values, char *packed) {
    const int64_t rows = padded(job->keys, NUMBERS);
    for (int64_t k = 0; k < rows; k++) {
        for (int64_t d = 0; d < job->head_dim; d += LANES) {
            float *to = (float *)(void *)packed + (d / COLUMNS * rows + k) * COLUMNS + d % COLUMNS;
            const char *row = values + k * job->v_row;
            store(to, k < job->keys ? numbers_at(row, d, (int)job->type) : all(0.0f));
        }
    }
}

INLINE void to_panel(float *scores, int64_t count, int64_t blocks) {
    (void)scores, (void)count, (void)blocks; /* which they are */
}
#endif

/* Rows of `type` become columns of x. */
INLINE void pack_rows(const char *rows, int64_t count, int64_t stride, const int type,
                      int64_t width, char *packed, char *widened) {
    for (int64_t column = 0; column < count; column += COLUMNS) {
        Job job = {.width = width, .columns = at_most(COLUMNS, count - column), .parts = 1};
        const char *from = rows + column * stride;
        job.x_stride = stride;
        if (type == F16) {
            job.x_stride = 4 * width;
            for (int64_t i = 0; i < job.columns; i++) {
                for (int64_t n = 0; n < width; n += LANES) {
                    store((float *)(void *)widened + i * width + n,
                          numbers_at(from + i * stride, n, F16));
                }
            }
            from = widened;
        }
        for (int64_t n = 0; n < width; n += NUMBERS) {
            PACK(&job, from, 0, n, packed + NUMBER_BYTES * column * padded(width, NUMBERS));
        }
    }
}

/* A panel times some blocks of x, all of them. */
INLINE void multiply_all(const char *panel, const char *x, int64_t width, float *sums,
                         int64_t rows, int64_t blocks) {
    const int64_t depth = blocks_of(width, NUMBERS);
    Ahead nothing = {0};
    for (int64_t b = 0; b < blocks; b += BLOCKS) {
        multiply_columns((const void *)panel, NUMBERS, PANEL,
                         (const void *)(x + NUMBER_BYTES * b * COLUMNS * depth * NUMBERS), depth,
                         sums + b * PANEL_ROWS * COLUMNS, rows,
                         COLUMNS * at_most(BLOCKS, blocks - b), &nothing);
    }
}

/* Distances count from the last query and the first key: that of query i and key j has the number
 * queries - 1 - i + j. Returns the first one that is multiplied, of query `start`'s panel. */
INLINE int64_t score_positions(const Attention *job, char *room, const int64_t *at, int64_t start,
                               int64_t count) {
    float *rows = (float *)(void *)(room + at[POSITIONS]), *sums = (float *)(void *)(room + at[SUMS]);
    const int64_t first = (job->queries - start - count) / COLUMNS;
    const int64_t end = blocks_of(job->queries - start + job->keys - 1, COLUMNS);
    const int64_t each = COLUMNS * padded(job->head_dim, NUMBERS), stride = position_stride(job);
    for (int64_t b = first; b < end; b += BLOCKS) {
        const int64_t blocks = at_most(BLOCKS, end - b);
        multiply_all(room + at[QUERIES], room + at[DISTANCES] + NUMBER_BYTES * b * each,
                     job->head_dim, sums, count, blocks);
        for (int64_t i = 0; i < blocks; i++) {
            for (int64_t r = 0; r < count; r++) {
                memcpy(rows + r * stride + (b - first + i) * COLUMNS,
                       sums + (i * PANEL_ROWS + r) * COLUMNS, COLUMNS * sizeof *rows);
            }
        }
    }
    return first * COLUMNS;
}

/* Sixteen scores of a query: positions and mask are added; what is behind the last key sees nothing. */
INLINE void add_to_scores(float *scores, const float *positions, const uint16_t *mask,
                          int64_t keys) {
    if (keys >= COLUMNS) {
        for (int v = 0; v < COLUMNS; v += LANES) {
            Vector sum = load(scores + v);
            sum = positions ? sum + load(positions + v) : sum;
            store(scores + v, mask ? sum + numbers_at((const char *)mask, v, F16) : sum);
        }
        return;
    }
    for (int i = 0; i < COLUMNS; i++) {
        const float position = positions && i < keys ? positions[i] : 0.0f;
        scores[i] = i < keys && !(mask && mask[i]) ? scores[i] + position : -INFINITY;
    }
}

/* Scores [keys / 16][PANEL_ROWS][16] become their powers; returns the sums of these in `sums`. */
INLINE void soften(float *scores, int64_t count, int64_t blocks, float *sums) {
    Vector most[PANEL_ROWS], sum[PANEL_ROWS];
    float greatest[PANEL_ROWS];
    for (int64_t r = 0; r < count; r++) {
        most[r] = all(-INFINITY);
        sum[r] = all(0.0f);
    }
    for (int64_t b = 0; b < blocks; b++) {
        for (int64_t r = 0; r < count; r++) {
            const float *from = scores + (b * PANEL_ROWS + r) * COLUMNS;
            for (int v = 0; v < COLUMNS; v += LANES) {
                const Vector numbers = load(from + v);
                most[r] = SELECT(numbers > most[r], numbers, most[r]);
            }
        }
    }
    for (int64_t r = 0; r < count; r++) {
        float lanes[LANES];
        memcpy(lanes, most + r, sizeof lanes);
        greatest[r] = lanes[0];
        for (int i = 1; i < LANES; i++) {
            greatest[r] = lanes[i] > greatest[r] ? lanes[i] : greatest[r];
        }
    }
    for (int64_t b = 0; b < blocks; b++) {
        for (int64_t r = 0; r < count; r++) {
            float *to = scores + (b * PANEL_ROWS + r) * COLUMNS;
            for (int v = 0; v < COLUMNS; v += LANES) {
                const Vector weight = weight_of(load(to + v), greatest[r]);
                store(to + v, weight);
                sum[r] += weight;
            }
        }
    }
    for (int64_t r = 0; r < count; r++) {
        sums[r] = SUM_OF(sum[r]);
    }
}

/* Queries from `start` on, of a head whose keys and values are packed. */
INLINE void attend_panel(const Attention *job, const AttentionOf *of, char *room,
                         const int64_t *at, int64_t start, int64_t count) {
    const int64_t blocks = blocks_of(job->keys, COLUMNS), dim = job->head_dim;
    float *scores = (float *)(void *)(room + at[SCORES]), *y = (float *)(void *)(room + at[SUMS]);
    pack_queries(job, of->q + start * job->q_row, count, room + at[QUERIES]);
    multiply_all(room + at[QUERIES], room + at[KEYS], dim, scores, count, blocks);
    const float *positions = NULL;
    if (job->distances) {
        positions = (const float *)(const void *)(room + at[POSITIONS]);
        positions += job->queries - 1 - start - score_positions(job, room, at, start, count);
    }
    for (int64_t b = positions || of->mask ? 0 : job->keys / COLUMNS; b < blocks; b++) {
        const int64_t key = b * COLUMNS;
        for (int64_t r = 0; r < count; r++) {
            add_to_scores(scores + (b * PANEL_ROWS + r) * COLUMNS,
                          positions ? positions + r * (position_stride(job) - 1) + key : NULL,
                          of->mask ? of->mask + (start + r) * job->keys + key : NULL,
                          job->keys - key);
        }
    }
    float sums[PANEL_ROWS];
    soften(scores, count, blocks, sums);
    to_panel(scores, count, blocks);
    for (int64_t d = 0; d < dim; d += BLOCKS * COLUMNS) {
        const int64_t columns = at_most(BLOCKS * COLUMNS, dim - d);
        multiply_all((const char *)scores,
                     room + at[VALUES] + NUMBER_BYTES * d * padded(job->keys, NUMBERS), job->keys,
                     y, count, columns / COLUMNS);
        for (int64_t r = 0; r < count; r++) {
            for (int64_t i = 0; i < columns; i += LANES) {
                const Vector sum = load(y + (i / COLUMNS * PANEL_ROWS + r) * COLUMNS + i % COLUMNS);
                store(of->y + (start + r) * job->heads * dim + d + i, sum / sums[r]);
            }
        }
    }
}

/* Panels `first` to `end` of the queries of all heads, head by head. */
TARGET static void attend_many(const Attention *job, const AttentionOf *all, char *room,
                               int64_t first, int64_t end) {
    const int64_t panels = blocks_of(job->queries, PANEL_ROWS), shared = job->heads / job->group;
    int64_t at[PLACES + 1], packed = -1;
    places(job, at);
    pack_rows(all->distances, job->distances, 4 * job->head_dim, F32, job->head_dim,
              room + at[DISTANCES], NULL);
    for (int64_t n = first; n < end; n++) {
        const int64_t start = n % panels * PANEL_ROWS, head = n / panels % job->heads;
        const int64_t batch = n / panels / job->heads, of_keys = head / job->group;
        AttentionOf of = {
            .q = all->q + batch * job->q_batch + head * job->q_head,
            .keys = all->keys + batch * job->k_batch + of_keys * job->k_head,
            .values = all->values + batch * job->v_batch + of_keys * job->v_head,
            .y = all->y + (batch * job->queries * job->heads + head) * job->head_dim,
        };
        if (all->mask) {
            of.mask = all->mask + (job->masked > 1 ? batch * job->queries * job->keys : 0);
        }
        if (packed != batch * shared + of_keys) {
            packed = batch * shared + of_keys;
            pack_rows(of.keys, job->keys, job->k_row, (int)job->type, job->head_dim,
                      room + at[KEYS], room + at[WIDENED]);
            pack_values(job, of.values, room + at[VALUES]);
        }
        attend_panel(job, &of, room, at, start, at_most(PANEL_ROWS, job->queries - start));
    }
}

#define ATTEND_MANY                                                                                \
    .attend_many = attend_many, .attend_room = attend_room, .attend_panel = PANEL_ROWS
