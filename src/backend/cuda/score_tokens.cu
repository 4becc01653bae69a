/* Token scores of kept blocks. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/scorer.cuh"
#include "backend/cuda/sight.cuh"

/* A panel is 128 candidates of a row in the order of its kept blocks: half a block, or several. work NULL: scores go
 * where their candidates stand. */
template <typename Scorer>
static __global__ void __launch_bounds__(HISA_SCORE_KEYS, Scorer::BLOCKS)
    score_tokens(hisa_shard_t shard, const hisa_row_t *rows, const uint8_t *q, const float *weights, int32_t width,
                 const int32_t *kept, const int32_t *work, float *pool) {
    __shared__ typename Scorer::shared_t shared;
    const hisa_row_t row = rows[blockIdx.x];
    const hisa_layout_t layout = hisa_row_layout(shard, row);
    const int64_t size = shard.block_size;
    bool fresh = true;
    for (int64_t panel = blockIdx.y; panel * HISA_SCORE_KEYS < width * size; panel += gridDim.y) {
        const int64_t candidate = panel * HISA_SCORE_KEYS + threadIdx.x;
        const int64_t at = int64_t(blockIdx.x) * width + candidate / size;
        const int64_t inside = candidate % size;
        int64_t token = -1;
        if (candidate < width * size && (work != nullptr ? work[at] : kept[at]) >= 0) {
            int64_t begin;
            int64_t end;
            hisa_tokens_in_sight(shard, row, kept[at], &begin, &end);
            if (inside >= begin && inside < end) {
                token = (shard.bases[row.sequence] + hisa_layout_local(&layout, kept[at])) * size + inside;
            }
        }
        if (!__syncthreads_or(token >= 0)) {
            continue;
        }
        typename Scorer::keys_t keys;
        Scorer::load(keys, shard.head_dim, token >= 0 ? shard.store.keys + token * shard.head_dim : nullptr);
        const float score = Scorer::score(
            shared, keys, shard.head_dim, shard.num_heads, q + int64_t(row.source) * shard.num_heads * shard.head_dim,
            weights + int64_t(row.source) * shard.num_heads, token >= 0 ? shard.store.scales[token] : 0.0f, fresh);
        fresh = false;
        if (token >= 0) {
            pool[(work != nullptr ? work[at] : at) * size + inside] = score;
        }
    }
}

extern "C" int hisa_cuda_launch_score_tokens(const hisa_shard_t *shard, const hisa_tile_t *tile,
                                             hisa_cuda_scorer_t scorer, int32_t width, const int32_t *kept,
                                             const int32_t *work, float *pool, void *stream) {
    const int64_t panels = hisa_ceil_div(int64_t(width) * shard->block_size, HISA_SCORE_KEYS);
    const dim3 grid = hisa_row_grid(tile->rows, hisa_panel_pieces(tile->rows, panels));
    return hisa_with_scorer<false>(scorer, shard->head_dim, [&](auto chosen) {
        return hisa_launch(score_tokens<decltype(chosen)>, grid, HISA_SCORE_KEYS, stream, *shard, tile->row, tile->q,
                           tile->weights, width, kept, work, pool);
    });
}
