/* What this processor and its system can do. */

#ifndef GRANITE_GGUF_X86_H
#define GRANITE_GGUF_X86_H

#if defined(__x86_64__) && defined(__GNUC__)

#define HAS_X86 1

enum {
    X86_AVX2 = 1,         /* with FMA and F16C */
    X86_AVX512 = 2,       /* F, BW, DQ, VL, with F16C */
    X86_AVX512_BF16 = 4,
    X86_AVX512_VNNI = 8,
    X86_AVX_VNNI = 16,
    X86_AMX_BF16 = 32     /* without a system's permission to use it */
};

/* Whether all of these are there, with the registers that a system has to save for them. */
int x86_has(unsigned features);

#endif
#endif
