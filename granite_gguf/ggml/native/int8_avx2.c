/* int8_multiply.h by AVX-VNNI, and by multiply-adds of 16 bits where there is AVX2 alone. */

#include "int8.h"
#include "x86.h"

#ifdef HAS_X86

#include <float.h>

#include "avx2.h"
#include "peak.h"

#define NAME avx2_int8
#define TARGET AVX2
#define LANES 8

/* 16 bytes of each of 8 rows: lane n of the results is row n's. */
AVX2_INLINE void take(const char *from, const int64_t *offsets, void *words) {
    __m256i r[4], *to = words;
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_castsi128_si256(_mm_loadu_si128((const void *)(from + offsets[i])));
        r[i] = _mm256_inserti128_si256(
            r[i], _mm_loadu_si128((const void *)(from + offsets[4 + i])), 1);
    }
    const __m256i a = _mm256_unpacklo_epi32(r[0], r[1]), b = _mm256_unpackhi_epi32(r[0], r[1]);
    const __m256i c = _mm256_unpacklo_epi32(r[2], r[3]), d = _mm256_unpackhi_epi32(r[2], r[3]);
    to[0] = _mm256_unpacklo_epi64(a, c);
    to[1] = _mm256_unpackhi_epi64(a, c);
    to[2] = _mm256_unpacklo_epi64(b, d);
    to[3] = _mm256_unpackhi_epi64(b, d);
}

AVX2_INLINE void take_numbers(const int type, const char *from, const int64_t *offsets,
                              void *floats) {
    const int taken = type == F32 ? 8 : 16;
#pragma GCC unroll 4
    for (int n = 0; n < 32; n += 8) {
        if (n % taken == 0) {
            take_floats(type, from + n / taken * 32, offsets, (__m256 *)floats + n);
        }
    }
}

AVX2_INLINE __m256i greatest_of(const __m256i floats[32]) {
    __m256i most = _mm256_setzero_si256();
#pragma GCC unroll 32
    for (int i = 0; i < 32; i++) {
        most = _mm256_max_epi32(most, _mm256_and_si256(floats[i], _mm256_set1_epi32(0x7fffffff)));
    }
    return most;
}

AVX2_INLINE __m256i to_bytes(const __m256 floats[4], __m256i there) {
    __m256i n[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        n[i] = _mm256_cvtps_epi32(floats[i]);
    }
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
    const __m256i of_rows = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    return _mm256_and_si256(there, _mm256_shuffle_epi8(bytes, of_rows));
}

AVX2_INLINE __m256 halves_to_floats(__m256i words) {
    const __m256i lower = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(lower, lower), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

AVX2_INLINE __m256i look_up(__m256i bytes) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(INT8_TABLE), bytes);
}

#define TAKE take
#define HALVES(words) halves_to_floats((__m256i)(words))
#define LOOK_UP(words) look_up((__m256i)(words))
#define TAKE_NUMBERS take_numbers
#define GREATEST_OF(type, floats) greatest_of((const __m256i *)(floats))
#define NUMBER_OF(type, floats, n) (floats)[n]
#define TO_BYTES(floats, there) to_bytes((const __m256 *)(floats), (__m256i)(there))
#define MOST_PARTS 2
#define SPREAD _mm256_set1_ps
#define SPREAD_WORD(from) _mm256_set1_epi32(word_at(from))
#define SPREAD_PAIR(first, second) \
    _mm256_set1_epi32((int)((uint32_t)(uint16_t)(first) | (uint32_t)(uint16_t)(second) << 16))

static inline int32_t word_at(const void *from) {
    int32_t word;
    memcpy(&word, from, sizeof word);
    return word;
}

/* Of numbers with eight bits the offset is taken off here, and the sign given to x, as sums of two
 * products have 16 bits. */
