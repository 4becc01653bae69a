/* Which scorer computes an index, and which devices will do. No CUDA calls: what is asked of the device comes as
 * numbers, so that every answer can be tested on a machine without one. */
#include <string.h>

#include "backend/cuda/cuda.h"
#include "base/error.h"

/* The oldest compute capability that the kernels are compiled for. */
enum { OLDEST_MAJOR = 8 };

const char *hisa_cuda_scorer_name(hisa_cuda_scorer_t scorer) {
    switch (scorer) {
    case HISA_CUDA_SCORER_F32:
        return "f32";
    case HISA_CUDA_SCORER_MMA:
        return "mma";
    case HISA_CUDA_SCORER_WGMMA:
        return "wgmma";
    case HISA_CUDA_SCORERS:
        break;
    }
    return "unknown";
}

hisa_arithmetic_t hisa_cuda_scorer_arithmetic(hisa_cuda_scorer_t scorer) {
    switch (scorer) {
    case HISA_CUDA_SCORER_MMA:
        return HISA_ARITHMETIC_MMA;
    case HISA_CUDA_SCORER_WGMMA:
        return HISA_ARITHMETIC_WGMMA;
    case HISA_CUDA_SCORER_F32:
    case HISA_CUDA_SCORERS:
        break;
    }
    return HISA_ARITHMETIC_F32;
}

bool hisa_cuda_scorer_available(hisa_cuda_scorer_t scorer, const hisa_index_config_t *config, int major, int minor) {
    if (scorer == HISA_CUDA_SCORER_WGMMA) {
        /* wgmma is compute capability 9.0's alone. The shapes that its kernels are compiled for. */
        return major == 9 && minor == 0 && config->head_dim == 128 && config->block_size >= 128 &&
               (config->num_heads == 64 || config->num_heads == 32);
    }
    /* Any shape, on whatever the kernels are compiled for. */
    return scorer == HISA_CUDA_SCORER_F32 || scorer == HISA_CUDA_SCORER_MMA;
}

hisa_cuda_scorer_t hisa_cuda_best_scorer(const hisa_index_config_t *config, int major, int minor) {
    for (int i = (int)HISA_CUDA_SCORERS - 1; i > 0; --i) {
        if (hisa_cuda_scorer_available((hisa_cuda_scorer_t)i, config, major, minor)) {
            return (hisa_cuda_scorer_t)i;
        }
    }
    return HISA_CUDA_SCORER_F32;
}

hisa_status_t hisa_cuda_choose_scorer(const char *name, const hisa_index_config_t *config, int major, int minor,
                                      hisa_cuda_scorer_t *scorer) {
    if (name == NULL || name[0] == '\0') {
        *scorer = hisa_cuda_best_scorer(config, major, minor);
        return HISA_OK;
    }
    for (int i = 0; i < (int)HISA_CUDA_SCORERS; ++i) {
        if (strcmp(name, hisa_cuda_scorer_name((hisa_cuda_scorer_t)i)) != 0) {
            continue;
        }
        if (!hisa_cuda_scorer_available((hisa_cuda_scorer_t)i, config, major, minor)) {
            return hisa_fail(HISA_ERR_UNSUPPORTED,
                             "%s=%s: not for head_dim %d, num_heads %d, block_size %d on compute capability %d.%d",
                             HISA_CUDA_SCORER_VARIABLE, name, config->head_dim, config->num_heads, config->block_size,
                             major, minor);
        }
        *scorer = (hisa_cuda_scorer_t)i;
        return HISA_OK;
    }
    return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s is '%.32s': use f32, mma or wgmma", HISA_CUDA_SCORER_VARIABLE,
                     name);
}

hisa_status_t hisa_cuda_check_capability(int ordinal, int major, int minor) {
    if (major < OLDEST_MAJOR) {
        return hisa_fail(HISA_ERR_UNSUPPORTED, "device %d has compute capability %d.%d: %d.0 or newer is needed",
                         ordinal, major, minor, OLDEST_MAJOR);
    }
    return HISA_OK;
}
