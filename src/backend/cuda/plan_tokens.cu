/* Owner merge: who scores which kept block, and where the scores go. Three steps: count by source rank and row, turn
 * counts into first places, deal the places out. A warp walks one row's blocks in order, a lane a block. */
#include "backend/cuda/cuts.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/cuda/warp.cuh"

/* The line of next [ranks + 1][rows of the tile] that a kept block belongs to: for own rows its owner's, for others'
 * rows `others` if this rank scores it, else -1. Others' rows are counted in line 0, where only own rows get places,
 * and get theirs in line `ranks`: so no thread block writes what another one reads. */
static __device__ __forceinline__ int32_t line_of(const hisa_shard_t &shard, int32_t owner, bool mine, int32_t others) {
    return mine ? owner : (owner == shard.rank ? others : -1);
}

static __device__ __forceinline__ bool is_own(const hisa_segment_t &own, int64_t r) {
    return r >= own.tile_begin && r < own.tile_begin + own.rows;
}

static __global__ void count_blocks(hisa_shard_t shard, const hisa_row_t *rows, int64_t n, hisa_segment_t own,
                                    int32_t width, const int32_t *kept, int32_t *next) {
    const int64_t r = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / 32;
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    hisa_grid_release();
    if (r >= n) {
        return;
    }
    const hisa_layout_t layout = hisa_row_layout(shard, rows[r]);
    const bool mine = is_own(own, r);
    for (int32_t p = lane; p < (mine ? shard.ranks : 1); p += 32) {
        next[p * n + r] = 0;
    }
    __syncwarp();
    for (int32_t first = 0; first < width; first += 32) {
        const int32_t block = first + lane < width ? kept[r * width + first + lane] : -1;
        const int32_t line = block >= 0 ? line_of(shard, hisa_deal_owner(&shard.deal, &layout, block), mine, 0) : -1;
        const uint32_t same = __match_any_sync(0xFFFFFFFFu, line);
        if (line >= 0 && lane == __ffs(static_cast<int>(same)) - 1) {
            next[line * n + r] += __popc(same);
        }
        __syncwarp();
    }
}

/* A thread block a line: 4096 rows are one round, each thread's loads all under way at a time. */
enum { PLACE_THREADS = 1024, PLACE_WARPS = PLACE_THREADS / 32, PLACE_EACH = 4 };
static_assert(PLACE_WARPS == 32, "a lane a warp's sum");

/* Gives each of rows [begin, end) a place: `sum` and the counts of the rows before it. Returns the place that comes
 * after all. count_of(r) may read what this thread is to write to place[r]. All threads of the block call it. */
template <typename CountOf>
static __device__ __forceinline__ int32_t place_rows(int32_t (&sums)[PLACE_WARPS], int64_t begin, int64_t end,
                                                     int32_t sum, CountOf count_of, int32_t *place) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    const int32_t warp = static_cast<int32_t>(threadIdx.x / 32);
    for (int64_t first = begin; first < end; first += PLACE_THREADS * PLACE_EACH) {
        const int64_t own = first + warp * 32 * PLACE_EACH + lane;
        int32_t before[PLACE_EACH];
#pragma unroll
        for (int i = 0; i < PLACE_EACH; ++i) {
            before[i] = own + i * 32 < end ? count_of(own + i * 32) : 0;
        }
        int32_t up_to = 0; /* of the warp */
#pragma unroll
        for (int i = 0; i < PLACE_EACH; ++i) {
            const int32_t scanned = hisa_warp_scan(before[i]);
            before[i] = up_to + scanned - before[i];
            up_to += __shfl_sync(0xFFFFFFFFu, scanned, 31);
        }
        __syncthreads(); /* the sums of the round before have been read */
        if (lane == 0) {
            sums[warp] = up_to;
        }
        __syncthreads();
        const int32_t lower = __reduce_add_sync(0xFFFFFFFFu, lane < warp ? sums[lane] : 0);
#pragma unroll
        for (int i = 0; i < PLACE_EACH; ++i) {
            if (own + i * 32 < end) {
                place[own + i * 32] = sum + lower + before[i];
            }
        }
        sum += __reduce_add_sync(0xFFFFFFFFu, sums[lane]);
    }
    return sum;
}

/* Thread block i < cuts.count: own rows' blocks that rank cuts.first + i scores, counted from 0 on: deal_blocks adds
 * what comes from lower ranks, which no thread block has to wait for here. The last: others' rows from send_begin on,
 * and how many blocks of each rank's rows that is. */
