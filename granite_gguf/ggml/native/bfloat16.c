#include "bfloat16.h"

#include "x86.h"

void bfloat16_plan(Job *job, int64_t parts) {
    const int64_t depth = blocks_of(job->width, TILE_NUMBERS);
    job->packing = job->parts = parts;
    job->pack_columns = TILE_COLUMNS;
    job->pack_numbers = TILE_NUMBERS;
    job->packed_bytes = 2 * parts * blocks_of(job->columns, TILE_COLUMNS) * depth * TILE;
    job->panel_rows = PANEL_ROWS;
    job->panel_bytes = 2 * parts * depth * PANEL;
}

#ifdef HAS_X86

#include "avx512.h"

#define VECTOR __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,f16c,fma")))
#define INLINE VECTOR static inline __attribute__((always_inline))

enum { SPAN = 256 }; /* numbers of a row that are decoded at once */

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

VECTOR void bfloat16_pack(const Job *job, const char *x, int64_t column, int64_t start,
                          char *packed) {
    const int64_t depth = blocks_of(job->width, 32), blocks = blocks_of(job->columns, 16);
    const int64_t count = job->width - start;
    __m512i nearest[16], rest[16];
    for (int i = 0; i < 16; i++) {
        if (column + i >= job->columns) {
            nearest[i] = rest[i] = _mm512_setzero_si512();
            continue;
        }
        const float *row = (const float *)(x + (column + i) * job->x_stride) + start;
        const __m512 first = load_floats(row, count), second = load_floats(row + 16, count - 16);
        nearest[i] = to_bfloat16(first, second);
        rest[i] = rest_in_bfloat16(nearest[i], first, second);
    }
    for (int64_t part = 0; part < job->parts; part++) {
        __m512i *rows = part ? rest : nearest;
        const int64_t tile = (part * blocks + column / 16) * depth + start / 32;
        uint16_t *to = (uint16_t *)packed + tile * TILE;
        transpose(rows);
        if (job->beside) {
            put_beside(job, rows, packed, start / 2);
            continue;
        }
        for (int i = 0; i < 16; i++) {
            _mm512_storeu_si512(to + i * 32, rows[i]);
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

/* Columns go in spans, so that what is written stays in the first cache until its lines are full. */
VECTOR int64_t bfloat16_decode(const Job *job, const char *row, int64_t rows, char *panel) {
    const int64_t span_bytes = SPAN / job->block_numbers * job->block_bytes;
    uint16_t *to = (uint16_t *)panel;
    uint16_t *to_rest = job->parts > 1 ? to + job->panel_bytes / 4 : NULL;
    int rest = 0;
    for (int64_t k = 0; k < job->width; k += SPAN, row += span_bytes) {
        const int64_t place = k / 32 * PANEL;
        for (int64_t i = 0; i < rows; i++) {
            rest |= put_span(job, row + i * job->row_bytes, at_most(SPAN, job->width - k),
                             to + place + i * 32, to_rest ? to_rest + place + i * 32 : NULL);
        }
    }
    return rest;
}

#endif
