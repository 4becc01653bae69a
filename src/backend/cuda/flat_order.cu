/* Mode flat, at the end: a row's entries in ascending position. Positions differ, so an entry's place is the
 * number of bits below its own in a map of positions: no comparisons, and as fast for positions in clusters. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/warp.cuh"
#include "backend/order.h"

enum { THREADS = 256, WARPS = THREADS / 32 };

/* Entries are put in order on chip where there is room for them: writing them straight to their places costs a sector
 * of memory each. The map spans as many positions at a time as lets five or six rows share a multiprocessor. */
template <int ROOM, int SPAN> struct order_t {
    static constexpr uint32_t room = ROOM;
    static constexpr uint32_t span = SPAN;
    static constexpr int groups = SPAN / 128 / THREADS; /* of a thread */
    static_assert(SPAN % (128 * THREADS) == 0, "threads have equal parts of the map");
    uint4 map[SPAN / 128];
    uint32_t before[SPAN / 128]; /* bits below a group's */
    uint32_t lowest[WARPS];
    uint32_t sum[WARPS];
    uint64_t entry[ROOM];
};

using order_2k = order_t<2048, 131072>;
using order_4k = order_t<4096, 65536>;

static __device__ __forceinline__ uint32_t count_bits(const uint4 &group) {
    return static_cast<uint32_t>(__popc(group.x) + __popc(group.y) + __popc(group.z) + __popc(group.w));
}

template <typename Order> static __device__ __forceinline__ void clear_map(Order &shared) {
#pragma unroll
    for (int j = 0; j < Order::groups; ++j) {
        shared.map[j * THREADS + static_cast<int>(threadIdx.x)] = make_uint4(0, 0, 0, 0);
    }
}

/* Counts bits from the map's low end up; returns how many there are. Begins and ends with a barrier. */
template <typename Order> static __device__ __forceinline__ uint32_t count_map(Order &shared) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const auto group_of = [&](int j) { return (warp * Order::groups + j) * 32 + lane; };
    uint32_t before[Order::groups];
    uint32_t sum = 0; /* of the warp */
    __syncthreads();
#pragma unroll
    for (int j = 0; j < Order::groups; ++j) {
        const uint32_t own = count_bits(shared.map[group_of(j)]);
        const uint32_t lanes = hisa_warp_scan(own, lane);
        before[j] = sum + lanes - own;
        sum += __shfl_sync(0xFFFFFFFFu, lanes, 31);
    }
    if (lane == 0) {
        shared.sum[warp] = sum;
    }
    __syncthreads();
    const uint32_t other = lane < WARPS ? shared.sum[lane] : 0;
    const uint32_t lower = __reduce_add_sync(0xFFFFFFFFu, lane < warp ? other : 0);
#pragma unroll
    for (int j = 0; j < Order::groups; ++j) {
        shared.before[group_of(j)] = lower + before[j];
    }
    const uint32_t all = __reduce_add_sync(0xFFFFFFFFu, other);
    __syncthreads();
    return all;
}

/* How many bits of the map are below bit `at`. */
template <typename Order> static __device__ __forceinline__ uint32_t bits_below(const Order &shared, uint32_t at) {
    const uint4 group = shared.map[at / 128];
    const uint32_t word = at / 32 % 4;
    const uint32_t part = (1u << at % 32) - 1;
    uint32_t n = shared.before[at / 128];
    n += static_cast<uint32_t>(__popc(group.x & (word > 0 ? 0xFFFFFFFFu : part)));
    n += static_cast<uint32_t>(__popc(group.y & (word > 1 ? 0xFFFFFFFFu : word == 1 ? part : 0)));
    n += static_cast<uint32_t>(__popc(group.z & (word > 2 ? 0xFFFFFFFFu : word == 2 ? part : 0)));
    n += static_cast<uint32_t>(__popc(group.w & (word == 3 ? part : 0)));
    return n;
}

/* Calls put(place, entry) for each of n entries. All threads call it, with the map cleared. */
template <typename Order, typename Put>
static __device__ __forceinline__ void place_entries(Order &shared, const uint64_t *list, uint32_t n, Put put) {
    const uint32_t lane = threadIdx.x % 32;
    const auto each = [&](auto use) {
#pragma unroll 4
        for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
            use(list[i]);
        }
    };
    uint32_t placed = 0;
    uint32_t begin = 0; /* of the map, in positions: the lowest that is not placed */
    while (placed < n) {
        uint32_t lowest = 0xFFFFFFFFu;
        each([&](uint64_t entry) {
            const uint32_t position = static_cast<uint32_t>(hisa_rank_position(entry));
            lowest = position >= begin ? min(lowest, position) : lowest;
        });
        lowest = __reduce_min_sync(0xFFFFFFFFu, lowest);
        if (lane == 0) {
            shared.lowest[threadIdx.x / 32] = lowest;
        }
        __syncthreads();
        begin = __reduce_min_sync(0xFFFFFFFFu, lane < WARPS ? shared.lowest[lane] : 0xFFFFFFFFu);
        const auto offset_of = [&](uint64_t entry) {
            return static_cast<uint32_t>(hisa_rank_position(entry)) - begin; /* beyond the map for what is placed */
        };
        each([&](uint64_t entry) {
            const uint32_t at = offset_of(entry);
            if (at < Order::span) {
                atomicOr(reinterpret_cast<uint32_t *>(shared.map) + at / 32, 1u << at % 32);
            }
        });
        const uint32_t inside = count_map(shared);
        each([&](uint64_t entry) {
            const uint32_t at = offset_of(entry);
            if (at < Order::span) {
                put(placed + bits_below(shared, at), entry);
            }
        });
        placed += inside;
        begin += Order::span;
        __syncthreads();
        if (placed < n) {
            clear_map(shared);
        }
    }
}

