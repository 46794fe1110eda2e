/* Matrix products in the bfloat16 tiles of AMX, as two custom operations of a ggml graph.
 *
 *   x (F32) -> tiles_pack -> packed x -> tiles_multiply(weight, packed x) -> y (F32)
 *
 * Packing is an operation of its own because ggml's threads meet between operations, and because
 * several weights multiply the same x. A weight is read as it lies in its file: each thread decodes
 * some rows at a time into tiles and multiplies them with all of x, so that decoding costs little
 * and nothing is kept.
 *
 * Layouts, each tile 16 rows of 64 bytes:
 *   weights   [panel of 32 rows][width / 32][32 rows][32 columns]
 *   x         [batch][part][16 columns of y][width / 32][16 pairs of the width][16 columns of y][2]
 *
 * A float with more bits than bfloat16 is the sum of two parts, the nearest bfloat16 and the nearest
 * to what that leaves: 16 bits of significand together. Products of two second parts are left out.
 *
 * Nothing here depends on Python or on ggml's headers: the places of a tensor's fields are given.
 */

#define _GNU_SOURCE /* syscall */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { F32 = 0, F16 = 1, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14, BF16 = 30 };

enum { NO_ACTIVATION = 0, SIGMOID = 1, SILU = 2 };

typedef void (*to_float_fn)(const void *, float *, int64_t);

/* What an operation is told besides its tensors; the same structure in ../tiles.py. */
typedef struct {
    int64_t data_offset;   /* of a tensor's data and sources within its structure */
    int64_t source_offset;
    int64_t width;         /* of a row of the weight and of x */
    int64_t rows;          /* of the weight */
    int64_t columns;       /* of y */
    int64_t batches;       /* products, each with a weight, an x and a y of its own */
    int64_t inner;         /* how many of them are a step apart; the next ones, an outer step */
    int64_t group;         /* that share a weight */
    int64_t x_stride;      /* bytes from a row of x to the next */
    int64_t x_step;        /* and from an x to the next, in either way */
    int64_t x_outer_step;
    int64_t weight_step;
    int64_t weight_outer_step;
    int64_t x_parts;
    int64_t weight_parts;
    int64_t weight_type;
    int64_t row_bytes;     /* from a row of the weight to the next */
    int64_t span_bytes;    /* of 256 numbers of a row */
    int64_t panel_bytes;   /* that a thread decodes at once, a part, behind the result */
    int64_t threads;       /* that have room there */
    int64_t biased;        /* whether there is a third source, added to every column of y */
    int64_t activation;
    int64_t active_from;   /* the row of y from which on that applies */
    to_float_fn to_float;  /* decodes what is not decoded here */
} Job;

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__)

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define VECTOR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c")))
#define INLINE VECTOR static inline __attribute__((always_inline))

enum { TILE = 512, PANEL = 2 * TILE, PANEL_ROWS = 32, SPAN = 256 }; /* elements of two bytes, rows */

/* Compilers differ in what they know of these instructions' effects on memory; assembly says it. */
#define TILE_LOAD(tile, from) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), "r"((int64_t)64) : "memory")
#define TILE_STORE(tile, to) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"((int64_t)64) : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile :::)
#define TILE_PRODUCT(sum, a, b) \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum :::)

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t column_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) Configuration;

static void configure(const Configuration *configuration) {
    __asm__ volatile("ldtilecfg (%0)" ::"r"(configuration) : "memory");
}

static void read_configuration(Configuration *configuration) {
    __asm__ volatile("sttilecfg (%0)" ::"r"(configuration) : "memory");
}

int tiles_available(void) {
    enum { XCR0_NEEDED = 0x600e6, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d, low, high;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || !(c >> 27 & 1) || !(c >> 29 & 1)) {
        return 0; /* XGETBV, F16C */
    }
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        return 0;
    }
    const unsigned avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31; /* F, DQ, BW, VL */
    if ((b & avx512) != avx512 || !(d >> 22 & 1) || !(d >> 24 & 1)) {
        return 0; /* AMX-BF16, AMX-TILE */
    }
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) {
        return 0; /* AVX512-BF16 */
    }
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & XCR0_NEEDED) != XCR0_NEEDED) {
        return 0;
    }
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

