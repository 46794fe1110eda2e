/* Attention of few queries over keys and values as they lie in a cache, for vectors of one length.
 * Every query is computed by itself and a key that it does not see changes nothing, so that its numbers
 * are the same alone and beside others, and whatever lies behind the keys that it sees.
 */

#include "attention_parts.h"

enum { TOGETHER = 4 }; /* heads that share a key are multiplied with it at once */

INLINE void attend_heads(const Attention *job, const AttentionOf *of, const int heads,
                         const int type) {
    const int64_t dim = job->head_dim, stride = job->score_stride;
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
