/* Flat mode: one pass over this rank's keys, a chunk of tokens at a time, each row keeping its best so far. Lists
 * ascend by position, since a chunk's winners are put behind those of earlier chunks: merge.cuh counts on that. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/score.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* Rows are the fast index of the grid, so that thread blocks that run at a time read the same keys. */
static __global__ void __launch_bounds__(HISA_SCORE_KEYS, 3)
    flat_score(hisa_shard_t shard, const hisa_row_t *rows, const uint8_t *q, const float *weights, int64_t chunk_begin,
               int64_t chunk, float *score) {
    __shared__ hisa_score_t shared;
    const hisa_row_t row = rows[blockIdx.x];
    const int64_t base = int64_t(shard.bases[row.sequence]) * shard.block_size;
    int64_t begin;
    int64_t end;
    hisa_local_tokens_in_sight(shard, row, &begin, &end);
    for (int64_t panel = blockIdx.y; panel * HISA_SCORE_KEYS < chunk; panel += gridDim.y) {
        const int64_t first = chunk_begin + panel * HISA_SCORE_KEYS;
        if (first >= end || first + HISA_SCORE_KEYS <= begin) {
            continue;
        }
        const int64_t token = first + threadIdx.x;
        const bool there = token >= begin && token < end;
        const float value = hisa_score_panel(shared, shard.head_dim, shard.num_heads,
                                             q + int64_t(row.source) * shard.num_heads * shard.head_dim,
                                             weights + int64_t(row.source) * shard.num_heads,
                                             there ? shard.store.keys + (base + token) * shard.head_dim : nullptr,
                                             there ? shard.store.scales[base + token] : 0.0f);
        if (there) {
            score[blockIdx.x * chunk + token - chunk_begin] = value;
        }
    }
}

extern "C" int hisa_cuda_launch_flat_score(const hisa_shard_t *shard, const hisa_tile_t *tile, int64_t begin,
                                           int64_t chunk, float *score, void *stream) {
    return hisa_launch(flat_score, hisa_row_grid(tile->rows, chunk / HISA_SCORE_KEYS), HISA_SCORE_KEYS, stream, *shard,
                       tile->row, tile->q, tile->weights, begin, chunk, score);
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

static __global__ void flat_finish(int32_t list_width, const hisa_flat_state_t *states, uint64_t *lists,
                                   uint64_t *bound) {
    const hisa_flat_state_t state = states[blockIdx.x];
    for (int64_t i = state.n + threadIdx.x; i < list_width; i += blockDim.x) {
        lists[int64_t(blockIdx.x) * list_width + i] = HISA_RANK_NONE;
    }
    if (threadIdx.x == 0) {
        bound[blockIdx.x] = state.least;
    }
}

extern "C" int hisa_cuda_launch_flat_finish(int64_t rows, int32_t list_width, const hisa_flat_state_t *state,
                                            uint64_t *list, uint64_t *bound, void *stream) {
    return hisa_launch(flat_finish, hisa_row_grid(rows, 1), 128, stream, list_width, state, list, bound);
}