static __global__ void __launch_bounds__(PLACE_THREADS)
    place_blocks(const __grid_constant__ hisa_cuts_t cuts, int32_t ranks, int64_t n, hisa_segment_t own,
                 int64_t send_begin, int32_t *next, int64_t *send, int64_t *recv) {
    __shared__ int32_t sums[PLACE_WARPS];
    const int32_t i = static_cast<int32_t>(threadIdx.x);
    hisa_grid_release();
    hisa_grid_wait();
    if (static_cast<int32_t>(blockIdx.x) < cuts.count) {
        const int32_t p = cuts.first + static_cast<int32_t>(blockIdx.x);
        int32_t *line = next + p * n;
        const auto count_of = [&](int64_t r) { return line[r]; };
        const int32_t sum = place_rows(sums, own.tile_begin, own.tile_begin + own.rows, 0, count_of, line);
        if (i == 0) {
            recv[p] = sum;
        }
        return;
    }
    int32_t *place = next + ranks * n;
    const auto count_of = [&](int64_t r) { return is_own(own, r) ? 0 : next[r]; };
    const int32_t end = place_rows(sums, 0, n, static_cast<int32_t>(send_begin), count_of, place);
    __syncthreads();
    if (i < cuts.count) {
        const int64_t first = cuts.begin[i];
        const int64_t last = first + cuts.rows[i];
        send[cuts.first + i] = (last < n ? place[last] : end) - (first < n ? place[first] : end);
    }
}

/* Adds to an own row's first places, which begin anew for each source rank, what comes from lower ranks. A warp. */
static __device__ __forceinline__ void add_lower_ranks(int32_t ranks, int64_t n, int64_t r, const int64_t *recv,
                                                       int32_t *next) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    int32_t lower = 0;
    for (int32_t first = 0; first < ranks; first += 32) {
        const int32_t p = first + lane;
        const int32_t count = p < ranks ? static_cast<int32_t>(recv[p]) : 0;
        const int32_t up_to = hisa_warp_scan(count);
        if (p < ranks) {
            next[p * n + r] += lower + up_to - count;
        }
        lower += __shfl_sync(0xFFFFFFFFu, up_to, 31);
    }
    __syncwarp();
}

static __global__ void deal_blocks(hisa_shard_t shard, const hisa_row_t *rows, int64_t n, hisa_segment_t own,
                                   int32_t width, const int32_t *kept, const int64_t *recv, int32_t *next,
                                   int32_t *work, int32_t *place) {
    const int64_t r = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / 32;
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    hisa_grid_release();
    hisa_grid_wait();
    if (r >= n) {
        return;
    }
    const hisa_layout_t layout = hisa_row_layout(shard, rows[r]);
    const bool mine = is_own(own, r);
    if (mine) {
        add_lower_ranks(shard.ranks, n, r, recv, next);
    }
    for (int32_t first = 0; first < width; first += 32) {
        const int64_t j = r * width + first + lane;
        const bool there = first + lane < width;
        const int32_t block = there ? kept[j] : -1;
        const int32_t owner = block >= 0 ? hisa_deal_owner(&shard.deal, &layout, block) : -1;
        const int32_t line = block >= 0 ? line_of(shard, owner, mine, shard.ranks) : -1;
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

/* The kept blocks that this rank stores, closed up: all that own_blocks of backend.h asks for. */
static __global__ void own_blocks(hisa_shard_t shard, const hisa_row_t *rows, int64_t n, int32_t width,
                                  const int32_t *kept, int32_t own_width, int32_t *own, int32_t *place) {
    const int64_t r = (blockIdx.x * int64_t(blockDim.x) + threadIdx.x) / 32;
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    if (r >= n) {
        return;
    }
    const uint32_t own_first = hisa_row_first(shard, rows[r]);
    int32_t next = 0;
    for (int32_t first = 0; first < width; first += 32) {
        const int32_t block = first + lane < width ? kept[r * width + first + lane] : -1;
        const bool mine = block >= 0 && hisa_deal_local(&shard.deal, own_first, block) >= 0;
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
    for (int32_t p = 0; p < shard->ranks && error == cudaSuccess; p += HISA_CUTS) {
        const hisa_cuts_t cuts = hisa_cuts_of(segments, shard->ranks, p);
        error = hisa_launch_next(place_blocks, dim3(static_cast<unsigned>(cuts.count + 1)), PLACE_THREADS, stream, cuts,
                                 shard->ranks, n, own, send_begin, next, sums, sums + shard->ranks);
    }
    if (error == cudaSuccess) {
        error = hisa_launch_next(deal_blocks, hisa_row_grid(hisa_ceil_div(n, 4), 1), 4 * 32, stream, *shard, tile->row,
                                 n, own, width, kept, sums + shard->ranks, next, work, place);
    }
    return error;
}
