/* Block scores on Hopper: every row against every pooled key in sight. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* Rows that a thread block takes at a time; it is fed up to 32, a lane each. */
#define UNIT 8

/* Three warpgroups, 384 keys, share a stream of queries: fewer keys read the queries too often through L2. */
enum { GROUPS = 3, STAGES = 12, PANEL = GROUPS * 128 };

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

/* One past the last local block that any row sees. All threads call it. */
static __device__ int64_t last_in_sight(const block_source_t &from) {
    int64_t last = 0;
    for (int64_t r = threadIdx.x; r < from.tile_rows; r += blockDim.x) {
        const hisa_row_t row = from.rows[r];
        int64_t begin;
        int64_t end;
        hisa_local_blocks_in_sight(from.shard, row, &begin, &end);
        last = end > begin ? hisa_max(last, end) : last;
    }
    __shared__ int shared_last;
    if (threadIdx.x == 0) {
        shared_last = 0;
    }
    __syncthreads();
    atomicMax(&shared_last, static_cast<int>(last));
    __syncthreads();
    return shared_last;
}

/* Up to 32 rows from `begin` on against one panel. */
template <int HEADS>
static __device__ void feed_rows(hisa_hopper_t<HEADS, GROUPS, STAGES, target_t> &shared, hisa_feeder_t &feeder,
                                 const block_source_t &from, const CUtensorMap *q_map, const CUtensorMap *key_map,
                                 int64_t panel, int64_t begin, int64_t end, int64_t *loaded) {
    const hisa_shard_t &shard = from.shard;
    const int64_t r = begin + threadIdx.x % 32;
    hisa_row_t row = {0, 0, 0, 0};
    bool sees = false;
    if (r < end) {
        row = from.rows[r];
        int64_t first;
        int64_t last;
        hisa_local_blocks_in_sight(shard, row, &first, &last);
        sees = first < last && first < (panel + 1) * PANEL && last > panel * PANEL;
    }
    uint32_t left = __ballot_sync(0xFFFFFFFFu, sees);
    while (left != 0) {
        const int32_t sequence = __shfl_sync(0xFFFFFFFFu, row.sequence, __ffs(left) - 1);
        uint32_t batch = __ballot_sync(0xFFFFFFFFu, sees && row.sequence == sequence) & left;
        left &= ~batch;
        const int64_t slot = shard.bases[sequence] + panel * PANEL;
        hisa_feed_batch(shared, feeder, __popc(batch), slot != *loaded, key_map, static_cast<int32_t>(slot),
                        shard.store.pooled_scales + slot, hisa_min(PANEL, shard.slots - slot));
        *loaded = slot;
        while (batch != 0) {
            const int lane = __ffs(batch) - 1;
            batch &= batch - 1;
            const target_t to = {from.key + (begin + lane) * shard.local_blocks + panel * PANEL,
                                 shard.local_blocks - panel * PANEL};
            hisa_feed_query(shared, feeder, q_map, from.weights, __shfl_sync(0xFFFFFFFFu, row.source, lane), to);
        }
    }
}

/* Panels by units of rows are dealt out to thread blocks in runs, so that a panel's keys stay. */
template <int HEADS>
static __global__ void __launch_bounds__(hisa_hopper_threads<GROUPS>(), 1)
    score_blocks(__grid_constant__ const CUtensorMap q_map, __grid_constant__ const CUtensorMap key_map,
                 block_source_t from) {
    auto &shared = hisa_hopper_begin<HEADS, GROUPS, STAGES, target_t>();
    const int64_t panels = hisa_ceil_div(last_in_sight(from), PANEL);
    if (threadIdx.x < 128 * GROUPS) {
        hisa_score_batches<4>(shared, [](const target_t &to, int at, float score) {
            if (threadIdx.x % 4 < 2 && at < to.limit) {
                to.key[at] = hisa_key_from_score(score);
            }
        });
        return;
    }
    hisa_feeder_t feeder = hisa_feeder_make();
    const int64_t units = hisa_ceil_div(from.tile_rows, UNIT);
    const int64_t end = panels * units * (blockIdx.x + 1) / gridDim.x;
    int64_t at = panels * units * blockIdx.x / gridDim.x;
    int64_t loaded = -1;
    while (at < end) {
        const int64_t panel = at / units;
        const int64_t take = hisa_min(32 / UNIT, hisa_min(end - at, (panel + 1) * units - at));
        const int64_t begin = at % units * UNIT;
        feed_rows(shared, feeder, from, &q_map, &key_map, panel, begin, hisa_min(from.tile_rows, begin + take * UNIT),
                  &loaded);
        at += take;
    }
    hisa_feed_end(shared, feeder);
}

extern "C" int hisa_cuda_launch_hopper_blocks(const hisa_hopper_maps_t *maps, const hisa_shard_t *shard,
                                              const hisa_tile_t *tile, uint32_t *key, void *stream) {
    const block_source_t from = {*shard, tile->row, tile->weights, tile->rows, key};
    const auto kernel = shard->num_heads == 64 ? score_blocks<64> : score_blocks<32>;
    const int bytes = shard->num_heads == 64 ? hisa_hopper_bytes<64, GROUPS, STAGES, target_t>()
                                             : hisa_hopper_bytes<32, GROUPS, STAGES, target_t>();
    const int64_t work = hisa_ceil_div(shard->local_blocks, PANEL) * hisa_ceil_div(tile->rows, UNIT);
    const int64_t blocks = hisa_min(work, int64_t(maps->multiprocessors));
    return hisa_hopper_launch(kernel, blocks, hisa_hopper_threads<GROUPS>(), bytes, stream,
                              *reinterpret_cast<const CUtensorMap *>(maps->q),
                              *reinterpret_cast<const CUtensorMap *>(maps->pooled), from);
}
