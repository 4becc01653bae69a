/* Owner merge: who scores which kept block, and where the scores go. Three steps: count by source rank and row, turn
 * counts into first places, deal the places out. A thread walks one row's blocks in order. */
#include "backend/cuda/cuts.cuh"
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
    for (int32_t p = 0; p < shard->ranks && error == cudaSuccess; p += HISA_CUTS) {
        error = hisa_launch(count_sends, dim3(1), HISA_CUTS, stream, hisa_cuts_of(segments, shard->ranks, p),
                            shard->rank, send_begin, next + shard->ranks * n, sums);
    }
    return error;
}
