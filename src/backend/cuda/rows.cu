/* Rows of a tile. */
#include "backend/cuda/cuts.cuh"
#include "backend/cuda/launch.cuh"

__device__ static int32_t clamp(int32_t value, int32_t low, int32_t high) {
    return value < low ? low : (value > high ? high : value);
}

/* Windows and sequences are device memory, so nothing has checked them: they are forced into range here, and no wrong
 * one makes any later kernel read or write where it must not. */
static __global__ void make_rows(hisa_shard_t shard, const int32_t *sequence, const int32_t *window_begin,
                                 const int32_t *window_end, const __grid_constant__ hisa_segments_t group,
                                 hisa_row_t *row, uint32_t *ticket) {
    hisa_grid_release();
    if (blockIdx.x == 0 && threadIdx.x == 0) {
        *ticket = 0;
    }
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < group.rows;
         i += gridDim.x * int64_t(blockDim.x)) {
        int64_t r = i;
        const hisa_segment_t &segment = hisa_segment_of(group, &r);
        const int64_t at = segment.query_begin + r;
        hisa_row_t out;
        out.sequence = clamp(sequence != nullptr ? sequence[at] : 0, 0, shard.num_sequences - 1);
        const int32_t length = shard.lengths[out.sequence];
        out.begin = clamp(window_begin != nullptr ? window_begin[at] : 0, 0, length);
        out.end = clamp(window_end != nullptr ? window_end[at] : length, out.begin, length);
        out.source = static_cast<int32_t>(segment.source_begin + r);
        row[segment.tile_begin + r] = out;
    }
}

extern "C" int hisa_cuda_launch_make_rows(const hisa_shard_t *shard, const hisa_queries_t *queries,
                                          const hisa_segment_t *segments, int32_t n_segments, hisa_row_t *row,
                                          void *prepared, void *stream) {
    static_assert(HISA_CUDA_PREPARED == sizeof(uint32_t), "the ticket");
    cudaError_t error = cudaSuccess;
    for (int32_t next = 0; next < n_segments && error == cudaSuccess;) {
        const hisa_segments_t group = hisa_segments_of(segments, n_segments, false, &next);
        /* A thread block at the least: a rank with no rows of its own clears the ticket for those of others. */
        error = hisa_launch(make_rows, hisa_element_grid(hisa_max(1, group.rows), 128), 128, stream, *shard,
                            queries->sequence, queries->window_begin, queries->window_end, group, row,
                            static_cast<uint32_t *>(prepared));
    }
    return error;
}
