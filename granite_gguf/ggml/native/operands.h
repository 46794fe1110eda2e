/* What the entry points read of ggml's tensors, whose fields' places they are told. */

#ifndef GRANITE_GGUF_OPERANDS_H
#define GRANITE_GGUF_OPERANDS_H

#include "job.h"

#ifdef _MSC_VER
#include <intrin.h>
#define NEXT(number) _InterlockedExchangeAdd64(number, 1)
#define BEGIN_ANEW(number) _InterlockedExchange64(number, 0)
#else
#define NEXT(number) __atomic_fetch_add(number, 1, __ATOMIC_RELAXED)
#define BEGIN_ANEW(number) __atomic_store_n(number, 0, __ATOMIC_RELAXED)
#endif

enum { ALIGNMENT = 64 };

static inline char *data_of(int64_t offset, const void *tensor) {
    return *(char *const *)((const char *)tensor + offset);
}

static inline const void *source_of(int64_t offset, const void *tensor, int64_t index) {
    return ((const void *const *)((const char *)tensor + offset))[index];
}

/* What a source of a tensor has. */
static inline const void *operand(int64_t data_offset, int64_t source_offset, const void *tensor,
                                  int64_t index) {
    return data_of(data_offset, source_of(source_offset, tensor, index));
}

static inline void *aligned(void *place) {
    return (void *)(((uintptr_t)place + ALIGNMENT - 1) & ~(uintptr_t)(ALIGNMENT - 1));
}

/* The next of `count` pieces of a thread's share, or -1. Who is the last to ask, and finds none, begins
 * the next run. `shares` has a line for each thread, zeros before the first run. */
static inline int64_t next_piece(char *shares, int64_t share, int64_t threads, int64_t count) {
    int64_t *next = (int64_t *)(void *)(shares + share * ALIGNMENT);
    const int64_t piece = NEXT(next);
    if (piece == count + threads - 1) {
        BEGIN_ANEW(next);
    }
    return piece < count ? piece : -1;
}

/* Some numbers of y are scaled and added to others, in two loops for each few of them: a fused
 * multiply-add would round otherwise. */
static inline void add_scaled(float *y, const float *to, float scale, int64_t count) {
    float scaled[64];
    for (int64_t i = 0; i < count; i += 64) {
        const int64_t some = at_most(64, count - i);
        for (int64_t n = 0; n < some; n++) {
            scaled[n] = y[i + n] * scale;
        }
        for (int64_t n = 0; n < some; n++) {
            y[i + n] = to[i + n] + scaled[n];
        }
    }
}

#endif
