/* The keys of a row's blocks on this rank: which of its local blocks are in sight, and which of those are kept whatever
 * their keys. */
#ifndef HISA_CUDA_BLOCK_KEYS_CUH
#define HISA_CUDA_BLOCK_KEYS_CUH

#include "backend/cuda/radix.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* Local places: [begin, end) are in sight, those before sink_end or from local_begin on are kept. */
struct hisa_block_sight_t {
    int32_t begin;
    int32_t end;
    int32_t sink_end;
    int32_t local_begin;
};

static __device__ __forceinline__ hisa_block_sight_t hisa_block_sight(const hisa_shard_t &shard,
                                                                      const hisa_keep_t &keep, const hisa_row_t &row) {
    int32_t begin;
    int32_t end;
    hisa_blocks_in_sight(shard, row, &begin, &end);
    int32_t sink_end = end - begin > keep.sink_blocks ? begin + keep.sink_blocks : end;
    int32_t local_begin = end > keep.local_blocks ? end - keep.local_blocks : 0;
    if (shard.ranks > 1) { /* else a local block is a block, and the layout need not be read */
        const uint32_t first = hisa_row_first(shard, row);
        begin = hisa_deal_count(&shard.deal, first, begin);
        end = hisa_deal_count(&shard.deal, first, end);
        sink_end = hisa_deal_count(&shard.deal, first, sink_end);
        local_begin = hisa_deal_count(&shard.deal, first, local_begin);
    }
    return {begin, end, sink_end, local_begin};
}

/* The key of local block `block`, which is in sight. */
static __device__ __forceinline__ uint32_t hisa_block_key(const hisa_block_sight_t &sight, const uint32_t *key,
                                                          int64_t block) {
    return block < sight.sink_end || block >= sight.local_begin ? HISA_KEY_FORCED : key[block];
}

/* Four blocks from `first` on as radix keys; returns how many are in sight. `stride` keys are the row's own: those out
 * of sight mean nothing, but may be read. */
static __device__ __forceinline__ uint32_t hisa_load_blocks(const hisa_block_sight_t &sight, const uint32_t *key,
                                                            int32_t stride, bool eager, int32_t first,
                                                            uint32_t (&out)[4]) {
    uint4 four = make_uint4(0, 0, 0, 0);
    if (eager ? first < stride : first + 4 > sight.begin && first < sight.end) {
        if (stride % 4 == 0) {
            four = *reinterpret_cast<const uint4 *>(key + first);
        } else {
            four.x = key[first];
            four.y = first + 1 < stride ? key[first + 1] : 0;
            four.z = first + 2 < stride ? key[first + 2] : 0;
            four.w = first + 3 < stride ? key[first + 3] : 0;
        }
    }
    const uint32_t raw[4] = {four.x, four.y, four.z, four.w};
    uint32_t n = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        const int32_t block = first + c;
        const bool there = block >= sight.begin && block < sight.end;
        const bool forced = block < sight.sink_end || block >= sight.local_begin;
        out[c] = there ? (forced ? HISA_RADIX_FORCED : hisa_radix_from_key(raw[c])) : HISA_RADIX_NONE;
        n += there ? 1u : 0u;
    }
    return n;
}

/* All of the thread's blocks; returns how many are in sight. */
template <typename Radix>
static __device__ __forceinline__ uint32_t hisa_load_block_keys(const hisa_block_sight_t &sight, const uint32_t *key,
                                                                int32_t stride, uint32_t (&out)[Radix::keys]) {
    uint32_t n = 0;
#pragma unroll
    for (int v = 0; v < Radix::vectors; ++v) {
        uint32_t four[4];
        n += hisa_load_blocks(sight, key, stride, Radix::eager, Radix::first(v), four);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            out[4 * v + c] = four[c];
        }
    }
    return n;
}

#endif
