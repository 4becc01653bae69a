/* Mode flat on Hopper: every row against a chunk of this rank's tokens. Scores are not stored: what could be among a
 * row's best goes behind its list, which has room for a whole chunk, so that nothing overflows whatever the scores. */
#include "backend/cuda/hopper_banks.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* Rows that a thread block takes at a time; it is fed up to 32, a lane each. */
#define UNIT 8

/* Two warpgroups score 256 keys: a third would leave a thread 128 registers for two banks of sums, which are as many.
 * What becomes of the scores is decided by DRAINS warps more, so that those which score never wait for an atomic. They
 * and the feeding warp are a warpgroup, which gives up registers that the others take: 72 and 216 where 168 were had.
 */
enum {
    GROUPS = 2,
    STAGES = 9,
    PANEL = GROUPS * 128,
    DRAINS = 3,
    MATH = GROUPS * 128,
    THREADS = MATH + 32 + DRAINS * 32,
    MATH_REGISTERS = 216,
    OTHER_REGISTERS = 72
};
static_assert(THREADS == MATH + 128, "registers change hands by whole warpgroups");

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

/* What the lists of two rows take of a panel. Floor and all say the same as the least key that is still taken. */
struct alignas(16) target_t {
    static constexpr bool drained = true;
    uint64_t *list[2]; /* the first NULL: no more queries */
    uint32_t *count[2];
    float floor[2];   /* scores from it on are taken; NaN: none; -inf: all but NaN */
    int32_t all[2];   /* NaN too */
    int32_t begin[2]; /* keys of the panel that the row sees */
    int32_t end[2];   /* 0: no query */
    int32_t first;    /* the panel's first local token */
    int32_t sequence;
};

typedef float panel_scores_t[2][PANEL];

/* Position of a local token. They follow one another as global ones do inside a block, and a block's size is a power of
 * two. */
static __device__ __forceinline__ int32_t position_of(const hisa_shard_t &shard, int32_t sequence, uint32_t token) {
    if (shard.ranks == 1) {
        return static_cast<int32_t>(token);
    }
    const uint32_t size = static_cast<uint32_t>(shard.block_size);
    const hisa_layout_t layout = hisa_shard_layout(&shard, shard.offsets[sequence]);
    const int64_t block = hisa_layout_global(&layout, shard.rank, token / size);
    return static_cast<int32_t>(static_cast<uint32_t>(block) * size + token % size);
}

/* This lane reads its scores four by four. */
static __device__ __forceinline__ int key_of(int lane, int i) { return i / 4 * 128 + lane * 4 + i % 4; }

/* A bit for each of this lane's scores that the list takes: bit i for the key that key_of gives. */
static __device__ __forceinline__ uint32_t taken(const target_t &to, int query, const float *score) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    uint32_t mine = 0;
    const float floor = to.floor[query];
#pragma unroll
    for (int i = 0; i < PANEL / 128; ++i) {
        const float4 s = reinterpret_cast<const float4 *>(score)[i * 32 + lane];
        mine |= s.x >= floor ? 1u << (4 * i) : 0;
        mine |= s.y >= floor ? 2u << (4 * i) : 0;
        mine |= s.z >= floor ? 4u << (4 * i) : 0;
        mine |= s.w >= floor ? 8u << (4 * i) : 0;
    }
    if (to.all[query] != 0) {
        mine = (1u << (PANEL / 32)) - 1;
    }
    if (to.begin[query] > 0 || to.end[query] < PANEL) {
#pragma unroll
        for (int i = 0; i < PANEL / 32; ++i) {
            const int at = key_of(lane, i);
            if (at < to.begin[query] || at >= to.end[query]) {
                mine &= ~(1u << i);
            }
        }
    }
    return mine;
}

/* A warp puts what the rows' lists take at their ends, in the order in which warps come. */
static __device__ __forceinline__ void take(const hisa_shard_t &shard, const target_t &to,
                                            const panel_scores_t &score) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    uint32_t mine[2];
    mine[0] = taken(to, 0, score[0]);
    mine[1] = taken(to, 1, score[1]);
    if (__all_sync(0xFFFFFFFFu, (mine[0] | mine[1]) == 0)) {
        return;
    }
    /* Counts of both rows: the low half and the high half of a word. */
    const uint32_t own = static_cast<uint32_t>(__popc(mine[0])) | static_cast<uint32_t>(__popc(mine[1])) << 16;
    uint32_t up_to = own;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const uint32_t lower = __shfl_up_sync(0xFFFFFFFFu, up_to, distance);
        up_to += lane >= distance ? lower : 0;
    }
    const uint32_t total = __shfl_sync(0xFFFFFFFFu, up_to, 31);
    const uint32_t added = lane == 0 ? total & 0xFFFF : total >> 16;
    uint32_t before = 0;
    if (lane < 2 && added != 0) {
        before = atomicAdd(to.count[lane], added);
    }
    up_to -= own;
#pragma unroll
    for (int query = 0; query < 2; ++query) {
        uint64_t *list =
            to.list[query] + __shfl_sync(0xFFFFFFFFu, before, query) + (query == 0 ? up_to & 0xFFFF : up_to >> 16);
        for (uint32_t m = mine[query]; m != 0; m &= m - 1) {
            const int i = __ffs(static_cast<int>(m)) - 1;
            const int at = key_of(lane, i);
            *list++ = hisa_rank_make(hisa_key_from_score(score[query][at]),
                                     position_of(shard, to.sequence, static_cast<uint32_t>(to.first + at)));
        }
    }
}

