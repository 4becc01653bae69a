/* Block scores on Hopper: every row against every pooled key in sight. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/hopper_rows.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

struct block_source_t {
    hisa_shard_t shard;
    const hisa_row_t *rows;
    const float *weights;
    int64_t tile_rows;
    uint32_t *key;    /* [tile_rows][local_blocks] */
    uint32_t *ticket; /* of many rows: 0 before the kernel */
};

/* Rows that tiles_in_sight() looks at. */
enum { SAMPLES = 64 };

/* Tiles of 128 local blocks that rows see, at least 1. Of more rows than SAMPLES it is a guess by so many, spread
 * evenly, since it would take 2 us to read them all. By the whole warp. */
static __device__ __forceinline__ int32_t tiles_in_sight(const block_source_t &from) {
    int32_t last = 1;
#pragma unroll
    for (int i = 0; i < SAMPLES / 32; ++i) {
        const int64_t sample = SAMPLES / 32 * (threadIdx.x % 32) + i;
        const bool all = from.tile_rows <= SAMPLES;
        const hisa_row_t row =
            from.rows[all ? hisa_min(sample, from.tile_rows - 1) : from.tile_rows * sample / SAMPLES];
        int64_t begin;
        int64_t end;
        hisa_local_blocks_in_sight(from.shard, row, &begin, &end);
        last = begin < end ? max(last, static_cast<int32_t>(end)) : last;
    }
    return (__reduce_max_sync(0xFFFFFFFFu, last) + HISA_ROWS_TILE - 1) / HISA_ROWS_TILE;
}

/* ------------------------------------------------------------------------------------------ many rows: they stay */

/* Where a row's keys go. */
struct row_target_t {
    uint32_t *key; /* NULL: nowhere */
    __device__ __forceinline__ void hide() { key = nullptr; }
};

template <int HEADS> using rows_t = hisa_rows_t<HEADS, row_target_t>;

/* A warp stores a tile's scores of all rows. Four rows are read before they are written, as the compiler cannot know
 * that they do not overlap. */
template <int HEADS>
static __device__ __forceinline__ void store_tile(const rows_t<HEADS> &shared, uint32_t stage, int64_t limit) {
    constexpr int TOGETHER = 4;
    constexpr int EACH = HISA_ROWS_TILE / 32;
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int32_t first = shared.first[stage] + lane;
    const row_target_t *to = shared.row[shared.batch[stage]];
#pragma unroll 1
    for (int row = 0; row < shared.rows; row += TOGETHER) {
        uint32_t *key[TOGETHER];
        float score[TOGETHER][EACH];
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            key[i] = to[row + i].key;
#pragma unroll
            for (int c = 0; c < EACH; ++c) {
                score[i][c] = shared.score[stage][row + i][c * 32 + lane];
            }
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
#pragma unroll
            for (int c = 0; c < EACH; ++c) {
                if (key[i] != nullptr && first + c * 32 < limit) {
                    __stcg(key[i] + first + c * 32, hisa_key_from_score(score[i][c]));
                }
            }
        }
    }
}

/* The lane's row of a batch that begins at `begin`, against tiles [tile_begin, tile_end). */
template <int HEADS>
static __device__ __forceinline__ hisa_rows_lane_t<row_target_t> look(const block_source_t &from, int64_t begin,
                                                                      int32_t tile_begin, int32_t tile_end) {
    hisa_rows_lane_t<row_target_t> own = hisa_look_at_row<HEADS, row_target_t>(
        from.rows, begin, from.tile_rows, int64_t(tile_begin) * HISA_ROWS_TILE, int64_t(tile_end) * HISA_ROWS_TILE,
        [&](const hisa_row_t &row, int64_t *first, int64_t *last) {
            hisa_local_blocks_in_sight(from.shard, row, first, last);
        });
    if (own.valid) {
        own.target.key = from.key + (begin + threadIdx.x % 32) * from.shard.local_blocks;
    }
    return own;
}

template <int HEADS>
static __global__ void __launch_bounds__(HISA_ROWS_THREADS, 1)
    score_blocks(__grid_constant__ const CUtensorMap q_map, __grid_constant__ const CUtensorMap key_map,
                 block_source_t from) {
    auto &shared = hisa_rows_begin<HEADS, row_target_t>();
    hisa_run_rows(
        shared, [&](uint32_t stage) { store_tile(shared, stage, from.shard.local_blocks); },
        [&]() {
            const hisa_rows_source_t source = {&q_map, from.weights, &key_map, from.shard.store.pooled_scales,
                                               from.shard.slots};
            const int32_t tiles = tiles_in_sight(from);
            /* Who has a batch's last tile takes what lies behind it too, since some rows may see more than was guessed.
             */
            hisa_feed_part(
                shared, source, from.tile_rows, tiles, from.ticket,
                [&](int64_t begin, int32_t tile_begin, int32_t tile_end) {
                    return look<HEADS>(from, begin, tile_begin,
                                       tile_end < tiles ? tile_end : INT32_MAX / HISA_ROWS_TILE);
                },
                [&](int32_t sequence) { return int64_t(from.shard.bases[sequence]); });
        });
}

/* ------------------------------------------------------------------------------------------ few rows: keys stay */

/* A row by a panel of 128 keys is the unit, so that a single row spreads over multiprocessors, and rows of many
 * sequences, which share no keys, too. */
enum { PANEL = HISA_HOPPER_PANEL, STAGES = 4, RESIDENT = 3, FEW_ROWS = 64 };
static_assert(int(FEW_ROWS) <= int(SAMPLES), "tiles in sight must be no guess, as nobody takes what lies behind them");

