/* The k best of up to THREADS * VECTORS * 4 keys, read once and held in registers: a threshold by radix passes in
 * shared memory, then the places of what is taken. Integers only, so that the order in which threads arrive changes
 * nothing.
 *
 * The keys of a warp follow one another in vectors of four: element i = (warp * VECTORS + v) * 128 + lane * 4 + c is
 * key[4 * v + c]. So loads are whole lines, and places are found by a scan over lanes for each v, packed in bytes.
 *
 * Keys are those of order.h, except that 0 stands for "no element here": NaN, the 0 of order.h, is 1, which is no
 * float's; and that the largest is one less, so that there is always a key above another. */
#ifndef HISA_CUDA_RADIX_CUH
#define HISA_CUDA_RADIX_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#include "backend/cuda/warp.cuh"
#include "backend/order.h"

#define HISA_RADIX_NONE 0u
#define HISA_RADIX_NAN 1u
#define HISA_RADIX_FORCED (HISA_KEY_FORCED - 1)

__device__ __forceinline__ uint32_t hisa_radix_from_key(uint32_t key) {
    return key == HISA_KEY_NAN ? HISA_RADIX_NAN : key;
}

__device__ __forceinline__ uint32_t hisa_radix_to_key(uint32_t radix) {
    return radix == HISA_RADIX_NAN ? HISA_KEY_NAN : (radix == HISA_RADIX_FORCED ? HISA_KEY_FORCED : radix);
}

__device__ __forceinline__ uint32_t hisa_radix_from_score(float score) {
    const uint32_t bits = __float_as_uint(score + 0.0f); /* -0 becomes +0 */
    const uint32_t ordered = bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
    return score != score ? HISA_RADIX_NAN : ordered;
}

__device__ __forceinline__ float hisa_radix_to_score(uint32_t key) {
    return hisa_score_from_key(key == HISA_RADIX_NAN ? HISA_KEY_NAN : key);
}

/* What is taken: keys >= from, and the first `ties` elements with key == tie (ties is 0 where they all are taken).
 * `taken` in all. */
struct hisa_cut_t {
    uint32_t from;
    uint32_t tie;
    uint32_t ties;
    uint32_t taken;
};

/* BLOCKS: thread blocks that a multiprocessor is to hold, which caps registers. */
template <int THREADS, int VECTORS, int BLOCKS> struct hisa_radix_t {
    static constexpr int threads = THREADS;
    static constexpr int blocks = BLOCKS;
    /* A thread block to itself on a multiprocessor is after latency: it loads before it knows what it needs. */
    static constexpr bool eager = BLOCKS == 1;
    static constexpr int vectors = VECTORS;
    static constexpr int warps = THREADS / 32;
    static constexpr int keys = VECTORS * 4;
    static constexpr int capacity = THREADS * keys;
    /* Of a range of 32 bits at most three passes take 11 each. Few keys spread well enough over fewer bins, which cost
     * less to go through. */
    static constexpr int bits = capacity <= 2048 ? 10 : 11;
    static constexpr int bins = 1 << bits;
    static constexpr int own_bins = bins / THREADS;
    static_assert(THREADS % 32 == 0 && warps <= 32 && own_bins >= 1 && capacity <= 32768, "see the packing below");

    struct sums_t {
        uint32_t low[warps];
        uint32_t high[warps];
        uint32_t sum[warps];
        uint32_t bin;
        uint32_t before;
        uint32_t inside;
    };
    /* After place() the caller may put the histogram's room to other use, and after a barrier all of it. */
    struct shared_t {
        sums_t sums;
        alignas(16) uint32_t histogram[bins];
    };

    /* The thread's vector v begins at this element. */
    static __device__ __forceinline__ int first(int v) {
        const int warp = static_cast<int>(threadIdx.x) / 32;
        const int lane = static_cast<int>(threadIdx.x) % 32;
        return (warp * VECTORS + v) * 128 + lane * 4;
    }

    /* Before cut(); nothing else may be going on in `shared`. */
    static __device__ __forceinline__ void clear(shared_t &shared) {
#pragma unroll
        for (int i = 0; i < own_bins; ++i) {
            shared.histogram[i * THREADS + static_cast<int>(threadIdx.x)] = 0;
        }
    }

    /* Sum of the values of lower warps, each the same for all lanes of a warp. */
    static __device__ __forceinline__ uint32_t sum_of_lower_warps(shared_t &shared, uint32_t value) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        const int warp = static_cast<int>(threadIdx.x) / 32;
        if (lane == 31) {
            shared.sums.sum[warp] = value;
        }
        __syncthreads();
        return __reduce_add_sync(0xFFFFFFFFu, lane < warp ? shared.sums.sum[lane] : 0);
    }

    /* Finds the bin of the left-th largest (left >= 1, no more than there are) and empties the histogram. Thread 0 has
     * the highest bins. Begins after and ends with a barrier. */
    static __device__ __forceinline__ void find_bin(shared_t &shared, uint32_t left) {
        const int lowest = bins - (static_cast<int>(threadIdx.x) + 1) * own_bins;
        uint32_t count[own_bins];
        uint32_t own = 0;
#pragma unroll
        for (int i = 0; i < own_bins; ++i) {
            count[i] = shared.histogram[lowest + i];
            own += count[i];
        }
#pragma unroll
        for (int i = 0; i < own_bins; ++i) {
            shared.histogram[lowest + i] = 0;
        }
        const uint32_t lanes = hisa_warp_scan(own, static_cast<int>(threadIdx.x) % 32);
        uint32_t before = sum_of_lower_warps(shared, lanes) + lanes - own;
        if (before < left && before + own >= left) {
#pragma unroll
            for (int i = own_bins - 1; i >= 0; --i) {
                if (before < left && before + count[i] >= left) {
                    shared.sums.bin = static_cast<uint32_t>(lowest + i);
                    shared.sums.before = before;
                    shared.sums.inside = count[i];
                }
                before += count[i];
            }
        }
        __syncthreads();
    }

    /* The cut that takes the k best (k >= 1), or all if there are no more. All threads call it, with the histogram
     * cleared. own: how many of the thread's keys there are. */
    static __device__ __forceinline__ hisa_cut_t cut(shared_t &shared, const uint32_t (&key)[keys], uint32_t own,
                                                     uint32_t k) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        const int warp = static_cast<int>(threadIdx.x) / 32;
        uint32_t low = 0xFFFFFFFFu; /* of key - 1: no element is the last to be the lowest */
        uint32_t high = 0;
