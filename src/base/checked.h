/* int64_t arithmetic on sizes that says when it overflows. */
#ifndef HISA_BASE_CHECKED_H
#define HISA_BASE_CHECKED_H

#include <stdbool.h>
#include <stdint.h>

#include "base/inline.h"

/* *out = a * b; false where that overflows or an operand is negative. */
static inline bool hisa_mul(int64_t a, int64_t b, int64_t *out) {
    return a >= 0 && b >= 0 && !__builtin_mul_overflow(a, b, out);
}

/* *out = a + b; false where that overflows or an operand is negative. */
static inline bool hisa_add(int64_t a, int64_t b, int64_t *out) {
    return a >= 0 && b >= 0 && !__builtin_add_overflow(a, b, out);
}

HISA_INLINE int64_t hisa_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
HISA_INLINE int64_t hisa_min(int64_t a, int64_t b) { return a < b ? a : b; }
HISA_INLINE int64_t hisa_max(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
