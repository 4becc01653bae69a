/* One rank: from the keys of a row's blocks straight to the blocks it keeps. Local blocks are all blocks. */
#include "backend/cuda/cover.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* Blocks in sight, and which of them are kept whatever their keys. */
struct hisa_sight_t {
    int64_t begin;
    int64_t end;
    int64_t sink_end;
    int64_t local_begin;
};

static __device__ __forceinline__ hisa_sight_t sight_of(const hisa_shard_t &shard, const hisa_keep_t &keep,
                                                        const hisa_row_t &row) {
    hisa_sight_t sight;
    hisa_blocks_in_sight(shard, row, &sight.begin, &sight.end);
    sight.sink_end = sight.begin + keep.sink_blocks;
    sight.local_begin = sight.end - keep.local_blocks;
    return sight;
}

static __device__ __forceinline__ uint32_t key_of(const hisa_sight_t &sight, const uint32_t *key, int64_t block) {
    return block < sight.sink_end || block >= sight.local_begin ? HISA_KEY_FORCED : key[block];
}

/* Any number of blocks. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    keep_blocks_any(hisa_shard_t shard, hisa_keep_t keep, const hisa_row_t *rows, const uint32_t *keys,
                    int32_t *kept_of) {
    __shared__ hisa_pick_t shared;
    const hisa_sight_t sight = sight_of(shard, keep, rows[blockIdx.x]);
    const uint32_t *key = keys + blockIdx.x * shard.local_blocks;
    int32_t *kept = kept_of + int64_t(blockIdx.x) * keep.width;
    const hisa_kth_t<uint32_t> kth = hisa_block_kth<uint32_t>(
        shared, sight.end - sight.begin, static_cast<uint32_t>(keep.width), [&](int64_t i, uint32_t *out) {
            *out = key_of(sight, key, sight.begin + i);
            return 1u;
        });
    hisa_taker_t taker = hisa_taker_make(kth, static_cast<uint32_t>(keep.width));
    for (int64_t chunk = sight.begin; chunk < sight.end; chunk += HISA_PICK_THREADS) {
        const int64_t block = chunk + threadIdx.x;
        const bool there = block < sight.end;
        uint32_t place;
        if (hisa_take(shared, taker, there, there ? key_of(sight, key, block) : 0, kth.threshold, &place)) {
            kept[place] = static_cast<int32_t>(block);
        }
    }
    for (int64_t j = hisa_taken(taker) + threadIdx.x; j < keep.width; j += HISA_PICK_THREADS) {
        kept[j] = -1;
    }
}

extern "C" int hisa_cuda_launch_keep_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_keep_t *keep,
                                            const uint32_t *key, int32_t *kept, void *stream) {
    return hisa_launch(keep_blocks_any, hisa_row_grid(tile->rows, 1), HISA_PICK_THREADS, stream, *shard, *keep,
                       tile->row, key, kept);
}

/* Mode block: whole blocks, best first, until they cover top_k tokens in sight. A block weighs its tokens in sight;
 * ranks differ, so exactly one block is the last one taken. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    cover_blocks(hisa_shard_t shard, hisa_keep_t keep, const hisa_row_t *rows, const uint32_t *keys, int32_t *kept_of,
                 uint8_t *bitmap) {
    __shared__ hisa_pick_t shared;
    const hisa_row_t row = rows[blockIdx.x];
    const hisa_sight_t sight = sight_of(shard, keep, row);
    const uint32_t *key = keys + blockIdx.x * shard.local_blocks;
    int32_t *kept = kept_of + int64_t(blockIdx.x) * keep.width;
    const uint32_t most = static_cast<uint32_t>(keep.top_k);
    const auto rank_of = [&](int64_t block) {
        return hisa_rank_make(key_of(sight, key, block), static_cast<int32_t>(block));
    };
    const hisa_kth_t<uint64_t> kth =
        hisa_block_kth<uint64_t>(shared, sight.end - sight.begin, most, [&](int64_t i, uint64_t *rank) {
            int64_t begin;
            int64_t end;
            *rank = rank_of(sight.begin + i);
            hisa_tokens_in_sight(shard, row, sight.begin + i, &begin, &end);
            return static_cast<uint32_t>(end - begin);
        });
    uint32_t taken = 0;
    for (int64_t chunk = sight.begin; chunk < sight.end; chunk += HISA_PICK_THREADS) {
        const int64_t block = chunk + threadIdx.x;
        const bool mine = block < sight.end && rank_of(block) >= kth.threshold;
        uint32_t total;
        const uint32_t before = hisa_block_scan(shared, mine ? 1u : 0u, &total);
        if (mine) {
            kept[taken + before] = static_cast<int32_t>(block);
        }
        taken += total;
    }
    for (int64_t j = taken + threadIdx.x; j < keep.width; j += HISA_PICK_THREADS) {
        kept[j] = -1;
    }
    __syncthreads();
    hisa_cover_bitmap(shard, row, keep.width, kept, kth.total >= most ? hisa_rank_position(kth.threshold) : -1,
                      most - kth.above,
                      reinterpret_cast<uint16_t *>(bitmap + int64_t(blockIdx.x) * keep.width * shard.block_size / 8));
}

extern "C" int hisa_cuda_launch_cover_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile,
                                             const hisa_keep_t *keep, const uint32_t *key, int32_t *kept,
                                             uint8_t *bitmap, void *stream) {
    return hisa_launch(cover_blocks, hisa_row_grid(tile->rows, 1), HISA_PICK_THREADS, stream, *shard, *keep, tile->row,
                       key, kept, bitmap);
}
