/* Products of float32 numbers by the fused multiply-add of NEON. */

#include "arm.h"

#ifdef HAS_ARM

#define TARGET
#define LANES 4
#define ROWS 6
#define BLOCKS 1
#define PANEL_ROWS 24

#include "floats.h"

#include "attention.h"

#define NUMBER_BYTES 4
#include "attention_many.h"
#include "convolution.h"
#include "norms.h"

static int available(void) { return 1; }

static int takes(int64_t type, int64_t exact, int64_t columns) {
    (void)type, (void)exact, (void)columns;
    return 1;
}

const Kernel neon_fma = {
    .name = "neon-fma", .words = "float32 products of NEON", .available = available,
    .takes = takes, .plan = plan, .pack = PACK, .decode = decode, .multiply = multiply, .attend = attend, .keep = keep, ATTEND_MANY, CONVOLVE, .norm = norm, .peak = peak,
};

#else

typedef int none; /* a file must not be empty */

#endif
