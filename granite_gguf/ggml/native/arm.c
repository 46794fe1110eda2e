#include "arm.h"

#ifdef HAS_ARM

#ifdef __linux__

#include <sys/auxv.h>

/* As the kernel numbers them; the headers of older systems lack some. */
static unsigned features(void) {
    const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    return (first >> 20 & 1 ? ARM_DOTPROD : 0) | (second >> 13 & 1 ? ARM_I8MM : 0) |
           (second >> 14 & 1 ? ARM_BF16 : 0);
}

#elif defined(__APPLE__)

#include <stddef.h>
#include <sys/sysctl.h>

static int told(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return !sysctlbyname(name, &value, &size, NULL, 0) && value;
}

static unsigned features(void) {
    return (told("hw.optional.arm.FEAT_DotProd") ? ARM_DOTPROD : 0) |
           (told("hw.optional.arm.FEAT_I8MM") ? ARM_I8MM : 0) |
           (told("hw.optional.arm.FEAT_BF16") ? ARM_BF16 : 0);
}

#else

static unsigned features(void) { return 0; }

#endif

int arm_has(unsigned wanted) { return (features() & wanted) == wanted; }

#else

typedef int none; /* a file must not be empty */

#endif