static char *data_of(const Job *job, const void *tensor) {
    return *(char *const *)((const char *)tensor + job->data_offset);
}

static const void *source_of(const Job *job, const void *tensor, int index) {
    return ((const void *const *)((const char *)tensor + job->source_offset))[index];
}

static int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

/* The columns of a 16 x 16 matrix of 4 bytes become its rows. */
INLINE void transpose(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* 32 numbers, given in halves. */
INLINE __m512i to_bfloat16(__m512 first, __m512 second) {
    return (__m512i)_mm512_cvtne2ps_pbh(second, first);
}

/* What the nearest bfloat16 numbers leave of 32 numbers. */
INLINE __m512i rest_in_bfloat16(__m512i nearest, __m512 first, __m512 second) {
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(nearest));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(nearest, 1));
    return to_bfloat16(
        _mm512_sub_ps(first, _mm512_castsi512_ps(_mm512_slli_epi32(low, 16))),
        _mm512_sub_ps(second, _mm512_castsi512_ps(_mm512_slli_epi32(high, 16))));
}

/* Up to 16 floats; zeros behind them. */
INLINE __m512 load_floats(const float *from, int64_t count) {
    if (count >= 16) {
        return _mm512_loadu_ps(from);
    }
    return count <= 0 ? _mm512_setzero_ps()
                      : _mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
}

VECTOR void tiles_pack(void *result, int thread, int threads, const Job *job) {
    const char *x = data_of(job, source_of(job, result, 0));
    uint16_t *packed = (uint16_t *)data_of(job, result);
    const int64_t depth = blocks_of(job->width, 32), blocks = blocks_of(job->columns, 16);
    const int64_t tiles = blocks * depth, all = job->batches * tiles;
    for (int64_t n = all * thread / threads; n < all * (thread + 1) / threads; n++) {
        const int64_t batch = n / tiles, t = n % tiles;
        const int64_t column = t / depth * 16, start = t % depth * 32;
        const char *matrix =
            x + batch % job->inner * job->x_step + batch / job->inner * job->x_outer_step;
        const int64_t count = job->width - start;
        __m512i nearest[16], rest[16];
        for (int i = 0; i < 16; i++) {
            if (column + i >= job->columns) {
                nearest[i] = rest[i] = _mm512_setzero_si512();
                continue;
            }
            const float *row = (const float *)(matrix + (column + i) * job->x_stride) + start;
            const __m512 first = load_floats(row, count), second = load_floats(row + 16, count - 16);
            nearest[i] = to_bfloat16(first, second);
            rest[i] = rest_in_bfloat16(nearest[i], first, second);
        }
        for (int64_t part = 0; part < job->x_parts; part++) {
            __m512i *rows = part ? rest : nearest;
            uint16_t *to = packed + ((batch * job->x_parts + part) * tiles + t) * TILE;
            transpose(rows);
            for (int i = 0; i < 16; i++) {
                _mm512_storeu_si512(to + i * 32, rows[i]);
            }
        }
    }
}

/* Weights of a row become rows of tiles: every 32 numbers one line of 64 bytes, a panel apart.
 * Returns whether any second part is other than zero. */

INLINE int put_parts(uint16_t *to, uint16_t *to_rest, __m512 first, __m512 second) {
    const __m512i nearest = to_bfloat16(first, second);
    _mm512_store_si512(to, nearest);
    if (!to_rest) {
        return 0;
    }
    const __m512i rest = rest_in_bfloat16(nearest, first, second);
    _mm512_store_si512(to_rest, rest);
    return _mm512_test_epi16_mask(rest, _mm512_set1_epi16(0x7fff)) != 0;
}

INLINE int put_floats(const float *row, int64_t width, uint16_t *to, uint16_t *to_rest) {
    int found = 0;
    for (int64_t k = 0; k < width; k += 32, to += PANEL) {
        found |= put_parts(to, to_rest, load_floats(row + k, width - k),
                           load_floats(row + k + 16, width - k - 16));
        to_rest = to_rest ? to_rest + PANEL : NULL;
    }
    return found;
}

