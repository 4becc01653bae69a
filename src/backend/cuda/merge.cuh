/* Merging lists of ranks (order.h) that each ascend by position, one list a rank of the communicator. */
#ifndef HISA_CUDA_MERGE_CUH
#define HISA_CUDA_MERGE_CUH

#include "backend/cuda/pick.cuh"
#include "backend/order.h"

/* Counts, for each place of each list, the taken entries before it: before [lists][width + 1], the last of a list for
 * all of it. list_of(p, &count): where list p begins and how many entries it has; what is HISA_RANK_NONE among them
 * stands at its end. Returns how many are taken. All threads of the block call it. */
template <typename ListOf>
__device__ uint32_t hisa_merge_count(hisa_pick_t &shared, int32_t lists, int64_t width, uint64_t threshold,
                                     ListOf list_of, int32_t *before) {
    uint32_t all = 0;
    for (int32_t p = 0; p < lists; ++p) {
        int64_t count;
        const uint64_t *list = list_of(p, &count);
        uint32_t taken = 0;
        for (int64_t chunk = 0; chunk <= count; chunk += HISA_PICK_THREADS) {
            const int64_t i = chunk + threadIdx.x;
            const bool mine = i < count && list[i] != HISA_RANK_NONE && list[i] >= threshold;
            uint32_t total;
            const uint32_t lower = hisa_block_scan(shared, mine ? 1u : 0u, &total);
            if (i <= count) {
                before[p * (width + 1) + i] = static_cast<int32_t>(taken + lower);
            }
            taken += total;
        }
        all += taken;
    }
    __syncthreads();
    return all;
}

/* Calls put(place, rank, p, i) for each taken entry i of list p, place counting over all lists by position. */
template <typename ListOf, typename Put>
__device__ void hisa_merge_put(int32_t lists, int64_t width, uint64_t threshold, ListOf list_of, const int32_t *before,
                               Put put) {
    for (int32_t p = 0; p < lists; ++p) {
        int64_t count;
        const uint64_t *list = list_of(p, &count);
        for (int64_t i = threadIdx.x; i < count; i += HISA_PICK_THREADS) {
            const uint64_t rank = list[i];
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
}

#endif
