/* Products of float32 numbers by the fused multiply-add of AVX2. */

#include "x86.h"

#ifdef HAS_X86

#include "avx2.h"

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define ROWS 6
#define BLOCKS 1
#define PANEL_ROWS 24

#include "floats.h"

#define FLOATS __m256
#define FEW 8
#define TAKE take
#define TAKEN_BYTES 32
#define TAKEN(type) ((type) == F32 ? 8 : 16)
#define SPREAD_WORD(from) _mm256_broadcast_ss((const float *)(const void *)(from))
#define ADD_PRODUCT _mm256_fmadd_ps
#define PUT_ROWS put_rows_256

INLINE void take(const int type, const char *from, const int64_t *offsets, __m256 *words) {
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

#include "few.h"

FEW_FLOATS

#define NARROW(to, vector) \
    _mm_storeu_si128((void *)(to), _mm256_cvtps_ph((__m256)(vector), _MM_FROUND_TO_NEAREST_INT))
#include "attention.h"

#define NUMBER_BYTES 4
#include "attention_many.h"
#include "convolution.h"

static int available(void) { return x86_has(X86_AVX2); }

static int takes(int64_t type, int64_t exact, int64_t columns) {
    (void)type, (void)exact, (void)columns;
    return 1;
}

const Kernel avx2_fma = {
    .name = "avx2-fma", .words = "float32 products of AVX2", .available = available,
    .takes = takes, .plan = plan_few, .pack = PACK, .decode = decode, .multiply = multiply,
    .few = few, .attend = attend, .keep = keep, ATTEND_MANY, CONVOLVE, .peak = peak,
};

#else

typedef int none; /* a file must not be empty */

#endif