/* Where a row's scores of a panel go, and how many of them. */
struct panel_target_t {
    uint32_t *key;
    int64_t limit;
};

/* Up to 32 rows from `begin` on against one panel, sequence after sequence. */
template <int HEADS>
static __device__ void feed_panel(hisa_hopper_t<HEADS, STAGES, panel_target_t> &shared, hisa_feeder_t &feeder,
                                  const block_source_t &from, const CUtensorMap *q_map, const CUtensorMap *key_map,
                                  int64_t panel, int64_t begin, int64_t end) {
    const hisa_shard_t &shard = from.shard;
    const int64_t first = panel * PANEL;
    const int64_t r = begin + threadIdx.x % 32;
    hisa_row_t row = {0, 0, 0, 0};
    bool sees = false;
    if (r < end) {
        row = from.rows[r];
        int64_t low;
        int64_t high;
        hisa_local_blocks_in_sight(shard, row, &low, &high);
        sees = low < high && low < first + PANEL && high > first;
    }
    uint32_t left = __ballot_sync(0xFFFFFFFFu, sees);
    while (left != 0) {
        const int32_t sequence = __shfl_sync(0xFFFFFFFFu, row.sequence, __ffs(left) - 1);
        uint32_t batch = __ballot_sync(0xFFFFFFFFu, sees && row.sequence == sequence) & left;
        left &= ~batch;
        const int64_t slot = shard.bases[sequence] + first;
        hisa_feed_batch(shared, feeder, __popc(batch), key_map, static_cast<int32_t>(slot),
                        shard.store.pooled_scales + slot, hisa_min(PANEL, shard.slots - slot));
        for (; batch != 0; batch &= batch - 1) {
            const int lane = __ffs(batch) - 1;
            const panel_target_t to = {from.key + (begin + lane) * shard.local_blocks + first,
                                       shard.local_blocks - first};
            hisa_feed_query(shared, feeder, q_map, from.weights, __shfl_sync(0xFFFFFFFFu, row.source, lane), to);
        }
    }
}

template <int HEADS>
static __global__ void __launch_bounds__(HISA_HOPPER_THREADS, RESIDENT)
    score_few_blocks(__grid_constant__ const CUtensorMap q_map, __grid_constant__ const CUtensorMap key_map,
                     block_source_t from) {
    auto &shared = hisa_hopper_begin<HEADS, STAGES, panel_target_t>();
    if (threadIdx.x < 128) {
        hisa_score_batches(shared, [](const panel_target_t &to, int at, float score) {
            if (at < to.limit) {
                to.key[at] = hisa_key_from_score(score);
            }
        });
        return;
    }
    hisa_feeder_t feeder = hisa_feeder_make();
    /* In 32 bits, as a step of decode feels a division of 64. */
    const int32_t rows = static_cast<int32_t>(from.tile_rows);
    const int32_t tiles = tiles_in_sight(from);
    const int32_t each = rows * tiles / static_cast<int32_t>(gridDim.x);
    const int32_t more = rows * tiles % static_cast<int32_t>(gridDim.x);
    const int32_t block = static_cast<int32_t>(blockIdx.x);
    const int32_t end = (block + 1) * each + min(block + 1, more);
    for (int32_t at = block * each + min(block, more); at < end;) {
        const int32_t row = at % rows;
        const int32_t take = min(32, min(rows - row, end - at));
        feed_panel(shared, feeder, from, &q_map, &key_map, at / rows, row, row + take);
        at += take;
    }
    hisa_feed_end(shared, feeder);
}

/* ------------------------------------------------------------------------------------------ both */

template <int HEADS>
static cudaError_t launch(const hisa_hopper_maps_t *maps, const block_source_t &from, void *stream) {
    const auto &q = *reinterpret_cast<const CUtensorMap *>(maps->q);
    const auto &pooled = *reinterpret_cast<const CUtensorMap *>(maps->pooled);
    static_assert(int(HISA_HOPPER_PANEL) == int(HISA_ROWS_TILE), "tiles, either way");
    const int64_t tiles = hisa_ceil_div(from.shard.local_blocks, HISA_ROWS_TILE);
    const bool few = from.tile_rows <= FEW_ROWS;
    const int64_t units = few ? from.tile_rows : hisa_ceil_div(from.tile_rows, int64_t(rows_t<HEADS>::rows));
    const int64_t blocks = hisa_min(tiles * units, int64_t(maps->multiprocessors) * (few ? RESIDENT : 1));
    return few ? hisa_hopper_launch(score_few_blocks<HEADS>, blocks, HISA_HOPPER_THREADS,
                                    hisa_hopper_bytes<HEADS, STAGES, panel_target_t>(), stream, q, pooled, from)
               : hisa_hopper_launch(score_blocks<HEADS>, blocks, HISA_ROWS_THREADS,
                                    hisa_rows_bytes<HEADS, row_target_t>(), stream, q, pooled, from);
}

extern "C" int hisa_cuda_launch_hopper_blocks(const hisa_hopper_maps_t *maps, const hisa_shard_t *shard,
                                              const hisa_tile_t *tile, uint32_t *key, void *stream) {
    const block_source_t from = {*shard,     tile->row, tile->weights,
                                 tile->rows, key,       static_cast<uint32_t *>(tile->prepared)};
    return shard->num_heads == 64 ? launch<64>(maps, from, stream) : launch<32>(maps, from, stream);
}