AVX2_INLINE __m256i dot(__m256i sums, __m256i numbers, __m256i x, int offset) {
    if (offset == 128) {
        const __m256i signs = _mm256_xor_si256(numbers, _mm256_set1_epi8(-128));
        numbers = _mm256_abs_epi8(signs);
        x = _mm256_sign_epi8(x, signs);
    }
    const __m256i pairs = _mm256_maddubs_epi16(numbers, x);
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

#define DOT dot
#define NATIVE(integers) (__m256i)(integers)
#define EIGHT_BITS_OFFSET 0
#define ZERO _mm256_setzero_ps
#define ZERO_INTEGERS _mm256_setzero_si256
#define ADD_PAIRS _mm256_madd_epi16
#define TO_FLOATS _mm256_cvtepi32_ps
#define MULTIPLY _mm256_mul_ps
#define ADD_PRODUCT _mm256_fmadd_ps
#define SUBTRACT_PRODUCT _mm256_fnmadd_ps

#include "int8_decode.h"

#undef NAME
#undef TARGET
#undef EIGHT_BITS_OFFSET

#define FLOATS __m256
#define INTEGERS __m256i
#define LOAD _mm256_load_ps
#define STORE _mm256_store_ps
#define DECODE avx2_int8_decode_span
#define PUT_ROWS put_rows_256
#define HOLDS_SUMS 0

#define NAME avx_vnni
#define TARGET __attribute__((target("avx2,fma,f16c,avxvnni")))
#define MOST_COLUMNS 3
#define EIGHT_BITS_OFFSET 128
#define EIGHT_BITS_PARTS 1

TARGET static inline __attribute__((always_inline)) void avx_vnni_products(
    const char *w, const int8_t *x, int count, int columns, int bits, __m256i s[MOST_COLUMNS][2]) {
    (void)bits;
#pragma GCC unroll 8
    for (int i = 0; i < count; i++, w += 4 * INT8_ROWS, x += 4) {
        const __m256i a = _mm256_load_si256((const void *)w);
        const __m256i b = _mm256_load_si256((const void *)(w + 32));
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) {
            const __m256i v = SPREAD_WORD(x + c * INT8_GROUP);
            s[c][0] = _mm256_dpbusd_avx_epi32(s[c][0], a, v);
            s[c][1] = _mm256_dpbusd_avx_epi32(s[c][1], b, v);
        }
    }
}

#include "int8_multiply.h"

#undef NAME
#undef TARGET
#undef MOST_COLUMNS
#undef EIGHT_BITS_OFFSET
#undef EIGHT_BITS_PARTS
#define NAME avx2_int8
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define MOST_COLUMNS 3
#define EIGHT_BITS_OFFSET 0
#define EIGHT_BITS_PARTS 2
#define SUMS avx2_int8_sums

/* A multiply-add makes two products one sum of 16 bits, which must not saturate. The numbers of x
 * are at most 127. Those of w are less than 2 ** bits, so that as many of its results can be added
 * up as 2 * (2 ** bits - 1) * 127 goes into 32767: eight of four bits (30480), four of five
 * (31496), two of six (32004). Of eight bits a single one would not, hence they have 16. The loops
 * stay loops: of what is unrolled a compiler has more on its way than there are registers. */

/* Even numbers and odd ones. */
AVX2_INLINE void add_words(const char *w, const int8_t *x, int columns, __m256i s[MOST_COLUMNS][2]) {
#pragma GCC unroll 1
    for (int n = 0; n < INT8_GROUP; n += 4, w += 4 * INT8_ROWS) {
        __m256i numbers[2][2];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            numbers[i / 2][i % 2] = _mm256_load_si256(
                (const void *)(w + i / 2 * INT8_GROUP * INT8_ROWS + i % 2 * 32));
        }
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) {
            const int8_t *from = x + c * INT8_GROUP + n;
            const __m256i even = SPREAD_WORD(from), odd = SPREAD_WORD(from + sizeof(Int8Activations));
#pragma GCC unroll 2
            for (int r = 0; r < 2; r++) {
                s[c][r] = _mm256_add_epi32(s[c][r], _mm256_madd_epi16(numbers[0][r], even));
                s[c][r] = _mm256_add_epi32(s[c][r], _mm256_madd_epi16(numbers[1][r], odd));
            }
        }
    }
}

