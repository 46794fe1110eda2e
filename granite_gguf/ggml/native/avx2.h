/* Pieces of the kernels with vectors of 256 bits; included where X86_AVX2 is asked for. */

#ifndef GRANITE_GGUF_AVX2_H
#define GRANITE_GGUF_AVX2_H

#include <immintrin.h>

#include "job.h"

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define AVX2_INLINE AVX2 static inline __attribute__((always_inline))

/* All bits of the first `count` lanes. */
AVX2_INLINE __m256i first_lanes_256(int64_t count) {
    const int few = (int)at_most(at_least(count, 0), 8);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(few), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* 8 numbers of 2 bytes, F16 or BF16, become floats. */
AVX2_INLINE __m256 widened_256(const int type, __m128i numbers) {
    return type == F16
               ? _mm256_cvtph_ps(numbers)
               : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(numbers), 16));
}

#define WIDEN(type, from) widened_256(type, _mm_loadu_si128((const void *)(from)))

/* 32 bytes of each of 8 rows, F32, F16 or BF16: lane n of the results is row n's. */
AVX2_INLINE void take_floats(const int type, const char *from, const int64_t *offsets,
                             __m256 *words) {
    __m256i r[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        t[i] = _mm256_loadu_si256((const void *)(from + offsets[i]));
    }
    if (type == F32) {
#pragma GCC unroll 2
        for (int i = 0; i < 8; i += 4) {
            r[i] = _mm256_unpacklo_epi32(t[i], t[i + 1]);
            r[i + 1] = _mm256_unpackhi_epi32(t[i], t[i + 1]);
            r[i + 2] = _mm256_unpacklo_epi32(t[i + 2], t[i + 3]);
            r[i + 3] = _mm256_unpackhi_epi32(t[i + 2], t[i + 3]);
        }
#pragma GCC unroll 2
        for (int i = 0; i < 8; i += 4) { /* columns n and n + 4 of four rows */
            t[i] = _mm256_unpacklo_epi64(r[i], r[i + 2]);
            t[i + 1] = _mm256_unpackhi_epi64(r[i], r[i + 2]);
            t[i + 2] = _mm256_unpacklo_epi64(r[i + 1], r[i + 3]);
            t[i + 3] = _mm256_unpackhi_epi64(r[i + 1], r[i + 3]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            words[i] = _mm256_castsi256_ps(_mm256_permute2x128_si256(t[i], t[i + 4], 0x20));
            words[i + 4] = _mm256_castsi256_ps(_mm256_permute2x128_si256(t[i], t[i + 4], 0x31));
        }
        return;
    }
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        r[i] = _mm256_unpacklo_epi16(t[i], t[i + 1]);
        r[i + 1] = _mm256_unpackhi_epi16(t[i], t[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 2]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 2]);
        t[i + 2] = _mm256_unpacklo_epi32(r[i + 1], r[i + 3]);
        t[i + 3] = _mm256_unpackhi_epi32(r[i + 1], r[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* columns n and n + 8 of eight rows */
        const __m256i a = _mm256_unpacklo_epi64(t[i], t[i + 4]);
        const __m256i b = _mm256_unpackhi_epi64(t[i], t[i + 4]);
        words[2 * i] = widened_256(type, _mm256_castsi256_si128(a));
        words[2 * i + 1] = widened_256(type, _mm256_castsi256_si128(b));
        words[2 * i + 8] = widened_256(type, _mm256_extracti128_si256(a, 1));
        words[2 * i + 9] = widened_256(type, _mm256_extracti128_si256(b, 1));
    }
}

/* To about 2e-7 of itself, between -80 and 80. */
AVX2_INLINE __m256 exponential_256(__m256 x) {
    const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                                     _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145752f), x); /* ln 2 in two parts */
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860677e-6f), r);
    __m256 sum = _mm256_set1_ps(1.0f / 720);
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 120));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 24));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f / 6));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(0.5f));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f));
    sum = _mm256_fmadd_ps(sum, r, _mm256_set1_ps(1.0f));
    const __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(sum), power));
}

/* NaN stays NaN. */
AVX2_INLINE __m256 sigmoid_256(__m256 x) {
    const __m256 most = _mm256_set1_ps(80.0f); /* beyond, nothing changes that float32 can tell */
    const __m256 inner =
        _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), most), _mm256_min_ps(most, x));
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 minus = _mm256_sub_ps(_mm256_setzero_ps(), inner);
    return _mm256_div_ps(one, _mm256_add_ps(one, exponential_256(minus)));
}

AVX2_INLINE __m256 activate_256(const Job *job, __m256 x, __m256i active) {
    const __m256 mask = _mm256_castsi256_ps(active);
    switch (_mm256_testz_si256(active, active) ? NO_ACTIVATION : job->activation) {
    case SIGMOID: return _mm256_blendv_ps(x, sigmoid_256(x), mask);
    case SILU: return _mm256_blendv_ps(x, _mm256_mul_ps(x, sigmoid_256(x)), mask);
    default: return x;
    }
}

/* Sums of rows of the weight, from `row` on, go into a column of y with bias and activation. Some
 * processors store what is masked far more slowly. */
AVX2_INLINE void put_rows_256(const Job *job, const float *bias, __m256 sum, float *y,
                              int64_t row) {
    const __m256i stored = first_lanes_256(job->rows - row);
    const __m256i active = _mm256_xor_si256(first_lanes_256(job->active_from - row),
                                            _mm256_set1_epi32(-1));
    if (bias) {
        sum = _mm256_add_ps(sum, _mm256_maskload_ps(bias + row, stored));
    }
    sum = activate_256(job, sum, active);
    if (job->rows - row >= 8) {
        _mm256_storeu_ps(y + row, sum);
    } else {
        _mm256_maskstore_ps(y + row, stored, sum);
    }
}

#endif
