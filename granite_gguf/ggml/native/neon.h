/* Pieces of the kernels with NEON's vectors of 128 bits. */

#ifndef GRANITE_GGUF_NEON_H
#define GRANITE_GGUF_NEON_H

#include <arm_neon.h>

#include "job.h"

#define NEON_INLINE static inline __attribute__((always_inline))

/* To about 2e-7 of itself, between -80 and 80. */
NEON_INLINE float32x4_t exponential_neon(float32x4_t x) {
    const float32x4_t n = vrndnq_f32(vmulq_n_f32(x, 1.44269504f));
    float32x4_t r = vfmsq_n_f32(x, n, 0.693145752f); /* ln 2 in two parts */
    r = vfmsq_n_f32(r, n, 1.42860677e-6f);
    float32x4_t sum = vdupq_n_f32(1.0f / 720);
    sum = vfmaq_f32(vdupq_n_f32(1.0f / 120), sum, r);
    sum = vfmaq_f32(vdupq_n_f32(1.0f / 24), sum, r);
    sum = vfmaq_f32(vdupq_n_f32(1.0f / 6), sum, r);
    sum = vfmaq_f32(vdupq_n_f32(0.5f), sum, r);
    sum = vfmaq_f32(vdupq_n_f32(1.0f), sum, r);
    sum = vfmaq_f32(vdupq_n_f32(1.0f), sum, r);
    const int32x4_t power = vshlq_n_s32(vcvtq_s32_f32(n), 23);
    return vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(sum), power));
}

/* NaN stays NaN. */
NEON_INLINE float32x4_t sigmoid_neon(float32x4_t x) {
    const float32x4_t most = vdupq_n_f32(80.0f); /* beyond, float32 tells no difference */
    const float32x4_t inner = vmaxq_f32(vnegq_f32(most), vminq_f32(most, x));
    const float32x4_t one = vdupq_n_f32(1.0f);
    return vdivq_f32(one, vaddq_f32(one, exponential_neon(vnegq_f32(inner))));
}

/* Sums of four rows of the weight, from `row` on, go into a column of y with bias and activation. */
NEON_INLINE void put_rows_neon(const Job *job, const float *bias, float32x4_t sum, float *y,
                               int64_t row) {
    const int64_t count = at_most(4, job->rows - row);
    if (count <= 0) {
        return;
    }
    if (bias) {
        float some[4] = {0};
        memcpy(some, bias + row, (size_t)count * sizeof *some);
        sum = vaddq_f32(sum, vld1q_f32(some));
    }
    float numbers[4], active[4];
    vst1q_f32(numbers, sum);
    if (job->activation != NO_ACTIVATION && row + count > job->active_from) {
        const float32x4_t gate = sigmoid_neon(sum);
        vst1q_f32(active, job->activation == SILU ? vmulq_f32(gate, sum) : gate);
        for (int64_t r = at_least(0, job->active_from - row); r < count; r++) {
            numbers[r] = active[r];
        }
    }
    memcpy(y + row, numbers, (size_t)count * sizeof *numbers);
}

#endif
