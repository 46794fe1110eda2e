/* Products of bfloat16 pairs in vectors of 512 bits. x and a panel lie as the tiles have them: a
 * pair of numbers of a row of the weight is multiplied with that of 16 columns of x at once. */

#include "bfloat16.h"
#include "x86.h"

#ifdef HAS_X86

#include "avx512.h"
#include "peak.h"

#define VECTOR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c,fma")))

/* Of a panel, multiplied with so many blocks of 16 columns in registers. */
enum { ROWS = 8, BLOCKS = 3, COLUMNS = TILE_COLUMNS, NUMBERS = TILE_NUMBERS };

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
#include "vectors.h"

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
    job->in_place = job->weight_type == BF16 && job->width % TILE_NUMBERS == 0;
    if (job->direct) {
        job->panel_bytes = 0;
        job->beside = few_beside(job->columns);
        job->packing = 100 + job->beside;
    }
}

/* Some rows of a panel times some blocks of x, and half of another; sums go to tiles of [32 rows]
 * [16 columns]. `apart` and `on` as in floats.h. */
INLINE void multiply_rows(const uint16_t *w, int64_t apart, int64_t on, const uint16_t *x,
                          int64_t depth, float *sums, const int blocks, const int half,
                          Ahead *ahead) {
    const int64_t next = depth * TILE;
    __m512 sum[ROWS][BLOCKS];
    __m256 last[ROWS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
        last[r] = _mm256_setzero_ps();
#pragma GCC unroll 3
        for (int b = 0; b < blocks; b++) {
            sum[r][b] = _mm512_setzero_ps();
        }
    }
    for (int64_t k = 0; k < depth; k++, w += on, x += TILE) {
        fetch(ahead);
#pragma GCC unroll 4
        for (int pair = 0; pair < TILE_NUMBERS; pair += 2) {
            const uint16_t *from = x + pair * COLUMNS;
            __m512bh columns[BLOCKS];
            __m256bh others = {0};
#pragma GCC unroll 3
            for (int b = 0; b < blocks; b++) {
                columns[b] = (__m512bh)_mm512_loadu_si512(from + b * next);
            }
            if (half) {
                others = (__m256bh)_mm256_loadu_si256((const void *)(from + blocks * next));
            }
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) {
                int bits;
                memcpy(&bits, w + r * apart + pair, sizeof bits);
                const __m512i numbers = _mm512_set1_epi32(bits);
#pragma GCC unroll 3
                for (int b = 0; b < blocks; b++) {
                    sum[r][b] = _mm512_dpbf16_ps(sum[r][b], columns[b], (__m512bh)numbers);
                }
                if (half) {
                    last[r] = _mm256_dpbf16_ps(last[r], others,
                                               (__m256bh)_mm512_castsi512_si256(numbers));
                }
            }
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 3
        for (int b = 0; b < blocks; b++) {
            _mm512_store_ps(sums + (b * PANEL_ROWS + r) * COLUMNS, sum[r][b]);
        }
        if (half) {
            _mm256_store_ps(sums + (blocks * PANEL_ROWS + r) * COLUMNS, last[r]);
        }
    }
}

/* The rows of a panel times up to BLOCKS blocks of columns. Half a vector takes half the time. */
VECTOR static void multiply_columns(const uint16_t *w, int64_t apart, int64_t on, const uint16_t *x,
                                    int64_t depth, float *sums, int64_t rows, int64_t columns,
                                    Ahead *ahead) {
    for (int64_t r = 0; r < rows; r += ROWS) {
        const uint16_t *from = w + r * apart;
        float *to = sums + r * COLUMNS;
        switch (blocks_of(columns, COLUMNS / 2)) {
        case 1: multiply_rows(from, apart, on, x, depth, to, 0, 1, ahead); break;
        case 2: multiply_rows(from, apart, on, x, depth, to, 1, 0, ahead); break;
        case 3: multiply_rows(from, apart, on, x, depth, to, 1, 1, ahead); break;
        case 4: multiply_rows(from, apart, on, x, depth, to, 2, 0, ahead); break;
        case 5: multiply_rows(from, apart, on, x, depth, to, 2, 1, ahead); break;
        default: multiply_rows(from, apart, on, x, depth, to, 3, 0, ahead);
        }
    }
}