/* Six bits: of two steps. */
AVX2_INLINE void add_soon(const char *w, const int8_t *x, int count, int columns,
                          __m256i s[MOST_COLUMNS][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 1
    for (int first = 0; first < count; first += 2, w += 8 * INT8_ROWS, x += 8) {
        __m256i numbers[2][2];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            numbers[i / 2][i % 2] =
                _mm256_load_si256((const void *)(w + i / 2 * 4 * INT8_ROWS + i % 2 * 32));
        }
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) {
            const __m256i v = SPREAD_WORD(x + c * INT8_GROUP);
            const __m256i next = SPREAD_WORD(x + c * INT8_GROUP + 4);
#pragma GCC unroll 2
            for (int r = 0; r < 2; r++) {
                const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(numbers[0][r], v),
                                                       _mm256_maddubs_epi16(numbers[1][r], next));
                s[c][r] = _mm256_add_epi32(s[c][r], _mm256_madd_epi16(pairs, ones));
            }
        }
    }
}

/* Four and five bits: of a group, or half of one. */
AVX2_INLINE void add_late(const char *w, const int8_t *x, int count, int columns, int bits,
                          __m256i s[MOST_COLUMNS][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    const int together = bits == 5 ? 4 : count;
#pragma GCC unroll 1
    for (int first = 0; first < count; first += together) {
        __m256i sums[MOST_COLUMNS][2];
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) {
            sums[c][0] = sums[c][1] = _mm256_setzero_si256();
        }
#pragma GCC unroll 2
        for (int i = 0; i < together; i++, w += 4 * INT8_ROWS, x += 4) {
            const __m256i a = _mm256_load_si256((const void *)w);
            const __m256i b = _mm256_load_si256((const void *)(w + 32));
#pragma GCC unroll 4
            for (int c = 0; c < columns; c++) {
                const __m256i v = SPREAD_WORD(x + c * INT8_GROUP);
                sums[c][0] = _mm256_add_epi16(sums[c][0], _mm256_maddubs_epi16(a, v));
                sums[c][1] = _mm256_add_epi16(sums[c][1], _mm256_maddubs_epi16(b, v));
            }
        }
#pragma GCC unroll 4
        for (int c = 0; c < columns; c++) {
            s[c][0] = _mm256_add_epi32(s[c][0], _mm256_madd_epi16(sums[c][0], ones));
            s[c][1] = _mm256_add_epi32(s[c][1], _mm256_madd_epi16(sums[c][1], ones));
        }
    }
}

AVX2_INLINE void avx2_int8_products(const char *w, const int8_t *x, int count, int columns, int bits,
                                    __m256i s[MOST_COLUMNS][2]) {
    if (bits == 8) {
        add_words(w, x, columns, s);
    } else if (bits == 6) {
        add_soon(w, x, count, columns, s);
    } else {
        add_late(w, x, count, columns, bits, s);
    }
}

#include "int8_multiply.h"

#define VNNI __attribute__((target("avx2,fma,f16c,avxvnni")))
#define STEP_BYTES(sum, a, b) _mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b))
PEAK(avx_vnni_peak, VNNI, __m256i, __m256i, _mm256_dpbusd_avx_epi32, 32)
PEAK(avx2_int8_peak, AVX2, __m256i, __m256i, STEP_BYTES, 32)

static void plan_words(Job *job) {
    int8_plan(job);
    if (avx2_int8_kind_of(job) == avx2_int8_q8 && !int8_fewest(job)) {
        job->packing = INT8_PARTS;
        job->parts = EIGHT_BITS_PARTS;
        job->packed_bytes *= job->parts;
    }
}

static int avx_vnni_available(void) { return x86_has(X86_AVX2 | X86_AVX_VNNI); }
static int avx2_available(void) { return x86_has(X86_AVX2); }

const Kernel avx_vnni = {
    .name = "avx-vnni",
    .words = "int8 by AVX-VNNI",
    .available = avx_vnni_available,
    .takes = int8_takes,
    .plan = int8_plan,
    .pack = int8_pack,
    .few = avx_vnni_few,
    .peak = avx_vnni_peak,
};

const Kernel avx2_int8 = {
    .name = "avx2-int8",
    .words = "int8 by AVX2",
    .available = avx2_available,
    .takes = int8_takes,
    .plan = plan_words,
    .pack = int8_pack,
    .few = avx2_int8_few,
    .peak = avx2_int8_peak,
};

#else

typedef int none; /* a file must not be empty */

#endif
