/* Counting, thresholds and ordered compaction within a thread block of HISA_PICK_THREADS. Integers only, so that the
 * order in which threads arrive changes nothing. */
#ifndef HISA_CUDA_PICK_CUH
#define HISA_CUDA_PICK_CUH

#include <stdint.h>

#include "backend/cuda/warp.cuh"

/* One thread a bin of an 8-bit digit. */
#define HISA_PICK_THREADS 256
#define HISA_PICK_WARPS (HISA_PICK_THREADS / 32)

struct hisa_pick_t {
    uint32_t histogram[256];
    uint32_t warp_sum[HISA_PICK_WARPS];
    uint32_t digit;
    uint32_t before;
};

/* Sum of the values of lower threads; *total: of all. All threads of the block call it. What a thread read before the
 * call was read before any thread returns from it. */
__device__ __forceinline__ uint32_t hisa_block_scan(hisa_pick_t &shared, uint32_t value, uint32_t *total) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    const uint32_t sum = hisa_warp_scan(value);
    __syncthreads();
    if (lane == 31) {
        shared.warp_sum[warp] = sum;
    }
    __syncthreads();
    uint32_t before = 0;
    uint32_t all = 0;
    for (uint32_t w = 0; w < HISA_PICK_WARPS; ++w) {
        before += w < warp ? shared.warp_sum[w] : 0;
        all += shared.warp_sum[w];
    }
    *total = all;
    return before + sum - value;
}

/* Where the k-th largest lies, each element counted as often as it weighs. */
template <typename T> struct hisa_kth_t {
    T threshold;    /* the key of the k-th; 0 if there are fewer than k */
    uint32_t above; /* weight of what is larger */
    uint32_t total; /* weight of all */
};

/* Radix selection, from the highest byte down. get(i, &key) gives the weight of element i in [0, n), 0 if it does not
 * take part. Every pass asks again for every element. All threads of the block call it, with equal arguments. */
template <typename T, typename Get>
__device__ hisa_kth_t<T> hisa_block_kth(hisa_pick_t &shared, int64_t n, uint32_t k, Get get) {
    hisa_kth_t<T> kth = {0, 0, 0};
    T settled = 0;
    for (int shift = 8 * static_cast<int>(sizeof(T)) - 8; shift >= 0; shift -= 8) {
        __syncthreads();
        shared.histogram[threadIdx.x] = 0;
        __syncthreads();
        for (int64_t i = threadIdx.x; i < n; i += HISA_PICK_THREADS) {
            T key;
            const uint32_t weight = get(i, &key);
            if (weight != 0 && (key & settled) == kth.threshold) {
                atomicAdd(&shared.histogram[(key >> shift) & 0xFF], weight);
            }
        }
        __syncthreads();
        const uint32_t bin = 255 - threadIdx.x;
        const uint32_t count = shared.histogram[bin];
        uint32_t total;
        const uint32_t before = kth.above + hisa_block_scan(shared, count, &total);
        if (settled == 0) {
            kth.total = total;
            if (total < k) {
                return kth;
            }
        }
        if (before < k && before + count >= k) {
            shared.digit = bin;
            shared.before = before;
        }
        __syncthreads();
        kth.threshold |= static_cast<T>(shared.digit) << shift;
        kth.above = shared.before;
        settled |= static_cast<T>(0xFF) << shift;
    }
    return kth;
}

/* Which elements are taken, in the order of their places: those above the threshold, and the first `ties` of those at
 * it. */
struct hisa_taker_t {
    uint32_t ties;
    uint32_t above; /* so far */
    uint32_t equal;
};

template <typename T> __device__ __forceinline__ hisa_taker_t hisa_taker_make(const hisa_kth_t<T> &kth, uint32_t k) {
    hisa_taker_t taker = {kth.total < k ? kth.total : k - kth.above, 0, 0};
    return taker;
}

/* The next HISA_PICK_THREADS elements, one a thread. True if the thread's is taken; *place: how many were before it. */
template <typename T>
__device__ __forceinline__ bool hisa_take(hisa_pick_t &shared, hisa_taker_t &taker, bool there, T key, T threshold,
                                          uint32_t *place) {
    const uint32_t above = there && key > threshold ? 1 : 0;
    const uint32_t equal = there && key == threshold ? 1 : 0;
    uint32_t total;
    const uint32_t before = hisa_block_scan(shared, above | equal << 16, &total);
    const uint32_t equal_before = taker.equal + (before >> 16);
    *place = taker.above + (before & 0xFFFF) + (equal_before < taker.ties ? equal_before : taker.ties);
    taker.above += total & 0xFFFF;
    taker.equal += total >> 16;
    return above != 0 || (equal != 0 && equal_before < taker.ties);
}

/* How many were taken so far. */
__device__ __forceinline__ uint32_t hisa_taken(const hisa_taker_t &taker) {
    return taker.above + (taker.equal < taker.ties ? taker.equal : taker.ties);
}

#endif
