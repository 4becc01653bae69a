/* Flat mode: the final selection among the ranks' entries, and the results. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/merge.cuh"
#include "backend/cuda/sight.cuh"

struct flat_lists_t {
    const uint64_t *entry;
    const int32_t *counts; /* [ranks][tile rows], or NULL: list_width each */
    int64_t tile_rows;
    int32_t list_width;
    int64_t offset[HISA_CUDA_MAX_RANKS];
};

/* Where the entries of row r begin in a list packed by row, from row_begin on. All threads of the block call it. */
static __device__ int64_t packed_begin(hisa_pick_t &shared, const int32_t *counts, int64_t row_begin, int64_t r) {
    int64_t begin = 0;
    for (int64_t chunk = row_begin; chunk < r; chunk += HISA_PICK_THREADS) {
        const int64_t i = chunk + threadIdx.x;
        uint32_t total;
        hisa_block_scan(shared, i < r ? static_cast<uint32_t>(counts[i]) : 0, &total);
        begin += total;
    }
    return begin;
}

static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    flat_merge(int32_t ranks, int32_t top_k, flat_lists_t lists, int64_t row_begin, int32_t *positions_of,
               float *selected_of, uint64_t *thresholds, int32_t *before_of) {
    __shared__ hisa_pick_t shared;
    __shared__ int64_t begin[HISA_CUDA_MAX_RANKS];
    const int64_t r = row_begin + blockIdx.x;
    const int64_t width = lists.list_width;
    int32_t *positions = positions_of + r * top_k;
    float *selected = selected_of != nullptr ? selected_of + r * top_k : nullptr;
    int32_t *before = before_of + r * ranks * (width + 1);
    for (int32_t p = 0; p < ranks; ++p) {
        const int64_t at = lists.counts != nullptr
                               ? packed_begin(shared, lists.counts + p * lists.tile_rows, row_begin, r)
                               : blockIdx.x * width;
        if (threadIdx.x == 0) {
            begin[p] = lists.offset[p] + at;
        }
    }
    __syncthreads();
    const auto list_of = [&](int32_t p, int64_t *count) {
        *count = lists.counts != nullptr ? lists.counts[p * lists.tile_rows + r] : width;
        return lists.entry + begin[p];
    };
    int64_t n = 0;
    for (int32_t p = 0; p < ranks; ++p) {
        for (int64_t chunk = 0; chunk < width; chunk += HISA_PICK_THREADS) {
            int64_t count;
            const uint64_t *list = list_of(p, &count);
            const int64_t i = chunk + threadIdx.x;
            n += __syncthreads_count(i < count && list[i] != HISA_RANK_NONE);
        }
    }
    const hisa_kth_t<uint64_t> kth = hisa_block_kth<uint64_t>(
        shared, ranks * width, static_cast<uint32_t>(hisa_min(n, top_k)), [&](int64_t i, uint64_t *rank) {
            int64_t count;
            const uint64_t *list = list_of(static_cast<int32_t>(i / width), &count);
            *rank = i % width < count ? list[i % width] : HISA_RANK_NONE;
            return *rank != HISA_RANK_NONE ? 1u : 0u;
        });
    const uint64_t threshold = n > 0 ? kth.threshold : HISA_RANK_NONE;
    const uint32_t taken = hisa_merge_count(shared, ranks, width, threshold, list_of, before);
    hisa_merge_put(ranks, width, threshold, list_of, before, [&](int64_t place, uint64_t rank, int32_t, int64_t) {
        positions[place] = hisa_rank_position(rank);
        if (selected != nullptr) {
            selected[place] = hisa_score_from_key(hisa_rank_key(rank));
        }
    });
    for (int64_t i = taken + threadIdx.x; i < top_k; i += HISA_PICK_THREADS) {
        positions[i] = -1;
        if (selected != nullptr) {
            selected[i] = 0.0f;
        }
    }
    if (threadIdx.x == 0) {
        thresholds[r] = threshold;
    }
}

