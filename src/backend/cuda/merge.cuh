/* Merging lists of ranks (order.h) that each ascend by position, one list a rank of the communicator. */
#ifndef HISA_CUDA_MERGE_CUH
#define HISA_CUDA_MERGE_CUH

#include "backend/cuda/pick.cuh"
#include "backend/order.h"

/* Counts, for each place of each list, the taken entries before it: before [lists][width + 1], the last of a list for
 * all of it. A warp takes a list at a time. list_of(p, &count): where list p begins and how many entries it has; what
 * is HISA_RANK_NONE among them stands at its end. Returns how many are taken. All threads of the block call it. */
template <typename ListOf>
__device__ uint32_t hisa_merge_count(hisa_pick_t &shared, int32_t lists, int64_t width, uint64_t threshold,
                                     ListOf list_of, int32_t *before) {
    const int64_t lane = threadIdx.x % 32;
    uint32_t all = 0;
    for (int32_t p = static_cast<int32_t>(threadIdx.x / 32); p < lists; p += HISA_PICK_WARPS) {
        int64_t count;
        const uint64_t *list = list_of(p, &count);
        uint32_t taken = 0;
        for (int64_t first = 0; first <= count; first += 32) {
            const int64_t i = first + lane;
            const bool mine = i < count && list[i] != HISA_RANK_NONE && list[i] >= threshold;
            const uint32_t mask = __ballot_sync(0xFFFFFFFFu, mine);
            if (i <= count) {
                before[p * (width + 1) + i] = static_cast<int32_t>(taken + __popc(mask & ((1u << lane) - 1)));
            }
            taken += __popc(mask);
        }
        all += lane == 0 ? taken : 0;
    }
    uint32_t total;
    hisa_block_scan(shared, all, &total);
    __syncthreads();
    return total;
}

/* Calls put(place, rank, p, i) for each taken entry i of list p, place counting over all lists by position. */
template <typename ListOf, typename Put>
__device__ void hisa_merge_put(int32_t lists, int64_t width, uint64_t threshold, ListOf list_of, const int32_t *before,
                               Put put) {
    for (int64_t e = threadIdx.x; e < lists * width; e += HISA_PICK_THREADS) {
        const int32_t p = static_cast<int32_t>(e / width);
        const int64_t i = e % width;
        int64_t count;
        const uint64_t *list = list_of(p, &count);
        const uint64_t rank = i < count ? list[i] : HISA_RANK_NONE;
        if (rank == HISA_RANK_NONE || rank < threshold) {
            continue;
        }
        int64_t place = before[p * (width + 1) + i];
        for (int32_t other = 0; other < lists; ++other) {
            if (other == p) {
                continue;
            }
            int64_t high;
            const uint64_t *them = list_of(other, &high);
            int64_t low = 0;
            while (low < high) {
                const int64_t middle = (low + high) / 2;
                if (them[middle] != HISA_RANK_NONE && hisa_rank_position(them[middle]) < hisa_rank_position(rank)) {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            place += before[other * (width + 1) + low];
        }
        put(place, rank, p, i);
    }
}

#endif
