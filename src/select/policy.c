/* Which exchange runs: a cost model of the slowest rank's path. Never a change of result.
 *
 * Either exchange costs so much a call and so much a row. One-shot is one collective and all else on every rank: each
 * refines the blocks of its own list and runs every row's final selection. Owner merge divides that by the ranks and
 * pays with four collectives, before two of which the host must learn sizes. */
#include "select/policy.h"

#include "base/checked.h"

enum { ONESHOT_CALLS = 1, OWNER_CALLS = 4, OWNER_WAITS = 2, LISTS_CALLS = 2 };

void hisa_policy_of(const hisa_index_t *index, hisa_policy_t *policy) {
    const hisa_backend_ops_t *ops = hisa_index_ops(index);
    *policy = (hisa_policy_t){.ranks = index->shard.ranks,
                              .local_blocks = index->local_blocks,
                              .block_size = index->shard.block_size,
                              .num_heads = index->shard.num_heads,
                              .head_dim = index->shard.head_dim,
                              .comm = index->cost,
                              .flop_rate = ops->flop_rate,
                              .candidate_rate = ops->candidate_rate,
                              .host_wait = ops->host_wait,
                              .tile_cost = ops->tile_cost,
                              .tile_share = ops->tile_share};
}

/* Blocks of a row's kept list. */
static double kept_blocks(const hisa_policy_t *policy, const hisa_select_options_t *options) {
    return options->mode == HISA_MODE_HISA ? options->top_blocks : (double)options->top_k / policy->block_size + 2;
}

/* Bytes that a rank receives for a row by one-shot, without regard to who wants the row. */
static double oneshot_row_bytes(const hisa_policy_t *policy, const hisa_select_options_t *options) {
    const double peers = policy->ranks - 1;
    const double size = policy->block_size;
    const double local = (double)policy->local_blocks;
    if (options->mode == HISA_MODE_FLAT) {
        const double entries = local * size < options->top_k ? local * size : options->top_k;
        return peers * entries * 8;
    }
    const double blocks = kept_blocks(policy, options);
    return peers * (blocks < local ? blocks : local) * (8 + (options->mode == HISA_MODE_HISA ? 4 * size : 0));
}

/* The same by owner merge: what a rank receives as an owner, averaged over rows, and what comes back. In mode flat
 * quantiles and counts go to all, and of the entries that are left half a quantile's part of k a rank too many, unless
 * scores are equal. */
static double owner_row_bytes(const hisa_policy_t *policy, const hisa_select_options_t *options) {
    const double ranks = policy->ranks;
    const double size = policy->block_size;
    const double peers = ranks - 1;
    if (options->mode == HISA_MODE_FLAT) {
        const double local = (double)policy->local_blocks * size;
        const double all = ranks * (local < options->top_k ? local : options->top_k);
        const double left = (double)options->top_k * (1 + ranks / (2 * HISA_QUANTILES));
        const double entries = all < left ? all : left; /* of a row, evenly by all ranks */
        return peers * (8 * entries / ranks + 4 * (double)options->top_k) / ranks + (4 * HISA_QUANTILES + 4) * peers;
    }
    const double blocks = kept_blocks(policy, options);
    const double lists = peers * blocks * 8 / ranks + peers * blocks * 4 / ranks;
    return lists + (options->mode == HISA_MODE_HISA ? blocks * size * 4 * peers / ranks / ranks : 0) +
           peers * blocks * size / 8 / ranks;
}

/* The same where all gather lists: of blocks, then of tokens. */
static double lists_row_bytes(const hisa_policy_t *policy, const hisa_select_options_t *options) {
    const double peers = policy->ranks - 1;
    const double local = (double)policy->local_blocks;
    const double blocks = options->top_blocks < local ? options->top_blocks : local;
    const double tokens = blocks * policy->block_size;
    return peers * 8 * (blocks + (tokens < options->top_k ? tokens : options->top_k));
}

double hisa_policy_exchange_seconds(const hisa_policy_t *policy, const hisa_select_options_t *options,
                                    hisa_exchange_t exchange, int64_t rows, int64_t tiles) {
    double calls = ONESHOT_CALLS;
    double bytes = oneshot_row_bytes(policy, options);
    if (exchange == HISA_EXCHANGE_OWNER) {
        calls = OWNER_CALLS;
        bytes = owner_row_bytes(policy, options);
    } else if (exchange == HISA_EXCHANGE_LISTS && options->mode == HISA_MODE_HISA) {
        calls = LISTS_CALLS;
        bytes = lists_row_bytes(policy, options);
    }
    return calls * (double)tiles * policy->comm.latency + (double)rows * bytes / policy->comm.bandwidth;
}

