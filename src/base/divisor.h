/* Division by a number that is known beforehand, as a multiplication. */
#ifndef HISA_BASE_DIVISOR_H
#define HISA_BASE_DIVISOR_H

#include <stdint.h>

#include "base/inline.h"

typedef struct hisa_divisor {
    uint32_t multiplier;
    uint32_t shift;
} hisa_divisor_t;

/* divisor >= 1. With 2^(s - 1) < divisor <= 2^s the multiplier is 2^(31 + s) / divisor rounded up, which fits; what
 * that is too large by adds less than 1 / divisor to the quotient of anything below 2^31. */
HISA_INLINE hisa_divisor_t hisa_divisor_make(int64_t divisor) {
    hisa_divisor_t by = {0, 0}; /* beyond all that is divided: the quotient is 0 */
    if (divisor <= INT32_MAX) {
        by.shift = 31;
        while ((INT64_C(1) << (by.shift - 31)) < divisor) {
            ++by.shift;
        }
        by.multiplier = (uint32_t)((((uint64_t)1 << by.shift) + (uint64_t)divisor - 1) / (uint64_t)divisor);
    }
    return by;
}

/* n < 2^31. */
HISA_INLINE uint32_t hisa_divide(uint32_t n, hisa_divisor_t by) {
    return (uint32_t)((uint64_t)n * by.multiplier >> by.shift);
}

#endif
