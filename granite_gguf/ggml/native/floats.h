/* Products of float32 numbers, written once for vectors of any length. The including file defines
 *
 *   TARGET      what the compiler may use in a function
 *   LANES       floats of a vector: 1, or what the compiler has vectors of
 *   ROWS        of a panel, multiplied with so many
 *   BLOCKS      of 16 columns in registers
 *   PANEL_ROWS  a multiple of ROWS and of LANES
 *
 * and may define PACK and PUT, which take the places of `pack` and `put` below.
 *
 *   panel  [rows][width, rounded up to 16 numbers, and 16 that nobody reads]
 *   x      [columns / 16][width][16 columns]
 */

#include "job.h"
#include "peak.h"
#include "vectors.h"

enum { COLUMNS = 16, NUMBERS = 16, PANEL = PANEL_ROWS * NUMBERS };
enum { VECTORS = COLUMNS / LANES }; /* of a block */

/* Floats from a row of a panel to the next. One line more than is needed, as lines that are powers of
 * two apart share places of a cache. */
static inline int64_t row_floats(const Job *job) {
    return (blocks_of(job->width, NUMBERS) + 1) * NUMBERS;
}

static void plan(Job *job) {
    job->packing = job->parts = 1;
    job->pack_columns = COLUMNS;
    job->pack_numbers = NUMBERS;
    job->packed_bytes =
        4 * blocks_of(job->columns, COLUMNS) * COLUMNS * blocks_of(job->width, NUMBERS) * NUMBERS;
    job->panel_rows = PANEL_ROWS;
    job->panel_bytes = 4 * PANEL_ROWS * row_floats(job);
    job->step_columns = BLOCKS * COLUMNS;
    job->fetches = PANEL_ROWS / ROWS * blocks_of(job->width, NUMBERS);
    job->in_place = job->weight_type == F32 && job->width % NUMBERS == 0;
}

#ifdef __GNUC__
#define STEP_FLOATS(sum, a, b) ((sum) + (a) * (b))
PEAK(peak, TARGET, Vector, Vector, STEP_FLOATS, LANES)
#else
#define peak NULL
#endif

INLINE float *packed_place(const Job *job, char *packed, int64_t column, int64_t start) {
    return (float *)packed + column * blocks_of(job->width, NUMBERS) * NUMBERS + start * COLUMNS;
}

#ifndef PACK
#define PACK pack
TARGET static void pack(const Job *job, const char *x, int64_t column, int64_t start,
                        char *packed) {
    float *to = packed_place(job, packed, column, start);
    const int64_t count = at_most(NUMBERS, job->width - start);
    for (int i = 0; i < COLUMNS; i++) {
        float numbers[NUMBERS] = {0};
        if (column + i < job->columns) {
            const float *row = (const float *)(x + (column + i) * job->x_stride) + start;
            memcpy(numbers, row, (size_t)count * sizeof *row);
        }
        for (int k = 0; k < NUMBERS; k++) {
            if (!job->beside) {
                to[k * COLUMNS + i] = numbers[k];
            } else if (i < job->beside) {
                ((float *)packed)[(start + k) * job->beside + i] = numbers[k];
            }
        }
    }
}
#endif

INLINE void put_numbers(const char *from, int64_t count, const int type, float *to) {
    int64_t n = 0;
    for (; n + LANES <= count; n += LANES) {
        store(to + n, numbers_at(from, n, type));
    }
    if (n < count) {
        float tail[LANES] = {0};
        const int64_t bytes = type == F32 ? 4 : 2;
        memcpy(tail, from + n * bytes, (size_t)((count - n) * bytes));
        store(to + n, numbers_at((const char *)tail, 0, type));
    }
}

TARGET static int64_t decode(const Job *job, const char *row, int64_t rows, char *panel) {
    float *to = (float *)(void *)panel;
    for (int64_t i = 0; i < rows; i++, row += job->row_bytes, to += row_floats(job)) {
        memset(to + job->width / NUMBERS * NUMBERS, 0, NUMBERS * sizeof *to); /* behind the last one */
        switch (job->weight_type) {
        case F32: put_numbers(row, job->width, F32, to); break;
        case F16: put_numbers(row, job->width, F16, to); break;
        case BF16: put_numbers(row, job->width, BF16, to); break;
        default: job->to_float(row, to, job->width);
        }
    }
    return 0;
}

#ifndef PUT
#define PUT put

/* To about 2e-7 of itself, of -80 to 80; NaN stays NaN. */
INLINE Vector exponential(Vector x) {
    const float shift = 0x1.8p23f; /* a sum with it is rounded, and its low bits are the integer */
    const Vector sum = x * 1.44269504f + shift, n = sum - shift;
    const Vector r = x - n * 0.693145752f - n * 1.42860677e-6f; /* ln 2 in two parts */
    Vector y = r * (1.0f / 720) + 1.0f / 120;
    y = y * r + 1.0f / 24;
    y = y * r + 1.0f / 6;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    Bits bits;
    Vector power;
    memcpy(&bits, &sum, sizeof bits);
    bits = (bits << 23) + (127u << 23);
    memcpy(&power, &bits, sizeof power);
    return y * power;
}

INLINE Vector sigmoid(Vector x) {
    const Vector most = all(80.0f); /* beyond, nothing changes that float32 can tell */
    x = SELECT(x > most, most, x);
    x = SELECT(x < -most, -most, x);
    return 1.0f / (1.0f + exponential(-x));
}

