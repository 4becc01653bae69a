#include "backend/cpu/isa.h"

#include <stddef.h>

#include "backend/cpu/kernels.h"

static const hisa_cpu_isa_t portable = {.name = "portable",
                                        .dots = hisa_cpu_dots_portable,
                                        .head_sum = hisa_cpu_head_sum_portable,
                                        .decode_panel = hisa_cpu_decode_panel_portable};

#if defined(HISA_CPU_X86)
static const hisa_cpu_isa_t avx512 = {.name = "avx512",
                                      .dots = hisa_cpu_dots_avx512,
                                      .head_sum = hisa_cpu_head_sum_avx512,
                                      .decode_panel = hisa_cpu_decode_panel_avx512};
static const hisa_cpu_isa_t avx2 = {.name = "avx2",
                                    .dots = hisa_cpu_dots_avx2,
                                    .head_sum = hisa_cpu_head_sum_avx2,
                                    .decode_panel = hisa_cpu_decode_panel_avx2};
#endif

const hisa_cpu_isa_t *hisa_cpu_isa_at(int place) {
#if defined(HISA_CPU_X86)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
        if (place == 0) {
            return &avx512;
        }
        --place;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        if (place == 0) {
            return &avx2;
        }
        --place;
    }
#endif
    return place == 0 ? &portable : NULL;
}

const hisa_cpu_isa_t *hisa_cpu_isa_best(void) { return hisa_cpu_isa_at(0); }

const char *hisa_cpu_isa_name(void) { return hisa_cpu_isa_best()->name; }
