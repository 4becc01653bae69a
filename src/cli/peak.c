#include "cli/peak.h"

#include <stdbool.h>
#include <stdint.h>

#include "cli/progress.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

/* A multiply-add takes 4 to 5 cycles and two can start in each: 8 to 10 must be in flight. 12 leave a margin and still
 * fit the 16 registers of AVX2 together with the two constants. */
#define CHAINS 12

#define RUNS 9 /* of each kernel */
#define KERNELS_MAX 3
#define STEPS 1500000

/* Each chain converges to ADD / (1 - MUL): no overflow, no denormals. */
#define MUL 0.5F
#define ADD 0.25F

/* A loop of CHAINS independent chains of STEPS multiply-adds, and a sum that keeps the compiler from leaving them out.
 */
#define PEAK_BODY(vector, set1, fma)                                                                                   \
    const vector mul = set1(MUL);                                                                                      \
    const vector add = set1(ADD);                                                                                      \
    vector a0 = add, a1 = add, a2 = add, a3 = add, a4 = add, a5 = add;                                                 \
    vector a6 = add, a7 = add, a8 = add, a9 = add, a10 = add, a11 = add;                                               \
    for (int64_t i = 0; i < STEPS; i++) {                                                                              \
        a0 = fma(a0, mul, add), a1 = fma(a1, mul, add), a2 = fma(a2, mul, add), a3 = fma(a3, mul, add);                \
        a4 = fma(a4, mul, add), a5 = fma(a5, mul, add), a6 = fma(a6, mul, add), a7 = fma(a7, mul, add);                \
        a8 = fma(a8, mul, add), a9 = fma(a9, mul, add), a10 = fma(a10, mul, add), a11 = fma(a11, mul, add);            \
        /* Values that might change here cannot be worked out beforehand. */                                           \
        __asm__ volatile("" : "+" KEEP(a0), "+" KEEP(a1), "+" KEEP(a2), "+" KEEP(a3), "+" KEEP(a4), "+" KEEP(a5));     \
        __asm__ volatile("" : "+" KEEP(a6), "+" KEEP(a7), "+" KEEP(a8), "+" KEEP(a9), "+" KEEP(a10), "+" KEEP(a11));   \
    }

typedef void (*peak_fn)(void);

typedef struct peak_kernel {
    const char *name;
    peak_fn run;
    int lanes;
} peak_kernel_t;

#if defined(__x86_64__)
#define KEEP(a) "v"(a)
__attribute__((target("avx512f"))) static void peak_avx512(void) { PEAK_BODY(__m512, _mm512_set1_ps, _mm512_fmadd_ps); }
#undef KEEP
#define KEEP(a) "x"(a)
__attribute__((target("avx2,fma"))) static void peak_avx2(void) { PEAK_BODY(__m256, _mm256_set1_ps, _mm256_fmadd_ps); }
#define SSE_MULTIPLY_ADD(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
static void peak_portable(void) { PEAK_BODY(__m128, _mm_set1_ps, SSE_MULTIPLY_ADD); }

static int list_kernels(peak_kernel_t *kernels) {
    int count = 0;
    kernels[count++] = (peak_kernel_t){"sse2", peak_portable, 4};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        kernels[count++] = (peak_kernel_t){"avx2", peak_avx2, 8};
    }
    if (__builtin_cpu_supports("avx512f")) {
        kernels[count++] = (peak_kernel_t){"avx512", peak_avx512, 16};
    }
    return count;
}
#elif defined(__aarch64__)
#define KEEP(a) "w"(a)
#define NEON_MULTIPLY_ADD(a, b, c) vfmaq_f32(c, a, b)
static void peak_neon(void) { PEAK_BODY(float32x4_t, vdupq_n_f32, NEON_MULTIPLY_ADD); }
static int list_kernels(peak_kernel_t *kernels) {
    kernels[0] = (peak_kernel_t){"neon", peak_neon, 4};
    return 1;
}
#else
#define KEEP(a) "m"(a)
#define SCALAR(a) (a)
#define SCALAR_MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
static void peak_scalar(void) { PEAK_BODY(float, SCALAR, SCALAR_MULTIPLY_ADD); }
static int list_kernels(peak_kernel_t *kernels) {
    kernels[0] = (peak_kernel_t){"scalar", peak_scalar, 1};
    return 1;
}
#endif

double cli_peak_flops(const char **name) {
    peak_kernel_t kernels[KERNELS_MAX];
    const int count = list_kernels(kernels);
    double best = 0;
    for (int run = 0; run < RUNS * count; run++) {
        /* All in turn: where a wide vector is worked on in two halves, the narrower one may come out ahead. */
        const peak_kernel_t *kernel = &kernels[run % count];
        const double begin = cli_seconds();
        kernel->run();
        const double seconds = cli_seconds() - begin;
        const double rate = 2.0 * CHAINS * STEPS * kernel->lanes / seconds;
        if (rate > best) {
            best = rate;
            *name = kernel->name;
        }
    }
    return best;
}
