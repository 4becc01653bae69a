/* What a row sees: windows cut to blocks, and blocks to this rank's own. */
#ifndef HISA_CUDA_SIGHT_CUH
#define HISA_CUDA_SIGHT_CUH

#include "backend/backend.h"

__device__ __forceinline__ hisa_layout_t hisa_row_layout(const hisa_shard_t &shard, const hisa_row_t &row) {
    return hisa_shard_layout(&shard, shard.offsets[row.sequence]);
}

/* This rank's first block of the row's sequence, for hisa_deal_*. */
__device__ __forceinline__ uint32_t hisa_row_first(const hisa_shard_t &shard, const hisa_row_t &row) {
    uint32_t first = 0;
    if (shard.ranks > 1) { /* else without a load, on which others wait */
        const hisa_layout_t layout = hisa_row_layout(shard, row);
        first = hisa_deal_first(&layout, shard.rank);
    }
    return first;
}

/* First and one past the last block in sight, over all ranks; equal if the window is empty. */
__device__ __forceinline__ void hisa_blocks_in_sight(const hisa_shard_t &shard, const hisa_row_t &row, int32_t *begin,
                                                     int32_t *end) {
    const int size_log2 = 31 - __clz(shard.block_size);
    *begin = row.begin >> size_log2;
    *end = row.end > row.begin ? ((row.end - 1) >> size_log2) + 1 : *begin;
}

/* The same as local places on this rank. */
__device__ __forceinline__ void hisa_local_blocks_in_sight(const hisa_shard_t &shard, const hisa_row_t &row,
                                                           int64_t *begin, int64_t *end) {
    const uint32_t first = hisa_row_first(shard, row);
    int32_t from;
    int32_t to;
    hisa_blocks_in_sight(shard, row, &from, &to);
    *begin = hisa_deal_count(&shard.deal, first, from);
    *end = hisa_deal_count(&shard.deal, first, to);
}

/* Local tokens of the row's window: [*begin, *end). They lie one after the other in the store, as local blocks do. */
__device__ __forceinline__ void hisa_local_tokens_in_sight(const hisa_shard_t &shard, const hisa_row_t &row,
                                                           int64_t *begin, int64_t *end) {
    const hisa_layout_t layout = hisa_row_layout(shard, row);
    *begin = hisa_layout_count_tokens(&layout, shard.rank, row.begin);
    *end = hisa_max(*begin, hisa_layout_count_tokens(&layout, shard.rank, row.end));
}

/* Tokens of a block that the row sees, counted inside the block: [*begin, *end), empty if it sees none. */
__device__ __forceinline__ void hisa_tokens_in_sight(const hisa_shard_t &shard, const hisa_row_t &row, int64_t block,
                                                     int64_t *begin, int64_t *end) {
    const int64_t first = block * shard.block_size;
    *begin = hisa_max(0, row.begin - first);
    *end = hisa_max(*begin, hisa_min(shard.block_size, row.end - first));
}

#endif