extern "C" int hisa_cuda_launch_flat_merge(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t top_k,
                                           int32_t list_width, const uint64_t *lists, const int64_t *offsets,
                                           const int32_t *counts, int64_t row_begin, int64_t rows, int32_t *positions,
                                           float *selected, uint64_t *threshold, int32_t *before, void *stream) {
    flat_lists_t from = {lists, counts, tile->rows, list_width, {0}};
    for (int32_t p = 0; p < shard->ranks; ++p) {
        from.offset[p] = offsets[p];
    }
    return hisa_launch(flat_merge, hisa_row_grid(rows, 1), HISA_PICK_THREADS, stream, shard->ranks, top_k, from,
                       row_begin, positions, selected, threshold, before);
}

static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    flat_emit(const int32_t *positions_of, const float *selected_of, hisa_output_t output, hisa_segment_t segment) {
    const int64_t k = output.top_k;
    const int64_t r = segment.tile_begin + blockIdx.x;
    const int64_t at = segment.output_begin + blockIdx.x;
    int32_t n = 0;
    for (int64_t chunk = 0; chunk < k; chunk += HISA_PICK_THREADS) {
        const int64_t i = chunk + threadIdx.x;
        const int32_t position = i < k ? positions_of[r * k + i] : -1;
        if (i < k) {
            output.indices[at * k + i] = position;
            if (selected_of != nullptr) {
                output.scores[at * k + i] = selected_of[r * k + i];
            }
        }
        n += __syncthreads_count(position >= 0);
    }
    if (output.counts != nullptr && threadIdx.x == 0) {
        output.counts[at] = n;
    }
}

extern "C" int hisa_cuda_launch_flat_emit(const hisa_tile_t *tile, const int32_t *positions, const float *selected,
                                          const hisa_output_t *output, const hisa_segment_t *segment, void *stream) {
    (void)tile;
    return hisa_launch(flat_emit, hisa_row_grid(segment->rows, 1), HISA_PICK_THREADS, stream, positions, selected,
                       *output, *segment);
}

/* This rank's own entries that reach the threshold, as slots. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    flat_emit_local(hisa_shard_t shard, const hisa_row_t *rows, int32_t list_width, const uint64_t *lists,
                    const int32_t *counts, const uint64_t *threshold, hisa_output_t output, hisa_segment_t segment) {
    __shared__ hisa_pick_t shared;
    const int64_t k = output.top_k;
    const int64_t r = segment.tile_begin + blockIdx.x;
    const int64_t at = segment.output_begin + blockIdx.x;
    const hisa_layout_t layout = hisa_row_layout(shard, rows[r]);
    const uint64_t *list = lists + (counts != nullptr ? packed_begin(shared, counts, 0, r) : r * list_width);
    const int64_t count = counts != nullptr ? counts[r] : list_width;
    uint32_t taken = 0;
    for (int64_t chunk = 0; chunk < count; chunk += HISA_PICK_THREADS) {
        const int64_t i = chunk + threadIdx.x;
        const uint64_t rank = i < count ? list[i] : HISA_RANK_NONE;
        const bool mine = rank != HISA_RANK_NONE && rank >= threshold[r];
        uint32_t total;
        const uint32_t before = hisa_block_scan(shared, mine ? 1u : 0u, &total);
        if (mine) {
            const int64_t position = hisa_rank_position(rank);
            const int64_t to = at * k + taken + before;
            output.indices[to] =
                static_cast<int32_t>(hisa_layout_local(&layout, position / shard.block_size) * shard.block_size +
                                     position % shard.block_size);
            if (output.scores != nullptr) {
                output.scores[to] = hisa_score_from_key(hisa_rank_key(rank));
            }
        }
        taken += total;
    }
    if (output.counts != nullptr && threadIdx.x == 0) {
        output.counts[at] = static_cast<int32_t>(taken);
    }
    for (int64_t i = taken + threadIdx.x; i < k; i += HISA_PICK_THREADS) {
        output.indices[at * k + i] = -1;
        if (output.scores != nullptr) {
            output.scores[at * k + i] = 0.0f;
        }
    }
}

extern "C" int hisa_cuda_launch_flat_emit_local(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t list_width,
                                                const uint64_t *list, const int32_t *counts, const uint64_t *threshold,
                                                const hisa_output_t *output, const hisa_segment_t *segment,
                                                void *stream) {
    return hisa_launch(flat_emit_local, hisa_row_grid(segment->rows, 1), HISA_PICK_THREADS, stream, *shard, tile->row,
                       list_width, list, counts, threshold, *output, *segment);
}