/* Calls put(place, entry) in the order of places where they fit on chip, in any order where they do not. */
template <typename Order, typename Put>
static __device__ __forceinline__ void put_in_order(Order &shared, const uint64_t *list, uint32_t n, Put put) {
    if (n > Order::room) {
        place_entries(shared, list, n, put);
        return;
    }
    place_entries(shared, list, n, [&](uint32_t place, uint64_t entry) { shared.entry[place] = entry; });
    for (uint32_t i = threadIdx.x; i < n; i += THREADS) {
        put(i, shared.entry[i]);
    }
}

template <typename Order>
static __global__ void __launch_bounds__(THREADS)
    order_lists(int32_t list_width, hisa_flat_lists_t from, uint64_t *lists) {
    __shared__ Order shared;
    hisa_grid_release();
    clear_map(shared);
    hisa_grid_wait();
    const int64_t r = blockIdx.x;
    const uint32_t n = from.count[r];
    uint64_t *list = lists + r * list_width;
    put_in_order(shared, from.list + r * from.capacity, n,
                 [&](uint32_t place, uint64_t entry) { list[place] = entry; });
    for (int64_t i = int64_t(n) + threadIdx.x; i < list_width; i += THREADS) {
        list[i] = HISA_RANK_NONE;
    }
}

/* Positions and scores (NULL: none) of a row's n entries in order, then -1 and 0 up to top_k. */
template <typename Order>
static __device__ __forceinline__ void put_results(Order &shared, const uint64_t *list, uint32_t n, int32_t top_k,
                                                   int32_t *positions, float *scores) {
    put_in_order(shared, list, n, [&](uint32_t place, uint64_t entry) {
        positions[place] = hisa_rank_position(entry);
        if (scores != nullptr) {
            scores[place] = hisa_score_from_key(hisa_rank_key(entry));
        }
    });
    for (int64_t i = int64_t(n) + threadIdx.x; i < top_k; i += THREADS) {
        positions[i] = -1;
        if (scores != nullptr) {
            scores[i] = 0.0f;
        }
    }
}

template <typename Order>
static __global__ void __launch_bounds__(THREADS)
    order_emit(hisa_flat_lists_t from, hisa_output_t output, hisa_segment_t segment) {
    __shared__ Order shared;
    hisa_grid_release();
    clear_map(shared);
    hisa_grid_wait();
    const int64_t r = segment.tile_begin + blockIdx.x;
    const int64_t at = segment.output_begin + blockIdx.x;
    const uint32_t n = from.count[r];
    put_results(shared, from.list + r * from.capacity, n, output.top_k, output.indices + at * output.top_k,
                output.scores != nullptr ? output.scores + at * output.top_k : nullptr);
    if (output.counts != nullptr && threadIdx.x == 0) {
        output.counts[at] = static_cast<int32_t>(n);
    }
}

/* A merged row's winners. */
template <typename Order>
static __global__ void __launch_bounds__(THREADS)
    order_merged(int32_t top_k, hisa_flat_lists_t from, int32_t *positions, float *selected, uint64_t *threshold) {
    __shared__ Order shared;
    hisa_grid_release();
    clear_map(shared);
    hisa_grid_wait();
    const int64_t r = blockIdx.x;
    put_results(shared, from.list + r * from.capacity, from.count[r], top_k, positions + r * top_k,
                selected != nullptr ? selected + r * top_k : nullptr);
    if (threadIdx.x == 0) {
        threshold[r] = from.least[r];
    }
}

extern "C" int hisa_cuda_launch_flat_order(int64_t rows, int32_t top_k, int32_t list_width,
                                           const hisa_flat_lists_t *lists, uint64_t *list, void *stream) {
    const auto kernel = top_k <= int32_t(order_2k::room) ? order_lists<order_2k> : order_lists<order_4k>;
    return hisa_launch_next(kernel, hisa_row_grid(rows, 1), THREADS, stream, list_width, *lists, list);
}

extern "C" int hisa_cuda_launch_flat_order_emit(const hisa_flat_lists_t *lists, const hisa_output_t *output,
                                                const hisa_segment_t *segment, void *stream) {
    const auto kernel = output->top_k <= int32_t(order_2k::room) ? order_emit<order_2k> : order_emit<order_4k>;
    return hisa_launch_next(kernel, hisa_row_grid(segment->rows, 1), THREADS, stream, *lists, *output, *segment);
}

extern "C" int hisa_cuda_launch_flat_order_merged(int64_t rows, int32_t top_k, const hisa_flat_lists_t *lists,
                                                  int32_t *positions, float *selected, uint64_t *threshold,
                                                  void *stream) {
    const auto kernel = top_k <= int32_t(order_2k::room) ? order_merged<order_2k> : order_merged<order_4k>;
    return hisa_launch_next(kernel, hisa_row_grid(rows, 1), THREADS, stream, top_k, *lists, positions, selected,
                            threshold);
}
