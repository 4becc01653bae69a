/* Flat mode across ranks: dropping what cannot win, and counting what is left. */
#include "backend/cuda/cuts.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/order.h"

static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    trim_row(int32_t ranks, int64_t rows, int32_t list_width, const uint64_t *bounds, const uint64_t *lists,
             int32_t *counts, uint64_t *trimmed) {
    __shared__ hisa_pick_t shared;
    const uint64_t *list = lists + int64_t(blockIdx.x) * list_width;
    uint64_t bound = HISA_RANK_NONE + 1; /* drops the padding */
    for (int32_t p = 0; p < ranks; ++p) {
        const uint64_t other = bounds[p * rows + blockIdx.x];
        bound = other > bound ? other : bound;
    }
    uint32_t taken = 0;
    for (int64_t chunk = 0; chunk < list_width; chunk += HISA_PICK_THREADS) {
        const int64_t i = chunk + threadIdx.x;
        const uint64_t rank = i < list_width ? list[i] : HISA_RANK_NONE;
        const bool mine = rank >= bound;
        uint32_t total;
        const uint32_t before = hisa_block_scan(shared, mine ? 1u : 0u, &total);
        if (mine) {
            trimmed[int64_t(blockIdx.x) * list_width + taken + before] = rank;
        }
        taken += total;
    }
    if (threadIdx.x == 0) {
        counts[blockIdx.x] = static_cast<int32_t>(taken);
    }
}

static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    place_rows(int64_t rows, const int32_t *counts, int64_t *begin) {
    __shared__ hisa_pick_t shared;
    int64_t sum = 0;
    for (int64_t chunk = 0; chunk < rows; chunk += HISA_PICK_THREADS) {
        const int64_t r = chunk + threadIdx.x;
        uint32_t total;
        const uint32_t before = hisa_block_scan(shared, r < rows ? static_cast<uint32_t>(counts[r]) : 0, &total);
        if (r < rows) {
            begin[r] = sum + before;
        }
        sum += total;
    }
}

static __global__ void pack_row(int32_t list_width, const uint64_t *trimmed, const int32_t *counts,
                                const int64_t *begin, uint64_t *list) {
    for (int64_t i = threadIdx.x; i < counts[blockIdx.x]; i += blockDim.x) {
        list[begin[blockIdx.x] + i] = trimmed[int64_t(blockIdx.x) * list_width + i];
    }
}

extern "C" int hisa_cuda_launch_flat_trim(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t list_width,
                                          const uint64_t *bounds, uint64_t *list, int32_t *counts, uint64_t *trimmed,
                                          int64_t *begin, void *stream) {
    cudaError_t error = hisa_launch(trim_row, hisa_row_grid(tile->rows, 1), HISA_PICK_THREADS, stream, shard->ranks,
                                    tile->rows, list_width, bounds, list, counts, trimmed);
    if (error == cudaSuccess) {
        error = hisa_launch(place_rows, dim3(1), HISA_PICK_THREADS, stream, tile->rows, counts, begin);
    }
    if (error == cudaSuccess) {
        error =
            hisa_launch(pack_row, hisa_row_grid(tile->rows, 1), 128, stream, list_width, trimmed, counts, begin, list);
    }
    return error;
}

/* A warp a rank and way: what this rank has for it (blockIdx.y 0), what it has for this rank (1). */
static __global__ void sum_counts(hisa_cuts_t cuts, int32_t self, int32_t ranks, int32_t own_begin, int32_t own_rows,
                                  int64_t n, const int32_t *counts, int64_t *sums) {
    const int32_t i = static_cast<int32_t>(blockIdx.x);
    const int32_t p = cuts.first + i;
    const bool send = blockIdx.y == 0;
    const int32_t *from = send ? counts + self * n + cuts.begin[i] : counts + p * n + own_begin;
    const int32_t rows = send ? cuts.rows[i] : own_rows;
    int64_t sum = 0;
    for (int32_t r = static_cast<int32_t>(threadIdx.x); r < rows; r += 32) {
        sum += from[r];
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_down_sync(0xFFFFFFFFu, sum, distance);
    }
    if (threadIdx.x == 0) {
        sums[(send ? 0 : ranks) + p] = sum;
    }
}

extern "C" int hisa_cuda_launch_flat_sizes(const hisa_shard_t *shard, const hisa_tile_t *tile,
                                           const hisa_segment_t *segments, const int32_t *counts, int64_t *sums,
                                           void *stream) {
    const hisa_segment_t *own = &segments[shard->rank];
    cudaError_t error = cudaSuccess;
    for (int32_t p = 0; p < shard->ranks && error == cudaSuccess; p += HISA_CUTS) {
        const hisa_cuts_t cuts = hisa_cuts_of(segments, shard->ranks, p);
        error = hisa_launch(sum_counts, dim3(static_cast<unsigned>(cuts.count), 2), 32, stream, cuts, shard->rank,
                            shard->ranks, static_cast<int32_t>(own->tile_begin), static_cast<int32_t>(own->rows),
                            tile->rows, counts, sums);
    }
    return error;
}
