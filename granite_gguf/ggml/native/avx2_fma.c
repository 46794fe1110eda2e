/* Products of float32 numbers by the fused multiply-add of AVX2. */

#include "x86.h"

#ifdef HAS_X86

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define ROWS 6
#define BLOCKS 1
#define PANEL_ROWS 24

#include "floats.h"

static int available(void) { return x86_has(X86_AVX2); }

static int takes(int64_t type, int64_t exact) {
    (void)type, (void)exact;
    return 1;
}

const Kernel avx2_fma = {
    .name = "avx2-fma", .words = "float32 products of AVX2", .available = available,
    .takes = takes, .plan = plan, .pack = PACK, .decode = decode, .multiply = multiply,
};

#else

typedef int none; /* a file must not be empty */

#endif
