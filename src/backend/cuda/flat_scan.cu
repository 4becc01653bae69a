/* Flat mode: one pass over this rank's keys, a chunk of tokens at a time, each row keeping its best so far. Lists
 * ascend by position, since a chunk's winners are put behind those of earlier chunks: a rank's results of its own
 * tokens count on that (flat_emit_local). */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/scorer.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* A thread block scores `together` neighbouring rows on a panel: its keys stay, the rows' queries stream by. Rows are
 * the fast index of the grid, so that thread blocks that run at a time read the same keys. */
template <typename Scorer>
static __global__ void __launch_bounds__(HISA_SCORE_KEYS, Scorer::BLOCKS)
    flat_score(hisa_shard_t shard, const hisa_row_t *rows, int64_t n, int32_t together, const uint8_t *q,
               const float *weights, int64_t chunk_begin, int64_t chunk, float *score) {
    __shared__ typename Scorer::shared_t shared;
    const int64_t last = hisa_min(n, (blockIdx.x + int64_t(1)) * together);
    for (int64_t panel = blockIdx.y; panel * HISA_SCORE_KEYS < chunk; panel += gridDim.y) {
        const int64_t first = chunk_begin + panel * HISA_SCORE_KEYS;
        const int64_t token = first + threadIdx.x;
        typename Scorer::keys_t keys;
        float scale = 0.0f;
        int32_t loaded = -1; /* the sequence of the keys */
        for (int64_t r = blockIdx.x * int64_t(together); r < last; ++r) {
            const hisa_row_t row = rows[r];
            int64_t begin;
            int64_t end;
            hisa_local_tokens_in_sight(shard, row, &begin, &end);
            if (first >= end || first + HISA_SCORE_KEYS <= begin) {
                continue;
            }
            if (row.sequence != loaded) {
                const hisa_layout_t layout = hisa_row_layout(shard, row);
                const int64_t at = int64_t(shard.bases[row.sequence]) * shard.block_size + token;
                const bool stored = token < hisa_layout_count_tokens(&layout, shard.rank, shard.lengths[row.sequence]);
                Scorer::load(keys, shard.head_dim, stored ? shard.store.keys + at * shard.head_dim : nullptr);
                scale = stored ? shard.store.scales[at] : 0.0f;
                loaded = row.sequence;
            }
            const float value = Scorer::score(shared, keys, shard.head_dim, shard.num_heads,
                                              q + int64_t(row.source) * shard.num_heads * shard.head_dim,
                                              weights + int64_t(row.source) * shard.num_heads, scale, true);
            if (token >= begin && token < end) {
                score[r * chunk + token - chunk_begin] = value;
            }
        }
    }
}

extern "C" int hisa_cuda_launch_flat_score(const hisa_shard_t *shard, const hisa_tile_t *tile,
                                           hisa_cuda_scorer_t scorer, int64_t begin, int64_t chunk, float *score,
                                           void *stream) {
    const int64_t panels = chunk / HISA_SCORE_KEYS;
    /* As many rows as leave thread blocks for some ten rounds of an H100. */
    const int64_t together = hisa_max(1, hisa_min(8, tile->rows * panels / 4096));
    const dim3 grid = hisa_row_grid(hisa_ceil_div(tile->rows, together), panels);
    return hisa_with_scorer<false>(scorer, shard->head_dim, [&](auto chosen) {
        return hisa_launch(flat_score<decltype(chosen)>, grid, HISA_SCORE_KEYS, stream, *shard, tile->row, tile->rows,
                           int32_t(together), tile->q, tile->weights, begin, chunk, score);
    });
}

/* Of a row's list and a chunk's tokens, keeps the best top_k. In place: what is written has been read by then. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    flat_keep(hisa_shard_t shard, const hisa_row_t *rows, int32_t top_k, int32_t list_width, int64_t chunk_begin,
              int64_t chunk, const float *scores, uint64_t *lists, hisa_flat_state_t *states) {
    __shared__ hisa_pick_t shared;
    const hisa_row_t row = rows[blockIdx.x];
    const hisa_layout_t layout = hisa_row_layout(shard, row);
    const hisa_flat_state_t state = states[blockIdx.x];
    uint64_t *list = lists + int64_t(blockIdx.x) * list_width;
    int64_t begin;
    int64_t end;
    hisa_local_tokens_in_sight(shard, row, &begin, &end);
    begin = hisa_max(begin, chunk_begin);
    end = hisa_min(end, chunk_begin + chunk);
    if (begin >= end) {
        return;
    }
    const float *score = scores + int64_t(blockIdx.x) * chunk - chunk_begin;
    const auto rank_of = [&](int64_t i, uint64_t *rank) {
        if (i < state.n) {
            *rank = list[i];
            return 1u;
        }
        const int64_t token = begin + i - state.n;
        const uint32_t key = hisa_key_from_score(score[token]);
        if (key < hisa_rank_key(state.least)) {
            return 0u; /* most of them: spares the arithmetic below */
        }
        const int64_t block = hisa_layout_global(&layout, shard.rank, token / shard.block_size);
        *rank = hisa_rank_make(key, static_cast<int32_t>(block * shard.block_size + token % shard.block_size));
        return *rank > state.least ? 1u : 0u;
    };
    const int64_t n = state.n + end - begin;
    const hisa_kth_t<uint64_t> kth = hisa_block_kth<uint64_t>(shared, n, static_cast<uint32_t>(top_k), rank_of);
    uint32_t taken = 0;
    for (int64_t at = 0; at < n; at += HISA_PICK_THREADS) {
        const int64_t i = at + threadIdx.x;
        uint64_t rank = 0;
        const bool mine = i < n && rank_of(i, &rank) != 0 && rank >= kth.threshold;
        uint32_t total;
        const uint32_t before = hisa_block_scan(shared, mine ? 1u : 0u, &total);
        if (mine) {
            list[taken + before] = rank;
        }
        taken += total;
    }
    if (threadIdx.x == 0) {
        states[blockIdx.x].n = taken;
        states[blockIdx.x].least = taken == static_cast<uint32_t>(top_k) ? kth.threshold : HISA_RANK_NONE;
    }
}

extern "C" int hisa_cuda_launch_flat_keep(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t top_k,
                                          int32_t list_width, int64_t begin, int64_t chunk, const float *score,
                                          uint64_t *list, hisa_flat_state_t *state, void *stream) {
    return hisa_launch(flat_keep, hisa_row_grid(tile->rows, 1), HISA_PICK_THREADS, stream, *shard, tile->row, top_k,
                       list_width, begin, chunk, score, list, state);
}

static __global__ void flat_finish(int32_t list_width, const hisa_flat_state_t *states, uint64_t *lists) {
    const hisa_flat_state_t state = states[blockIdx.x];
    for (int64_t i = state.n + threadIdx.x; i < list_width; i += blockDim.x) {
        lists[int64_t(blockIdx.x) * list_width + i] = HISA_RANK_NONE;
    }
}

extern "C" int hisa_cuda_launch_flat_finish(int64_t rows, int32_t list_width, const hisa_flat_state_t *state,
                                            uint64_t *list, void *stream) {
    return hisa_launch(flat_finish, hisa_row_grid(rows, 1), 128, stream, list_width, state, list);
}