#pragma unroll
        for (int i = 0; i < keys; ++i) {
            low = min(low, key[i] - 1);
            high = max(high, key[i]);
        }
        low = __reduce_min_sync(0xFFFFFFFFu, low);
        high = __reduce_max_sync(0xFFFFFFFFu, high);
        const uint32_t count = __reduce_add_sync(0xFFFFFFFFu, own);
        if (lane == 0) {
            shared.sums.low[warp] = low;
            shared.sums.high[warp] = high;
            shared.sums.sum[warp] = count;
        }
        __syncthreads();
        low = __reduce_min_sync(0xFFFFFFFFu, lane < warps ? shared.sums.low[lane] : 0xFFFFFFFFu) + 1;
        high = __reduce_max_sync(0xFFFFFFFFu, lane < warps ? shared.sums.high[lane] : 0);
        const uint32_t all = __reduce_add_sync(0xFFFFFFFFu, lane < warps ? shared.sums.sum[lane] : 0);
        if (all <= k) {
            __syncthreads(); /* sums are free again, as after find_bin() */
            const hisa_cut_t everything = {1, HISA_RADIX_NONE, 0, all};
            return everything;
        }
        /* The k-th is the left-th of the keys in [low, low + span]. */
        uint32_t span = high - low;
        uint32_t left = k;
        for (;;) {
            const int width = 32 - __clz(static_cast<int>(span));
            const int shift = width > bits ? width - bits : 0;
#pragma unroll
            for (int i = 0; i < keys; ++i) {
                const uint32_t distance = key[i] - low;
                if (distance <= span) {
                    atomicAdd(&shared.histogram[distance >> shift], 1u);
                }
            }
            __syncthreads();
            find_bin(shared, left);
            const uint32_t begin = shared.sums.bin << shift;
            const uint32_t inside = shared.sums.inside;
            left -= shared.sums.before;
            low += begin;
            if (inside == left) {
                const hisa_cut_t whole = {low, HISA_RADIX_NONE, 0, k};
                return whole;
            }
            if (shift == 0) {
                const hisa_cut_t split = {low + 1, low, left, k};
                return split;
            }
            span = min((1u << shift) - 1, span - begin);
        }
    }

    /* For the first element of each of the thread's vectors: how many lower elements are above the cut, and in the
     * upper half how many are at its tie. */
    struct places_t {
        uint32_t before[VECTORS];
    };

    /* Counts the elements that `counts` for all lower ones of the warp into the half of places that `shift` names;
     * returns the warp's count. A vector's counts over a warp are at most 128, so four vectors' fit a word. */
    template <typename Counts>
    static __device__ __forceinline__ uint32_t count_in_warp(const uint32_t (&key)[keys], int shift, places_t &places,
                                                             Counts counts) {
        uint32_t warp_sum = 0;
#pragma unroll
        for (int base = 0; base < VECTORS; base += 4) {
            uint32_t packed = 0;
#pragma unroll
            for (int v = base; v < VECTORS && v < base + 4; ++v) {
#pragma unroll
                for (int c = 0; c < 4; ++c) {
                    packed += counts(key[4 * v + c]) ? 1u << (8 * (v - base)) : 0u;
                }
            }
            const uint32_t lanes = hisa_warp_scan(packed, static_cast<int>(threadIdx.x) % 32);
            const uint32_t sums = __shfl_sync(0xFFFFFFFFu, lanes, 31);
#pragma unroll
            for (int v = base; v < VECTORS && v < base + 4; ++v) {
                places.before[v] += (warp_sum + ((lanes - packed) >> (8 * (v - base)) & 0xFF)) << shift;
                warp_sum += sums >> (8 * (v - base)) & 0xFF;
            }
        }
        return warp_sum;
    }

    /* After cut(). All threads call it, and have passed a barrier since they last looked at the histogram. */
    static __device__ __forceinline__ places_t place(shared_t &shared, const uint32_t (&key)[keys],
                                                     const hisa_cut_t &cut) {
        places_t places = {};
        uint32_t warp = count_in_warp(key, 0, places, [&](uint32_t own) { return own >= cut.from; });
        if (cut.ties != 0) {
            warp |= count_in_warp(key, 16, places, [&](uint32_t own) { return own == cut.tie; }) << 16;
        }
        const uint32_t lower = sum_of_lower_warps(shared, warp);
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            places.before[v] += lower;
        }
        return places;
    }

    /* Calls put(place, i, key) for each of the thread's elements that is taken, i its index. Not from a loop: what does
     * not change with it would be kept in registers that there are not. */
    template <typename Put>
    static __device__ __forceinline__ void each_taken(const uint32_t (&key)[keys], const hisa_cut_t &cut,
                                                      const places_t &places, Put put) {
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            uint32_t above = places.before[v] & 0xFFFF;
            uint32_t equal = places.before[v] >> 16;
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                const uint32_t own = key[4 * v + c];
                const bool tied = own == cut.tie && equal < cut.ties;
                if (own >= cut.from || tied) {
                    put(above + min(equal, cut.ties), first(v) + c, own);
                }
                above += own >= cut.from ? 1u : 0u;
                equal += own == cut.tie ? 1u : 0u;
            }
        }
    }

    /* Which of the thread's keys are taken: bit i for key[i]. */
    static __device__ __forceinline__ uint32_t taken(const uint32_t (&key)[keys], const hisa_cut_t &cut,
                                                     const places_t &places) {
        static_assert(keys <= 32, "a bit each");
        uint32_t mask = 0;
#pragma unroll
        for (int v = 0; v < VECTORS; ++v) {
            uint32_t equal = places.before[v] >> 16;
#pragma unroll
            for (int c = 0; c < 4; ++c) {
                const uint32_t own = key[4 * v + c];
                const bool tied = own == cut.tie && equal < cut.ties;
                mask |= own >= cut.from || tied ? 1u << (4 * v + c) : 0u;
                equal += own == cut.tie ? 1u : 0u;
            }
        }
        return mask;
    }
};

