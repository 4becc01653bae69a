/* The sum over heads of a panel. Here products are not exact: -ffp-contract=off (the build's default) keeps every
 * compiler and instruction set at one rounding for the product and one for the sum. */
#include "backend/cpu/isa.h"
#include "backend/cpu/kernels.h"

/* Plain loops: compilers vectorise the inner one over keys. */
HISA_CPU_BODY void head_sum(const float *restrict dots, const float *restrict w, int64_t heads,
                            const float *restrict scale, float *restrict score) {
    float sum[HISA_CPU_PANEL] = {0};
    for (int64_t h = 0; h < heads; ++h) {
        const float weight = w[h];
        for (int s = 0; s < HISA_CPU_PANEL; ++s) {
            const float dot = dots[h * HISA_CPU_PANEL + s];
            sum[s] += weight * (dot > 0.0f ? dot : 0.0f);
        }
    }
    for (int s = 0; s < HISA_CPU_PANEL; ++s) {
        score[s] = scale[s] * sum[s];
    }
}

void hisa_cpu_head_sum_portable(const float *dots, const float *w, int64_t heads, const float *scale, float *score) {
    head_sum(dots, w, heads, scale, score);
}

#if defined(HISA_CPU_X86)
HISA_CPU_AVX2 void hisa_cpu_head_sum_avx2(const float *dots, const float *w, int64_t heads, const float *scale,
                                          float *score) {
    head_sum(dots, w, heads, scale, score);
}

HISA_CPU_AVX512 void hisa_cpu_head_sum_avx512(const float *dots, const float *w, int64_t heads, const float *scale,
                                              float *score) {
    head_sum(dots, w, heads, scale, score);
}
#endif
