/* Configuration and the parts that both families share: where rows stand and how calls are dealt out. */
#include "io/synth.h"

#include <inttypes.h>
#include <stddef.h>

#include "base/checked.h"
#include "base/error.h"
#include "io/synth_internal.h"

void hisa_synth_config_init(hisa_synth_config_t *config) {
    *config = (hisa_synth_config_t){
        .family = HISA_SYNTH_DRIFT,
        .num_tokens = 131072,
        .num_rows = 256,
        .head_dim = 128,
        .num_heads = 64,
        .num_needles = 4,
        .neighbours = 1,
        .seed = 1,
    };
}

/* Rows stand in groups of neighbours. The last row of group g of G ends at N/2 + (N - N/2) * (g + 1) / G, those before
 * it one position earlier each. */
int64_t hisa_synth_row_end(const hisa_synth_config_t *config, int64_t row) {
    const int64_t tokens = config->num_tokens;
    const int64_t groups = hisa_ceil_div(config->num_rows, config->neighbours);
    const int64_t group = row / config->neighbours;
    const int64_t last_row = hisa_min((group + 1) * config->neighbours, config->num_rows) - 1;
    const int64_t group_end = tokens / 2 + (tokens - tokens / 2) * (group + 1) / groups;
    return hisa_max(group_end - (last_row - row), 1);
}

int64_t hisa_synth_least_end(const hisa_synth_config_t *config, int64_t row) {
    /* Groups may overlap but each starts no earlier than the one before it; only the last one may be short, and so
     * start later. */
    return hisa_synth_row_end(config, row / config->neighbours * config->neighbours);
}

static hisa_status_t check_needles(const hisa_synth_config_t *config) {
    if (config->num_needles < 0 || config->num_needles > config->num_tokens) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%" PRId32 " needles a row, not 0 to the number of tokens",
                         config->num_needles);
    }
    if (config->family != HISA_SYNTH_DRIFT || config->num_rows == 0) {
        return HISA_OK;
    }
    /* Both factors are below 2^31. */
    const int64_t all = config->num_rows * config->num_needles;
    const int64_t room = hisa_synth_least_end(config, 0);
    if (all > room) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT,
                         "%" PRId64 " rows of %" PRId32 " needles do not fit the first %" PRId64
                         " tokens, which all rows see",
                         config->num_rows, config->num_needles, room);
    }
    return HISA_OK;
}

hisa_status_t hisa_synth_check(const hisa_synth_config_t *config) {
    if (config == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "no configuration");
    }
    if (config->family != HISA_SYNTH_DRIFT && config->family != HISA_SYNTH_EXACT) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "no family %d", (int)config->family);
    }
    if (config->num_tokens < 1 || config->num_tokens > INT32_MAX) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%" PRId64 " tokens, not 1 to %d", config->num_tokens, INT32_MAX);
    }
    if (config->num_rows < 0 || config->num_rows > INT32_MAX) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%" PRId64 " rows, not 0 to %d", config->num_rows, INT32_MAX);
    }
    if (config->head_dim < 16 || config->head_dim > HISA_SYNTH_MAX_DIM || config->head_dim % 16 != 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "head dim %" PRId32 ", not a multiple of 16 up to %d",
                         config->head_dim, HISA_SYNTH_MAX_DIM);
    }
    if (config->num_heads < 1 || config->num_heads > 128) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%" PRId32 " heads, not 1 to 128", config->num_heads);
    }
    if (config->neighbours < 1 || config->neighbours > hisa_max(config->num_tokens / 2, 1)) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%" PRId32 " neighbours, not 1 to half the tokens",
                         config->neighbours);
    }
    return check_needles(config);
}

void hisa_synth_keys(const hisa_synth_config_t *config, int64_t begin, int64_t count, uint8_t *keys, float *scales) {
    if (config->family == HISA_SYNTH_EXACT) {
        hisa_exact_keys(config, begin, count, keys, scales);
    } else {
        hisa_drift_keys(config, begin, count, keys, scales);
    }
}

static void row_needles(const hisa_synth_config_t *config, int64_t row, int32_t *needles) {
    hisa_needle_plan_t plan;
    hisa_needle_plan(config, &plan);
    for (int32_t i = 0; i < config->num_needles; ++i) {
        needles[i] = i < plan.needles ? (int32_t)hisa_needle_position(config, &plan, row, i) : -1;
    }
}

void hisa_synth_rows(const hisa_synth_config_t *config, int64_t begin, int64_t count, uint8_t *q, float *weights,
                     int32_t *window_begin, int32_t *window_end, int32_t *needles) {
    const int64_t heads = config->num_heads;
    for (int64_t i = 0; i < count; ++i) {
        uint8_t *row_q = q + i * heads * config->head_dim;
        float *row_weights = weights + i * heads;
        if (config->family == HISA_SYNTH_EXACT) {
            hisa_exact_row(config, begin + i, row_q, row_weights);
            hisa_exact_window(config, begin + i, &window_begin[i], &window_end[i]);
        } else {
            hisa_drift_row(config, begin + i, row_q, row_weights);
            window_begin[i] = 0;
            window_end[i] = (int32_t)hisa_synth_row_end(config, begin + i);
        }
        if (needles != NULL) {
            row_needles(config, begin + i, needles + i * config->num_needles);
        }
    }
}
