/* Products of bfloat16 pairs in vectors of 512 bits. x and a panel lie as the tiles have them: a
 * pair of numbers of a row of the weight is multiplied with that of 16 columns of x at once. */

#include "bfloat16.h"
#include "x86.h"

#ifdef HAS_X86

#include "avx512.h"
#include "peak.h"

#define VECTOR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c,fma")))
#define INLINE VECTOR static inline __attribute__((always_inline))

/* Of a panel, multiplied with so many blocks of 16 columns in registers. */
enum { ROWS = 8, BLOCKS = 3 };

#define TARGET VECTOR
#define FLOATS __m512
#define LANES 16
#define FEW 12
#define TAKE(type, from, offsets, words) take_words(from, offsets, words)
#define TAKEN_BYTES 64
#define TAKEN(type) ((void)(type), 16)
#define SPREAD_WORD(from) _mm512_set1_ps(*(const float *)(const void *)(from))
#define ADD_PRODUCT(a, b, sum) _mm512_dpbf16_ps(sum, (__m512bh)(b), (__m512bh)(a))
#define PUT_ROWS put_rows_512

#include "few.h"

FEW_OF(few_pairs, BF16)

static void few(const Job *job, const Step *step, int64_t rows) {
    few_pairs(job, step, rows, blocks_of(job->width, 2));
}

#define STEP_PAIRS(sum, a, b) _mm512_dpbf16_ps(sum, (__m512bh)(a), (__m512bh)(b))
PEAK(peak, VECTOR, __m512, __m512i, STEP_PAIRS, 32)

static int available(void) { return x86_has(X86_AVX512 | X86_AVX512_BF16); }

/* In two parts, longer floats would take three products; the fused multiply-add takes two. */
static int takes(int64_t type, int64_t exact, int64_t columns) {
    (void)columns;
    return !exact || (type != F32 && type != F16);
}

static void plan(Job *job) {
    bfloat16_plan(job, 1);
    job->step_columns = BLOCKS * TILE_COLUMNS;
    job->fetches = PANEL_ROWS / ROWS * blocks_of(job->width, TILE_NUMBERS);
    job->direct = job->weight_type == BF16 && job->columns <= FEW;
    if (job->direct) {
        job->panel_bytes = 0;
        job->beside = few_beside(job->columns);
        job->packing = 100 + job->beside;
    }
}

/* Some rows of a panel times some blocks of x; sums go to tiles of [32 rows][16 columns]. */
INLINE void multiply_rows(const uint16_t *w, const uint16_t *x, int64_t depth, float *sums,
                          const int rows, const int blocks, Ahead *ahead) {
    const int64_t next = depth * TILE;
    __m512 sum[16][BLOCKS];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 3
        for (int b = 0; b < blocks; b++) {
            sum[r][b] = _mm512_setzero_ps();
        }
    }
    for (int64_t k = 0; k < depth; k++, w += PANEL, x += TILE) {
        fetch(ahead);
#pragma GCC unroll 4
        for (int pair = 0; pair < TILE_NUMBERS; pair += 2) {
            __m512bh columns[BLOCKS];
#pragma GCC unroll 3
            for (int b = 0; b < blocks; b++) {
                columns[b] = (__m512bh)_mm512_loadu_si512(x + b * next + pair * TILE_COLUMNS);
            }
#pragma GCC unroll 16
            for (int r = 0; r < rows; r++) {
                int bits;
                memcpy(&bits, w + r * TILE_NUMBERS + pair, sizeof bits);
                const __m512bh numbers = (__m512bh)_mm512_set1_epi32(bits);
#pragma GCC unroll 3
                for (int b = 0; b < blocks; b++) {
                    sum[r][b] = _mm512_dpbf16_ps(sum[r][b], columns[b], numbers);
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
#pragma GCC unroll 3
        for (int b = 0; b < blocks; b++) {
            _mm512_store_ps(sums + (b * PANEL_ROWS + r) * TILE_COLUMNS, sum[r][b]);
        }
    }
}

VECTOR static void multiply(const Job *job, const Step *step) {
    float sums[BLOCKS * PANEL_ROWS * TILE_COLUMNS] __attribute__((aligned(64)));
    const int64_t depth = blocks_of(job->width, TILE_NUMBERS);
    const int64_t block = step->column / TILE_COLUMNS;
    const int64_t blocks = at_most(blocks_of(job->columns, TILE_COLUMNS) - block, BLOCKS);
    const int64_t rows = at_most(PANEL_ROWS, job->rows - step->row);
    const uint16_t *w = (const uint16_t *)step->panel;
    const uint16_t *x = (const uint16_t *)step->packed + block * depth * TILE;
    for (int64_t r = 0; r < rows; r += blocks == 1 ? 2 * ROWS : ROWS) {
        const uint16_t *from = w + r * TILE_NUMBERS;
        float *to = sums + r * TILE_COLUMNS;
        switch (blocks) {
        case 1: multiply_rows(from, x, depth, to, 2 * ROWS, 1, step->ahead); break;
        case 2: multiply_rows(from, x, depth, to, ROWS, 2, step->ahead); break;
        default: multiply_rows(from, x, depth, to, ROWS, 3, step->ahead);
        }
    }
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t column = step->column + b * TILE_COLUMNS;
        for (int64_t r = 0; r < rows; r += 16) {
            put_sums(job, step->bias, sums + (b * PANEL_ROWS + r) * TILE_COLUMNS,
                     step->y + column * job->rows, step->row + r, job->columns - column);
        }
    }
}

const Kernel avx512_bf16 = {
    .name = "avx512-bf16", .words = "bfloat16 products of AVX-512", .available = available,
    .takes = takes, .plan = plan, .pack = bfloat16_pack, .decode = bfloat16_decode,
    .multiply = multiply, .few = few, .peak = peak,
};

#else

typedef int none; /* a file must not be empty */

#endif
