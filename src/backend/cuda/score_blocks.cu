/* Block scores of this rank's blocks, and each row's best. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/scorer.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

template <typename Scorer>
static __global__ void __launch_bounds__(HISA_SCORE_KEYS, Scorer::BLOCKS)
    score_blocks(hisa_shard_t shard, const hisa_row_t *rows, const uint8_t *q, const float *weights, uint32_t *key) {
    __shared__ typename Scorer::shared_t shared;
    const hisa_row_t row = rows[blockIdx.x];
    const int64_t base = shard.bases[row.sequence];
    bool fresh = true;
    int64_t begin;
    int64_t end;
    hisa_local_blocks_in_sight(shard, row, &begin, &end);
    for (int64_t panel = blockIdx.y; panel * HISA_SCORE_KEYS < end; panel += gridDim.y) {
        if ((panel + 1) * HISA_SCORE_KEYS <= begin) {
            continue;
        }
        const int64_t block = panel * HISA_SCORE_KEYS + threadIdx.x;
        const bool there = block >= begin && block < end;
        typename Scorer::keys_t keys;
        Scorer::load(keys, shard.head_dim, there ? shard.store.pooled + (base + block) * shard.head_dim : nullptr);
        const float score = Scorer::score(shared, keys, shard.head_dim, shard.num_heads,
                                          q + int64_t(row.source) * shard.num_heads * shard.head_dim,
                                          weights + int64_t(row.source) * shard.num_heads,
                                          there ? shard.store.pooled_scales[base + block] : 0.0f, fresh);
        fresh = false;
        if (there) {
            key[blockIdx.x * shard.local_blocks + block] = hisa_key_from_score(score);
        }
    }
}

extern "C" int hisa_cuda_launch_score_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile,
                                             hisa_cuda_scorer_t scorer, uint32_t *key, void *stream) {
    const int64_t panels = hisa_ceil_div(shard->local_blocks, HISA_SCORE_KEYS);
    const dim3 grid = hisa_row_grid(tile->rows, hisa_panel_pieces(tile->rows, panels));
    return hisa_with_scorer<true>(scorer, shard->head_dim, [&](auto chosen) {
        return hisa_launch(score_blocks<decltype(chosen)>, grid, HISA_SCORE_KEYS, stream, *shard, tile->row, tile->q,
                           tile->weights, key);
    });
}

/* The row's best `width` blocks: all above the width-th key, and of those equal to it the lowest. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    list_blocks(hisa_shard_t shard, hisa_keep_t keep, const hisa_row_t *rows, int32_t width, const uint32_t *keys,
                uint64_t *lists) {
    __shared__ hisa_pick_t shared;
    const hisa_row_t row = rows[blockIdx.x];
    const hisa_layout_t layout = hisa_row_layout(shard, row);
    const uint32_t *key = keys + blockIdx.x * shard.local_blocks;
    uint64_t *list = lists + int64_t(blockIdx.x) * width;
    int64_t first;
    int64_t last;
    int64_t begin;
    int64_t end;
    hisa_blocks_in_sight(shard, row, &first, &last);
    hisa_local_blocks_in_sight(shard, row, &begin, &end);
    const auto key_of = [&](int64_t block) {
        const int64_t at = hisa_layout_global(&layout, shard.rank, block);
        const bool forced = at < first + keep.sink_blocks || at >= last - keep.local_blocks;
        return forced ? HISA_KEY_FORCED : key[block];
    };
    const hisa_kth_t<uint32_t> kth =
        hisa_block_kth<uint32_t>(shared, end - begin, width, [&](int64_t i, uint32_t *out) {
            *out = key_of(begin + i);
            return 1u;
        });
    hisa_taker_t taker = hisa_taker_make(kth, width);
    for (int64_t chunk = begin; chunk < end; chunk += HISA_PICK_THREADS) {
        const int64_t block = chunk + threadIdx.x;
        const bool there = block < end;
        const uint32_t own = there ? key_of(block) : 0;
        uint32_t place;
        if (hisa_take(shared, taker, there, own, kth.threshold, &place)) {
            list[place] = hisa_rank_make(own, static_cast<int32_t>(hisa_layout_global(&layout, shard.rank, block)));
        }
    }
    for (int64_t j = hisa_taken(taker) + threadIdx.x; j < width; j += HISA_PICK_THREADS) {
        list[j] = HISA_RANK_NONE;
    }
}

extern "C" int hisa_cuda_launch_list_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_keep_t *keep,
                                            int32_t width, const uint32_t *key, uint64_t *list, void *stream) {
    return hisa_launch(list_blocks, hisa_row_grid(tile->rows, 1), HISA_PICK_THREADS, stream, *shard, *keep, tile->row,
                       width, key, list);
}
