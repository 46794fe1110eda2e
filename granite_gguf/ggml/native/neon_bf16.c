/* Products of bfloat16 matrices by NEON: two rows of the weight times two columns of x at a time,
 * four numbers deep.
 *
 *   panel  [width / 4][32 rows][4 numbers]
 *   x      [columns / 8][width / 4][8 columns][4 numbers]
 */

#include "arm.h"
#include "job.h"

#ifdef HAS_ARM

#include "neon.h"
#include "peak.h"

#define TARGET __attribute__((target("arch=armv8.2-a+bf16")))

enum { DEEP = 4, PANEL_ROWS = 32, COLUMNS = 8, ROWS = 8, SPAN = 256 };

#define STEP_SQUARES(sum, a, b) \
    vbfmmlaq_f32(sum, vreinterpretq_bf16_u16(a), vreinterpretq_bf16_u16(b))
PEAK(peak, TARGET, float32x4_t, uint16x8_t, STEP_SQUARES, 16)

static int available(void) { return arm_has(ARM_BF16); }

/* In two parts, longer floats would take three products. */
static int takes(int64_t type, int64_t exact, int64_t columns) {
    (void)columns;
    return !exact || (type != F32 && type != F16);
}

static void plan(Job *job) {
    const int64_t depth = blocks_of(job->width, DEEP);
    job->packing = job->parts = 1;
    job->pack_columns = COLUMNS;
    job->pack_numbers = SPAN;
    job->packed_bytes = 2 * blocks_of(job->columns, COLUMNS) * COLUMNS * depth * DEEP;
    job->panel_rows = PANEL_ROWS;
    job->panel_bytes = 2 * PANEL_ROWS * depth * DEEP;
    job->step_columns = COLUMNS;
    job->fetches = PANEL_ROWS / ROWS * depth;
}

/* Rounded to nearest, ties to even; `to` is 2 * `apart` bytes from four numbers to the next. */
TARGET NEON_INLINE void put_bfloat16(const float *from, int64_t count, bfloat16_t *to,
                                     int64_t apart) {
    for (int64_t k = 0; k < count; k += DEEP, to += apart) {
        float four[DEEP] = {0};
        memcpy(four, from + k, (size_t)at_most(DEEP, count - k) * sizeof *four);
        vst1_bf16(to, vcvt_bf16_f32(vld1q_f32(four)));
    }
}

TARGET static void pack(const Job *job, const char *x, int64_t column, int64_t start,
                        char *packed) {
    const int64_t depth = blocks_of(job->width, DEEP), count = at_most(SPAN, job->width - start);
    bfloat16_t *to = (bfloat16_t *)(void *)packed + (column * depth + start / DEEP * COLUMNS) * DEEP;
    static const float zeros[SPAN];
    for (int64_t c = 0; c < COLUMNS; c++) {
        const float *row = (const float *)(const void *)(x + (column + c) * job->x_stride) + start;
        put_bfloat16(column + c < job->columns ? row : zeros, count, to + c * DEEP,
                     COLUMNS * DEEP);
    }
}

static void to_floats(const Job *job, const char *from, int64_t count, float *floats) {
    const uint16_t *halves = (const uint16_t *)(const void *)from;
    switch (job->weight_type) {
    case F32: memcpy(floats, from, (size_t)count * sizeof *floats); break;
    case BF16:
        for (int64_t i = 0; i < count; i++) {
            const uint32_t bits = (uint32_t)halves[i] << 16;
            memcpy(floats + i, &bits, sizeof bits);
        }
        break;
    default: job->to_float(from, floats, count);
    }
}

TARGET static int64_t decode(const Job *job, const char *row, int64_t rows, char *panel) {
    const int64_t span_bytes = SPAN / job->block_numbers * job->block_bytes;
    bfloat16_t *to = (bfloat16_t *)(void *)panel;
    for (int64_t k = 0; k < job->width; k += SPAN, row += span_bytes, to += SPAN * PANEL_ROWS) {
        const int64_t count = at_most(SPAN, job->width - k);
        for (int64_t i = 0; i < rows; i++) {
            float floats[SPAN];
            to_floats(job, row + i * job->row_bytes, count, floats);
            put_bfloat16(floats, count, to + i * DEEP, PANEL_ROWS * DEEP);
        }
    }
    return 0;
}

TARGET static void multiply(const Job *job, const Step *step) {
    const int64_t depth = blocks_of(job->width, DEEP);
    const int64_t rows = at_most(PANEL_ROWS, job->rows - step->row);
    const int64_t columns = at_most(COLUMNS, job->columns - step->column);
    const bfloat16_t *panel = (const bfloat16_t *)(const void *)step->panel;
    const bfloat16_t *packed = (const bfloat16_t *)(const void *)step->packed;
    for (int64_t row = 0; row < rows; row += ROWS) {
        const bfloat16_t *w = panel + row * DEEP, *x = packed + step->column * depth * DEEP;
        float32x4_t sum[ROWS / 2][COLUMNS / 2]; /* two rows of two columns */
        for (int i = 0; i < ROWS / 2; i++) {
            for (int c = 0; c < COLUMNS / 2; c++) {
                sum[i][c] = vdupq_n_f32(0);
            }
        }
        for (int64_t k = 0; k < depth; k++, w += PANEL_ROWS * DEEP, x += COLUMNS * DEEP) {
            fetch(step->ahead);
            bfloat16x8_t some[COLUMNS / 2];
#pragma GCC unroll 4
            for (int c = 0; c < COLUMNS / 2; c++) {
                some[c] = vld1q_bf16(x + 2 * c * DEEP);
            }
#pragma GCC unroll 4
            for (int i = 0; i < ROWS / 2; i++) {
                const bfloat16x8_t two = vld1q_bf16(w + 2 * i * DEEP);
#pragma GCC unroll 4
                for (int c = 0; c < COLUMNS / 2; c++) {
                    sum[i][c] = vbfmmlaq_f32(sum[i][c], two, some[c]);
                }
            }
        }
        for (int64_t c = 0; c < columns; c++) {
            float *y = step->y + (step->column + c) * job->rows;
            for (int i = 0; i < ROWS / 2; i += 2) {
                const float32x4_t a = sum[i][c / 2], b = sum[i + 1][c / 2];
                put_rows_neon(job, step->bias, c % 2 ? vuzp2q_f32(a, b) : vuzp1q_f32(a, b), y,
                              step->row + row + 2 * i);
            }
        }
    }
}

const Kernel neon_bf16 = {
    .name = "neon-bf16", .words = "bfloat16 matrix products of NEON", .available = available,
    .takes = takes, .plan = plan, .pack = pack, .decode = decode, .multiply = multiply, .peak = peak,
};

#else

typedef int none; /* a file must not be empty */

#endif
