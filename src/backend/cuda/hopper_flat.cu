/* Mode flat on Hopper: every row against a chunk of this rank's tokens. Scores are not stored: what could be among a
 * row's best goes behind its list, which has room for a whole chunk, so that nothing overflows whatever the scores. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* Rows that a thread block takes at a time; it is fed up to 32, a lane each. */
#define UNIT 8

/* As for blocks: 384 keys share a stream of queries. */
enum { GROUPS = 3, STAGES = 12, PANEL = GROUPS * 128 };

struct flat_source_t {
    hisa_shard_t shard;
    const hisa_row_t *rows;
    const float *weights;
    int64_t tile_rows;
    int64_t begin; /* of the chunk, in local tokens */
    int64_t panels;
    int64_t tokens; /* that the store holds */
    hisa_flat_lists_t lists;
};

/* What a row's list takes of a panel. Stands in the place of a stage: see hisa_place_t. */
struct target_t {
    uint64_t *list;
    uint32_t *count;
    uint32_t least; /* lowest key that can still be among the best */
    int32_t begin;  /* keys of the panel that the row sees */
    int32_t end;
    int32_t first; /* the panel's first local token */
    int32_t sequence;
};

/* All that is taken goes to the end of the list, in the order in which warps arrive. */
static __device__ __forceinline__ void take(const hisa_shard_t &shard, const target_t &to, int at, float score) {
    const uint32_t key = hisa_key_from_score(score);
    const bool mine = threadIdx.x % 4 < 2 && at >= to.begin && at < to.end && key >= to.least;
    const uint32_t taken = __ballot_sync(0xFFFFFFFFu, mine);
    if (taken == 0) {
        return;
    }
    const int lane = static_cast<int>(threadIdx.x % 32);
    uint32_t before = 0;
    if (lane == 0) {
        before = atomicAdd(to.count, static_cast<uint32_t>(__popc(taken)));
    }
    before = __shfl_sync(0xFFFFFFFFu, before, 0) + static_cast<uint32_t>(__popc(taken & ((1u << lane) - 1)));
    if (mine) {
        const int64_t token = to.first + at;
        const hisa_layout_t layout = hisa_shard_layout(&shard, shard.offsets[to.sequence]);
        const int64_t block = hisa_layout_global(&layout, shard.rank, token / shard.block_size);
        to.list[before] =
            hisa_rank_make(key, static_cast<int32_t>(block * shard.block_size + token % shard.block_size));
    }
}

/* Up to 32 rows from `begin` on against one panel. */
template <int HEADS, typename Shared>
static __device__ void feed_rows(Shared &shared, hisa_feeder_t &feeder, const flat_source_t &from,
                                 const CUtensorMap *q_map, const CUtensorMap *key_map, int64_t panel, int64_t begin,
                                 int64_t end, int64_t *loaded) {
    const hisa_shard_t &shard = from.shard;
    const int64_t r = begin + threadIdx.x % 32;
    const int64_t first = from.begin + panel * PANEL;
    hisa_row_t row = {0, 0, 0, 0};
    int64_t low = 0;
    int64_t high = 0;
    uint32_t least = 0;
    if (r < end) {
        row = from.rows[r];
        hisa_local_tokens_in_sight(shard, row, &low, &high);
        low = hisa_max(low, first) - first;
        high = hisa_min(high, first + PANEL) - first;
        const uint64_t rank = from.lists.least[r];
        /* Equal keys of later positions lose, and this chunk's positions are later than the list's. */
        least = rank == HISA_RANK_NONE ? 0 : hisa_rank_key(rank) + 1;
    }
    const bool sees = low < high;
    uint32_t left = __ballot_sync(0xFFFFFFFFu, sees);
    while (left != 0) {
        const int32_t sequence = __shfl_sync(0xFFFFFFFFu, row.sequence, __ffs(left) - 1);
        uint32_t batch = __ballot_sync(0xFFFFFFFFu, sees && row.sequence == sequence) & left;
        left &= ~batch;
        const int64_t token = shard.bases[sequence] * int64_t(shard.block_size) + first;
        hisa_feed_batch(shared, feeder, __popc(batch), token != *loaded, key_map, static_cast<int32_t>(token),
                        shard.store.scales + token, from.tokens - token);
        *loaded = token;
        while (batch != 0) {
            const int lane = __ffs(batch) - 1;
            batch &= batch - 1;
            target_t to;
            to.list = from.lists.list + (begin + lane) * from.lists.capacity;
            to.count = from.lists.count + begin + lane;
            to.least = __shfl_sync(0xFFFFFFFFu, least, lane);
            to.begin = __shfl_sync(0xFFFFFFFFu, static_cast<int32_t>(low), lane);
            to.end = __shfl_sync(0xFFFFFFFFu, static_cast<int32_t>(high), lane);
            to.first = static_cast<int32_t>(first);
            to.sequence = sequence;
            hisa_feed_query(shared, feeder, q_map, from.weights, __shfl_sync(0xFFFFFFFFu, row.source, lane), to);
        }
    }
}

/* Panels by units of rows are dealt out to thread blocks in runs, so that a panel's keys stay. */
template <int HEADS>
static __global__ void __launch_bounds__(hisa_hopper_threads<GROUPS>(), 1)
    score_flat(__grid_constant__ const CUtensorMap q_map, __grid_constant__ const CUtensorMap key_map,
               flat_source_t from) {
    auto &shared = hisa_hopper_begin<HEADS, GROUPS, STAGES, target_t>();
    if (threadIdx.x < 128 * GROUPS) {
        hisa_score_batches<4>(shared,
                              [&](const target_t &to, int at, float score) { take(from.shard, to, at, score); });
        return;
    }
    hisa_feeder_t feeder = hisa_feeder_make();
    const int64_t units = hisa_ceil_div(from.tile_rows, UNIT);
    const int64_t end = from.panels * units * (blockIdx.x + 1) / gridDim.x;
    int64_t at = from.panels * units * blockIdx.x / gridDim.x;
    int64_t loaded = -1;
    while (at < end) {
        const int64_t panel = at / units;
        const int64_t count = hisa_min(32 / UNIT, hisa_min(end - at, (panel + 1) * units - at));
        const int64_t begin = at % units * UNIT;
        feed_rows<HEADS>(shared, feeder, from, &q_map, &key_map, panel, begin,
                         hisa_min(from.tile_rows, begin + count * UNIT), &loaded);
        at += count;
    }
    hisa_feed_end(shared, feeder);
}

extern "C" int hisa_cuda_launch_hopper_flat(const hisa_hopper_maps_t *maps, const hisa_shard_t *shard,
                                            const hisa_tile_t *tile, int64_t begin, int64_t chunk,
                                            const hisa_flat_lists_t *lists, void *stream) {
    const flat_source_t from = {
        *shard, tile->row, tile->weights, tile->rows, begin, chunk / PANEL, shard->slots * shard->block_size, *lists};
    const bool wide = shard->num_heads == 64;
    const auto kernel = wide ? score_flat<64> : score_flat<32>;
    const int bytes =
        wide ? hisa_hopper_bytes<64, GROUPS, STAGES, target_t>() : hisa_hopper_bytes<32, GROUPS, STAGES, target_t>();
    const int64_t work = from.panels * hisa_ceil_div(tile->rows, UNIT);
    return hisa_hopper_launch(kernel, hisa_min(work, int64_t(maps->multiprocessors)), hisa_hopper_threads<GROUPS>(),
                              bytes, stream, *reinterpret_cast<const CUtensorMap *>(maps->q),
                              *reinterpret_cast<const CUtensorMap *>(maps->keys), from);
}
