/* int8_multiply.h by AVX512-VNNI. */

#include "int8.h"
#include "x86.h"

#ifdef HAS_X86

#include <float.h>

#include "avx512.h"

#define NAME avx512_vnni
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,f16c,fma,avx512vnni")))
#define LANES 16
#define AVX512_VNNI_INLINE TARGET static inline __attribute__((always_inline))

static inline int16_t half_at(const char *from) {
    int16_t half;
    memcpy(&half, from, sizeof half);
    return half;
}

/* 16 bytes of each of 16 rows: lane n of the results is row n's. */
AVX512_INLINE void take(const char *from, const int64_t *offsets, void *words) {
    __m512i r[4], *to = words;
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(from + offsets[i])));
        r[i] = _mm512_inserti32x4(r[i], _mm_loadu_si128((const void *)(from + offsets[4 + i])), 1);
        r[i] = _mm512_inserti32x4(r[i], _mm_loadu_si128((const void *)(from + offsets[8 + i])), 2);
        r[i] = _mm512_inserti32x4(r[i], _mm_loadu_si128((const void *)(from + offsets[12 + i])), 3);
    }
    const __m512i a = _mm512_unpacklo_epi32(r[0], r[1]), b = _mm512_unpackhi_epi32(r[0], r[1]);
    const __m512i c = _mm512_unpacklo_epi32(r[2], r[3]), d = _mm512_unpackhi_epi32(r[2], r[3]);
    to[0] = _mm512_unpacklo_epi64(a, c);
    to[1] = _mm512_unpackhi_epi64(a, c);
    to[2] = _mm512_unpacklo_epi64(b, d);
    to[3] = _mm512_unpackhi_epi64(b, d);
}

/* 32 bytes of each of 16 rows: a shuffle or an insertion fewer for every five. */
AVX512_INLINE void take_two(const char *from, const int64_t *offsets, void *words) {
    __m512i r[2][4], *to = words;
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++, offsets += 8) {
        __m512i *rows = r[half];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            const __m256i first = _mm256_loadu_si256((const void *)(from + offsets[i]));
            const __m256i second = _mm256_loadu_si256((const void *)(from + offsets[4 + i]));
            rows[i] = _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
        }
        const __m512i a = _mm512_unpacklo_epi32(rows[0], rows[1]);
        const __m512i b = _mm512_unpackhi_epi32(rows[0], rows[1]);
        const __m512i c = _mm512_unpacklo_epi32(rows[2], rows[3]);
        const __m512i d = _mm512_unpackhi_epi32(rows[2], rows[3]);
        rows[0] = _mm512_unpacklo_epi64(a, c);
        rows[1] = _mm512_unpackhi_epi64(a, c);
        rows[2] = _mm512_unpacklo_epi64(b, d);
        rows[3] = _mm512_unpackhi_epi64(b, d);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) { /* words i and i + 4 of four rows lie side by side */
        to[i] = _mm512_shuffle_i32x4(r[0][i], r[1][i], 0x88);
        to[4 + i] = _mm512_shuffle_i32x4(r[0][i], r[1][i], 0xdd);
    }
}

AVX512_INLINE __m512 halves_at(const char *from, const int64_t *offsets) {
    __m128i halves[2];
#pragma GCC unroll 2
    for (int i = 0; i < 2; i++, offsets += 8) {
        halves[i] = _mm_setr_epi16(half_at(from + offsets[0]), half_at(from + offsets[1]),
                                   half_at(from + offsets[2]), half_at(from + offsets[3]),
                                   half_at(from + offsets[4]), half_at(from + offsets[5]),
                                   half_at(from + offsets[6]), half_at(from + offsets[7]));
    }
    return _mm512_cvtph_ps(_mm256_set_m128i(halves[1], halves[0]));
}

AVX512_INLINE __m512i greater(__m512i a, __m512i b, const int halves) {
    return halves ? _mm512_max_epu16(a, b) : _mm512_max_epu32(a, b);
}

