#include "cli/bench_work.h"

#include "base/checked.h"
#include "select/plan.h"
#include "select/policy.h"

/* ------------------------------------------------------------------------------------------- keys */

/* Tokens of the m blocks that mode hisa keeps of a window that meets more than m. Of the first and the last block in
 * sight only a part may be in the window; where both are always kept, the rest are whole ones. */
static int64_t kept_tokens(const hisa_select_options_t *options, int64_t size, int64_t begin, int64_t end,
                           bool *exact) {
    const int64_t cut_front = begin % size;
    const int64_t cut_back = hisa_ceil_div(end, size) * size - end;
    int64_t tokens = options->top_blocks * size;
    if (options->sink_blocks > 0) {
        tokens -= cut_front;
    } else if (cut_front > 0) {
        *exact = false;
    }
    if (options->local_blocks > 0) {
        tokens -= cut_back;
    } else if (cut_back > 0) {
        *exact = false;
    }
    return tokens;
}

bench_keys_t bench_count_keys(const hisa_select_options_t *options, int32_t block_size, const cli_rows_t *rows,
                              int64_t tokens) {
    bench_keys_t keys = {.exact = true};
    for (int64_t r = 0; r < rows->count; r++) {
        const int64_t begin = rows->window_begin != NULL ? rows->window_begin[r] : 0;
        const int64_t end = rows->window_end != NULL ? rows->window_end[r] : tokens;
        const int64_t blocks = begin < end ? hisa_ceil_div(end, block_size) - begin / block_size : 0;
        if (options->mode != HISA_MODE_FLAT) {
            keys.blocks += (double)blocks;
        }
        if (options->mode == HISA_MODE_FLAT || (options->mode == HISA_MODE_HISA && blocks <= options->top_blocks)) {
            keys.tokens += (double)(end - begin);
        } else if (options->mode == HISA_MODE_HISA) {
            keys.tokens += (double)kept_tokens(options, block_size, begin, end, &keys.exact);
        }
    }
    const double count = (double)hisa_max(1, rows->count);
    keys.blocks /= count;
    keys.tokens /= count;
    return keys;
}

/* ------------------------------------------------------------------------------------------- exchanges */

hisa_status_t bench_plan_exchange(const hisa_index_t *index, const hisa_select_options_t *options, int64_t rows,
                                  bench_exchange_t *exchange) {
    const hisa_exchange_t chosen = hisa_policy_choose(index, options, rows);
    hisa_plan_t plan;
    const hisa_status_t status = hisa_plan_make(index, options, chosen, rows, &plan);
    if (status == HISA_OK) {
        exchange->tiles = hisa_ceil_div(rows, plan.tile_rows);
        exchange->lanes = plan.lanes;
    }
    if (status == HISA_OK && index->shard.ranks > 1) {
        hisa_policy_t policy;
        hisa_policy_of(index, &policy);
        exchange->predicted = hisa_policy_exchange_seconds(&policy, options, chosen, rows, exchange->tiles);
    }
    return status;
}

double bench_hidden(const bench_exchange_t *exchange, double call) {
    if (exchange->lanes <= 1 || exchange->seconds.median <= 0) {
        return 0;
    }
    const double share = (exchange->in_order.median - call) / exchange->seconds.median;
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

/* ------------------------------------------------------------------------------------------- neighbours */

/* Entries that two ascending lists share, of positions divided by `unit`; entries that are equal then count once.
 * *most: entries of the longer list, counted the same way. */
static int64_t shared(const int32_t *a, int64_t count_a, const int32_t *b, int64_t count_b, int32_t unit,
                      int64_t *most) {
    int64_t both = 0;
    int64_t of_a = 0;
    int64_t of_b = 0;
    int64_t i = 0;
    int64_t j = 0;
    while (i < count_a || j < count_b) {
        const int32_t x = i < count_a ? a[i] / unit : INT32_MAX;
        const int32_t y = j < count_b ? b[j] / unit : INT32_MAX;
        const int32_t least = x < y ? x : y;
        both += x == y;
        of_a += x == least;
        of_b += y == least;
        while (i < count_a && a[i] / unit == least) {
            i++;
        }
        while (j < count_b && b[j] / unit == least) {
            j++;
        }
    }
    *most = hisa_max(of_a, of_b);
    return both;
}

hisa_status_t bench_compare_rows(cli_selector_t *selector, int64_t rows, int64_t rows_per_sequence, int32_t block_size,
                                 bench_overlap_t *overlap) {
    const int64_t k = selector->options.top_k;
    const hisa_status_t status = cli_selector_fetch(selector, rows);
    *overlap = (bench_overlap_t){0};
    for (int64_t r = 1; r < rows && status == HISA_OK; r++) {
        const int32_t *indices = selector->selection.indices + r * k;
        const int32_t *counts = selector->selection.counts + r;
        if (r % rows_per_sequence == 0 || counts[0] == 0 || counts[-1] == 0) {
            continue;
        }
        int64_t most = 1;
        int64_t both = shared(indices - k, counts[-1], indices, counts[0], 1, &most);
        overlap->tokens += (double)both / (double)most;
        both = shared(indices - k, counts[-1], indices, counts[0], block_size, &most);
        overlap->blocks += (double)both / (double)most;
        overlap->pairs++;
    }
    overlap->tokens /= (double)hisa_max(1, overlap->pairs);
    overlap->blocks /= (double)hisa_max(1, overlap->pairs);
    return status;
}