INLINE int put_halves(const uint16_t *row, int64_t width, uint16_t *to, uint16_t *to_rest) {
    int found = 0;
    for (int64_t k = 0; k < width; k += 32, to += PANEL) {
        const int64_t count = width - k;
        const __mmask32 mask = count >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << count) - 1;
        const __m512i bits = _mm512_maskz_loadu_epi16(mask, row + k);
        found |= put_parts(to, to_rest, _mm512_cvtph_ps(_mm512_castsi512_si256(bits)),
                           _mm512_cvtph_ps(_mm512_extracti64x4_epi64(bits, 1)));
        to_rest = to_rest ? to_rest + PANEL : NULL;
    }
    return found;
}

INLINE void put_bfloat16(const uint16_t *row, int64_t width, uint16_t *to) {
    for (int64_t k = 0; k < width; k += 32, to += PANEL) {
        const int64_t count = width - k;
        const __mmask32 mask = count >= 32 ? ~(__mmask32)0 : ((__mmask32)1 << count) - 1;
        _mm512_store_si512(to, _mm512_maskz_loadu_epi16(mask, row + k));
    }
}

INLINE float half_at(const uint8_t *from) {
    uint16_t bits;
    memcpy(&bits, from, sizeof bits);
    return _cvtsh_ss(bits);
}

/* scale * number - offset, of 32 bytes without sign */
INLINE void put_scaled(uint16_t *to, __m256i numbers, float scale, float offset) {
    const __m512 s = _mm512_set1_ps(scale), o = _mm512_set1_ps(offset);
    const __m512i first = _mm512_cvtepu8_epi32(_mm256_castsi256_si128(numbers));
    const __m512i second = _mm512_cvtepu8_epi32(_mm256_extracti128_si256(numbers, 1));
    _mm512_store_si512(to, to_bfloat16(_mm512_fmsub_ps(_mm512_cvtepi32_ps(first), s, o),
                                       _mm512_fmsub_ps(_mm512_cvtepi32_ps(second), s, o)));
}

/* scale * number, of 32 bytes with sign, the halves with scales of their own */
INLINE void put_signed(uint16_t *to, __m256i numbers, float first_scale, float second_scale) {
    const __m512i first = _mm512_cvtepi8_epi32(_mm256_castsi256_si128(numbers));
    const __m512i second = _mm512_cvtepi8_epi32(_mm256_extracti128_si256(numbers, 1));
    _mm512_store_si512(
        to, to_bfloat16(_mm512_mul_ps(_mm512_cvtepi32_ps(first), _mm512_set1_ps(first_scale)),
                        _mm512_mul_ps(_mm512_cvtepi32_ps(second), _mm512_set1_ps(second_scale))));
}

INLINE __m256i load_bytes(const uint8_t *from) { return _mm256_loadu_si256((const void *)from); }

INLINE __m256i bits_of(__m256i bytes, int shift, int mask) {
    return _mm256_and_si256(_mm256_srli_epi16(bytes, shift), _mm256_set1_epi8((char)mask));
}

/* Block of 32: scale (F16), 32 signed bytes. */
INLINE void put_q8_0(const uint8_t *block, int64_t width, uint16_t *to) {
    for (int64_t k = 0; k < width; k += 32, to += PANEL, block += 34) {
        const float scale = half_at(block);
        put_signed(to, load_bytes(block + 2), scale, scale);
    }
}

/* Scale and offset of the eight groups of 32 in a block of Q4_K or Q5_K: 12 bytes of 6 bits each. */
INLINE void unpack_scales(const uint8_t *packed, int group, int *scale, int *offset) {
    if (group < 4) {
        *scale = packed[group] & 63;
        *offset = packed[group + 4] & 63;
    } else {
        *scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6 << 4);
        *offset = (packed[group + 4] >> 4) | (packed[group] >> 6 << 4);
    }
}

/* Block of 256: scale and offset (F16), their 12 bytes, for Q5_K the fifth bits (32 bytes, bit g of
 * byte l is that of number l in group g), the lower four bits (128 bytes: groups 2j and 2j + 1 share
 * 32 bytes). */
