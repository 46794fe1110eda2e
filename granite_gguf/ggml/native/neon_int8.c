/* int8_multiply.h by the dot products of NEON: of numbers with a sign, and with i8mm of those
 * without one times those with one. */

#include "arm.h"
#include "int8.h"

#ifdef HAS_ARM

#include <float.h>

#include "neon.h"
#include "peak.h"

#define NAME neon_int8
#define TARGET
#define LANES 4

/* 16 bytes of each of 4 rows: lane n of the results is row n's. */
NEON_INLINE void take(const char *from, const int64_t *offsets, void *words) {
    uint32x4_t r[4];
    for (int i = 0; i < 4; i++) {
        memcpy(r + i, from + offsets[i], sizeof *r);
    }
    const uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(r[0], r[1]));
    const uint64x2_t b = vreinterpretq_u64_u32(vtrn2q_u32(r[0], r[1]));
    const uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(r[2], r[3]));
    const uint64x2_t d = vreinterpretq_u64_u32(vtrn2q_u32(r[2], r[3]));
    const uint64x2_t lanes[4] = {vtrn1q_u64(a, c), vtrn1q_u64(b, d), vtrn2q_u64(a, c),
                                 vtrn2q_u64(b, d)};
    memcpy(words, lanes, sizeof lanes);
}

NEON_INLINE float32x4_t halves_to_floats(uint32x4_t words) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(words)));
}

NEON_INLINE void take_numbers(const int type, const char *from, const int64_t *offsets,
                              void *floats) {
    if (type == F32) {
        for (int n = 0; n < 32; n += 4) {
            take(from + 4 * n, offsets, (float32x4_t *)floats + n);
        }
        return;
    }
    float32x4_t *to = floats;
    for (int n = 0; n < 32; n += 8) {
        uint32x4_t words[4];
        take(from + 2 * n, offsets, words);
        for (int i = 0; i < 4; i++, to += 2) {
            const uint32x4_t upper = vandq_u32(words[i], vdupq_n_u32(0xffff0000));
            to[0] = type == F16 ? halves_to_floats(words[i])
                                : vreinterpretq_f32_u32(vshlq_n_u32(words[i], 16));
            to[1] = type == F16 ? halves_to_floats(vshrq_n_u32(words[i], 16))
                                : vreinterpretq_f32_u32(upper);
        }
    }
}

NEON_INLINE uint32x4_t greatest_of(const uint32x4_t floats[32]) {
    uint32x4_t most = vdupq_n_u32(0);
    for (int i = 0; i < 32; i++) {
        most = vmaxq_u32(most, vandq_u32(floats[i], vdupq_n_u32(0x7fffffff)));
    }
    return most;
}

/* Four vectors of integers to bytes, one after another. */
NEON_INLINE int8x16_t narrowed(const int32x4_t n[4]) {
    return vcombine_s8(vmovn_s16(vcombine_s16(vmovn_s32(n[0]), vmovn_s32(n[1]))),
                       vmovn_s16(vcombine_s16(vmovn_s32(n[2]), vmovn_s32(n[3]))));
}

NEON_INLINE uint32x4_t to_bytes(const float32x4_t floats[4], uint32x4_t there) {
    static const uint8_t of_rows[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
    int32x4_t n[4];
    for (int i = 0; i < 4; i++) {
        n[i] = vcvtnq_s32_f32(floats[i]);
    }
    const int8x16_t bytes = vqtbl1q_s8(narrowed(n), vld1q_u8(of_rows));
    return vandq_u32(there, vreinterpretq_u32_s8(bytes));
}

NEON_INLINE uint8x16_t look_up(uint8x16_t bytes) {
    static const uint8_t table[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                      129, 141, 153, 166, 181, 197, 217, 241};
    return vqtbl1q_u8(vld1q_u8(table), bytes);
}

#define TAKE take
#define HALVES(words) halves_to_floats((uint32x4_t)(words))
#define LOOK_UP(words) look_up((uint8x16_t)(words))
#define TAKE_NUMBERS take_numbers
#define GREATEST_OF(type, floats) greatest_of((const uint32x4_t *)(floats))
#define NUMBER_OF(type, floats, n) (floats)[n]
#define TO_BYTES(floats, there) to_bytes((const float32x4_t *)(floats), (uint32x4_t)(there))
#define MOST_PARTS 1

#include "int8_decode.h"

#undef NAME
#undef TARGET

/* As int8_pack does it. */
static void pack_group(const float *x, Int8Activations *to, int64_t column) {
    float32x4_t v[8];
    uint32x4_t most = vdupq_n_u32(0); /* as integers, so that NaN is the greatest */
    for (int i = 0; i < 8; i++) {
        v[i] = vld1q_f32(x + 4 * i);
        most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(v[i]), vdupq_n_u32(0x7fffffff)));
    }
    const uint32_t bits = vmaxvq_u32(most);
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    scale /= 127;
    const int usable = scale >= FLT_MIN && scale <= FLT_MAX;
    const float32x4_t inverse = vdupq_n_f32(usable ? 1 / scale : 0);
    for (int half = 0; half < 2; half++) {
        int8x16_t bytes = vdupq_n_s8(0);
        if (usable) {
            int32x4_t n[4];
            for (int i = 0; i < 4; i++) { /* to nearest, ties to even */
                n[i] = vcvtnq_s32_f32(vmulq_f32(v[4 * half + i], inverse));
            }
            bytes = narrowed(n);
        }
        vst1q_s8(to->numbers[column] + 16 * half, bytes);
        to->sums[column][half] = vaddlvq_s8(bytes);
    }
    to->scales[column] = scale;
    to->offsets[column] = scale * (float)(to->sums[column][0] + to->sums[column][1]);
}

