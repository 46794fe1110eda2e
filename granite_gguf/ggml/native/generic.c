/* Products of float32 numbers in C alone: what every processor has. */

#ifdef __GNUC__
#define LANES 4
#else
#define LANES 1
#endif
#define TARGET
#define ROWS 4
#define BLOCKS 1
#define PANEL_ROWS 16

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

const Kernel generic = {
    .name = "generic", .words = "float32 products in plain C", .available = available,
    .takes = takes, .plan = plan, .pack = PACK, .decode = decode, .multiply = multiply, .attend = attend, .keep = keep, ATTEND_MANY, CONVOLVE, .norm = norm, .peak = peak,
};
