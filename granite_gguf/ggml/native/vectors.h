/* Vectors of LANES floats: 1, or what the compiler has vectors of. TARGET is what it may use in a
 * function that has them. The including file may define WIDEN(type, from): LANES numbers of 2 bytes,
 * F16 or BF16, as floats.
 */

#include "job.h"

#ifdef __GNUC__
#define INLINE TARGET static inline __attribute__((always_inline))
#else
#define INLINE TARGET static inline
#endif

#if LANES > 1
typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
#define SELECT(mask, a, b) ((Vector)(((Bits)(mask) & (Bits)(a)) | (~(Bits)(mask) & (Bits)(b))))
#else
typedef float Vector;
typedef uint32_t Bits;
#define SELECT(condition, a, b) ((condition) ? (a) : (b))
#endif

INLINE Vector load(const float *from) {
    Vector vector;
    memcpy(&vector, from, sizeof vector);
    return vector;
}

INLINE void store(float *to, Vector vector) { memcpy(to, &vector, sizeof vector); }

INLINE Vector all(float number) { return (Vector){0} + number; }

#ifndef WIDEN
#define WIDEN widened

/* By its bits: the exponent moved, as a product so that numbers below the normal ones come right. */
INLINE float half_to_float(uint16_t half) {
    uint32_t bits = (half & 0x7fffu) << 13;
    float number;
    memcpy(&number, &bits, sizeof number);
    number *= 0x1p112f;
    memcpy(&bits, &number, sizeof bits);
    bits |= (half & 0x7c00) == 0x7c00 ? 0x7f800000u : 0;
    bits |= (half & 0x8000u) << 16;
    memcpy(&number, &bits, sizeof number);
    return number;
}

INLINE Vector widened(const int type, const uint16_t *from) {
    float numbers[LANES];
    for (int i = 0; i < LANES; i++) {
        const uint32_t bits = (uint32_t)from[i] << 16;
        memcpy(numbers + i, &bits, sizeof bits);
        numbers[i] = type == F16 ? half_to_float(from[i]) : numbers[i];
    }
    return load(numbers);
}
#endif

/* LANES numbers of a row, from one on: floats, or what becomes floats. */
INLINE Vector numbers_at(const char *row, int64_t n, const int type) {
    return type == F32 ? load((const float *)(const void *)row + n)
                       : (Vector)WIDEN(type, (const uint16_t *)(const void *)row + n);
}
