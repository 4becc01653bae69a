/* e4m3 codes four at a time. Every e4m3 value is an f16 value. */
#ifndef HISA_CUDA_WIDEN_CUH
#define HISA_CUDA_WIDEN_CUH

#include <stdint.h>

#include <cuda_fp16.h>

/* Four codes to four f16 values, two words. NaN stays NaN. */
__device__ __forceinline__ void hisa_widen(uint32_t codes, uint32_t *low, uint32_t *high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    asm("{\n\t.reg .b16 l, h;\n\tmov.b32 {l, h}, %2;\n\t"
        "cvt.rn.f16x2.e4m3x2 %0, l;\n\tcvt.rn.f16x2.e4m3x2 %1, h;\n\t}"
        : "=r"(*low), "=r"(*high)
        : "r"(codes));
#else
    /* A code's exponent and mantissa in the places of an f16's give 2^-8 of its value, subnormals included. */
    const uint32_t halves[2] = {__byte_perm(codes, 0, 0x1404), __byte_perm(codes, 0, 0x3424)};
    uint32_t out[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const uint32_t magnitude = halves[i] & 0x7F007F00u;
        const uint32_t nan = (magnitude + 0x01000100u) >> 15 & 0x00010001u;
        const uint32_t small = (halves[i] & 0x80008000u) | magnitude >> 1;
        asm("mul.f16x2 %0, %1, %2;" : "=r"(out[i]) : "r"(small), "r"(0x5C005C00u)); /* 256, twice */
        out[i] |= nan * 0x7E00u;
    }
    *low = out[0];
    *high = out[1];
#endif
}

/* Four codes to four floats: what hisa_e4m3_to_float gives, but for a NaN's payload. */
__device__ __forceinline__ float4 hisa_widen_to_float(uint32_t codes) {
    uint32_t low;
    uint32_t high;
    hisa_widen(codes, &low, &high);
    const float2 a = __half22float2(*reinterpret_cast<const __half2 *>(&low));
    const float2 b = __half22float2(*reinterpret_cast<const __half2 *>(&high));
    return make_float4(a.x, a.y, b.x, b.y);
}

#endif
