/* Products of float32 numbers by the fused multiply-add of AVX2. */

#include "x86.h"

#ifdef HAS_X86

#include "avx2.h"

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define ROWS 6
#define BLOCKS 1
#define PANEL_ROWS 24

#include "floats.h"

#define FLOATS __m256
#define FEW 8
#define TAKE take_floats
#define TAKEN_BYTES 32
#define TAKEN(type) ((type) == F32 ? 8 : 16)
#define SPREAD_WORD(from) _mm256_broadcast_ss((const float *)(const void *)(from))
#define ADD_PRODUCT _mm256_fmadd_ps
#define PUT_ROWS put_rows_256

#include "few.h"

FEW_FLOATS

#define NARROW(to, vector) \
    _mm_storeu_si128((void *)(to), _mm256_cvtps_ph((__m256)(vector), _MM_FROUND_TO_NEAREST_INT))
#include "attention.h"

#define NUMBER_BYTES 4
#include "attention_many.h"
#include "convolution.h"
#include "norms.h"

static int available(void) { return x86_has(X86_AVX2); }

static int takes(int64_t type, int64_t exact, int64_t columns) {
    (void)type, (void)exact, (void)columns;
    return 1;
}

const Kernel avx2_fma = {
    .name = "avx2-fma", .words = "float32 products of AVX2", .available = available,
    .takes = takes, .plan = plan_few, .pack = PACK, .decode = decode, .multiply = multiply,
    .few = few, .attend = attend, .keep = keep, ATTEND_MANY, CONVOLVE, .norm = norm, .peak = peak,
};

#else

typedef int none; /* a file must not be empty */

#endif
