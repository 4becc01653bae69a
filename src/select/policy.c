/* Which exchange runs: a cost model of the slowest rank's path. Never a change of result. */
#include "select/policy.h"

#include "base/checked.h"

/* Of MPI over shared memory on one host, in seconds; measured with hisa bench on 2 cores of an EPYC 9004. A wrong
 * constant costs time and nothing else. */
static const double collective_latency = 30e-6;
static const double byte_time = 0.25e-9;
/* One candidate through the final selection. */
static const double candidate_time = 3e-9;

/* Bytes that a rank receives for a row by one-shot, without regard to who wants the row. */
static double oneshot_row_bytes(const hisa_index_t *index, const hisa_select_options_t *options) {
    const double peers = index->shard.ranks - 1;
    const double size = index->shard.block_size;
    const double local = (double)index->local_blocks;
    if (options->mode == HISA_MODE_FLAT) {
        const double entries = local * size < options->top_k ? local * size : options->top_k;
        return peers * entries * 8;
    }
    const double blocks = options->mode == HISA_MODE_HISA ? options->top_blocks : options->top_k / size + 2;
    return peers * (blocks < local ? blocks : local) * (8 + (options->mode == HISA_MODE_HISA ? 4 * size : 0));
}

/* The same by owner merge: what a rank receives as an owner, averaged over rows, and what comes back. */
static double owner_row_bytes(const hisa_index_t *index, const hisa_select_options_t *options) {
    const double ranks = index->shard.ranks;
    const double size = index->shard.block_size;
    const double peers = ranks - 1;
    if (options->mode == HISA_MODE_FLAT) {
        return options->top_k * (8 + 4 * peers) / ranks + 12 * peers;
    }
    const double blocks = options->mode == HISA_MODE_HISA ? options->top_blocks : options->top_k / size + 2;
    const double lists = peers * blocks * 8 / ranks + peers * blocks * 4 / ranks;
    return lists + (options->mode == HISA_MODE_HISA ? blocks * size * 4 * peers / ranks / ranks : 0) +
           peers * blocks * size / 8 / ranks;
}

hisa_exchange_t hisa_policy_choose(const hisa_index_t *index, const hisa_select_options_t *options, int64_t rows) {
    if (options->exchange != HISA_EXCHANGE_AUTO) {
        return options->exchange;
    }
    if (index->shard.ranks == 1) {
        return HISA_EXCHANGE_ONESHOT;
    }
    const double candidates = options->mode == HISA_MODE_FLAT ? (double)options->top_k * index->shard.ranks
                                                              : (double)options->top_blocks * index->shard.block_size;
    const double selection = candidates * candidate_time;
    const double oneshot =
        collective_latency + (double)rows * (oneshot_row_bytes(index, options) * byte_time + selection);
    const double owner = 4 * collective_latency +
                         (double)rows * (owner_row_bytes(index, options) * byte_time + selection / index->shard.ranks);
    return oneshot <= owner ? HISA_EXCHANGE_ONESHOT : HISA_EXCHANGE_OWNER;
}
