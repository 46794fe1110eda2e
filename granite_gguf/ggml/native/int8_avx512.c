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

AVX512_INLINE void take_numbers(const int type, const char *from, const int64_t *offsets,
                                void *lines) {
    take_line(type, from, offsets, lines);
    if (type == F32) {
        take_line(type, from + 64, offsets, (__m512i *)lines + 16);
    }
}

/* Of numbers of two bytes as they are, two in a lane. */
AVX512_INLINE __m512i greatest_of(const int type, const __m512i lines[]) {
    const __m512i magnitude = _mm512_set1_epi32(type == F32 ? 0x7fffffff : 0x7fff7fff);
    __m512i most = _mm512_setzero_si512();
#pragma GCC unroll 32
    for (int i = 0; i < 32; i++) {
        if (type == F32) {
            most = _mm512_max_epi32(most, _mm512_and_si512(lines[i], magnitude));
        } else if (i < 16) {
            most = _mm512_max_epu16(most, _mm512_and_si512(lines[i], magnitude));
        }
    }
    if (type == F32) {
        return most;
    }
    if (type == F16) {
        return _mm512_castps_si512(_mm512_cvtph_ps(_mm256_max_epu16(
            _mm512_castsi512_si256(most), _mm512_extracti64x4_epi64(most, 1))));
    }
    return _mm512_max_epi32(_mm512_slli_epi32(most, 16),
                            _mm512_and_si512(most, _mm512_set1_epi32(~0xffff)));
}

AVX512_INLINE __m512i to_bytes(const __m512 floats[4], __m512i there) {
    __m512i n[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        n[i] = _mm512_cvtps_epi32(floats[i]);
    }
    const __m512i bytes =
        _mm512_packs_epi16(_mm512_packs_epi32(n[0], n[1]), _mm512_packs_epi32(n[2], n[3]));
    const __m512i of_rows = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    return _mm512_and_si512(there, _mm512_shuffle_epi8(bytes, of_rows));
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
#define TAKE_NUMBERS take_numbers
#define GREATEST_OF(type, lines) greatest_of(type, (const __m512i *)(lines))
#define NUMBER_OF(type, lines, n) number_of(type, (const __m512i *)(lines), n)
#define TO_BYTES(floats, there) to_bytes((const __m512 *)(floats), (__m512i)(there))
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

AVX512_VNNI_INLINE void avx512_vnni_products(const char *w, const int8_t *x, int count, int columns,
                                             int bits, __m512i s[MOST_COLUMNS][2]) {
    (void)bits;
#pragma GCC unroll 8
    for (int i = 0; i < count; i++, w += 4 * INT8_ROWS, x += 4) {
        const __m512i a = _mm512_load_si512(w), b = _mm512_load_si512(w + 64);
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) {
            const __m512i v = SPREAD_WORD(x + c * INT8_GROUP);
            s[c][0] = _mm512_dpbusd_epi32(s[c][0], a, v);
            s[c][1] = _mm512_dpbusd_epi32(s[c][1], b, v);
        }
    }
}

AVX512_VNNI_INLINE void avx512_vnni_unsigned_products(const char *w, const int8_t *x, int count,
                                                      int columns, __m512i s[MOST_COLUMNS][2]) {
#pragma GCC unroll 8
    for (int i = 0; i < count; i++, w += 4 * INT8_ROWS, x += 4) {
        const __m512i a = _mm512_load_si512(w), b = _mm512_load_si512(w + 64);
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) {
            const __m512i v = SPREAD_WORD(x + c * INT8_GROUP);
            s[c][0] = _mm512_dpbusd_epi32(s[c][0], v, a);
            s[c][1] = _mm512_dpbusd_epi32(s[c][1], v, b);
        }
    }
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