INLINE void put_q45_k(const uint8_t *block, int64_t width, uint16_t *to, int fifth) {
    for (int64_t k = 0; k < width; k += 256, block += fifth ? 176 : 144) {
        const float d = half_at(block), d_offset = half_at(block + 2);
        const uint8_t *low = block + (fifth ? 48 : 16);
        const __m256i high = fifth ? load_bytes(block + 16) : _mm256_setzero_si256();
        for (int group = 0; group < 8; group++, to += PANEL) {
            int scale, offset;
            unpack_scales(block + 4, group, &scale, &offset);
            __m256i numbers = bits_of(load_bytes(low + group / 2 * 32), group % 2 * 4, 15);
            if (fifth) {
                const __m256i bit = bits_of(high, group, 1);
                numbers = _mm256_or_si256(numbers, _mm256_slli_epi16(bit, 4));
            }
            put_scaled(to, numbers, d * (float)scale, d_offset * (float)offset);
        }
    }
}

/* Block of 256: the lower four bits (128 bytes), the upper two (64), 16 signed scales, scale (F16).
 * Each half of 128 numbers has 64 bytes of lower and 32 of upper bits, and four groups of 32. */
INLINE void put_q6_k(const uint8_t *block, int64_t width, uint16_t *to) {
    for (int64_t k = 0; k < width; k += 256, block += 210) {
        const int8_t *scales = (const int8_t *)(block + 192);
        const float d = half_at(block + 208);
        for (int group = 0; group < 8; group++, to += PANEL) {
            const int half = group / 4, quarter = group % 4;
            const __m256i low = load_bytes(block + half * 64 + quarter % 2 * 32);
            const __m256i high = load_bytes(block + 128 + half * 32);
            __m256i numbers = bits_of(low, quarter / 2 * 4, 15);
            numbers = _mm256_or_si256(numbers,
                                      _mm256_slli_epi16(bits_of(high, quarter * 2, 3), 4));
            numbers = _mm256_sub_epi8(numbers, _mm256_set1_epi8(32));
            put_signed(to, numbers, d * scales[group * 2], d * scales[group * 2 + 1]);
        }
    }
}

INLINE int put_span(const Job *job, const void *row, int64_t width, uint16_t *to,
                    uint16_t *to_rest) {
    float floats[SPAN];
    switch (job->weight_type) {
    case F32: return put_floats(row, width, to, to_rest);
    case F16: return put_halves(row, width, to, to_rest);
    case BF16: put_bfloat16(row, width, to); return 0;
    case Q8_0: put_q8_0(row, width, to); return 0;
    case Q4_K: put_q45_k(row, width, to, 0); return 0;
    case Q5_K: put_q45_k(row, width, to, 1); return 0;
    case Q6_K: put_q6_k(row, width, to); return 0;
    default:
        job->to_float(row, floats, width);
        return put_floats(floats, width, to, NULL);
    }
}

/* Decodes a panel, up to 32 rows. Columns go in spans, so that what is written stays in the first
 * cache until its lines are full. */
VECTOR static int put_panel(const Job *job, const char *row, int64_t rows, uint16_t *to,
                            uint16_t *to_rest) {
    int rest = 0;
    for (int64_t k = 0; k < job->width; k += SPAN, row += job->span_bytes) {
        const int64_t place = k / 32 * PANEL;
        for (int64_t i = 0; i < rows; i++) {
            rest |= put_span(job, row + i * job->row_bytes, at_most(SPAN, job->width - k),
                             to + place + i * 32, to_rest ? to_rest + place + i * 32 : NULL);
        }
    }
    return rest;
}

/* Weights that come next, fetched from memory while others are multiplied. */
typedef struct {
    const char *from, *end;
    int64_t lines; /* at each step */
} Ahead;

INLINE void fetch(Ahead *ahead) {
    for (int64_t i = 0; i < ahead->lines && ahead->from < ahead->end; i++, ahead->from += 64) {
        _mm_prefetch(ahead->from, _MM_HINT_T1);
    }
}

/* Adds a panel of weights times two blocks of x to the four tiles of sums. */
INLINE void multiply_pair(const uint16_t *w, const uint16_t *x, int64_t depth, Ahead *ahead) {
    const uint16_t *x_next = x + depth * TILE;
    for (int64_t k = 0; k < depth; k++, w += PANEL, x += TILE, x_next += TILE) {
        fetch(ahead);
        TILE_LOAD(4, w);
        TILE_LOAD(6, x);
        TILE_LOAD(7, x_next);
        TILE_LOAD(5, w + TILE);
        TILE_PRODUCT(0, 4, 6);
        TILE_PRODUCT(1, 4, 7);
        TILE_PRODUCT(2, 5, 6);
        TILE_PRODUCT(3, 5, 7);
    }
}

