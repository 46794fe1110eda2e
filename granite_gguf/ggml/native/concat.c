/* Tensors copied one beside the other into one. */

#include "operands.h"

/* Bytes of the result are dealt out, whole lines of them. */
void kernels_concat(void *result, int thread, int threads, const Concat *job) {
    const char *from[MOST_CONCATENATED];
    int64_t each = 0;
    for (int64_t i = 0; i < job->count; i++) {
        from[i] = operand(job->data_offset, job->source_offset, result, i);
        each += job->bytes[i];
    }
    char *to = data_of(job->data_offset, result);
    const int64_t all = job->pieces * each, lines = blocks_of(all, ALIGNMENT);
    const int64_t end = at_most(lines * (thread + 1) / threads * ALIGNMENT, all);
    int64_t at = lines * thread / threads * ALIGNMENT;
    while (at < end) {
        const int64_t piece = at / each;
        int64_t within = at % each, i = 0;
        while (within >= job->bytes[i]) {
            within -= job->bytes[i++];
        }
        const int64_t count = at_most(job->bytes[i] - within, end - at);
        memcpy(to + at, from[i] + piece * job->strides[i] + within, (size_t)count);
        at += count;
    }
}