/* A drain takes every DRAINS-th stage. */
template <typename Shared>
static __device__ __forceinline__ void drain(Shared &shared, const hisa_shard_t &shard, const panel_scores_t *scores,
                                             uint32_t which) {
    hisa_ring_t ring = {which, 0};
    for (;;) {
        hisa_barrier_wait(&shared.full[ring.stage], ring.parity);
        const target_t &to = shared.place[ring.stage];
        if (to.list[0] == nullptr) {
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
            shared.place[feeder.ring.stage].list[0] = nullptr;
            hisa_barrier_arrive(&shared.full[feeder.ring.stage]);
        }
        hisa_ring_next<STAGES>(feeder.ring);
    }
}

/* Up to 32 rows from `begin` on against one panel. */
template <int HEADS, typename Shared>
static __device__ __forceinline__ void feed_rows(Shared &shared, hisa_feeder_t &feeder, const flat_source_t &from,
                                                 const CUtensorMap *q_map, const CUtensorMap *key_map, int64_t panel,
                                                 int64_t begin, int64_t end, int64_t *loaded) {
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
    const float floor = least <= hisa_key_from_score(-INFINITY) ? -INFINITY : hisa_score_from_key(least);
    const bool sees = low < high;
    uint32_t left = __ballot_sync(0xFFFFFFFFu, sees);
    while (left != 0) {
        const int32_t sequence = __shfl_sync(0xFFFFFFFFu, row.sequence, __ffs(left) - 1);
        uint32_t batch = __ballot_sync(0xFFFFFFFFu, sees && row.sequence == sequence) & left;
        left &= ~batch;
        const int64_t token = shard.bases[sequence] * int64_t(shard.block_size) + first;
        hisa_feed_batch(shared, feeder, (__popc(batch) + 1) / 2, token != *loaded, key_map, static_cast<int32_t>(token),
                        shard.store.scales + token, from.tokens - token);
        *loaded = token;
        while (batch != 0) {
            target_t to;
            int32_t source[2];
            to.first = static_cast<int32_t>(first);
            to.sequence = sequence;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                const bool there = batch != 0;
                const int lane = there ? __ffs(batch) - 1 : 0;
                batch &= batch - 1;
                to.list[i] = from.lists.list + (begin + lane) * from.lists.capacity;
                to.count[i] = from.lists.count + begin + lane;
                to.floor[i] = __shfl_sync(0xFFFFFFFFu, floor, lane);
                to.all[i] = __shfl_sync(0xFFFFFFFFu, least, lane) == 0 ? 1 : 0;
                to.begin[i] = __shfl_sync(0xFFFFFFFFu, static_cast<int32_t>(low), lane);
                const int32_t last = __shfl_sync(0xFFFFFFFFu, static_cast<int32_t>(high), lane);
                to.end[i] = there ? last : 0;
                const int32_t from_row = __shfl_sync(0xFFFFFFFFu, row.source, lane);
                source[i] = there ? from_row : -1;
            }
            hisa_feed_two<HEADS>(shared, feeder, q_map, from.weights, source[0], source[1], to);
        }
    }
}

/* Panels by units of rows are dealt out to thread blocks in runs, so that a panel's keys stay. */
template <int HEADS>
static __global__ void __launch_bounds__(THREADS, 1)
    score_flat(__grid_constant__ const CUtensorMap q_map, __grid_constant__ const CUtensorMap key_map,
               flat_source_t from) {
    auto &shared = hisa_hopper_begin<2 * HEADS, GROUPS, STAGES, target_t>();
    auto *scores = reinterpret_cast<panel_scores_t *>(&shared + 1);
    if (threadIdx.x < MATH) {
        hisa_registers_more<MATH_REGISTERS>();
        hisa_score_batches_of_twos<HEADS>(shared, scores[0][0]);
    } else {
        hisa_registers_fewer<OTHER_REGISTERS>();
        const uint32_t which = (threadIdx.x - MATH) / 32;
        if (which != 0) {
            drain(shared, from.shard, scores, which - 1);
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
}

extern "C" int hisa_cuda_launch_hopper_flat(const hisa_hopper_maps_t *maps, const hisa_shard_t *shard,
                                            const hisa_tile_t *tile, int64_t begin, int64_t chunk,
                                            const hisa_flat_lists_t *lists, void *stream) {
    const flat_source_t from = {
        *shard, tile->row, tile->weights, tile->rows, begin, chunk / PANEL, shard->slots * shard->block_size, *lists};
    const bool wide = shard->num_heads == 64;
    const auto kernel = wide ? score_flat<64> : score_flat<32>;
    const int bytes = (wide ? hisa_hopper_bytes<2 * 64, GROUPS, STAGES, target_t>()
                            : hisa_hopper_bytes<2 * 32, GROUPS, STAGES, target_t>()) +
                      static_cast<int>(sizeof(panel_scores_t)) * STAGES;
    const int64_t work = from.panels * hisa_ceil_div(tile->rows, UNIT);
    return hisa_hopper_launch(kernel, hisa_min(work, int64_t(maps->multiprocessors)), THREADS, bytes, stream,
                              *reinterpret_cast<const CUtensorMap *>(maps->q),
                              *reinterpret_cast<const CUtensorMap *>(maps->keys), from);
}
