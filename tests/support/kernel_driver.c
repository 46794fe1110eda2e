/* Multiplies by one kernel of the table, without Python and ggml: for a processor that is emulated.
 *
 *   kernel_driver                 names the kernels that the processor has
 *   kernel_driver NAME < job > y  the job is the eleven numbers below (int64), the weight's rows one
 *                                 after another, x, and the bias where there is one
 */

#include <stdio.h>
#include <stdlib.h>

#include "job.h"

int64_t kernels_count(void);
const char *kernels_name(int64_t index);
int kernels_available(int64_t index);
int kernels_takes(int64_t index, int64_t type, int64_t exact, int64_t columns);
void kernels_plan(int64_t index, Job *job);
void kernels_pack(void *result, int thread, int threads, const Job *job);
void kernels_multiply(void *result, int thread, int threads, const Job *job);

enum { THREADS = 3 };

typedef struct {
    void *data;
    const void *sources[3];
} Tensor;

static void fail(const char *why) {
    fprintf(stderr, "kernel_driver: %s\n", why);
    exit(1);
}

static void *room(int64_t bytes) {
    const int64_t lines = blocks_of(bytes, 64) + 1;
    char *memory = aligned_alloc(64, (size_t)lines * 64);
    if (!memory) {
        fail("out of memory");
    }
    memset(memory, 0xff, (size_t)lines * 64); /* NaN, should anything be read that is not written */
    return memory;
}

static void *input(int64_t bytes) {
    void *memory = room(bytes);
    if (fread(memory, 1, (size_t)bytes, stdin) != (size_t)bytes) {
        fail("the job is too short");
    }
    return memory;
}

static int64_t find(const char *name) {
    for (int64_t n = 0; n < kernels_count(); n++) {
        if (!strcmp(kernels_name(n), name) && kernels_available(n)) {
            return n;
        }
    }
    fail("there is no such kernel here");
    return -1;
}

int main(int count, char **words) {
    if (count < 2) {
        for (int64_t n = 0; n < kernels_count(); n++) {
            if (kernels_available(n)) {
                puts(kernels_name(n));
            }
        }
        return 0;
    }
    const int64_t kernel = find(words[1]);
    const int64_t *told = input(11 * 8);
    Job job = {
        .data_offset = offsetof(Tensor, data), .source_offset = offsetof(Tensor, sources),
        .weight_type = told[0], .width = told[1], .rows = told[2], .columns = told[3],
        .row_bytes = told[4], .block_numbers = told[5], .block_bytes = told[6], .biased = told[7],
        .activation = told[8], .active_from = told[9], .exact = told[10],
        .batches = 1, .inner = 1, .group = 1, .x_stride = 4 * told[1], .threads = THREADS,
    };
    if (!kernels_takes(kernel, job.weight_type, job.exact, job.columns)) {
        fail("it does not take the type");
    }
    job.shares = memset(room(64 * THREADS), 0, 64 * THREADS);
    kernels_plan(kernel, &job);
    Tensor weight = {.data = input(job.rows * job.row_bytes)};
    Tensor x = {.data = input(4 * job.width * job.columns)};
    Tensor bias = {.data = input(job.biased ? 4 * job.rows : 0)};
    Tensor packed = {.data = room(job.all_packed_bytes), .sources = {&x}};
    const int64_t bytes = 4 * job.rows * job.columns;
    Tensor y = {.data = room(bytes + job.room_bytes), .sources = {&weight, &packed, &bias}};
    for (int thread = 0; thread < THREADS; thread++) {
        kernels_pack(&packed, thread, THREADS, &job);
    }
    /* Threads one after another: the first to come does all, and the last leaves a new beginning. */
    void *alone = room(bytes);
    for (int run = 0; run < 2; run++) {
        memset(y.data, 0xff, (size_t)bytes);
        for (int thread = 0; thread < THREADS; thread++) {
            kernels_multiply(&y, (thread + run) % THREADS, THREADS, &job);
            if (!thread) {
                memcpy(alone, y.data, (size_t)bytes);
            }
        }
        if (memcmp(alone, y.data, (size_t)bytes)) {
            fail("a thread left some rows to others");
        }
    }
    return fwrite(y.data, 1, (size_t)bytes, stdout) == (size_t)bytes ? 0 : 1;
}
