/* Mode flat on Hopper: every row against a chunk of this rank's tokens. Scores are not stored: what could be among a
 * row's best goes behind its list, which has room for a whole chunk, so that nothing overflows whatever the scores. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* Rows that a thread block takes at a time; it is fed up to 32, a lane each. */
#define UNIT 8

/* As for blocks: 384 keys share a stream of queries. What becomes of a query's scores is decided by three more warps,
 * so that those which score never wait for an atomic. */
enum {
    GROUPS = 3,
    STAGES = 12,
    PANEL = GROUPS * 128,
    DRAINS = 3,
    THREADS = hisa_hopper_threads<GROUPS>() + DRAINS * 32
};

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

/* What a row's list takes of a panel. */
struct target_t {
    static constexpr bool drained = true;
    uint64_t *list; /* NULL: no more queries */
    uint32_t *count;
    float floor;    /* no score below it is among the best: most of them */
    uint32_t least; /* lowest key that can be */
    int32_t begin;  /* keys of the panel that the row sees */
    int32_t end;
    int32_t first; /* the panel's first local token */
    int32_t sequence;
};

typedef float panel_scores_t[PANEL];

/* Position of a local token. They follow one another as global ones do inside a block, and a block's size is a power of
 * two. */
static __device__ __forceinline__ int32_t position_of(const hisa_shard_t &shard, const target_t &to, uint32_t token) {
    if (shard.ranks == 1) {
        return static_cast<int32_t>(token);
    }
    const uint32_t size = static_cast<uint32_t>(shard.block_size);
    const hisa_layout_t layout = hisa_shard_layout(&shard, shard.offsets[to.sequence]);
    const int64_t block = hisa_layout_global(&layout, shard.rank, token / size);
    return static_cast<int32_t>(static_cast<uint32_t>(block) * size + token % size);
}

/* A warp puts what a row's list takes at its end, in the order in which warps come. */
static __device__ __forceinline__ void take(const hisa_shard_t &shard, const target_t &to, const float *score) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    uint32_t mine = 0; /* a bit for each 32 keys */
#pragma unroll
    for (int i = 0; i < PANEL / 32; ++i) {
        const int at = i * 32 + lane;
        if (!(score[at] < to.floor) && at >= to.begin && at < to.end && hisa_key_from_score(score[at]) >= to.least) {
            mine |= 1u << i;
        }
    }
    if (__all_sync(0xFFFFFFFFu, mine == 0)) {
        return;
    }
    uint32_t up_to = static_cast<uint32_t>(__popc(mine));
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const uint32_t lower = __shfl_up_sync(0xFFFFFFFFu, up_to, distance);
        up_to += lane >= distance ? lower : 0;
    }
    uint32_t before = 0;
    if (lane == 31) {
        before = atomicAdd(to.count, up_to);
    }
    uint64_t *list = to.list + __shfl_sync(0xFFFFFFFFu, before, 31) + up_to - static_cast<uint32_t>(__popc(mine));
    for (; mine != 0; mine &= mine - 1) {
        const int at = (__ffs(static_cast<int>(mine)) - 1) * 32 + lane;
        *list++ = hisa_rank_make(hisa_key_from_score(score[at]),
                                 position_of(shard, to, static_cast<uint32_t>(to.first + at)));
    }
}

/* A drain takes every DRAINS-th query. */
template <typename Shared>
static __device__ __forceinline__ void drain(Shared &shared, const hisa_shard_t &shard, const panel_scores_t *scores,
                                             uint32_t which) {
    hisa_ring_t ring = {which, 0};
    for (;;) {
        hisa_barrier_wait(&shared.full[ring.stage], ring.parity);
        const target_t to = shared.place[ring.stage];
        if (to.list == nullptr) {
            return;
        }
        hisa_barrier_wait(&shared.done[ring.stage], ring.parity);
        take(shard, to, scores[ring.stage]);
        __syncwarp();
        if (threadIdx.x % 32 == 0) {
            hisa_barrier_arrive(&shared.empty[ring.stage]);
        }
        ring.stage += DRAINS;
        if (ring.stage >= STAGES) {
            ring.stage -= STAGES;
            ring.parity ^= 1;
        }
    }
}

/* Tells the drains that no more queries come. */
template <typename Shared>
static __device__ __forceinline__ void feed_drains_end(Shared &shared, hisa_feeder_t &feeder) {
    for (int i = 0; i < DRAINS; ++i) {
        if (threadIdx.x % 32 == 0) {
            hisa_barrier_wait(&shared.empty[feeder.ring.stage], feeder.ring.parity);
            shared.place[feeder.ring.stage].list = nullptr;
            hisa_barrier_arrive(&shared.full[feeder.ring.stage]);
        }
        hisa_ring_next<STAGES>(feeder.ring);
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
            /* NaN is below nothing, and so let through to the comparison of keys. */
            to.floor = to.least == 0 ? -INFINITY : hisa_score_from_key(to.least);
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
static __global__ void __launch_bounds__(THREADS, 1)
    score_flat(__grid_constant__ const CUtensorMap q_map, __grid_constant__ const CUtensorMap key_map,
               flat_source_t from) {
    auto &shared = hisa_hopper_begin<HEADS, GROUPS, STAGES, target_t>();
    auto *scores = reinterpret_cast<panel_scores_t *>(&shared + 1);
    if (threadIdx.x < 128 * GROUPS) {
        hisa_score_batches<2>(
            shared, [scores](const target_t &, uint32_t stage, int at, float score) { scores[stage][at] = score; });
        return;
    }
    if (threadIdx.x >= THREADS - DRAINS * 32) {
        drain(shared, from.shard, scores, (threadIdx.x - (THREADS - DRAINS * 32)) / 32);
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
    feed_drains_end(shared, feeder);
}

extern "C" int hisa_cuda_launch_hopper_flat(const hisa_hopper_maps_t *maps, const hisa_shard_t *shard,
                                            const hisa_tile_t *tile, int64_t begin, int64_t chunk,
                                            const hisa_flat_lists_t *lists, void *stream) {
    const flat_source_t from = {
        *shard, tile->row, tile->weights, tile->rows, begin, chunk / PANEL, shard->slots * shard->block_size, *lists};
    const bool wide = shard->num_heads == 64;
    const auto kernel = wide ? score_flat<64> : score_flat<32>;
    const int bytes =
        (wide ? hisa_hopper_bytes<64, GROUPS, STAGES, target_t>() : hisa_hopper_bytes<32, GROUPS, STAGES, target_t>()) +
        static_cast<int>(sizeof(panel_scores_t)) * STAGES;
    const int64_t work = from.panels * hisa_ceil_div(tile->rows, UNIT);
    return hisa_hopper_launch(kernel, hisa_min(work, int64_t(maps->multiprocessors)), THREADS, bytes, stream,
                              *reinterpret_cast<const CUtensorMap *>(maps->q),
                              *reinterpret_cast<const CUtensorMap *>(maps->keys), from);
}
