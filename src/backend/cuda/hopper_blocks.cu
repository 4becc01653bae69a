/* Block scores on Hopper: every row against every pooled key in sight. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* Many rows: three warpgroups, 384 keys, share a stream of queries, since fewer keys would read the queries too often
 * through L2. Few: one, so that the blocks of a single row spread over more multiprocessors. */
enum { MANY_GROUPS = 3, MANY_STAGES = 12, FEW_GROUPS = 1, FEW_STAGES = 4, FEW_ROWS = 64 };

/* Where a row's scores of a panel go, and how many of them. */
struct target_t {
    uint32_t *key;
    int64_t limit;
};

struct block_source_t {
    hisa_shard_t shard;
    const hisa_row_t *rows;
    const float *weights;
    int64_t tile_rows;
    uint32_t *key; /* [tile_rows][local_blocks] */
};

/* One past the last local block before the end of any row's window. All threads call it. Neighbours are mostly of one
 * sequence, so that blocks are counted, with divisions, once a run of these instead of once a row. */
static __device__ int64_t last_in_sight(const block_source_t &from) {
    constexpr int TOGETHER = 5; /* loads under way: 4096 rows are two rounds of 416 threads */
    const auto row_at = [&](int64_t r) { return from.rows[hisa_min(r, from.tile_rows - 1)]; };
    int64_t last = 0;
    hisa_row_t most = {row_at(threadIdx.x).sequence, 0, 0, 0};
    const auto settle = [&]() {
        int64_t begin;
        int64_t end;
        hisa_local_blocks_in_sight(from.shard, most, &begin, &end);
        last = hisa_max(last, end);
    };
    for (int64_t r = threadIdx.x; r < from.tile_rows; r += TOGETHER * int64_t(blockDim.x)) {
        int32_t end = 0;
        bool same = true;
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            const hisa_row_t row = row_at(r + i * int64_t(blockDim.x));
            same = same && row.sequence == most.sequence;
            end = row.end > row.begin && row.end > end ? row.end : end;
        }
#pragma unroll 1
        for (int i = 0; i < TOGETHER && !same; ++i) {
            const hisa_row_t row = row_at(r + i * int64_t(blockDim.x));
            settle();
            most = row;
            most.begin = 0;
            most.end = row.end > row.begin ? row.end : 0;
        }
        most.end = same && end > most.end ? end : most.end;
    }
    settle();
    __shared__ int shared_last;
    if (threadIdx.x == 0) {
        shared_last = 0;
    }
    __syncthreads();
    atomicMax(&shared_last, static_cast<int>(last));
    __syncthreads();
    return shared_last;
}

/* How work is dealt out: units of rows by panels, in runs, so that a panel's keys stay. Many rows go by twos, since
 * they are scored by twos, and the unevenness of a deal by eights is 3% of a rank of 8; few by eights, to load a
 * panel's keys less often. A query costs a panel as much as one warpgroup more than it has: 0.75 and 0.50 of its time
 * with all three where two or one are at work, from 821 TFLOP/s of two. Thread blocks took 0.81 and 0.59 since
 * (NOTES-ranks.md). Only the last panel has idle ones. */
template <int GROUPS> struct deal_t {
    static constexpr int unit = GROUPS == MANY_GROUPS ? 2 : 8;
    int64_t units;
    int64_t panels;
    int last_groups; /* of the last panel */

    __device__ __forceinline__ deal_t(int64_t rows, int64_t keys)
        : units(hisa_ceil_div(rows, unit)), panels(hisa_ceil_div(keys, GROUPS * 128)),
          last_groups(static_cast<int>(hisa_ceil_div(keys - (panels - 1) * GROUPS * 128, 128))) {}

    __device__ __forceinline__ int groups(int64_t panel) const { return panel + 1 < panels ? GROUPS : last_groups; }

    /* Where thread block i of n begins. */
    __device__ __forceinline__ int64_t begin(int64_t i, int64_t n) const {
        const int64_t whole = units * (panels - 1);
        const int64_t cost = (whole * (GROUPS + 1) + units * (last_groups + 1)) * i / n;
        const int64_t rest = cost - whole * (GROUPS + 1);
        return rest < 0 ? cost / (GROUPS + 1) : whole + rest / (last_groups + 1);
    }
};

