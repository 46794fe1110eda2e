/* Attention of few queries over keys and values as they lie in a cache, for vectors of one length.
 * Every query is computed by itself and a key that it does not see changes nothing, so that its numbers
 * are the same alone and beside others, and whatever lies behind the keys that it sees.
 *
 * Included by what may define NARROW(to, v), which stores floats as F16, to nearest, ties to even.
 */

#include "attention_parts.h"

enum {
    TOGETHER = 4,   /* heads that share a key are multiplied with it at once */
    KEYS_AHEAD = 12 /* keys that are fetched before they are wanted */
};

#ifndef NARROW
#define NARROW narrow
/* By its bits: below F16's normal numbers a sum rounds, above the exponent is moved. */
INLINE uint16_t half_of(float number) {
    uint32_t bits, sign;
    memcpy(&bits, &number, sizeof bits);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) {
        return (uint16_t)(sign | 0x7e00);
    }
    if (bits >= 0x47800000) { /* 65536, and infinity */
        return (uint16_t)(sign | 0x7c00);
    }
    if (bits < 0x38800000) { /* 2^-14 */
        float small;
        memcpy(&small, &bits, sizeof small);
        small += 0.5f;
        memcpy(&bits, &small, sizeof bits);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xfff + (bits >> 13 & 1) - (112u << 23);
    return (uint16_t)(sign | bits >> 13);
}

INLINE void narrow(uint16_t *to, Vector vector) {
    float numbers[LANES];
    memcpy(numbers, &vector, sizeof numbers);
    for (int i = 0; i < LANES; i++) {
        to[i] = half_of(numbers[i]);
    }
}
#endif

/* A head's rows lie apart, so that a processor does not fetch them by itself. */
INLINE void fetch_row(const char *row, int64_t bytes) {
#ifdef __GNUC__
    for (int64_t i = 0; i < bytes; i += 64) {
        __builtin_prefetch(row + i, 0, 2);
    }
#else
    (void)row, (void)bytes;
#endif
}

INLINE void attend_heads(const Attention *job, const AttentionOf *of, const int heads,
                         const int type) {
    const int64_t dim = job->head_dim, stride = job->score_stride;
    const int64_t row_bytes = dim * (type == F16 ? 2 : 4);
    float *scores = of->scores, most[TOGETHER], sums[TOGETHER];
    for (int h = 0; h < heads; h++) {
        most[h] = -INFINITY;
        for (int64_t j = 0; j < stride; j++) {
            scores[h * stride + j] = -INFINITY;
        }
    }
    for (int64_t j = 0; j < job->keys; j++) {
        if (of->mask && of->mask[j]) {
            continue;
        }
        const char *key = of->keys + j * job->k_row;
        fetch_row(key + KEYS_AHEAD * job->k_row, row_bytes);
        fetch_row(of->values + j * job->v_row, row_bytes);
        Vector sum[TOGETHER];
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++) {
            sum[h] = all(0.0f);
        }
        for (int64_t d = 0; d < dim; d += LANES) {
            const Vector numbers = numbers_at(key, d, type);
#pragma GCC unroll 4
            for (int h = 0; h < heads; h++) {
                const float *q = (const float *)(const void *)(of->q + h * job->q_head);
                sum[h] += numbers * load(q + d);
            }
        }
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++) {
            const float score = SUM_OF(sum[h]) * (float)job->scale;
            scores[h * stride + j] = score;
            most[h] = score > most[h] ? score : most[h];
        }
    }
    for (int h = 0; h < heads; h++) {
        Vector sum = all(0.0f);
        for (int64_t j = 0; j < stride; j += LANES) {
            const Vector weight = weight_of(load(scores + h * stride + j), most[h]);
            store(scores + h * stride + j, weight);
            sum += weight;
        }
        sums[h] = SUM_OF(sum);
    }
    enum { VECTORS_TOGETHER = 64 / LANES > 4 ? 4 : 64 / LANES };
    for (int64_t d = 0; d < dim; d += VECTORS_TOGETHER * LANES) {
        const int vectors = (int)at_most(VECTORS_TOGETHER, (dim - d) / LANES);
        Vector y[TOGETHER][VECTORS_TOGETHER] = {0};
        for (int64_t j = 0; j < job->keys; j++) {
            if (of->mask && of->mask[j]) {
                continue;
            }
            const char *value = of->values + j * job->v_row;
            if (vectors == VECTORS_TOGETHER) {
#pragma GCC unroll 4
                for (int i = 0; i < VECTORS_TOGETHER; i++) {
                    const Vector numbers = numbers_at(value, d + i * LANES, type);
#pragma GCC unroll 4
                    for (int h = 0; h < heads; h++) {
                        y[h][i] += numbers * scores[h * stride + j];
                    }
                }
            } else {
                for (int i = 0; i < vectors; i++) {
                    const Vector numbers = numbers_at(value, d + i * LANES, type);
                    for (int h = 0; h < heads; h++) {
                        y[h][i] += numbers * scores[h * stride + j];
                    }
                }
            }
        }
        for (int h = 0; h < heads; h++) {
            for (int i = 0; i < vectors; i++) {
                store(of->y + h * dim + d + i * LANES, y[h][i] / sums[h]);
            }
        }
    }
}

/* `count` is a multiple of LANES. */
TARGET static void keep(const float *from, int64_t count, int64_t type, char *to) {
    if (type == F32) {
        memcpy(to, from, (size_t)count * sizeof *from);
        return;
    }
    for (int64_t i = 0; i < count; i += LANES) {
        NARROW((uint16_t *)(void *)to + i, load(from + i));
    }
}

TARGET static void attend(const Attention *job, const AttentionOf *of, int64_t heads) {
    if (heads == TOGETHER && job->type == F16) {
        attend_heads(job, of, TOGETHER, F16);
    } else if (heads == TOGETHER) {
        attend_heads(job, of, TOGETHER, F32);
    } else if (job->type == F16) {
        attend_heads(job, of, 1, F16);
    } else {
        attend_heads(job, of, 1, F32);
    }
}
