/* Owner merge: who scores which kept block, and where the scores go. Three steps: count by source rank and row, turn
 * counts into first places, deal the places out. A warp walks one row's blocks in order, a lane a block. */
#include "backend/cuda/cuts.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/sight.cuh"

/* The line of next [ranks + 1][rows of the tile] that a kept block counts in: for own rows its owner's, for others'
 * rows the last if this rank scores it, else -1. */
static __device__ __forceinline__ int32_t line_of(const hisa_shard_t &shard, int32_t owner, bool mine) {
    return mine ? owner : (owner == shard.rank ? shard.ranks : -1);
}

static __device__ __forceinline__ bool is_own(const hisa_segment_t &own, int64_t r) {
    return r >= own.tile_begin && r < own.tile_begin + own.rows;
}

static __global__ void count_blocks(hisa_shard_t shard, const hisa_row_t *rows, int64_t n, hisa_segment_t own,
                                    int32_t width, const int32_t *kept, int32_t *next) {
    const int64_t r = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / 32;
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    if (r >= n) {
        return;
    }
    const hisa_layout_t layout = hisa_row_layout(shard, rows[r]);
    const bool mine = is_own(own, r);
    for (int32_t p = lane; p <= shard.ranks; p += 32) {
        next[p * n + r] = 0;
    }
    __syncwarp();
    for (int32_t first = 0; first < width; first += 32) {
        const int32_t block = first + lane < width ? kept[r * width + first + lane] : -1;
        const int32_t line = block >= 0 ? line_of(shard, hisa_layout_owner(&layout, block), mine) : -1;
        const uint32_t same = __match_any_sync(0xFFFFFFFFu, line);
        if (line >= 0 && lane == __ffs(static_cast<int>(same)) - 1) {
            next[line * n + r] += __popc(same);
        }
        __syncwarp();
    }
}

/* One thread block, a warp a line: each count becomes the sum of those before it, own rows by source rank from 0 on,
 * the rest from send_begin on. recv: sums by source rank. */
enum { PLACE_THREADS = 1024 };

static __global__ void __launch_bounds__(PLACE_THREADS)
    place_blocks(int32_t ranks, int64_t n, int64_t send_begin, int32_t *next, int64_t *recv) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    const int32_t warp = static_cast<int32_t>(threadIdx.x / 32);
    for (int32_t p = warp; p < ranks; p += PLACE_THREADS / 32) {
        int32_t sum = 0;
        for (int64_t r = lane; r < n; r += 32) {
            sum += next[p * n + r];
        }
        sum = __reduce_add_sync(0xFFFFFFFFu, sum);
        if (lane == 0) {
            recv[p] = sum;
        }
    }
    __syncthreads();
    for (int32_t p = warp; p <= ranks; p += PLACE_THREADS / 32) {
        int32_t lower = 0;
        for (int32_t q = lane; q < p; q += 32) {
            lower += static_cast<int32_t>(recv[q]);
        }
        int32_t sum = p == ranks ? static_cast<int32_t>(send_begin) : __reduce_add_sync(0xFFFFFFFFu, lower);
        for (int64_t first = 0; first < n; first += 32) {
            const int64_t r = first + lane;
            const int32_t count = r < n ? next[p * n + r] : 0;
            int32_t up_to = count;
#pragma unroll
            for (int distance = 1; distance < 32; distance *= 2) {
                const int32_t before = __shfl_up_sync(0xFFFFFFFFu, up_to, distance);
                up_to += lane >= distance ? before : 0;
            }
            if (r < n) {
                next[p * n + r] = sum + up_to - count;
            }
            sum += __shfl_sync(0xFFFFFFFFu, up_to, 31);
        }
    }
}

static __global__ void deal_blocks(hisa_shard_t shard, const hisa_row_t *rows, int64_t n, hisa_segment_t own,
                                   int32_t width, const int32_t *kept, int32_t *next, int32_t *work, int32_t *place) {
    const int64_t r = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / 32;
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    if (r >= n) {
        return;
    }
    const hisa_layout_t layout = hisa_row_layout(shard, rows[r]);
    const bool mine = is_own(own, r);
    for (int32_t first = 0; first < width; first += 32) {
        const int64_t j = r * width + first + lane;
        const bool there = first + lane < width;
        const int32_t block = there ? kept[j] : -1;
        const int32_t owner = block >= 0 ? hisa_layout_owner(&layout, block) : -1;
        const int32_t line = block >= 0 ? line_of(shard, owner, mine) : -1;
        const uint32_t same = __match_any_sync(0xFFFFFFFFu, line);
        const int32_t begin = line >= 0 ? next[line * n + r] : 0;
        const int32_t at = line >= 0 ? begin + __popc(same & ((1u << lane) - 1)) : -1;
        __syncwarp();
        if (line >= 0 && lane == __ffs(static_cast<int>(same)) - 1) {
            next[line * n + r] = begin + __popc(same);
        }
        if (there) {
            work[j] = owner == shard.rank ? at : -1;
            if (mine) {
                place[j] = at;
            }
        }
        __syncwarp();
    }
}

