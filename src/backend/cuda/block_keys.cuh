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

/* first: as hisa_row_first() gives it. */
static __device__ __forceinline__ hisa_block_sight_t hisa_block_sight(const hisa_shard_t &shard,
                                                                      const hisa_keep_t &keep, const hisa_row_t &row,
                                                                      uint32_t first) {
    int32_t begin;
    int32_t end;
    hisa_blocks_in_sight(shard, row, &begin, &end);
    int32_t sink_end = end - begin > keep.sink_blocks ? begin + keep.sink_blocks : end;
    int32_t local_begin = end > keep.local_blocks ? end - keep.local_blocks : 0;
    if (shard.ranks > 1) { /* else a local block is a block */
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

/* Four keys from `at` on, of the row's `stride`. */
static __device__ __forceinline__ uint4 hisa_read_keys(const uint32_t *key, int32_t stride, int32_t at) {
    uint4 four = make_uint4(0, 0, 0, 0);
    if (at < stride) {
        if (stride % 4 == 0) {
            four = *reinterpret_cast<const uint4 *>(key + at);
        } else {
            four.x = key[at];
            four.y = at + 1 < stride ? key[at + 1] : 0;
            four.z = at + 2 < stride ? key[at + 2] : 0;
            four.w = at + 3 < stride ? key[at + 3] : 0;
        }
    }
    return four;
}

/* The keys of four blocks from `at` on as radix keys; returns how many are in sight. */
static __device__ __forceinline__ uint32_t hisa_sift_keys(const hisa_block_sight_t &sight, const uint4 &four,
                                                          int32_t at, uint32_t *out) {
    const uint32_t raw[4] = {four.x, four.y, four.z, four.w};
    uint32_t n = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        const int32_t block = at + c;
        const bool there = block >= sight.begin && block < sight.end;
        const bool forced = block < sight.sink_end || block >= sight.local_begin;
        out[c] = there ? (forced ? HISA_RADIX_FORCED : hisa_radix_from_key(raw[c])) : HISA_RADIX_NONE;
        n += there ? 1u : 0u;
    }
    return n;
}

/* All of the thread's blocks of a row; returns how many are in sight. *first: as hisa_row_first() gives it. Keys of
 * blocks out of sight mean nothing, but may be read: where a row is alone on a multiprocessor they are, without waiting
 * for what is in sight, if there are registers for it. */
template <typename Radix>
static __device__ __forceinline__ uint32_t hisa_load_block_keys(const hisa_shard_t &shard, const hisa_keep_t &keep,
                                                                const hisa_row_t &row, const uint32_t *key,
                                                                uint32_t *first, uint32_t (&out)[Radix::keys]) {
    constexpr bool eager = Radix::eager && Radix::vectors <= 4;
    const int32_t stride = static_cast<int32_t>(shard.local_blocks);
    uint4 four[Radix::vectors];
    if (eager) {
#pragma unroll
        for (int v = 0; v < Radix::vectors; ++v) {
            four[v] = hisa_read_keys(key, stride, Radix::first(v));
        }
    }
    *first = hisa_row_first(shard, row);
    const hisa_block_sight_t sight = hisa_block_sight(shard, keep, row, *first);
    uint32_t n = 0;
#pragma unroll
    for (int v = 0; v < Radix::vectors; ++v) {
        const int32_t at = Radix::first(v);
        if (!eager) {
            const bool any = at + 4 > sight.begin && at < sight.end;
            four[v] = any ? hisa_read_keys(key, stride, at) : make_uint4(0, 0, 0, 0);
        }
        n += hisa_sift_keys(sight, four[v], at, &out[4 * v]);
    }
    return n;
}

#endif
