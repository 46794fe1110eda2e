#include "x86.h"

#ifdef HAS_X86

#include <cpuid.h>

static int all(unsigned value, unsigned bits) { return (value & bits) == bits; }

static unsigned features(void) {
    const unsigned fma = 1u << 12, xgetbv = 1u << 27, avx = 1u << 28, f16c = 1u << 29;
    const unsigned avx2 = 1u << 5, avx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    const unsigned ymm = 0x6, zmm = 0xe6, tiles = 0x600e6; /* states that are saved */
    unsigned a, b, c, d, low, high, found = 0;
    if (!__get_cpuid_count(1, 0, &a, &b, &c, &d) || !all(c, fma | xgetbv | avx | f16c)) {
        return 0;
    }
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !all(low, ymm) || !all(b, avx2)) {
        return 0;
    }
    const int wide = all(low, zmm) && all(b, avx512);
    found |= X86_AVX2 | (wide ? X86_AVX512 : 0);
    found |= wide && c >> 11 & 1 ? X86_AVX512_VNNI : 0;
    found |= wide && all(low, tiles) && d >> 22 & 1 && d >> 24 & 1 ? X86_AMX_BF16 : 0;
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) {
        found |= a >> 4 & 1 ? X86_AVX_VNNI : 0;
        found |= wide && a >> 5 & 1 ? X86_AVX512_BF16 : 0;
    }
    return found;
}

/* Asked once: a virtual machine leaves it to its host, which takes some microseconds. */
int x86_has(unsigned wanted) {
    enum { KNOWN = 1 << 30 };
    static unsigned known;
    unsigned found = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (!found) {
        found = features() | KNOWN;
        __atomic_store_n(&known, found, __ATOMIC_RELAXED);
    }
    return all(found, wanted);
}

#else

typedef int none; /* a file must not be empty */

#endif