VECTOR static void multiply(const Job *job, const Step *step) {
    float sums[BLOCKS * PANEL_ROWS * TILE_COLUMNS] __attribute__((aligned(64)));
    const int64_t depth = blocks_of(job->width, TILE_NUMBERS);
    const int64_t columns = at_most(BLOCKS * COLUMNS, job->columns - step->column);
    const int64_t rows = at_most(PANEL_ROWS, job->rows - step->row);
    const uint16_t *w = (const uint16_t *)step->panel;
    const uint16_t *x = (const uint16_t *)step->packed + step->column * depth * TILE_NUMBERS;
    fetch_places(job, step->y + step->column * job->rows + step->row, rows, columns);
    const int64_t apart = step->in_place ? job->row_bytes / 2 : NUMBERS;
    const int64_t on = step->in_place ? NUMBERS : PANEL;
    multiply_columns(w, apart, on, x, depth, sums, rows, columns, step->ahead);
    for (int64_t c = 0; c < columns; c += COLUMNS) {
        for (int64_t r = 0; r < rows; r += 16) {
            put_sums(job, step->bias, sums + c * PANEL_ROWS + r * COLUMNS,
                     step->y + (step->column + c) * job->rows, step->row + r, columns - c);
        }
    }
}

#define SUM_OF(vector) _mm512_reduce_add_ps((__m512)(vector))
#include "attention_parts.h"

/* 32 numbers, given in halves. */
INLINE __m512i rounded(Vector first, Vector second) {
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
}

VECTOR static void pack_queries(const Attention *job, const char *q, int64_t count, char *panel) {
    for (int64_t r = 0; r < PANEL_ROWS; r++) {
        const float *row = (const float *)(q + r * job->q_row);
        const int64_t dim = r < count ? job->head_dim : 0;
        for (int64_t d = 0; d < job->head_dim; d += NUMBERS) {
            const Vector first = (Vector)load_floats(row + d, dim - d);
            const Vector second = (Vector)load_floats(row + d + COLUMNS, dim - d - COLUMNS);
            _mm512_storeu_si512((uint16_t *)panel + d / NUMBERS * PANEL + r * NUMBERS,
                                rounded(first * (float)job->scale, second * (float)job->scale));
        }
    }
}

VECTOR static void pack_values(const Attention *job, const char *values, char *packed) {
    const int64_t tiles = blocks_of(job->keys, NUMBERS);
    __m512i pairs = _mm512_setzero_si512(); /* 0, 16, 1, 17, ... */
    for (int i = 15; i >= 0; i--) {
        const __m512i pair = _mm512_set1_epi32(i | (i + 16) << 16);
        pairs = _mm512_mask_mov_epi32(pairs, (__mmask16)(1u << i), pair);
    }
    for (int64_t k = 0; k < tiles * NUMBERS; k += 2) {
        const char *row = values + k * job->v_row;
        for (int64_t d = 0; d < job->head_dim; d += COLUMNS) {
            const Vector none = all(0.0f);
            const Vector first = k < job->keys ? numbers_at(row, d, (int)job->type) : none;
            const Vector second =
                k + 1 < job->keys ? numbers_at(row + job->v_row, d, (int)job->type) : none;
            uint16_t *to = (uint16_t *)packed + (d / COLUMNS * tiles + k / NUMBERS) * TILE;
            _mm512_storeu_si512(to + k % NUMBERS * COLUMNS,
                                _mm512_permutexvar_epi16(pairs, rounded(first, second)));
        }
    }
}

/* Two blocks of floats become one of bfloat16 in the place of an earlier one. */
INLINE void to_panel(float *scores, int64_t count, int64_t blocks) {
    for (int64_t b = 0; b < blocks; b += 2) {
        for (int64_t r = 0; r < count; r++) {
            const float *from = scores + (b * PANEL_ROWS + r) * COLUMNS;
            const Vector second = b + 1 < blocks ? load(from + PANEL_ROWS * COLUMNS) : all(0.0f);
            _mm512_storeu_si512(scores + (b / 2 * PANEL_ROWS + r) * COLUMNS,
                                rounded(load(from), second));
        }
    }
}

#define PACK bfloat16_pack
#define NUMBER_BYTES 2
#define OTHER_NUMBERS
#include "attention_many.h"

const Kernel avx512_bf16 = {
    .name = "avx512-bf16", .words = "bfloat16 products of AVX-512", .available = available,
    .takes = takes, .plan = plan, .pack = bfloat16_pack, .decode = bfloat16_decode,
    .multiply = multiply, .few = few, ATTEND_MANY, .peak = peak,
};

#else

typedef int none; /* a file must not be empty */

#endif
