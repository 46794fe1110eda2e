/* Products in the bfloat16 tiles of AMX, 16 rows of 64 bytes each. */

#define _GNU_SOURCE /* syscall */

#include "bfloat16.h"
#include "x86.h"

#if defined(HAS_X86) && defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

#include "avx512.h"

/* Compilers differ in what they know of these instructions' effects on memory; assembly says it. */
#define TILE_LOAD(tile, from) \
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), "r"((int64_t)64) : "memory")
#define TILE_STORE(tile, to) \
    __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" ::"r"(to), "r"((int64_t)64) : "memory")
#define TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile :::)
#define TILE_PRODUCT(sum, a, b) \
    __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum :::)

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t column_bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) Configuration;

_Static_assert(sizeof(Configuration) <= sizeof(Saved), "a configuration fits what is saved");

static int available(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return x86_has(X86_AMX_BF16 | X86_AVX512_BF16) &&
           syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

/* With few columns decoding to tiles costs more than the next kernels' products of rows as they lie:
 * by a count of instructions, as it was not measured where there are tiles. */
static int takes(int64_t type, int64_t exact, int64_t columns) {
    (void)exact;
    return columns > (type == F32 || type == F16 || type == BF16 ? 4 : 16);
}

static void plan(Job *job) {
    const int longer = job->weight_type == F32 || job->weight_type == F16;
    bfloat16_plan(job, longer && job->exact ? 2 : 1);
    job->step_columns = 2 * TILE_COLUMNS;
    job->fetches = blocks_of(job->width, TILE_NUMBERS);
}

/* PyTorch configures a thread once, for kernels of its own. */
static void begin(Saved *saved) {
    Configuration own = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        own.column_bytes[i] = 64;
        own.rows[i] = 16;
    }
    __asm__ volatile("sttilecfg (%0)" ::"r"(saved) : "memory");
    __asm__ volatile("ldtilecfg (%0)" ::"r"(&own) : "memory");
}

static void end(const Saved *saved) {
    __asm__ volatile("ldtilecfg (%0)" ::"r"(saved) : "memory");
}

/* Adds a panel of weights times two blocks of x to the four tiles of sums. */
AVX512_INLINE void multiply_pair(const uint16_t *w, const uint16_t *x, int64_t depth, Ahead *ahead) {
    const uint16_t *x_next = x + depth * TILE;
    for (int64_t k = 0; k < depth; k++, w += PANEL, x += TILE, x_next += TILE) {
        fetch(ahead);
        TILE_LOAD(4, w);
        TILE_LOAD(6, x);
        TILE_LOAD(7, x_next);
        TILE_LOAD(5, w + TILE);
        TILE_PRODUCT(0, 4, 6);
        TILE_PRODUCT(1, 4, 7);
        TILE_PRODUCT(2, 5, 6);
        TILE_PRODUCT(3, 5, 7);
    }
}

AVX512_INLINE void multiply_single(const uint16_t *w, const uint16_t *x, int64_t depth, Ahead *ahead) {
    for (int64_t k = 0; k < depth; k++, w += PANEL, x += TILE) {
        fetch(ahead);
        TILE_LOAD(4, w);
        TILE_LOAD(6, x);
        TILE_LOAD(5, w + TILE);
        TILE_PRODUCT(0, 4, 6);
        TILE_PRODUCT(2, 5, 6);
    }
}

AVX512 static void multiply(const Job *job, const Step *step) {
    float sums[4][256] __attribute__((aligned(64)));
    const int64_t depth = blocks_of(job->width, 32), blocks = blocks_of(job->columns, 16);
    const int64_t block = step->column / 16;
    const int pair = block + 1 < blocks;
    const uint16_t *w = (const uint16_t *)step->panel;
    const uint16_t *w_rest = step->flags ? w + job->panel_bytes / 4 : NULL;
    const uint16_t *x = (const uint16_t *)step->packed + block * depth * TILE;
    const uint16_t *x_rest = x + blocks * depth * TILE;
    TILE_ZERO(0);
    TILE_ZERO(1);
    TILE_ZERO(2);
    TILE_ZERO(3);
    if (pair) {
        multiply_pair(w, x, depth, step->ahead);
        if (job->parts > 1) {
            multiply_pair(w, x_rest, depth, step->ahead);
        }
        if (w_rest) {
            multiply_pair(w_rest, x, depth, step->ahead);
        }
    } else {
        multiply_single(w, x, depth, step->ahead);
        if (job->parts > 1) {
            multiply_single(w, x_rest, depth, step->ahead);
        }
        if (w_rest) {
            multiply_single(w_rest, x, depth, step->ahead);
        }
    }
    const int64_t row = step->row, columns = job->columns - step->column;
    float *y = step->y + step->column * job->rows;
    TILE_STORE(0, sums[0]);
    TILE_STORE(2, sums[2]);
    put_sums(job, step->bias, sums[0], y, row, columns);
    put_sums(job, step->bias, sums[2], y, row + 16, columns);
    if (pair) {
        TILE_STORE(1, sums[1]);
        TILE_STORE(3, sums[3]);
        y += 16 * job->rows;
        put_sums(job, step->bias, sums[1], y, row, columns - 16);
        put_sums(job, step->bias, sums[3], y, row + 16, columns - 16);
    }
}

/* Tiles want so much of x in a time that many panels share what is read of it. */
const Kernel amx_bf16 = {
    .name = "amx-bf16", .words = "bfloat16 tiles of AMX", .available = available, .takes = takes,
    .plan = plan, .pack = bfloat16_pack, .panels_bytes = 512 << 10, .decode = bfloat16_decode,
    .multiply = multiply, .begin = begin, .end = end,
};

#else

typedef int none; /* a file must not be empty */

#endif
