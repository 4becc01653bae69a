/* The instances of isa.h, by instruction set. */
#ifndef HISA_CPU_KERNELS_H
#define HISA_CPU_KERNELS_H

#include <stdint.h>

#if defined(__x86_64__)
#define HISA_CPU_X86 1
#define HISA_CPU_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx2,fma")))
#define HISA_CPU_AVX2 __attribute__((target("avx2,fma")))
#endif
/* A body that each instance inlines, so that it is compiled for the instance's instruction set. */
#define HISA_CPU_BODY static inline __attribute__((always_inline))

#define HISA_CPU_INSTANCE(isa)                                                                                         \
    void hisa_cpu_dots_##isa(const float *q, int64_t groups, int64_t head_dim, const float *panel, float *dots);       \
    void hisa_cpu_head_sum_##isa(const float *dots, const float *w, int64_t heads, const float *scale, float *score);  \
    void hisa_cpu_decode_panel_##isa(const uint8_t *codes, int64_t keys, int64_t head_dim, float *panel);

HISA_CPU_INSTANCE(portable)
#if defined(HISA_CPU_X86)
HISA_CPU_INSTANCE(avx512)
HISA_CPU_INSTANCE(avx2)
#endif

#endif