/* Sums [rows of a panel][16 columns] go where y has its columns one after another. */
TARGET static void put(const Job *job, const float *bias, const float *sums, float *y, int64_t row,
                       int64_t columns) {
    const int64_t rows = at_most(PANEL_ROWS, job->rows - row);
    for (int64_t i = 0; i < at_most(columns, COLUMNS); i++) {
        float *to = y + i * job->rows + row, line[PANEL_ROWS] = {0}, active[PANEL_ROWS];
        for (int64_t r = 0; r < rows; r++) {
            line[r] = sums[r * COLUMNS + i] + (bias ? bias[row + r] : 0.0f);
        }
        if (job->activation == NO_ACTIVATION || row + rows <= job->active_from) {
            memcpy(to, line, (size_t)rows * sizeof *to);
            continue;
        }
        for (int r = 0; r < PANEL_ROWS; r += LANES) {
            const Vector numbers = load(line + r);
            Vector result = sigmoid(numbers);
            result = job->activation == SILU ? result * numbers : result;
            memcpy(active + r, &result, sizeof result);
        }
        for (int64_t r = 0; r < rows; r++) {
            to[r] = row + r < job->active_from ? line[r] : active[r];
        }
    }
}
#endif

#if LANES == 16
typedef float Short __attribute__((vector_size(4 * LANES / 2)));
#else
typedef Vector Short; /* for no half */
#endif

/* Some rows of a panel times some vectors of columns of x, and half of another; sums go to blocks of
 * [rows of a panel][columns]. Rows lie `apart`, and NUMBERS of a row so far from the next ones as `on`
 * says. */
INLINE void multiply_rows(const float *w, int64_t apart, int64_t on, const float *x, int64_t depth,
                          float *sums, const int vectors, const int half, Ahead *ahead) {
    const int64_t next = depth * NUMBERS * COLUMNS;
    Vector sum[ROWS][BLOCKS * VECTORS];
    Short last[ROWS] = {0};
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) {
            sum[r][v] = all(0.0f);
        }
    }
    for (int64_t k = 0; k < depth; k++, w += on) {
        fetch(ahead);
#pragma GCC unroll 4
        for (int n = 0; n < NUMBERS; n++, x += COLUMNS) {
            Vector columns[BLOCKS * VECTORS];
            Short others = {0};
#pragma GCC unroll 16
            for (int v = 0; v < vectors; v++) {
                columns[v] = load(x + v / VECTORS * next + v % VECTORS * LANES);
            }
            if (half) {
                memcpy(&others, x + vectors * next, sizeof others);
            }
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 16
                for (int v = 0; v < vectors; v++) {
                    sum[r][v] += columns[v] * w[r * apart + n];
                }
                if (half) {
                    last[r] += others * w[r * apart + n];
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
        float *to = sums + r * COLUMNS;
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) {
            store(to + v / VECTORS * PANEL_ROWS * COLUMNS + v % VECTORS * LANES, sum[r][v]);
        }
        if (half) {
            memcpy(to + vectors * PANEL_ROWS * COLUMNS, last + r, sizeof last[r]);
        }
    }
}

/* The rows of a panel, whole ROWS of them, times up to BLOCKS blocks of columns. Fewer vectors take
 * less time, and so does half a long one. */
TARGET static void multiply_columns(const float *w, int64_t apart, int64_t on, const float *x,
                                    int64_t depth, float *sums, int64_t rows, int64_t columns,
                                    Ahead *ahead) {
    for (int64_t r = 0; r < rows; r += ROWS, w += ROWS * apart, sums += ROWS * COLUMNS) {
#if LANES == 16
        switch (blocks_of(columns, LANES / 2)) {
        case 1: multiply_rows(w, apart, on, x, depth, sums, 0, 1, ahead); break;
        case 2: multiply_rows(w, apart, on, x, depth, sums, 1, 0, ahead); break;
        case 3: multiply_rows(w, apart, on, x, depth, sums, 1, 1, ahead); break;
        case 4: multiply_rows(w, apart, on, x, depth, sums, 2, 0, ahead); break;
        case 5: multiply_rows(w, apart, on, x, depth, sums, 2, 1, ahead); break;
#else
        switch (blocks_of(columns, LANES)) {
#if LANES > 1
        case 1: multiply_rows(w, apart, on, x, depth, sums, 1, 0, ahead); break;
#endif
#if BLOCKS * 16 / LANES > 3
        case 2: multiply_rows(w, apart, on, x, depth, sums, 2, 0, ahead); break;
        case 3: multiply_rows(w, apart, on, x, depth, sums, 3, 0, ahead); break;
#endif
#endif
        default: multiply_rows(w, apart, on, x, depth, sums, BLOCKS * VECTORS, 0, ahead);
        }
    }
}

TARGET static void multiply(const Job *job, const Step *step) {
    union {
        float sums[BLOCKS * PANEL_ROWS * COLUMNS];
        char room[BLOCKS * PANEL_ROWS * COLUMNS * 4 + 64];
    } room;
    float *sums = (float *)(void *)(((uintptr_t)room.room + 63) & ~(uintptr_t)63);
    const int64_t depth = blocks_of(job->width, NUMBERS);
    const int64_t columns = at_most(BLOCKS * COLUMNS, job->columns - step->column);
    const int64_t rows = at_most(PANEL_ROWS, job->rows - step->row);
    const float *w = (const float *)(const void *)step->panel;
    const float *x = (const float *)(const void *)step->packed + step->column * depth * NUMBERS;
    fetch_places(job, step->y + step->column * job->rows + step->row, rows, columns);
    const int64_t apart = step->in_place ? job->row_bytes / 4 : row_floats(job);
    multiply_columns(w, apart, NUMBERS, x, depth, sums, rows, columns, step->ahead);
    for (int64_t c = 0; c < columns; c += COLUMNS) {
        PUT(job, step->bias, sums + c * PANEL_ROWS, step->y + (step->column + c) * job->rows, step->row,
            columns - c);
    }
}
