/* What the entry points read of ggml's tensors, whose fields' places they are told. */

#ifndef GRANITE_GGUF_OPERANDS_H
#define GRANITE_GGUF_OPERANDS_H

#include "job.h"

enum { ALIGNMENT = 64 };

static inline char *data_of(int64_t offset, const void *tensor) {
    return *(char *const *)((const char *)tensor + offset);
}

static inline const void *source_of(int64_t offset, const void *tensor, int64_t index) {
    return ((const void *const *)((const char *)tensor + offset))[index];
}

static inline void *aligned(void *place) {
    return (void *)(((uintptr_t)place + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1));
}

#endif
