/* What the kernels with products of 8 bits share: the plan, and x in numbers of 8 bits; see int8.h. */

#include "int8.h"
#include "x86.h"

#ifdef __GNUC__

enum { HALVES = 1, MINIMA = 2 }; /* two scales of a group; minima */

static int factors_of(int64_t type) {
    switch (type) {
    case Q6_K: case Q3_K: return HALVES;
    case Q5_K: case Q5_1: case Q4_K: case Q4_1: return MINIMA;
    case Q2_K: return HALVES | MINIMA;
    default: return 0;
    }
}

int64_t int8_group_bytes(const Job *job) {
    const int factors = factors_of(job->weight_type);
    const int lines = (factors & HALVES ? 2 : 1) *
                      (factors & MINIMA || job->packing == INT8_UNSIGNED ? 2 : 1);
    return INT8_ROWS * (INT8_GROUP * job->parts + 4 * lines);
}

int int8_takes(int64_t type, int64_t exact, int64_t columns) {
    (void)columns;
    switch (type) {
    case F32: case F16: case BF16: return !exact;
    case Q8_0: case Q6_K: case Q5_K: case Q4_K: case Q3_K: case Q2_K: case Q5_1: case Q5_0:
    case Q4_1: case Q4_0: case IQ4_NL: case IQ4_XS: return 1;
    default: return 0;
    }
}

int int8_fewest(const Job *job) {
    return job->columns <= INT8_FEWEST && job->weight_type != F32 && job->weight_type != F16 &&
           job->weight_type != BF16;
}

void int8_plan(Job *job) {
    const int64_t groups = blocks_of(job->width, INT8_GROUP);
    const int64_t blocks = blocks_of(job->columns, INT8_COLUMNS);
    job->packing = INT8_SIGNED;
    job->pack_columns = INT8_COLUMNS;
    job->pack_numbers = INT8_SPAN;
    job->packed_bytes = blocks * groups * (int64_t)sizeof(Int8Activations);
    job->parts = 1;
    job->panel_rows = INT8_ROWS;
    job->panel_bytes = blocks * INT8_COLUMNS * INT8_ROWS * (int64_t)sizeof(float); /* of sums */
    job->direct = 1;
}

void int8_plan_unsigned(Job *job) {
    int8_plan(job);
    if (job->columns >= INT8_MANY && !(factors_of(job->weight_type) & MINIMA)) {
        job->packing = INT8_UNSIGNED;
    }
}

Int8Activations *int8_place(const Job *job, char *packed, int64_t column, int64_t start) {
    const int64_t blocks = blocks_of(job->columns, INT8_COLUMNS);
    const int64_t groups = blocks_of(at_most(INT8_SPAN, job->width - start), INT8_GROUP);
    return (Int8Activations *)(void *)packed +
           job->parts * (start / INT8_GROUP * blocks + column / INT8_COLUMNS * groups);
}

void int8_leave_out(const Job *job, Int8Activations *to, int64_t column) {
    for (const Int8Activations *end = to + job->parts; to < end; to++) {
        memset(to->numbers[column], 0, sizeof to->numbers[column]);
        to->sums[column][0] = to->sums[column][1] = 0;
        to->scales[column] = to->offsets[column] = 0;
    }
}

#ifdef HAS_X86

#include <float.h>

#include "avx2.h"

/* A group whose scale is not finite, or less than float32's normal numbers, becomes zeros: the
 * product of what is not finite with them is not finite either. */
AVX2_INLINE __m256i round_group(const float *x, float *scale) {
    __m256 v[4];
    __m256i most = _mm256_setzero_si256(); /* as integers, so that NaN is the greatest */
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        most = _mm256_max_epu32(most, _mm256_and_si256(_mm256_castps_si256(v[i]),
                                                       _mm256_set1_epi32(0x7fffffff)));
    }
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    *scale = _mm_cvtss_f32(_mm_castsi128_ps(m)) / 127;
    if (!(*scale >= FLT_MIN && *scale <= FLT_MAX)) {
        return _mm256_setzero_si256();
    }
    const __m256 inverse = _mm256_set1_ps(1 / *scale);
    __m256i n[4];
    for (int i = 0; i < 4; i++) { /* to nearest, ties to even */
        n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    }
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]),
                                             _mm256_packs_epi32(n[2], n[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

AVX2_INLINE void pack_group(const float *x, int64_t packing, Int8Activations *to, int64_t column) {
    const __m256i bytes = round_group(x, &to->scales[column]);
    const __m256i without_sign = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));
    if (packing == INT8_PARTS) {
        const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8);
        _mm256_storeu_si256((void *)to[0].numbers[column], even);
        _mm256_storeu_si256((void *)to[1].numbers[column], _mm256_srai_epi16(bytes, 8));
        return;
    }
    if (packing == INT8_UNSIGNED) { /* sums and offsets are for what has minima or a sign */
        _mm256_storeu_si256((void *)to->numbers[column], without_sign);
        return;
    }
    _mm256_storeu_si256((void *)to->numbers[column], bytes);
    /* Sums of eight bytes that have no sign. */
    const __m256i sums = _mm256_sad_epu8(without_sign, _mm256_setzero_si256());
    const int first = (int)(_mm256_extract_epi64(sums, 0) + _mm256_extract_epi64(sums, 1)) - 2048;
    const int second = (int)(_mm256_extract_epi64(sums, 2) + _mm256_extract_epi64(sums, 3)) - 2048;
    to->sums[column][0] = (int16_t)first;
    to->sums[column][1] = (int16_t)second;
    to->offsets[column] = to->scales[column] * (float)(first + second);
}

/* Spans are too short for a processor to see what will be wanted: that of the next column, then the
 * first one's next span. */
AVX2 void int8_pack(const Job *job, const char *x, int64_t column, int64_t start, char *packed) {
    const int64_t end = at_most(start + INT8_SPAN, job->width);
    const int64_t back = 4 * INT8_SPAN - (INT8_COLUMNS - 1) * job->x_stride;
    for (int64_t c = 0; c < INT8_COLUMNS; c++) {
        Int8Activations *to = int8_place(job, packed, column, start);
        const int there = column + c < job->columns;
        const float *row = (const float *)(const void *)(x + (column + c) * job->x_stride);
        const int64_t ahead = c + 1 < INT8_COLUMNS ? job->x_stride : back;
        for (int64_t k = start; k < end; k += INT8_GROUP, to += job->parts) {
            for (int line = 0; line < 2; line++) { /* which a group takes */
                __builtin_prefetch((const char *)(row + k) + ahead + 64 * line);
            }
            if (!there) {
                int8_leave_out(job, to, c);
            } else if (end - k >= INT8_GROUP) {
                pack_group(row + k, job->packing, to, c);
            } else {
                float padded[INT8_GROUP] = {0};
                memcpy(padded, row + k, (size_t)(end - k) * sizeof *padded);
                pack_group(padded, job->packing, to, c);
            }
        }
    }
}

#endif

#else

typedef int none; /* a file must not be empty */

#endif