static void pack(const Job *job, const char *x, int64_t column, int64_t start, char *packed) {
    const int64_t end = at_most(start + INT8_SPAN, job->width);
    for (int64_t c = 0; c < INT8_COLUMNS; c++) {
        Int8Activations *to = int8_place(job, packed, column, start);
        const int there = column + c < job->columns;
        const float *row = (const float *)(const void *)(x + (column + c) * job->x_stride);
        for (int64_t k = start; k < end; k += INT8_GROUP, to++) {
            if (!there) {
                int8_leave_out(job, to, c);
                continue;
            }
            float numbers[INT8_GROUP] = {0};
            memcpy(numbers, row + k, (size_t)at_most(INT8_GROUP, end - k) * sizeof *numbers);
            pack_group(numbers, to, c);
        }
    }
}

NEON_INLINE int32x4_t add_pairs(int32x4_t a, int32x4_t b) {
    const int16x8_t c = vreinterpretq_s16_s32(a), d = vreinterpretq_s16_s32(b);
    return vpaddq_s32(vmull_s16(vget_low_s16(c), vget_low_s16(d)), vmull_high_s16(c, d));
}

NEON_INLINE int32x4_t spread_word(const void *from) {
    int32_t word;
    memcpy(&word, from, sizeof word);
    return vdupq_n_s32(word);
}

#define FLOATS float32x4_t
#define INTEGERS int32x4_t
#define MOST_COLUMNS 6
#define ZERO() vdupq_n_f32(0)
#define ZERO_INTEGERS() vdupq_n_s32(0)
#define SPREAD vdupq_n_f32
#define SPREAD_WORD spread_word
#define SPREAD_PAIR(first, second) \
    vdupq_n_s32((int32_t)((uint32_t)(uint16_t)(first) | (uint32_t)(uint16_t)(second) << 16))
#define ADD_PAIRS add_pairs
#define LOAD vld1q_f32
#define STORE vst1q_f32
#define DECODE neon_int8_decode_span
#define PUT_ROWS put_rows_neon
#define TO_FLOATS vcvtq_f32_s32
#define MULTIPLY vmulq_f32
#define ADD_PRODUCT(a, b, sum) vfmaq_f32(sum, a, b)
#define SUBTRACT_PRODUCT(a, b, sum) vfmsq_f32(sum, a, b)
#define HOLDS_SUMS 1

#define NAME neon_dotprod
#define TARGET __attribute__((target("arch=armv8.2-a+dotprod")))
#define EIGHT_BITS_OFFSET 0
#define EIGHT_BITS_PARTS 1

/* Numbers of less than eight bits have no sign to be mistaken; of eight, the offset is taken off. */
TARGET NEON_INLINE void neon_dotprod_products(const char *w, const int8_t *x, int count,
                                              int columns, int bits,
                                              int32x4_t s[MOST_COLUMNS][2]) {
    const int8x16_t middle = vdupq_n_s8(bits == 8 ? -128 : 0);
#pragma GCC unroll 8
    for (int i = 0; i < count; i++, w += 4 * INT8_ROWS, x += 4) {
        const int8x16_t a = veorq_s8(vld1q_s8((const int8_t *)w), middle);
        const int8x16_t b = veorq_s8(vld1q_s8((const int8_t *)w + 16), middle);
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) {
            const int8x16_t v = vreinterpretq_s8_s32(spread_word(x + c * INT8_GROUP));
            s[c][0] = vdotq_s32(s[c][0], a, v);
            s[c][1] = vdotq_s32(s[c][1], b, v);
        }
    }
}

#include "int8_multiply.h"

#undef NAME
#undef TARGET
#undef EIGHT_BITS_OFFSET
#define NAME neon_i8mm
#define TARGET __attribute__((target("arch=armv8.2-a+i8mm")))
#define EIGHT_BITS_OFFSET 128

TARGET NEON_INLINE void neon_i8mm_products(const char *w, const int8_t *x, int count, int columns,
                                           int bits, int32x4_t s[MOST_COLUMNS][2]) {
    (void)bits;
#pragma GCC unroll 8
    for (int i = 0; i < count; i++, w += 4 * INT8_ROWS, x += 4) {
        const uint8x16_t a = vld1q_u8((const uint8_t *)w), b = vld1q_u8((const uint8_t *)w + 16);
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) {
            const int8x16_t v = vreinterpretq_s8_s32(spread_word(x + c * INT8_GROUP));
            s[c][0] = vusdotq_s32(s[c][0], a, v);
            s[c][1] = vusdotq_s32(s[c][1], b, v);
        }
    }
}

#include "int8_multiply.h"

#define DOT __attribute__((target("arch=armv8.2-a+dotprod")))
PEAK(dotprod_peak, DOT, int32x4_t, int8x16_t, vdotq_s32, 16)
#define STEP_MIXED(sum, a, b) vusdotq_s32(sum, vreinterpretq_u8_s8(a), b)
PEAK(i8mm_peak, TARGET, int32x4_t, int8x16_t, STEP_MIXED, 16)

static int dotprod_available(void) { return arm_has(ARM_DOTPROD); }
static int i8mm_available(void) { return arm_has(ARM_I8MM); }

const Kernel neon_dotprod = {
    .name = "neon-dotprod", .words = "int8 by dot products of NEON",
    .available = dotprod_available, .takes = int8_takes, .plan = int8_plan, .pack = pack,
    .few = neon_dotprod_few, .peak = dotprod_peak,
};

const Kernel neon_i8mm = {
    .name = "neon-i8mm", .words = "int8 by the mixed dot products of NEON",
    .available = i8mm_available, .takes = int8_takes, .plan = int8_plan, .pack = pack,
    .few = neon_i8mm_few, .peak = i8mm_peak,
};

#else

typedef int none; /* a file must not be empty */

#endif