/* By capacity. With many rows several share a multiprocessor, and few warps a row spend least on what each warp
 * repeats; with fewer rows than multiprocessors a row has 1024 threads. */
using hisa_radix_1k = hisa_radix_t<128, 2, 12>;
using hisa_radix_1k_wide = hisa_radix_t<256, 1, 1>;
using hisa_radix_2k = hisa_radix_t<128, 4, 10>;
using hisa_radix_4k = hisa_radix_t<256, 4, 5>;
using hisa_radix_4k_wide = hisa_radix_t<1024, 1, 1>;
using hisa_radix_8k = hisa_radix_t<256, 8, 4>;
using hisa_radix_8k_wide = hisa_radix_t<1024, 2, 1>;
using hisa_radix_16k = hisa_radix_t<512, 8, 2>;
using hisa_radix_16k_wide = hisa_radix_t<1024, 4, 1>;
using hisa_radix_32k = hisa_radix_t<1024, 8, 1>;

static inline bool hisa_radix_wide(int64_t rows) { return rows <= 132; } /* multiprocessors of an H100 */

/* Calls use(Radix()) with the smallest that has room for n <= hisa_radix_32k::capacity elements a row. */
template <typename Use> static inline cudaError_t hisa_with_radix(int64_t n, int64_t rows, Use use) {
    const bool wide = hisa_radix_wide(rows);
    if (n <= hisa_radix_1k::capacity) {
        return wide ? use(hisa_radix_1k_wide()) : use(hisa_radix_1k());
    }
    if (n <= hisa_radix_2k::capacity && !wide) {
        return use(hisa_radix_2k());
    }
    if (n <= hisa_radix_4k::capacity) {
        return wide ? use(hisa_radix_4k_wide()) : use(hisa_radix_4k());
    }
    if (n <= hisa_radix_8k::capacity) {
        return wide ? use(hisa_radix_8k_wide()) : use(hisa_radix_8k());
    }
    if (n <= hisa_radix_16k::capacity) {
        return wide ? use(hisa_radix_16k_wide()) : use(hisa_radix_16k());
    }
    return use(hisa_radix_32k());
}

#endif
