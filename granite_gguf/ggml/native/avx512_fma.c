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
    for (int k = 0; k < NUMBERS; k++) {
        _mm512_storeu_si512(to + k * COLUMNS, numbers[k]);
    }
}

static int available(void) { return x86_has(X86_AVX512); }

static int takes(int64_t type, int64_t exact) {
    (void)type, (void)exact;
    return 1;
}

const Kernel avx512_fma = {
    .name = "avx512-fma", .words = "float32 products of AVX-512", .available = available,
    .takes = takes, .plan = plan, .pack = PACK, .decode = decode, .multiply = multiply,
};

#else

typedef int none; /* a file must not be empty */

#endif