/* How many blocks of each other rank's rows this rank scores. end [rows of the tile]: where the places of each row's
 * blocks end, as deal_blocks leaves them. A thread a rank. */
static __global__ void count_sends(hisa_cuts_t cuts, int32_t self, int64_t send_begin, const int32_t *end,
                                   int64_t *send) {
    const int32_t i = static_cast<int32_t>(threadIdx.x);
    if (i < cuts.count) {
        const int32_t p = cuts.first + i;
        const int32_t first = cuts.begin[i];
        const int32_t last = first + cuts.rows[i];
        send[p] = p == self || last == first ? 0 : end[last - 1] - (first > 0 ? end[first - 1] : send_begin);
    }
}

/* The kept blocks that this rank stores, closed up: all that own_blocks of backend.h asks for. */
static __global__ void own_blocks(hisa_shard_t shard, const hisa_row_t *rows, int64_t n, int32_t width,
                                  const int32_t *kept, int32_t own_width, int32_t *own, int32_t *place) {
    const int64_t r = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / 32;
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    if (r >= n) {
        return;
    }
    const hisa_layout_t layout = hisa_row_layout(shard, rows[r]);
    int32_t next = 0;
    for (int32_t first = 0; first < width; first += 32) {
        const int32_t block = first + lane < width ? kept[r * width + first + lane] : -1;
        const bool mine = block >= 0 && hisa_layout_owner(&layout, block) == shard.rank;
        const uint32_t all = __ballot_sync(0xFFFFFFFFu, mine);
        if (mine) {
            const int64_t at = r * own_width + next + __popc(all & ((1u << lane) - 1));
            own[at] = block;
            place[at] = static_cast<int32_t>(at);
        }
        next += __popc(all);
    }
    for (int32_t j = next + lane; j < own_width; j += 32) {
        own[r * own_width + j] = -1;
        place[r * own_width + j] = -1;
    }
}

extern "C" int hisa_cuda_launch_own_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                           const int32_t *kept, int32_t own_width, int32_t *own, int32_t *place,
                                           void *stream) {
    return hisa_launch(own_blocks, hisa_row_grid(hisa_ceil_div(tile->rows, 4), 1), 4 * 32, stream, *shard, tile->row,
                       tile->rows, width, kept, own_width, own, place);
}

extern "C" int hisa_cuda_launch_plan_tokens(const hisa_shard_t *shard, const hisa_tile_t *tile,
                                            const hisa_segment_t *segments, int32_t width, const int32_t *kept,
                                            int64_t send_begin, int32_t *work, int32_t *place, int32_t *next,
                                            int64_t *sums, void *stream) {
    const hisa_segment_t own = segments[shard->rank];
    const int64_t n = tile->rows;
    cudaError_t error = hisa_launch(count_blocks, hisa_row_grid(hisa_ceil_div(n, 4), 1), 4 * 32, stream, *shard,
                                    tile->row, n, own, width, kept, next);
    if (error == cudaSuccess) {
        error = hisa_launch(place_blocks, dim3(1), PLACE_THREADS, stream, shard->ranks, n, send_begin, next,
                            sums + shard->ranks);
    }
    if (error == cudaSuccess) {
        error = hisa_launch(deal_blocks, hisa_row_grid(hisa_ceil_div(n, 4), 1), 4 * 32, stream, *shard, tile->row, n,
                            own, width, kept, next, work, place);
    }
    for (int32_t p = 0; p < shard->ranks && error == cudaSuccess; p += HISA_CUTS) {
        error = hisa_launch(count_sends, dim3(1), HISA_CUTS, stream, hisa_cuts_of(segments, shard->ranks, p),
                            shard->rank, send_begin, next + shard->ranks * n, sums);
    }
    return error;
}