/* The greatest magnitudes of eight groups of 32 numbers, as integers, so that NaN is the greatest. */
AVX512_INLINE __m256 greatest_of(const int type, const char *from) {
    const int halves = type != F32;
    const __m512i magnitude = _mm512_set1_epi32(halves ? 0x7fff7fff : 0x7fffffff);
    __m512i m[8];
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
        const char *group = from + (halves ? 64 : 128) * g;
        m[g] = _mm512_and_si512(_mm512_loadu_si512(group), magnitude);
        if (!halves) {
            m[g] = greater(m[g], _mm512_and_si512(_mm512_loadu_si512(group + 64), magnitude), 0);
        }
    }
    /* In 16 bytes there come to be numbers of two groups, of four, of eight. */
    int count = 8;
    if (halves) {
#pragma GCC unroll 4
        for (int g = 0; g < 8; g += 2) {
            m[g / 2] = greater(_mm512_unpacklo_epi16(m[g], m[g + 1]),
                               _mm512_unpackhi_epi16(m[g], m[g + 1]), 1);
        }
        count = 4;
    }
#pragma GCC unroll 4
    for (int g = 0; g < count; g += 2) {
        m[g / 2] = greater(_mm512_unpacklo_epi32(m[g], m[g + 1]),
                           _mm512_unpackhi_epi32(m[g], m[g + 1]), halves);
    }
#pragma GCC unroll 2
    for (int g = 0; g < count / 2; g += 2) {
        m[g / 2] = greater(_mm512_unpacklo_epi64(m[g], m[g + 1]),
                           _mm512_unpackhi_epi64(m[g], m[g + 1]), halves);
    }
    if (halves) {
        const __m256i two = _mm256_max_epu16(_mm512_castsi512_si256(m[0]),
                                             _mm512_extracti64x4_epi64(m[0], 1));
        const __m128i one = _mm_max_epu16(_mm256_castsi256_si128(two),
                                          _mm256_extracti128_si256(two, 1));
        return type == F16 ? _mm256_cvtph_ps(one)
                           : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(one), 16));
    }
    const __m512i two = greater(_mm512_shuffle_i64x2(m[0], m[1], 0x44),
                                _mm512_shuffle_i64x2(m[0], m[1], 0xee), 0);
    const __m512i one = greater(two, _mm512_shuffle_i64x2(two, two, 0xb1), 0);
    return _mm512_castps512_ps256(_mm512_castsi512_ps(_mm512_shuffle_i64x2(one, one, 0x08)));
}

/* 32 numbers as floats: the first and the last 16, or of BF16 the even and the odd ones. */
AVX512_INLINE void floats_of(const int type, const char *from, __m512 floats[2]) {
    if (type == F32) {
        floats[0] = _mm512_loadu_ps(from);
        floats[1] = _mm512_loadu_ps(from + 64);
    } else if (type == F16) {
        floats[0] = WIDEN(F16, from);
        floats[1] = WIDEN(F16, from + 32);
    } else {
        const __m512i both = _mm512_loadu_si512(from);
        floats[0] = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
        floats[1] = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(~0xffff)));
    }
}

/* Of two groups, 16 bytes have eight numbers of either. A group whose scale is less than float32's
 * normal numbers becomes zeros, as in x; where it is not finite, products are not, whatever the bytes. */
AVX512_INLINE void round_row(const int type, const char *from, char *bytes, float *scales) {
    const __m256 scale = _mm256_div_ps(greatest_of(type, from), _mm256_set1_ps(127.0f));
    const __mmask8 there = _mm256_cmp_ps_mask(scale, _mm256_set1_ps(FLT_MIN), _CMP_GE_OQ);
    float inverses[8] __attribute__((aligned(32)));
    _mm256_store_ps(inverses, _mm256_maskz_div_ps(there, _mm256_set1_ps(1.0f), scale));
    _mm256_store_ps(scales, scale);
#pragma GCC unroll 4
    for (int group = 0; group < 8; group += 2) {
        __m512i n[2];
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const __m512 inverse = _mm512_set1_ps(inverses[group + half]);
            __m512 floats[2];
            floats_of(type, from + (type == F32 ? 128 : 64) * (group + half), floats);
            n[half] = _mm512_packs_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(floats[0], inverse)),
                                         _mm512_cvtps_epi32(_mm512_mul_ps(floats[1], inverse)));
        }
        __m512i both = _mm512_packs_epi16(n[0], n[1]);
        if (type == BF16) {
            both = _mm512_shuffle_epi8(
                both, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10,
                                                           14, 11, 15)));
        }
        _mm512_store_si512(bytes + 32 * group, both);
    }
}

AVX512_INLINE __m512i look_up(__m512i bytes) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(INT8_TABLE), bytes);
}

