/* Options of a selection: defaults and checks. */
#include "select/options.h"

#include "base/error.h"

void hisa_select_options_init(hisa_select_options_t *options) {
    if (options == NULL) {
        return;
    }
    *options = (hisa_select_options_t){.struct_size = sizeof *options,
                                       .mode = HISA_MODE_HISA,
                                       .exchange = HISA_EXCHANGE_AUTO,
                                       .queries_on = HISA_QUERIES_REPLICATED,
                                       .placement = HISA_PLACE_REPLICATED,
                                       .top_blocks = 64,
                                       .top_k = 2048,
                                       .sink_blocks = 1,
                                       .local_blocks = 1,
                                       .tile_rows = 0,
                                       .flags = 0};
}

void hisa_queries_init(hisa_queries_t *queries) {
    if (queries != NULL) {
        *queries = (hisa_queries_t){.struct_size = sizeof *queries};
    }
}

void hisa_selection_init(hisa_selection_t *selection) {
    if (selection != NULL) {
        *selection = (hisa_selection_t){.struct_size = sizeof *selection};
    }
}

/* An enumeration from 0 to `last`. */
static hisa_status_t check_choice(const char *name, int value, int last) {
    if (value < 0 || value > last) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s is %d: it must be 0 to %d", name, value, last);
    }
    return HISA_OK;
}

static hisa_status_t check_choices(const hisa_select_options_t *options) {
    hisa_status_t status = check_choice("mode", (int)options->mode, HISA_MODE_BLOCK);
    if (status == HISA_OK) {
        status = check_choice("exchange", (int)options->exchange, HISA_EXCHANGE_LISTS);
    }
    if (status == HISA_OK) {
        status = check_choice("queries_on", (int)options->queries_on, HISA_QUERIES_SHARDED);
    }
    if (status == HISA_OK) {
        status = check_choice("placement", (int)options->placement, HISA_PLACE_LOCAL);
    }
    if (status == HISA_OK && (options->flags & ~(HISA_SELECT_UNCHECKED | HISA_SELECT_TIMED)) != 0) {
        status = hisa_fail(HISA_ERR_INVALID_ARGUMENT, "flags is 0x%x: it has unknown bits", options->flags);
    }
    return status;
}

static hisa_status_t check_two_stage(const hisa_select_options_t *options, int32_t block_size) {
    if (options->top_blocks < 1 || options->top_blocks > INT32_MAX / block_size) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "top_blocks is %d: it must be 1 to %d", options->top_blocks,
                         INT32_MAX / block_size);
    }
    if (options->top_blocks * block_size < options->top_k) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT,
                         "m*B < k: %d blocks of %d tokens cannot hold %d tokens (top_blocks, block_size, top_k)",
                         options->top_blocks, block_size, options->top_k);
    }
    if ((int64_t)options->sink_blocks + options->local_blocks > options->top_blocks) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "sink_blocks + local_blocks is %lld: top_blocks is only %d",
                         (long long)options->sink_blocks + options->local_blocks, options->top_blocks);
    }
    return HISA_OK;
}

hisa_status_t hisa_select_options_check(const hisa_select_options_t *options, int32_t block_size) {
    if (options->struct_size != sizeof *options) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "options.struct_size is %zu, not %zu: use hisa_select_options_init",
                         options->struct_size, sizeof *options);
    }
    const hisa_status_t status = check_choices(options);
    if (status != HISA_OK) {
        return status;
    }
    /* Buffers hold 2k ranks a row; 2^24 results a row is far beyond use and keeps all sizes in range. */
    if (options->top_k < 1 || options->top_k > 1 << 24) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "top_k is %d: it must be 1 to %d", options->top_k, 1 << 24);
    }
    if (options->sink_blocks < 0 || options->local_blocks < 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s is %d: it must not be negative",
                         options->sink_blocks < 0 ? "sink_blocks" : "local_blocks",
                         options->sink_blocks < 0 ? options->sink_blocks : options->local_blocks);
    }
    if (options->tile_rows < 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "tile_rows is %d: it must not be negative", options->tile_rows);
    }
    return options->mode == HISA_MODE_HISA ? check_two_stage(options, block_size) : HISA_OK;
}
