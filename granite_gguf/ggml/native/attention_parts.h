/* What attention of few and of many queries share. Included behind vectors.h and what defines
 * `exponential` of a vector, by what may define SUM_OF(vector), the sum of its lanes.
 */

#ifndef GRANITE_GGUF_ATTENTION_PARTS_H
#define GRANITE_GGUF_ATTENTION_PARTS_H

#include <math.h>

#ifndef SUM_OF
#define SUM_OF sum_of
INLINE float sum_of(Vector vector) {
    float lanes[LANES], sum = 0;
    memcpy(lanes, &vector, sizeof lanes);
    for (int i = 0; i < LANES; i++) {
        sum += lanes[i];
    }
    return sum;
}
#endif

/* exp(score - most), and zero of minus infinity; NaN stays NaN. */
INLINE Vector weight_of(Vector score, float most) {
    const Vector least = all(-80.0f), x = score - most;
    const Vector power = exponential(SELECT(x < least, least, x));
    return SELECT(score < all(-3e38f), all(0.0f), power);
}

#endif
