/* Dot products of heads and keys. Compiled with -ffp-contract=fast, alone in the library: the products of e4m3 values
 * are exact, so whether the compiler fuses changes speed and nothing else. */
#include <string.h>

#include "backend/cpu/isa.h"
#include "backend/cpu/kernels.h"

/* A block of `heads` x (`vectors` x lanes) sums stays in registers over d. Keys are lanes, so that a score needs no sum
 * across lanes and its order does not depend on the vector's width. Unrolled in full: heads and vectors are constants.
 */
#define DOTS_BODY(name, vector, lanes, heads, vectors)                                                                 \
    HISA_CPU_BODY void name(const float *q, int64_t head_dim, const float *panel, float *dots) {                       \
        vector sum[heads][vectors];                                                                                    \
        for (int64_t h = 0; h < (heads); ++h) {                                                                        \
            for (int64_t v = 0; v < (vectors); ++v) {                                                                  \
                sum[h][v] = (vector){0};                                                                               \
            }                                                                                                          \
        }                                                                                                              \
        for (int64_t d = 0; d < head_dim; ++d) {                                                                       \
            vector key[vectors];                                                                                       \
            for (int64_t v = 0; v < (vectors); ++v) {                                                                  \
                memcpy(&key[v], panel + d * HISA_CPU_PANEL + v * (lanes), sizeof(vector));                             \
            }                                                                                                          \
            for (int64_t h = 0; h < (heads); ++h) {                                                                    \
                const float element = q[d * HISA_CPU_HEADS + h];                                                       \
                for (int64_t v = 0; v < (vectors); ++v) {                                                              \
                    sum[h][v] += element * key[v];                                                                     \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        for (int64_t h = 0; h < (heads); ++h) {                                                                        \
            for (int64_t v = 0; v < (vectors); ++v) {                                                                  \
                memcpy(dots + h * HISA_CPU_PANEL + v * (lanes), &sum[h][v], sizeof(vector));                           \
            }                                                                                                          \
        }                                                                                                              \
    }

/* Walks a group's 8 heads and a panel's 32 keys in such blocks. */
#define DOTS_WALK(body, lanes, heads, vectors)                                                                         \
    for (int64_t g = 0; g < groups; ++g) {                                                                             \
        for (int64_t h = 0; h < HISA_CPU_HEADS; h += (heads)) {                                                        \
            for (int64_t s = 0; s < HISA_CPU_PANEL; s += (int64_t)(lanes) * (vectors)) {                               \
                body(q + g * head_dim * HISA_CPU_HEADS + h, head_dim, panel + s,                                       \
                     dots + (g * HISA_CPU_HEADS + h) * HISA_CPU_PANEL + s);                                            \
            }                                                                                                          \
        }                                                                                                              \
    }

typedef float vector4 __attribute__((vector_size(16)));
DOTS_BODY(dots_4x2, vector4, 4, 4, 2)
void hisa_cpu_dots_portable(const float *q, int64_t groups, int64_t head_dim, const float *panel, float *dots) {
    DOTS_WALK(dots_4x2, 4, 4, 2)
}

#if defined(HISA_CPU_X86)
/* 16 registers: 4 heads x 2 vectors of sums, two fused multiply-adds a cycle of latency 4 kept busy. */
typedef float vector8 __attribute__((vector_size(32)));
HISA_CPU_AVX2 DOTS_BODY(dots_avx2_4x2, vector8, 8, 4, 2) HISA_CPU_AVX2
    void hisa_cpu_dots_avx2(const float *q, int64_t groups, int64_t head_dim, const float *panel, float *dots) {
    DOTS_WALK(dots_avx2_4x2, 8, 4, 2)
}

/* 32 registers: 8 heads x 2 vectors of sums. */
typedef float vector16 __attribute__((vector_size(64)));
HISA_CPU_AVX512 DOTS_BODY(dots_avx512_8x2, vector16, 16, 8, 2) HISA_CPU_AVX512
    void hisa_cpu_dots_avx512(const float *q, int64_t groups, int64_t head_dim, const float *panel, float *dots) {
    DOTS_WALK(dots_avx512_8x2, 16, 8, 2)
}
#endif
