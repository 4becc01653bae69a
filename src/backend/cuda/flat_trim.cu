/* Flat mode across ranks: how good lists are, dropping what cannot win, and counting what is left. */
#include "backend/cuda/cuts.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/order.h"

/* Entries are counted by ranges of scores, of equal size between the lowest and the highest, and a quantile is the
 * lowest key in its range: one that is true, and as high as the range lets it be. NaN is not counted; where the
 * difference of scores is not finite, all others are in the lowest range. */
enum { BINS = 2048, OWN_BINS = BINS / HISA_PICK_THREADS };

struct bins_t {
    float low;
    float scale;
    __device__ __forceinline__ uint32_t of(uint32_t key) const {
        const float place = (hisa_score_from_key(key) - low) * scale; /* NaN becomes 0 */
        return static_cast<uint32_t>(fminf(fmaxf(place, 0.0f), BINS - 1));
    }
};

static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    list_quantiles(int32_t top_k, int32_t list_width, const uint64_t *lists, uint32_t *quantiles) {
    __shared__ hisa_pick_t shared;
    __shared__ uint32_t count[BINS];
    __shared__ uint32_t lowest[BINS];
    __shared__ uint32_t low_of[HISA_PICK_WARPS];
    __shared__ uint32_t high_of[HISA_PICK_WARPS];
    hisa_grid_release();
    for (int i = static_cast<int>(threadIdx.x); i < BINS; i += HISA_PICK_THREADS) {
        count[i] = 0;
        lowest[i] = 0xFFFFFFFFu;
    }
    hisa_grid_wait();
    const uint64_t *list = lists + int64_t(blockIdx.x) * list_width;
    uint32_t *out = quantiles + int64_t(blockIdx.x) * HISA_QUANTILES;
    const uint32_t lane = threadIdx.x % 32;
    const auto each = [&](auto use) {
#pragma unroll 4
        for (int32_t i = static_cast<int32_t>(threadIdx.x); i < list_width; i += HISA_PICK_THREADS) {
            const uint64_t rank = list[i];
            if (hisa_rank_key(rank) != HISA_KEY_NAN) { /* nor the key of no entry */
                use(hisa_rank_key(rank));
            }
        }
    };
    uint32_t low = 0xFFFFFFFFu;
    uint32_t high = 0;
    each([&](uint32_t key) {
        low = min(low, key);
        high = max(high, key);
    });
    low = __reduce_min_sync(0xFFFFFFFFu, low);
    high = __reduce_max_sync(0xFFFFFFFFu, high);
    if (lane == 0) {
        low_of[threadIdx.x / 32] = low;
        high_of[threadIdx.x / 32] = high;
    }
    __syncthreads();
    low = __reduce_min_sync(0xFFFFFFFFu, lane < HISA_PICK_WARPS ? low_of[lane] : 0xFFFFFFFFu);
    high = __reduce_max_sync(0xFFFFFFFFu, lane < HISA_PICK_WARPS ? high_of[lane] : 0);
    const float first = hisa_score_from_key(low);
    const bins_t bins = {first, BINS / (hisa_score_from_key(high) - first)};
    each([&](uint32_t key) {
        const uint32_t bin = bins.of(key);
        atomicAdd(&count[bin], 1u);
        atomicMin(&lowest[bin], key);
    });
    __syncthreads();
    /* From the highest range down. */
    const int top = BINS - 1 - static_cast<int>(threadIdx.x) * OWN_BINS;
    uint32_t own = 0;
#pragma unroll
    for (int j = 0; j < OWN_BINS; ++j) {
        own += count[top - j];
    }
    uint32_t total;
    uint32_t above = hisa_block_scan(shared, own, &total);
    const auto reach_of = [&](uint32_t i) {
        return static_cast<uint32_t>(((i + 1) * uint64_t(static_cast<uint32_t>(top_k)) + HISA_QUANTILES - 1) /
                                     HISA_QUANTILES);
    };
    uint32_t next = 0; /* the first quantile that lies lower */
    while (next < HISA_QUANTILES && reach_of(next) <= above) {
        ++next;
    }
#pragma unroll
    for (int j = 0; j < OWN_BINS; ++j) {
        above += count[top - j];
        for (; next < HISA_QUANTILES && reach_of(next) <= above; ++next) {
            out[next] = lowest[top - j];
        }
    }
    if (threadIdx.x < HISA_QUANTILES && reach_of(threadIdx.x) > total) {
        out[threadIdx.x] = 0;
    }
}

extern "C" int hisa_cuda_launch_flat_quantiles(int64_t rows, int32_t top_k, int32_t list_width, const uint64_t *list,
                                               uint32_t *quantiles, void *stream) {
    return hisa_launch_next(list_quantiles, hisa_row_grid(rows, 1), HISA_PICK_THREADS, stream, top_k, list_width, list,
                            quantiles);
}

static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    trim_row(int32_t ranks, int64_t rows, int32_t list_width, const uint32_t *quantiles, const uint64_t *lists,
             int32_t *counts, uint64_t *trimmed) {
    __shared__ hisa_pick_t shared;
    const uint64_t *list = lists + int64_t(blockIdx.x) * list_width;
    const uint32_t least = hisa_block_kth<uint32_t>(shared, int64_t(ranks) * HISA_QUANTILES, HISA_QUANTILES,
                                                    [&](int64_t i, uint32_t *key) {
                                                        const int64_t row = i / HISA_QUANTILES * rows + blockIdx.x;
                                                        *key = quantiles[row * HISA_QUANTILES + i % HISA_QUANTILES];
                                                        return *key != 0 ? 1u : 0u;
                                                    })
                               .threshold;
    const uint64_t bound = least != 0 ? uint64_t(least) << 32 : HISA_RANK_NONE + 1; /* drops the padding */
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
                                          const uint32_t *quantiles, uint64_t *list, int32_t *counts, uint64_t *trimmed,
                                          int64_t *begin, void *stream) {
    cudaError_t error = hisa_launch(trim_row, hisa_row_grid(tile->rows, 1), HISA_PICK_THREADS, stream, shard->ranks,
                                    tile->rows, list_width, quantiles, list, counts, trimmed);
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
