/* Vectors of LANES floats: 1, or what the compiler has vectors of. TARGET is what it may use in a
 * function that has them.
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