static inline int32_t word_at(const void *from) {
    int32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

#define TAKE take
#define TAKE_TWO take_two
#define HALVES_AT halves_at
#define HALVES(words) _mm512_cvtph_ps(_mm512_cvtepi32_epi16((__m512i)(words)))
#define LOOK_UP(words) look_up((__m512i)(words))
#define ROUND_ROW round_row
#define TAKE_LINE(from, places, words) take_words(from, places, (__m512 *)(words))
#define ROUNDED_AT(type, half, n) \
    (2 * (half) + ((type) == BF16 ? (n) / 2 * 4 + (n) % 2 : (n) % 4 * 4 + (n) / 4))
#define MOST_PARTS 1
#define ROOM_FOR_BYTES 1
#define DOT(sums, words, x, offset) _mm512_dpbusd_epi32(sums, words, x)
#define NATIVE(integers) (__m512i)(integers)
#define ADD_128_TIMES(sums, words) _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(-128), words)
#define EIGHT_BITS_OFFSET 128
#define EIGHT_BITS_PARTS 1
#define ZERO _mm512_setzero_ps
#define ZERO_INTEGERS _mm512_setzero_si512
#define SPREAD _mm512_set1_ps
#define SPREAD_WORD(from) _mm512_set1_epi32(word_at(from))
#define SPREAD_PAIR(first, second) \
    _mm512_set1_epi32((int)((uint32_t)(uint16_t)(first) | (uint32_t)(uint16_t)(second) << 16))
#define ADD_PAIRS _mm512_madd_epi16
#define TO_FLOATS _mm512_cvtepi32_ps
#define MULTIPLY _mm512_mul_ps
#define ADD_PRODUCT _mm512_fmadd_ps
#define SUBTRACT_PRODUCT _mm512_fnmadd_ps

#include "int8_decode.h"

#define FLOATS __m512
#define INTEGERS __m512i
#define MOST_COLUMNS 6
#define HOLDS_SUMS 1
#define LOAD _mm512_load_ps
#define LOAD_INTEGERS _mm512_load_si512
#define STORE _mm512_store_ps
#define PUT_ROWS put_rows_512
#define DECODE avx512_vnni_decode_span
#define SUMS avx512_vnni_sums

AVX512_VNNI_INLINE __m512i add_products(__m512i sums, __m512i w, __m512i x, const int unsigned_x) {
    return unsigned_x ? _mm512_dpbusd_epi32(sums, x, w) : _mm512_dpbusd_epi32(sums, w, x);
}

AVX512_VNNI_INLINE void products_of(const char *w, const int8_t *x, int count, int columns,
                                    const int unsigned_x, __m512i s[MOST_COLUMNS][2]) {
#pragma GCC unroll 8
    for (int i = 0; i < count; i++, w += 4 * INT8_ROWS, x += 4) {
        const __m512i a = _mm512_load_si512(w), b = _mm512_load_si512(w + 64);
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) {
            const __m512i v = SPREAD_WORD(x + c * INT8_GROUP);
            s[c][0] = add_products(s[c][0], a, v, unsigned_x);
            s[c][1] = add_products(s[c][1], b, v, unsigned_x);
        }
    }
}

AVX512_VNNI_INLINE void avx512_vnni_products(const char *w, const int8_t *x, int count, int columns,
                                             int bits, __m512i s[MOST_COLUMNS][2]) {
    (void)bits;
    products_of(w, x, count, columns, 0, s);
}

AVX512_VNNI_INLINE void avx512_vnni_unsigned_products(const char *w, const int8_t *x, int count,
                                                      int columns, __m512i s[MOST_COLUMNS][2]) {
    products_of(w, x, count, columns, 1, s);
}

#include "int8_multiply.h"
#include "peak.h"

PEAK(peak, TARGET, __m512i, __m512i, _mm512_dpbusd_epi32, 64)

static int available(void) { return x86_has(X86_AVX2 | X86_AVX512 | X86_AVX512_VNNI); }

const Kernel avx512_vnni = {
    .name = "avx512-vnni",
    .words = "int8 by AVX512-VNNI",
    .available = available,
    .takes = int8_takes,
    .plan = int8_plan_unsigned,
    .pack = int8_pack,
    .few = avx512_vnni_few,
    .attend_next = 1,
    .peak = peak,
};

#else

typedef int none; /* a file must not be empty */

#endif
