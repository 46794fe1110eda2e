/* Norms of rows, from sums of double precision. Included behind vectors.h. */

#include <math.h>

/* Doubles as long as a vector of floats, for half as many: compilers keep nothing longer in registers. */
#if LANES > 1
enum { WIDE_LANES = LANES / 2 };
typedef double Doubles __attribute__((vector_size(8 * WIDE_LANES)));
typedef float Half __attribute__((vector_size(4 * WIDE_LANES)));
#define WIDENED(half) __builtin_convertvector(half, Doubles)
#else
enum { WIDE_LANES = 1 };
typedef double Doubles;
typedef float Half;
#define WIDENED(half) (double)(half)
#endif

INLINE Half load_half(const float *from) {
    Half half;
    memcpy(&half, from, sizeof half);
    return half;
}

INLINE double sum_of_doubles(const Doubles *vectors) {
    double lanes[2 * WIDE_LANES], sum = 0;
    memcpy(lanes, vectors, sizeof lanes);
    for (int i = 0; i < 2 * WIDE_LANES; i++) {
        sum += lanes[i];
    }
    return sum;
}

/* Squares are of single precision, as in ggml. */
INLINE void norm_by_squares(const Norming *job, const float *x, const float *weight, float *y) {
    const int64_t width = job->width, whole = width / LANES * LANES;
    const int64_t pairs = width / (2 * WIDE_LANES) * (2 * WIDE_LANES);
    Doubles squares[2] = {{0}, {0}};
    for (int64_t i = 0; i < pairs; i += 2 * WIDE_LANES) {
#pragma GCC unroll 2
        for (int n = 0; n < 2; n++) {
            const Half numbers = load_half(x + i + n * WIDE_LANES);
            squares[n] += WIDENED(numbers * numbers);
        }
    }
    double sum = sum_of_doubles(squares);
    for (int64_t i = pairs; i < width; i++) {
        sum += (double)(x[i] * x[i]);
    }
    const float scale = 1.0f / sqrtf((float)(sum / (double)width) + (float)job->eps);
    for (int64_t i = 0; i < whole; i += LANES) {
        store(y + i, load(x + i) * scale * load(weight + i));
    }
    for (int64_t i = whole; i < width; i++) {
        y[i] = x[i] * scale * weight[i];
    }
}

/* The mean of exact squares less the square of the mean, so that x is read but once for both. */
INLINE void norm_by_variance(const Norming *job, const float *x, const float *weight,
                             const float *shift, float *y) {
    const int64_t width = job->width, whole = width / LANES * LANES;
    const int64_t pairs = width / (2 * WIDE_LANES) * (2 * WIDE_LANES);
    Doubles numbers[2] = {{0}, {0}}, squares[2] = {{0}, {0}};
    for (int64_t i = 0; i < pairs; i += 2 * WIDE_LANES) {
#pragma GCC unroll 2
        for (int n = 0; n < 2; n++) {
            const Doubles wide = WIDENED(load_half(x + i + n * WIDE_LANES));
            numbers[n] += wide;
            squares[n] += wide * wide;
        }
    }
    double sum = sum_of_doubles(numbers), square = sum_of_doubles(squares);
    for (int64_t i = pairs; i < width; i++) {
        sum += (double)x[i];
        square += (double)x[i] * (double)x[i];
    }
    const double mean = sum / (double)width, difference = square / (double)width - mean * mean;
    const float variance = difference < 0 ? 0.0f : (float)difference; /* NaN stays */
    const float centre = (float)mean, scale = 1.0f / sqrtf(variance + (float)job->eps);
    for (int64_t i = 0; i < whole; i += LANES) {
        store(y + i, (load(x + i) - centre) * scale * load(weight + i) + load(shift + i));
    }
    for (int64_t i = whole; i < width; i++) {
        y[i] = (x[i] - centre) * scale * weight[i] + shift[i];
    }
}

TARGET static void norm(const Norming *job, const float *x, const float *weight, const float *shift,
                        float *y) {
    if (shift) {
        norm_by_variance(job, x, weight, shift, y);
    } else {
        norm_by_squares(job, x, weight, y);
    }
}
