/* The configuration of an index: defaults and checks. */
#include "index/config.h"

#include "base/checked.h"
#include "base/error.h"

void hisa_index_config_init(hisa_index_config_t *config) {
    if (config == NULL) {
        return;
    }
    *config = (hisa_index_config_t){.struct_size = sizeof *config,
                                    .backend = HISA_BACKEND_AUTO,
                                    .device = -1,
                                    .threads = 0,
                                    .head_dim = 128,
                                    .num_heads = 64,
                                    .block_size = 128,
                                    .num_sequences = 1,
                                    .capacity = 0,
                                    .stripe = 1,
                                    .rank_offsets = NULL};
}

static hisa_status_t check_shape(const hisa_index_config_t *config) {
    if (config->head_dim < 16 || config->head_dim > 256 || config->head_dim % 16 != 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "head_dim is %d: it must be a multiple of 16 from 16 to 256",
                         config->head_dim);
    }
    if (config->num_heads < 1 || config->num_heads > 128) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "num_heads is %d: it must be 1 to 128", config->num_heads);
    }
    const int32_t size = config->block_size;
    if (size < 16 || size > 256 || (size & (size - 1)) != 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "block_size is %d: it must be a power of two from 16 to 256", size);
    }
    return HISA_OK;
}

hisa_status_t hisa_index_config_check(const hisa_index_config_t *config, int32_t ranks) {
    if (config->struct_size != sizeof *config) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "config.struct_size is %zu, not %zu: use hisa_index_config_init",
                         config->struct_size, sizeof *config);
    }
    const hisa_status_t status = check_shape(config);
    if (status != HISA_OK) {
        return status;
    }
    if (config->num_sequences < 1) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "num_sequences is %d: it must be at least 1",
                         config->num_sequences);
    }
    if (config->capacity < 1 || config->capacity > INT32_MAX - config->block_size) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "capacity is %lld: it must be 1 to %d", (long long)config->capacity,
                         INT32_MAX - config->block_size);
    }
    if (config->stripe < 0 || config->stripe > INT32_MAX) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "stripe is %lld: it must be 0 (contiguous) to %d",
                         (long long)config->stripe, INT32_MAX);
    }
    if (config->threads < 0 || config->threads > 4096) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "threads is %d: it must be 0 to 4096", config->threads);
    }
    for (int32_t s = 0; config->rank_offsets != NULL && s < config->num_sequences; ++s) {
        if (config->rank_offsets[s] < 0 || config->rank_offsets[s] >= ranks) {
            return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "rank_offsets[%d] is %d: it must be in [0, %d)", s,
                             config->rank_offsets[s], ranks);
        }
    }
    return HISA_OK;
}