INLINE void multiply_single(const uint16_t *w, const uint16_t *x, int64_t depth, Ahead *ahead) {
    for (int64_t k = 0; k < depth; k++, w += PANEL, x += TILE) {
        fetch(ahead);
        TILE_LOAD(4, w);
        TILE_LOAD(6, x);
        TILE_LOAD(5, w + TILE);
        TILE_PRODUCT(0, 4, 6);
        TILE_PRODUCT(2, 5, 6);
    }
}

/* To about 2e-7 of itself; NaN stays NaN. */
INLINE __m512 exponential(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x); /* ln 2 in two parts */
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
    __m512 sum = _mm512_set1_ps(1.0f / 720);
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 120));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 24));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f / 6));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(0.5f));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f));
    sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(sum, n);
}

INLINE __m512 sigmoid(__m512 x) {
    const __m512 most = _mm512_set1_ps(80.0f); /* beyond, nothing changes that float32 can tell */
    const __m512 inner = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), most),
                                       _mm512_min_ps(most, x));
    const __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
    const __m512 d = _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), inner)));
    const __m512 near = _mm512_rcp14_ps(d);
    return _mm512_mul_ps(near, _mm512_fnmadd_ps(d, near, two)); /* Newton's step */
}

INLINE __m512 activate(const Job *job, __m512 x, __mmask16 active) {
    switch (active ? job->activation : NO_ACTIVATION) {
    case SIGMOID: return _mm512_mask_mov_ps(x, active, sigmoid(x));
    case SILU: return _mm512_mask_mul_ps(x, active, x, sigmoid(x));
    default: return x;
    }
}

