/* What this processor and its system can do. */

#ifndef GRANITE_GGUF_ARM_H
#define GRANITE_GGUF_ARM_H

#if defined(__aarch64__) && defined(__GNUC__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__

#define HAS_ARM 1

/* Besides the vectors of 128 bits with fused multiply-add, which are always there. */
enum { ARM_DOTPROD = 1, ARM_I8MM = 2, ARM_BF16 = 4 };

/* Whether all of these are there. */
int arm_has(unsigned features);

#endif
#endif
