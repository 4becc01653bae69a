/* Flat mode: the final selection among the ranks' entries, and the results. */
#include "backend/cuda/cuts.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"
#include "base/checked.h"

/* The ranks' lists of rows [row_begin, + rows) of the tile: packed by row, or, without counts, of list_width places
 * each with HISA_RANK_NONE at the end. */
struct ranks_lists_t {
    const uint64_t *entry;
    const int32_t *counts; /* [ranks][tile_rows] or NULL */
    int64_t tile_rows;
    int64_t row_begin;
    int64_t rows;
    int32_t ranks;
    int32_t list_width;
    int64_t offset[HISA_CUDA_MAX_RANKS];
};

/* Where packed rows begin in each rank's entries: begin [ranks][rows]. A thread block a rank. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS) begin_rows(ranks_lists_t from, int64_t *begin) {
    __shared__ hisa_pick_t shared;
    hisa_grid_release();
    hisa_grid_wait();
    const int32_t *counts = from.counts + blockIdx.x * from.tile_rows + from.row_begin;
    int64_t sum = from.offset[blockIdx.x];
    for (int64_t chunk = 0; chunk < from.rows; chunk += HISA_PICK_THREADS) {
        const int64_t r = chunk + threadIdx.x;
        uint32_t total;
        const uint32_t before = hisa_block_scan(shared, r < from.rows ? static_cast<uint32_t>(counts[r]) : 0, &total);
        if (r < from.rows) {
            begin[blockIdx.x * from.rows + r] = sum + before;
        }
        sum += total;
    }
}

/* Entries of a list before the HISA_RANK_NONE at its end. By the whole warp, which looks at 32 places at a time. */
static __device__ __forceinline__ int32_t count_present(const uint64_t *list, int32_t width) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    int32_t low = 0;
    int32_t high = width;
    while (low < high) {
        const int32_t step = (high - low + 31) / 32;
        const int32_t probe = low + (lane + 1) * step - 1;
        const bool present = probe < high && list[probe] != HISA_RANK_NONE;
        low += __popc(__ballot_sync(0xFFFFFFFFu, present)) * step;
        high = min(high, low + step - 1);
    }
    return low;
}

/* All ranks' entries of a row one after the other: of rows [first, first + gridDim.x) of `from`, as rows from 0 on. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    gather_lists(ranks_lists_t from, int64_t first, const int64_t *begins, hisa_flat_lists_t to) {
    __shared__ hisa_pick_t shared;
    __shared__ const uint64_t *list[HISA_CUDA_MAX_RANKS];
    __shared__ uint32_t end[HISA_CUDA_MAX_RANKS];
    static_assert(HISA_CUDA_MAX_RANKS <= HISA_PICK_THREADS, "a thread a rank");
    hisa_grid_release();
    hisa_grid_wait();
    const int64_t r = first + blockIdx.x;
    for (int32_t p = static_cast<int32_t>(threadIdx.x / 32); p < from.ranks; p += HISA_PICK_WARPS) {
        const uint64_t *begin = from.counts != nullptr ? from.entry + begins[p * from.rows + r]
                                                       : from.entry + from.offset[p] + r * from.list_width;
        const int32_t count = from.counts != nullptr ? from.counts[p * from.tile_rows + from.row_begin + r]
                                                     : count_present(begin, from.list_width);
        if (threadIdx.x % 32 == 0) {
            list[p] = begin;
            end[p] = static_cast<uint32_t>(count);
        }
    }
    __syncthreads();
    const int32_t own = static_cast<int32_t>(threadIdx.x);
    const uint32_t count = own < from.ranks ? end[own] : 0;
    uint32_t total;
    const uint32_t before = hisa_block_scan(shared, count, &total);
    if (own < from.ranks) {
        list[own] -= before; /* to be read by places among all */
        end[own] = before + count;
    }
    __syncthreads();
    uint64_t *out = to.list + blockIdx.x * to.capacity;
    int32_t p = 0;
    for (uint32_t i = threadIdx.x; i < total; i += HISA_PICK_THREADS) {
        while (i >= end[p]) {
            ++p;
        }
        out[i] = list[p][i];
    }
    if (threadIdx.x == 0) {
        to.count[blockIdx.x] = total;
        to.least[blockIdx.x] = HISA_RANK_NONE;
    }
}

