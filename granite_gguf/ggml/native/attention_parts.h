/* What attention of few and of many queries share. Included behind vectors.h and what defines
 * `exponential` of a vector, by what may define
 *
 *   WIDEN(from)  a vector of floats of as many F16
 *   SUM_OF(v)    the sum of its lanes
 */

#ifndef GRANITE_GGUF_ATTENTION_PARTS_H
#define GRANITE_GGUF_ATTENTION_PARTS_H

#include <math.h>

#ifndef WIDEN
#define WIDEN widen
INLINE Vector widen(const uint16_t *from) {
    float numbers[LANES];
    for (int i = 0; i < LANES; i++) {
        numbers[i] = half_to_float(from[i]);
    }
    return load(numbers);
}
#endif

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

INLINE Vector numbers_at(const char *row, int64_t n, const int type) {
    return type == F16 ? WIDEN((const uint16_t *)(const void *)row + n)
                       : load((const float *)(const void *)row + n);
}

/* exp(score - most), and zero of minus infinity; NaN stays NaN. */
INLINE Vector weight_of(Vector score, float most) {
    const Vector least = all(-80.0f), x = score - most;
    const Vector power = exponential(SELECT(x < least, least, x));
    return SELECT(score < all(-3e38f), all(0.0f), power);
}

#endif