/* Up to 32 rows from `begin` on against one panel. */
template <int HEADS, int GROUPS, int STAGES>
static __device__ void feed_rows(hisa_hopper_t<HEADS, GROUPS, STAGES, target_t> &shared, hisa_feeder_t &feeder,
                                 const block_source_t &from, const CUtensorMap *q_map, const CUtensorMap *key_map,
                                 int64_t panel, int groups, int64_t begin, int64_t end, int64_t *loaded) {
    const hisa_shard_t &shard = from.shard;
    const int64_t r = begin + threadIdx.x % 32;
    hisa_row_t row = {0, 0, 0, 0};
    bool sees = false;
    if (r < end) {
        row = from.rows[r];
        int64_t first;
        int64_t last;
        hisa_local_blocks_in_sight(shard, row, &first, &last);
        sees = first < last && first < (panel + 1) * shared.panel && last > panel * shared.panel;
    }
    uint32_t left = __ballot_sync(0xFFFFFFFFu, sees);
    while (left != 0) {
        const int32_t sequence = __shfl_sync(0xFFFFFFFFu, row.sequence, __ffs(left) - 1);
        uint32_t batch = __ballot_sync(0xFFFFFFFFu, sees && row.sequence == sequence) & left;
        left &= ~batch;
        const int64_t slot = shard.bases[sequence] + panel * shared.panel;
        hisa_feed_batch(shared, feeder, __popc(batch), slot != *loaded, key_map, static_cast<int32_t>(slot),
                        shard.store.pooled_scales + slot, hisa_min(shared.panel, shard.slots - slot), groups);
        *loaded = slot;
        while (batch != 0) {
            const int lane = __ffs(batch) - 1;
            batch &= batch - 1;
            const target_t to = {from.key + (begin + lane) * shard.local_blocks + panel * shared.panel,
                                 shard.local_blocks - panel * shared.panel};
            hisa_feed_query(shared, feeder, q_map, from.weights, __shfl_sync(0xFFFFFFFFu, row.source, lane), to);
        }
    }
}

template <int HEADS, int GROUPS, int STAGES>
static __global__ void __launch_bounds__(hisa_hopper_threads<GROUPS>(), 1)
    score_blocks(__grid_constant__ const CUtensorMap q_map, __grid_constant__ const CUtensorMap key_map,
                 block_source_t from) {
    auto &shared = hisa_hopper_begin<HEADS, GROUPS, STAGES, target_t>();
    const int64_t keys = last_in_sight(from);
    if (threadIdx.x < 128 * GROUPS) {
        hisa_score_batches<2>(shared, [](const target_t &to, int at, float score) {
            if (at < to.limit) {
                to.key[at] = hisa_key_from_score(score);
            }
        });
        return;
    }
    hisa_feeder_t feeder = hisa_feeder_make();
    const deal_t<GROUPS> deal(from.tile_rows, keys);
    const int64_t end = keys > 0 ? deal.begin(int64_t(blockIdx.x) + 1, gridDim.x) : 0;
    int64_t at = keys > 0 ? deal.begin(blockIdx.x, gridDim.x) : 0;
    int64_t loaded = -1;
    while (at < end) {
        const int64_t panel = at / deal.units;
        const int64_t take = hisa_min(32 / deal.unit, hisa_min(end, (panel + 1) * deal.units) - at);
        const int64_t begin = at % deal.units * deal.unit;
        feed_rows(shared, feeder, from, &q_map, &key_map, panel, deal.groups(panel), begin,
                  hisa_min(from.tile_rows, begin + take * deal.unit), &loaded);
        at += take;
    }
    hisa_feed_end(shared, feeder);
}

template <int HEADS, int GROUPS, int STAGES>
static cudaError_t launch(const hisa_hopper_maps_t *maps, const block_source_t &from, void *stream) {
    const int64_t work =
        hisa_ceil_div(from.shard.local_blocks, GROUPS * 128) * hisa_ceil_div(from.tile_rows, deal_t<GROUPS>::unit);
    return hisa_hopper_launch(score_blocks<HEADS, GROUPS, STAGES>, hisa_min(work, int64_t(maps->multiprocessors)),
                              hisa_hopper_threads<GROUPS>(), hisa_hopper_bytes<HEADS, GROUPS, STAGES, target_t>(),
                              stream, *reinterpret_cast<const CUtensorMap *>(maps->q),
                              *reinterpret_cast<const CUtensorMap *>(maps->pooled), from);
}

extern "C" int hisa_cuda_launch_hopper_blocks(const hisa_hopper_maps_t *maps, const hisa_shard_t *shard,
                                              const hisa_tile_t *tile, uint32_t *key, void *stream) {
    const block_source_t from = {*shard, tile->row, tile->weights, tile->rows, key};
    const bool few = tile->rows <= FEW_ROWS;
    if (shard->num_heads == 64) {
        return few ? launch<64, FEW_GROUPS, FEW_STAGES>(maps, from, stream)
                   : launch<64, MANY_GROUPS, MANY_STAGES>(maps, from, stream);
    }
    return few ? launch<32, FEW_GROUPS, FEW_STAGES>(maps, from, stream)
               : launch<32, MANY_GROUPS, MANY_STAGES>(maps, from, stream);
}
