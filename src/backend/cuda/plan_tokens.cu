/* Owner merge: who scores which kept block, and where the scores go. Three steps: count by source rank and row, turn
 * counts into first places, deal the places out. A thread walks one row's blocks in order. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/sight.cuh"

/* next [ranks + 1][rows of the tile]: of own rows by source rank; the last line: of other rows, what this rank scores.
 */
static __global__ void count_blocks(hisa_shard_t shard, const hisa_row_t *rows, int64_t n, hisa_segment_t own,
                                    int32_t width, const int32_t *kept, int32_t *next) {
    const int64_t r = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    if (r >= n) {
        return;
    }
    const hisa_layout_t layout = hisa_row_layout(shard, rows[r]);
    const bool mine = r >= own.tile_begin && r < own.tile_begin + own.rows;
    for (int32_t p = 0; p <= shard.ranks; ++p) {
        next[p * n + r] = 0;
    }
    for (int64_t j = r * width; j < (r + 1) * width && kept[j] >= 0; ++j) {
        const int32_t owner = hisa_layout_owner(&layout, kept[j]);
        if (mine) {
            ++next[owner * n + r];
        } else if (owner == shard.rank) {
            ++next[shard.ranks * n + r];
        }
    }
}

/* One thread block: each count becomes the sum of those before it, own rows by source rank from 0 on, the rest from
 * send_begin on. recv: sums by source rank. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    place_blocks(int32_t ranks, int64_t n, int64_t send_begin, int32_t *next, int64_t *recv) {
    __shared__ hisa_pick_t shared;
    int64_t sum = 0;
    for (int32_t p = 0; p <= ranks; ++p) {
        const int64_t first = p == ranks ? send_begin : sum;
        sum = first;
        for (int64_t chunk = 0; chunk < n; chunk += HISA_PICK_THREADS) {
            const int64_t r = chunk + threadIdx.x;
            const uint32_t count = r < n ? static_cast<uint32_t>(next[p * n + r]) : 0;
            uint32_t total;
            const uint32_t before = hisa_block_scan(shared, count, &total);
            if (r < n) {
                next[p * n + r] = static_cast<int32_t>(sum + before);
            }
            sum += total;
        }
        if (threadIdx.x == 0 && p < ranks) {
            recv[p] = sum - first;
        }
    }
}

/* How many blocks of the segment's rows this rank scores. One warp. */
static __global__ void sum_sends(hisa_segment_t segment, int32_t width, const int32_t *work, int64_t *send) {
    int64_t sum = 0;
    for (int64_t j = segment.tile_begin * width + threadIdx.x; j < (segment.tile_begin + segment.rows) * width;
         j += 32) {
        sum += work[j] >= 0 ? 1 : 0;
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        sum += __shfl_down_sync(0xFFFFFFFFu, sum, distance);
    }
    if (threadIdx.x == 0) {
        *send = sum;
    }
}

static __global__ void deal_blocks(hisa_shard_t shard, const hisa_row_t *rows, int64_t n, hisa_segment_t own,
                                   int32_t width, const int32_t *kept, int32_t *next, int32_t *work, int32_t *place) {
    const int64_t r = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    if (r >= n) {
        return;
    }
    const hisa_layout_t layout = hisa_row_layout(shard, rows[r]);
    const bool mine = r >= own.tile_begin && r < own.tile_begin + own.rows;
    for (int64_t j = r * width; j < (r + 1) * width; ++j) {
        const int32_t owner = kept[j] >= 0 ? hisa_layout_owner(&layout, kept[j]) : -1;
        work[j] = -1;
        if (mine) {
            place[j] = owner >= 0 ? next[owner * n + r]++ : -1;
            work[j] = owner == shard.rank ? place[j] : -1;
        } else if (owner == shard.rank) {
            work[j] = next[shard.ranks * n + r]++;
        }
    }
}

extern "C" int hisa_cuda_launch_plan_tokens(const hisa_shard_t *shard, const hisa_tile_t *tile,
                                            const hisa_segment_t *segments, int32_t width, const int32_t *kept,
                                            int64_t send_begin, int32_t *work, int32_t *place, int32_t *next,
                                            int64_t *sums, void *stream) {
    const hisa_segment_t own = segments[shard->rank];
    const int64_t n = tile->rows;
    cudaError_t error =
        hisa_launch(count_blocks, hisa_element_grid(n, 32), 32, stream, *shard, tile->row, n, own, width, kept, next);
    if (error == cudaSuccess) {
        error = hisa_launch(place_blocks, dim3(1), HISA_PICK_THREADS, stream, shard->ranks, n, send_begin, next,
                            sums + shard->ranks);
    }
    if (error == cudaSuccess) {
        error = hisa_launch(deal_blocks, hisa_element_grid(n, 32), 32, stream, *shard, tile->row, n, own, width, kept,
                            next, work, place);
    }
    for (int32_t p = 0; p < shard->ranks && error == cudaSuccess; ++p) {
        hisa_segment_t segment = segments[p];
        segment.rows = p == shard->rank ? 0 : segment.rows;
        error = hisa_launch(sum_sends, dim3(1), 32, stream, segment, width, work, sums + p);
    }
    return error;
}
