/* Block scores of this rank's blocks. */
#include "backend/cuda/launch.cuh"
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