INLINE __mmask16 first_lanes(int64_t count) {
    return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

/* A tile of sums [rows of the weight][columns] goes where y has its columns one after another. */
INLINE void put_sums(const Job *job, const float *bias, const float *tile, float *y, int64_t row,
                     int64_t columns) {
    __m512i sums[16];
    for (int i = 0; i < 16; i++) {
        sums[i] = _mm512_load_si512(tile + 16 * i);
    }
    transpose(sums);
    const __mmask16 stored = first_lanes(job->rows - row);
    const __mmask16 active = (__mmask16)~first_lanes(job->active_from - row);
    const __m512 added =
        bias ? _mm512_maskz_loadu_ps(stored, bias + row) : _mm512_setzero_ps();
    for (int64_t i = 0; i < at_most(columns, 16); i++) {
        const __m512 sum = _mm512_add_ps(_mm512_castsi512_ps(sums[i]), added);
        _mm512_mask_storeu_ps(y + i * job->rows + row, stored, activate(job, sum, active));
    }
}

VECTOR static void multiply_panel(const Job *job, const float *bias, const uint16_t *w,
                                  const uint16_t *w_rest, const uint16_t *x, float *y,
                                  int64_t block, int64_t row, Ahead *ahead) {
    float sums[4][256] __attribute__((aligned(64)));
    const int64_t depth = blocks_of(job->width, 32), blocks = blocks_of(job->columns, 16);
    const int pair = block + 1 < blocks;
    const uint16_t *x_first = x + block * depth * TILE, *x_rest = x_first + blocks * depth * TILE;
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    if (pair) {
        multiply_pair(w, x_first, depth, ahead);
        if (job->x_parts > 1) {
            multiply_pair(w, x_rest, depth, ahead);
        }
        if (w_rest) {
            multiply_pair(w_rest, x_first, depth, ahead);
        }
    } else {
        multiply_single(w, x_first, depth, ahead);
        if (job->x_parts > 1) {
            multiply_single(w, x_rest, depth, ahead);
        }
        if (w_rest) {
            multiply_single(w_rest, x_first, depth, ahead);
        }
    }
    const int64_t columns = job->columns - block * 16;
    y += block * 16 * job->rows;
    TILE_STORE(0, sums[0]);
    TILE_STORE(2, sums[2]);
    put_sums(job, bias, sums[0], y, row, columns);
    put_sums(job, bias, sums[2], y, row + 16, columns);
    if (pair) {
        TILE_STORE(1, sums[1]);
        TILE_STORE(3, sums[3]);
        y += 16 * job->rows;
        put_sums(job, bias, sums[1], y, row, columns - 16);
        put_sums(job, bias, sums[3], y, row + 16, columns - 16);
    }
}

/* Panels `first` to `end` of a weight times all of x; w has room for some decoded ones. */
VECTOR static void multiply_panels(const Job *job, const char *weight, const float *bias,
                                   const uint16_t *x, float *y, uint16_t *w, int64_t first,
                                   int64_t end) {
    const int64_t depth = blocks_of(job->width, 32), blocks = blocks_of(job->columns, 16);
    const int64_t panel = depth * PANEL, together = job->panel_bytes / (panel * 2);
    const int64_t last_row = at_most(end * PANEL_ROWS, job->rows);
    uint16_t *w_rest = job->weight_parts > 1 ? w + job->panel_bytes / 2 : NULL;
    for (; first < end; first += together) {
        const int64_t count = at_most(together, end - first);
        int rest = 0;
        for (int64_t i = 0; i < count; i++) {
            /* What lies behind the last row comes into sums that are not stored. */
            const int64_t row = (first + i) * PANEL_ROWS;
            rest |= put_panel(job, weight + row * job->row_bytes,
                              at_most(PANEL_ROWS, job->rows - row), w + i * panel,
                              w_rest ? w_rest + i * panel : NULL);
        }
        const int64_t next = at_most((first + count) * PANEL_ROWS, last_row);
        const int64_t after = at_most((first + 2 * count) * PANEL_ROWS, last_row);
        Ahead ahead = {weight + next * job->row_bytes, weight + after * job->row_bytes, 0};
        ahead.lines = blocks_of((ahead.end - ahead.from) / 64, blocks_of(blocks, 2) * count * depth);
        for (int64_t block = 0; block < blocks; block += 2) {
            for (int64_t i = 0; i < count; i++) {
                multiply_panel(job, bias, w + i * panel, rest ? w_rest + i * panel : NULL, x, y,
                               block, (first + i) * PANEL_ROWS, &ahead);
            }
        }
    }
}

/* A single product is divided among the threads by rows of the weight, several are dealt out. */
VECTOR void tiles_multiply(void *result, int thread, int threads, const Job *job) {
    const int64_t working = at_most(threads, job->threads);
    if (thread >= working) {
        return;
    }
    const char *weight = data_of(job, source_of(job, result, 0));
    const uint16_t *x = (const uint16_t *)data_of(job, source_of(job, result, 1));
    const float *bias =
        job->biased ? (const float *)data_of(job, source_of(job, result, 2)) : NULL;
    float *y = (float *)data_of(job, result);
    const int64_t y_step = job->rows * job->columns;
    const uintptr_t behind = ((uintptr_t)(y + job->batches * y_step) + 63) & ~(uintptr_t)63;
    uint16_t *w = (uint16_t *)(behind + thread * job->weight_parts * job->panel_bytes);

    Configuration before, own = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        own.column_bytes[i] = 64;
        own.rows[i] = 16;
    }
    read_configuration(&before); /* PyTorch configures a thread once, for kernels of its own */
    configure(&own);

    const int64_t panels = blocks_of(job->rows, PANEL_ROWS);
    if (job->batches == 1) {
        multiply_panels(job, weight, bias, x, y, w, panels * thread / working,
                        panels * (thread + 1) / working);
    } else {
        const int64_t x_step =
            job->x_parts * blocks_of(job->columns, 16) * blocks_of(job->width, 32) * TILE;
        const int64_t end = job->batches * (thread + 1) / working;
        for (int64_t n = job->batches * thread / working; n < end; n++) {
            const int64_t step = n % job->inner / job->group, outer_step = n / job->inner;
            multiply_panels(
                job, weight + step * job->weight_step + outer_step * job->weight_outer_step, bias,
                x + n * x_step, y + n * y_step, w, 0, panels);
        }
    }
    configure(&before);
}

#else

int tiles_available(void) { return 0; }

void tiles_pack(void *result, int thread, int threads, const Job *job) {
    (void)result, (void)thread, (void)threads, (void)job;
}

void tiles_multiply(void *result, int thread, int threads, const Job *job) {
    (void)result, (void)thread, (void)threads, (void)job;
}

#endif
