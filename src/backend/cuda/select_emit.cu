/* One rank: from the scores of a row's kept blocks straight to its results. Candidates stand in ascending position, so
 * what is taken in the order of places is in the order of positions. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* A row's results. */
struct hisa_results_t {
    int32_t *indices;
    float *scores; /* or NULL */
};

static __device__ __forceinline__ hisa_results_t results_of(const hisa_output_t &output, int64_t at) {
    const hisa_results_t results = {output.indices + at * output.top_k,
                                    output.scores != nullptr ? output.scores + at * output.top_k : nullptr};
    return results;
}

/* What follows the n that were taken. */
static __device__ __forceinline__ void finish(const hisa_output_t &output, int64_t at, uint32_t n) {
    const hisa_results_t results = results_of(output, at);
    if (output.counts != nullptr && threadIdx.x == 0) {
        output.counts[at] = static_cast<int32_t>(n);
    }
    for (int64_t i = n + threadIdx.x; i < output.top_k; i += blockDim.x) {
        results.indices[i] = -1;
        if (results.scores != nullptr) {
            results.scores[i] = 0.0f;
        }
    }
}

/* Any number of candidates. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    select_emit_any(hisa_shard_t shard, const hisa_row_t *rows, int32_t width, const int32_t *kept_of,
                    const float *pool, hisa_output_t output, hisa_segment_t segment) {
    __shared__ hisa_pick_t shared;
    const int64_t r = segment.tile_begin + blockIdx.x;
    const int64_t at = segment.output_begin + blockIdx.x;
    const hisa_row_t row = rows[r];
    const int64_t size = shard.block_size;
    const int64_t candidates = width * size;
    const int32_t *kept = kept_of + r * width;
    const float *score = pool + r * candidates;
    const hisa_results_t results = results_of(output, at);
    const auto key_of = [&](int64_t candidate, uint32_t *key) {
        const int32_t block = kept[candidate / size];
        const int64_t position = block * size + candidate % size;
        if (block < 0 || position < row.begin || position >= row.end) {
            return 0u;
        }
        *key = hisa_key_from_score(score[candidate]);
        return 1u;
    };
    const uint32_t k = static_cast<uint32_t>(output.top_k);
    const hisa_kth_t<uint32_t> kth = hisa_block_kth<uint32_t>(shared, candidates, k, key_of);
    hisa_taker_t taker = hisa_taker_make(kth, k);
    for (int64_t chunk = 0; chunk < candidates; chunk += HISA_PICK_THREADS) {
        const int64_t candidate = chunk + threadIdx.x;
        uint32_t key = 0;
        uint32_t place;
        const bool there = candidate < candidates && key_of(candidate, &key) != 0;
        if (hisa_take(shared, taker, there, key, kth.threshold, &place)) {
            results.indices[place] = static_cast<int32_t>(kept[candidate / size] * size + candidate % size);
            if (results.scores != nullptr) {
                results.scores[place] = hisa_score_from_key(key);
            }
        }
    }
    finish(output, at, hisa_taken(taker));
}

extern "C" int hisa_cuda_launch_select_emit(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                            const int32_t *kept, const float *pool, const hisa_output_t *output,
                                            const hisa_segment_t *segment, void *stream) {
    return hisa_launch(select_emit_any, hisa_row_grid(segment->rows, 1), HISA_PICK_THREADS, stream, *shard, tile->row,
                       width, kept, pool, *output, *segment);
}
