/* fp8 e4m3: 1 sign, 4 exponent bits (bias 7), 3 mantissa bits; no infinities, NaN is 0x7F and 0xFF; largest 448. */
#ifndef HISA_BACKEND_E4M3_H
#define HISA_BACKEND_E4M3_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/inline.h"

/* Exact. Branch-free, so that loops vectorise, and without f32 subnormals, which a caller may have told its processor
 * to flush. */
HISA_INLINE float hisa_e4m3_to_float(uint8_t code) {
    const uint32_t magnitude = code & 0x7Fu;
    const float small = (float)(int32_t)magnitude * 0x1p-9f;
    uint32_t small_bits;
    memcpy(&small_bits, &small, sizeof small_bits);
    /* Masks rather than choices: gcc makes branches of those. */
    const uint32_t is_small = 0u - (uint32_t)(magnitude < 8);
    const uint32_t is_nan = 0u - (uint32_t)(magnitude == 0x7F);
    uint32_t bits = (small_bits & is_small) | (((magnitude << 20) + (120u << 23)) & ~is_small);
    bits |= (is_nan & 0x7FC00000u) | (uint32_t)(code & 0x80u) << 24;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* To nearest, ties to even, saturated at +-448; NaN gives 0x7F. */
HISA_INLINE uint8_t hisa_e4m3_from_float(float value) {
    if (isnan(value)) {
        return 0x7F;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 24 & 0x80u;
    bits &= 0x7FFFFFFFu;
    uint32_t code;
    if (bits >= 0x43E00000u) { /* 448 */
        code = 0x7E;
    } else if (bits < 0x3C800000u) { /* 2^-6, the least normal number: steps of 2^-9; 8 of them are that number */
        code = (uint32_t)lrintf(fabsf(value) * 0x1p9f);
    } else {
        code = ((bits + 0x7FFFFu + (bits >> 20 & 1u)) >> 20) - (120u << 3);
    }
    return (uint8_t)(sign | code);
}

#endif
