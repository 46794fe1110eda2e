/* Pieces of the kernels with vectors of 512 bits; included where X86_AVX512 is asked for. */

#ifndef GRANITE_GGUF_AVX512_H
#define GRANITE_GGUF_AVX512_H

#include <immintrin.h>

#include "job.h"

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,f16c,fma")))
#define AVX512_INLINE AVX512 static inline __attribute__((always_inline))

AVX512_INLINE __mmask16 first_lanes(int64_t count) {
    return count >= 16 ? 0xffff : count <= 0 ? 0 : (__mmask16)((1u << count) - 1);
}

/* Up to 16 floats; zeros behind them. */
AVX512_INLINE __m512 load_floats(const float *from, int64_t count) {
    if (count >= 16) {
        return _mm512_loadu_ps(from);
    }
    return count <= 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(first_lanes(count), from);
}

/* 16 numbers of 2 bytes, F16 or BF16, become floats. */
AVX512_INLINE __m512 widened_512(const int type, __m256i numbers) {
    return type == F16
               ? _mm512_cvtph_ps(numbers)
               : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(numbers), 16));
}

#define WIDEN(type, from) widened_512(type, _mm256_loadu_si256((const void *)(from)))

/* The columns of a 16 x 16 matrix of 4 bytes become its rows. */
AVX512_INLINE void transpose(__m512i r[16]) {
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

/* 16 rows of x, of so many columns as lie side by side for few of them. */
AVX512_INLINE void put_beside(const Job *job, const __m512i rows[16], char *packed, int64_t row) {
    for (int i = 0; i < 16; i++) {
        _mm512_mask_storeu_epi32(packed + 4 * job->beside * (row + i), first_lanes(job->beside),
                                 rows[i]);
    }
}

/* 64 bytes of each of 16 rows: lane n of the results is row n's. */
AVX512_INLINE void take_words(const char *from, const int64_t *offsets, __m512 words[16]) {
    __m512i rows[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        rows[i] = _mm512_loadu_si512(from + offsets[i]);
    }
    transpose(rows);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        words[i] = _mm512_castsi512_ps(rows[i]);
    }
}

/* 64 bytes of each of 8 rows, numbers of 2 bytes: of column n, n + 8, ... one after another. */
AVX512_INLINE void take_halves(const char *from, const int64_t *offsets, __m512i columns[8]) {
    __m512i r[8], t[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_loadu_si512(from + offsets[i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm512_unpacklo_epi16(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi16(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm512_unpacklo_epi32(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi32(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi32(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi32(t[i + 1], t[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        columns[2 * i] = _mm512_unpacklo_epi64(r[i], r[i + 4]);
        columns[2 * i + 1] = _mm512_unpackhi_epi64(r[i], r[i + 4]);
    }
}

/* 64 bytes of each of 16 rows, of which `number_of` gives a number of all rows: 16 of F32, 32 of BF16,
 * which lie in pairs, and of F16, where numbers n and n + 8 are the halves of a vector. */
AVX512_INLINE void take_line(const int type, const char *from, const int64_t *offsets,
                             __m512i lines[16]) {
    if (type != F16) {
        take_words(from, offsets, (__m512 *)lines);
        return;
    }
    __m512i columns[2][8]; /* of rows 0 to 7 and 8 to 15: 8 numbers of columns i, 8 + i, ... */
    take_halves(from, offsets, columns[0]);
    take_halves(from, offsets + 8, columns[1]);
    const __m512i first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        lines[i] = _mm512_permutex2var_epi64(columns[0][i], first, columns[1][i]);
        lines[i + 8] = _mm512_permutex2var_epi64(columns[0][i], second, columns[1][i]);
    }
}

AVX512_INLINE __m512 number_of(const int type, const __m512i lines[], const int n) {
    if (type == F32) {
        return _mm512_castsi512_ps(lines[n]);
    }
    if (type == F16) {
        const __m512i both = lines[n / 16 * 8 + n % 8];
        return _mm512_cvtph_ps(n / 8 % 2 ? _mm512_extracti64x4_epi64(both, 1)
                                         : _mm512_castsi512_si256(both));
    }
    return _mm512_castsi512_ps(n % 2 ? _mm512_and_si512(lines[n / 2], _mm512_set1_epi32(~0xffff))
                                     : _mm512_slli_epi32(lines[n / 2], 16));
}

/* To about 2e-7 of itself; NaN stays NaN. */
AVX512_INLINE __m512 exponential(__m512 x) {
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

AVX512_INLINE __m512 sigmoid(__m512 x) {
    const __m512 most = _mm512_set1_ps(80.0f); /* beyond, nothing changes that float32 can tell */
    const __m512 inner = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), most),
                                       _mm512_min_ps(most, x));
    const __m512 one = _mm512_set1_ps(1.0f), two = _mm512_set1_ps(2.0f);
    const __m512 d = _mm512_add_ps(one, exponential(_mm512_sub_ps(_mm512_setzero_ps(), inner)));
    const __m512 near = _mm512_rcp14_ps(d);
    return _mm512_mul_ps(near, _mm512_fnmadd_ps(d, near, two)); /* Newton's step */
}

AVX512_INLINE __m512 activate(const Job *job, __m512 x, __mmask16 active) {
    switch (active ? job->activation : NO_ACTIVATION) {
    case SIGMOID: return _mm512_mask_mov_ps(x, active, sigmoid(x));
    case SILU: return _mm512_mask_mul_ps(x, active, x, sigmoid(x));
    default: return x;
    }
}

/* A tile of sums [16 rows of the weight][16 columns] goes where y has its columns one after another.
 */
AVX512_INLINE void put_sums(const Job *job, const float *bias, const float *tile, float *y,
                            int64_t row, int64_t columns) {
    __m512i sums[16];
    for (int i = 0; i < 16; i++) {
        sums[i] = _mm512_load_si512(tile + 16 * i);
    }
    transpose(sums);
    const __mmask16 stored = first_lanes(job->rows - row);
    const __mmask16 active = (__mmask16)~first_lanes(job->active_from - row);
    const __m512 added = bias ? _mm512_maskz_loadu_ps(stored, bias + row) : _mm512_setzero_ps();
    for (int64_t i = 0; i < at_most(columns, 16); i++) {
        const __m512 sum = _mm512_add_ps(_mm512_castsi512_ps(sums[i]), added);
        _mm512_mask_storeu_ps(y + i * job->rows + row, stored, activate(job, sum, active));
    }
}

/* Sums of rows of the weight, from `row` on, go into a column of y with bias and activation. */
AVX512_INLINE void put_rows_512(const Job *job, const float *bias, __m512 sum, float *y,
                                int64_t row) {
    const __mmask16 stored = first_lanes(job->rows - row);
    const __mmask16 active = (__mmask16)~first_lanes(job->active_from - row);
    const __m512 added = bias ? _mm512_maskz_loadu_ps(stored, bias + row) : _mm512_setzero_ps();
    _mm512_mask_storeu_ps(y + row, stored, activate(job, _mm512_add_ps(sum, added), active));
}

#endif
