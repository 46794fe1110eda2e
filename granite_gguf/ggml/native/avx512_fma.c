/* Products of float32 numbers by the fused multiply-add of AVX-512. */

#include "x86.h"

#ifdef HAS_X86

#include "avx512.h"

#define TARGET AVX512
#define LANES 16
#define ROWS 8
#define BLOCKS 3
#define PANEL_ROWS 32
#define PACK pack_columns
#define PUT put_panel

AVX512 static void pack_columns(const Job *job, const char *x, int64_t column, int64_t start,
                                char *packed);

AVX512_INLINE void put_panel(const Job *job, const float *bias, const float *sums, float *y,
                             int64_t row, int64_t columns) {
    put_sums(job, bias, sums, y, row, columns);
    put_sums(job, bias, sums + 256, y, row + 16, columns);
}

#include "floats.h"

AVX512 static void pack_columns(const Job *job, const char *x, int64_t column, int64_t start,
                                char *packed) {
    float *to = packed_place(job, packed, column, start);
    __m512i numbers[16];
    for (int i = 0; i < COLUMNS; i++) {
        const float *row = (const float *)(x + (column + i) * job->x_stride) + start;
        const int64_t count = column + i < job->columns ? job->width - start : 0;
        numbers[i] = _mm512_castps_si512(load_floats(row, count));
    }
    transpose(numbers);
    if (job->beside) {
        put_beside(job, numbers, packed, start);
        return;
    }
    for (int k = 0; k < NUMBERS; k++) {
        _mm512_storeu_si512(to + k * COLUMNS, numbers[k]);
    }
}

#define FLOATS __m512
#define FEW 12
#define TAKE take
#define TAKEN_BYTES 64
#define TAKEN(type) ((type) == F32 ? 16 : 32)
#define SPREAD_WORD(from) _mm512_set1_ps(*(const float *)(const void *)(from))
#define ADD_PRODUCT _mm512_fmadd_ps
#define PUT_ROWS put_rows_512

AVX512_INLINE void take(const int type, const char *from, const int64_t *offsets, __m512 *words) {
    __m512i lines[16];
    take_line(type, from, offsets, lines);
#pragma GCC unroll 32
    for (int n = 0; n < 32; n++) {
        if (n < TAKEN(type)) {
            words[n] = number_of(type, lines, n);
        }
    }
}

#include "few.h"

FEW_FLOATS

#define NARROW(to, vector) \
    _mm256_storeu_si256((void *)(to), _mm512_cvtps_ph((__m512)(vector), _MM_FROUND_TO_NEAREST_INT))
#define SUM_OF(vector) _mm512_reduce_add_ps((__m512)(vector))
#include "attention.h"

#define NUMBER_BYTES 4
#include "attention_many.h"
#include "convolution.h"
#include "norms.h"

static int available(void) { return x86_has(X86_AVX512); }

static int takes(int64_t type, int64_t exact, int64_t columns) {
    (void)type, (void)exact, (void)columns;
    return 1;
}

const Kernel avx512_fma = {
    .name = "avx512-fma", .words = "float32 products of AVX-512", .available = available,
    .takes = takes, .plan = plan_few, .pack = PACK, .decode = decode, .multiply = multiply,
    .few = few, .attend = attend, .keep = keep, ATTEND_MANY, CONVOLVE, .norm = norm, .peak = peak,
};

#else

typedef int none; /* a file must not be empty */

#endif