/* As many rows at a time as have this many lists: their entries, whole, are what scratch is for. */
enum { LISTS_AT_A_TIME = 1 << 14 };

static int64_t rows_at_a_time(int32_t ranks, int64_t rows) {
    return hisa_max(1, hisa_min(rows, int64_t(LISTS_AT_A_TIME) / ranks));
}

/* Lays scratch out (NULL: none), and returns its bytes. */
static int64_t lay_merge(int64_t rows, int32_t list_width, int32_t ranks, void *scratch, int64_t **begin,
                         hisa_flat_lists_t *lists) {
    const int64_t together = rows_at_a_time(ranks, rows);
    uint64_t *least = static_cast<uint64_t *>(scratch);
    if (scratch != nullptr) {
        *begin = reinterpret_cast<int64_t *>(least + together);
        uint64_t *list = reinterpret_cast<uint64_t *>(*begin + ranks * rows);
        uint64_t *count = list + together * ranks * list_width;
        *lists = {list, reinterpret_cast<uint32_t *>(count), least, int64_t(ranks) * list_width};
    }
    return (together * (2 + int64_t(ranks) * list_width) + ranks * rows) * int64_t(sizeof(uint64_t));
}

extern "C" int64_t hisa_cuda_flat_merge_scratch(int64_t rows, int32_t list_width, int32_t ranks) {
    return lay_merge(rows, list_width, ranks, nullptr, nullptr, nullptr);
}

extern "C" int hisa_cuda_launch_flat_merge(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t top_k,
                                           int32_t list_width, const uint64_t *lists, const int64_t *offsets,
                                           const int32_t *counts, int64_t row_begin, int64_t rows, int32_t *positions,
                                           float *selected, uint64_t *threshold, void *scratch, void *stream) {
    ranks_lists_t from = {lists, counts, tile->rows, row_begin, rows, shard->ranks, list_width, {0}};
    for (int32_t p = 0; p < shard->ranks; ++p) {
        from.offset[p] = offsets[p];
    }
    int64_t *begin = nullptr;
    hisa_flat_lists_t merged = {};
    lay_merge(rows, list_width, shard->ranks, scratch, &begin, &merged);
    int error = counts == nullptr ? cudaSuccess
                                  : hisa_launch_next(begin_rows, dim3(static_cast<unsigned>(shard->ranks)),
                                                     HISA_PICK_THREADS, stream, from, begin);
    const int64_t together = rows_at_a_time(shard->ranks, rows);
    for (int64_t first = 0; first < rows && error == cudaSuccess; first += together) {
        const int64_t n = hisa_min(together, rows - first);
        const int64_t at = row_begin + first;
        error =
            hisa_launch_next(gather_lists, hisa_row_grid(n, 1), HISA_PICK_THREADS, stream, from, first, begin, merged);
        if (error == cudaSuccess) {
            error = hisa_cuda_launch_flat_compact(n, top_k, 0, &merged, stream);
        }
        if (error == cudaSuccess) {
            error = hisa_cuda_launch_flat_order_merged(n, top_k, &merged, positions + at * top_k,
                                                       selected != nullptr ? selected + at * top_k : nullptr,
                                                       threshold + at, stream);
        }
    }
    return error;
}

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
    flat_emit(const int32_t *positions_of, const float *selected_of, hisa_output_t output,
              const __grid_constant__ hisa_segments_t group) {
    const int64_t k = output.top_k;
    int64_t in_segment = blockIdx.x;
    const hisa_segment_t &segment = hisa_segment_of(group, &in_segment);
    const int64_t r = segment.tile_begin + in_segment;
    const int64_t at = segment.output_begin + in_segment;
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

extern "C" int hisa_cuda_launch_flat_emit(const int32_t *positions, const float *selected, const hisa_output_t *output,
                                          void *stream) {
    cudaError_t error = cudaSuccess;
    for (int32_t next = 0; next < output->n_segments && error == cudaSuccess;) {
        const hisa_segments_t group = hisa_segments_of(output->segments, output->n_segments, true, &next);
        error = hisa_launch(flat_emit, hisa_row_grid(group.rows, 1), HISA_PICK_THREADS, stream, positions, selected,
                            *output, group);
    }
    return error;
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
        const bool mine = rank != HISA_RANK_NONE && (threshold == nullptr || rank >= threshold[r]);
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
