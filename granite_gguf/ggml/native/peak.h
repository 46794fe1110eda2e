/* How many products a kernel's instructions make of what is in registers alone: the most that a
 * processor can do, and what the kernel is measured against.
 *
 * PEAK_TARGET says what the compiler may use; STEP(sum, a, b) makes so many products of numbers.
 */

#ifndef GRANITE_GGUF_PEAK_H
#define GRANITE_GGUF_PEAK_H

#include <stdint.h>

#ifdef __aarch64__
#define PEAK_REGISTER "+w"
#else
#define PEAK_REGISTER "+x"
#endif

/* As many sums as hide the time of an instruction. a and b might change before each step, for all
 * that the compiler knows. */
#define PEAK(name, PEAK_TARGET, SUM, NUMBERS, STEP, products)                                     \
    PEAK_TARGET static int64_t name(int64_t rounds) {                                             \
        SUM kept[12] = {0}, sums[12];                                                             \
        NUMBERS a = {0}, b = {0};                                                                 \
        __asm__ volatile("" : "+m"(kept)); /* or the sums were one and the same */                \
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) {                                   \
            sums[i] = kept[i];                                                                    \
        }                                                                                         \
        for (int64_t n = 0; n < rounds; n++) {                                                    \
            _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) {                               \
                __asm__ volatile("" : PEAK_REGISTER(a), PEAK_REGISTER(b));                        \
                sums[i] = STEP(sums[i], a, b);                                                    \
            }                                                                                     \
        }                                                                                         \
        _Pragma("GCC unroll 12") for (int i = 0; i < 12; i++) {                                   \
            kept[i] = sums[i];                                                                    \
        }                                                                                         \
        __asm__ volatile("" : "+m"(kept)); /* or nobody wanted them */                            \
        return 12 * rounds * (products);                                                          \
    }

#endif