/* Seconds of a row's tokens, scored and selected from. */
static double row_work(const hisa_policy_t *policy, const hisa_select_options_t *options, hisa_exchange_t exchange) {
    const double size = policy->block_size;
    const double local = (double)policy->local_blocks;
    const bool owner = exchange == HISA_EXCHANGE_OWNER;
    const double share = owner ? policy->ranks : 1;
    if (options->mode == HISA_MODE_FLAT) { /* scores all it stores either way */
        return (double)options->top_k * policy->ranks / share / policy->candidate_rate;
    }
    if (options->mode == HISA_MODE_BLOCK) {
        return kept_blocks(policy, options) / share / policy->candidate_rate;
    }
    const double blocks = options->top_blocks;
    const double refined = owner ? blocks / policy->ranks : blocks < local ? blocks : local;
    const double flops = 2.0 * policy->num_heads * policy->head_dim;
    return refined * size * flops / policy->flop_rate + blocks * size / share / policy->candidate_rate;
}

double hisa_policy_seconds(const hisa_policy_t *policy, const hisa_select_options_t *options, hisa_exchange_t exchange,
                           int64_t rows) {
    const double waits = exchange == HISA_EXCHANGE_OWNER ? OWNER_WAITS * policy->host_wait : 0;
    return waits + hisa_policy_exchange_seconds(policy, options, exchange, rows, 1) +
           (double)rows * row_work(policy, options, exchange);
}

hisa_exchange_t hisa_policy_cheaper(const hisa_policy_t *policy, const hisa_select_options_t *options, int64_t rows) {
    return hisa_policy_seconds(policy, options, HISA_EXCHANGE_ONESHOT, rows) <=
                   hisa_policy_seconds(policy, options, HISA_EXCHANGE_OWNER, rows)
               ? HISA_EXCHANGE_ONESHOT
               : HISA_EXCHANGE_OWNER;
}

int64_t hisa_policy_switch(const hisa_policy_t *policy, const hisa_select_options_t *options, int64_t max_rows) {
    if (policy->ranks == 1) {
        return max_rows + 1;
    }
    /* Owner merge costs more a call: if it wins at some number of rows, it does at every larger one. */
    int64_t fewer = 0;
    int64_t enough = max_rows + 1;
    while (enough - fewer > 1) {
        const int64_t middle = fewer + (enough - fewer) / 2;
        if (hisa_policy_cheaper(policy, options, middle) == HISA_EXCHANGE_OWNER) {
            enough = middle;
        } else {
            fewer = middle;
        }
    }
    return enough;
}

/* What one tile more adds to a call, its collectives included. */
static double tile_seconds(const hisa_policy_t *policy, const hisa_select_options_t *options, double rows) {
    const double seconds = policy->tile_cost + OWNER_CALLS * policy->comm.latency;
    if (options->mode != HISA_MODE_FLAT) {
        return seconds;
    }
    const double flops =
        2.0 * policy->num_heads * policy->head_dim * (double)policy->local_blocks * (double)policy->block_size;
    return seconds + policy->tile_share * rows * flops / policy->flop_rate;
}

/* n tiles cost n times what one does and leave 1/n of the bytes' time in the open, so n^2 = time of the bytes / cost of
 * a tile, and a tile's rows are the root of rows * (rows whose bytes take what a tile costs). */
int64_t hisa_policy_tile(const hisa_policy_t *policy, const hisa_select_options_t *options, int64_t rows) {
    const double seconds = owner_row_bytes(policy, options) / policy->comm.bandwidth;
    const double cost = tile_seconds(policy, options, (double)rows);
    if ((double)rows * seconds <= cost) {
        return rows;
    }
    const double square = (double)rows * cost / seconds;
    int64_t few = 0;
    int64_t many = rows;
    while (many - few > 1) {
        const int64_t middle = few + (many - few) / 2;
        if ((double)middle * (double)middle <= square) {
            few = middle;
        } else {
            many = middle;
        }
    }
    return hisa_max(1, few);
}

hisa_exchange_t hisa_policy_choose(const hisa_index_t *index, const hisa_select_options_t *options, int64_t rows) {
    if (options->exchange != HISA_EXCHANGE_AUTO) {
        return options->exchange;
    }
    if (index->shard.ranks == 1) {
        return HISA_EXCHANGE_ONESHOT;
    }
    hisa_policy_t policy;
    hisa_policy_of(index, &policy);
    return hisa_policy_cheaper(&policy, options, rows);
}
