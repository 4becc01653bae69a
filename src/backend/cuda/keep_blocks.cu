/* One rank: from the keys of a row's blocks straight to the blocks it keeps. Local blocks are all blocks. */
#include "backend/cuda/block_keys.cuh"
#include "backend/cuda/cover.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"

/* Up to Radix::capacity blocks a row. */
template <typename Radix>
static __global__ void __launch_bounds__(Radix::threads, Radix::blocks)
    keep_blocks(hisa_shard_t shard, hisa_keep_t keep, const hisa_row_t *rows, const uint32_t *keys, int32_t *kept_of) {
    __shared__ typename Radix::shared_t shared;
    hisa_grid_release();
    Radix::clear(shared);
    hisa_grid_wait();
    const hisa_row_t row = rows[blockIdx.x];
    const uint32_t *row_keys = keys + blockIdx.x * shard.local_blocks;
    int32_t *kept = kept_of + int64_t(blockIdx.x) * keep.width;
    uint32_t first;
    uint32_t key[Radix::keys];
    const uint32_t n = hisa_load_block_keys<Radix>(shard, keep, row, row_keys, &first, key);
    const hisa_cut_t cut = Radix::cut(shared, key, n, static_cast<uint32_t>(keep.width));
    Radix::each_taken(key, cut, Radix::place(shared, key, cut),
                      [&](uint32_t place, int i, uint32_t) { kept[place] = i; });
    for (int32_t j = static_cast<int32_t>(cut.taken + threadIdx.x); j < keep.width; j += Radix::threads) {
        kept[j] = -1;
    }
}

/* Any number of blocks. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    keep_blocks_any(hisa_shard_t shard, hisa_keep_t keep, const hisa_row_t *rows, const uint32_t *keys,
                    int32_t *kept_of) {
    __shared__ hisa_pick_t shared;
    hisa_grid_release();
    hisa_grid_wait();
    const hisa_block_sight_t sight = hisa_block_sight(shard, keep, rows[blockIdx.x], 0);
    const uint32_t *key = keys + blockIdx.x * shard.local_blocks;
    int32_t *kept = kept_of + int64_t(blockIdx.x) * keep.width;
    const hisa_kth_t<uint32_t> kth = hisa_block_kth<uint32_t>(
        shared, sight.end - sight.begin, static_cast<uint32_t>(keep.width), [&](int64_t i, uint32_t *out) {
            *out = hisa_block_key(sight, key, sight.begin + i);
            return 1u;
        });
    hisa_taker_t taker = hisa_taker_make(kth, static_cast<uint32_t>(keep.width));
    for (int64_t chunk = sight.begin; chunk < sight.end; chunk += HISA_PICK_THREADS) {
        const int64_t block = chunk + threadIdx.x;
        const bool there = block < sight.end;
        uint32_t place;
        if (hisa_take(shared, taker, there, there ? hisa_block_key(sight, key, block) : 0, kth.threshold, &place)) {
            kept[place] = static_cast<int32_t>(block);
        }
    }
    for (int64_t j = hisa_taken(taker) + threadIdx.x; j < keep.width; j += HISA_PICK_THREADS) {
        kept[j] = -1;
    }
}

extern "C" int hisa_cuda_launch_keep_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_keep_t *keep,
                                            const uint32_t *key, int32_t *kept, void *stream) {
    const dim3 grid = hisa_row_grid(tile->rows, 1);
    if (shard->local_blocks > hisa_radix_32k::capacity) {
        return hisa_launch_next(keep_blocks_any, grid, HISA_PICK_THREADS, stream, *shard, *keep, tile->row, key, kept);
    }
    return hisa_with_radix(shard->local_blocks, tile->rows, [&](auto radix) {
        using Radix = decltype(radix);
        return hisa_launch_next(keep_blocks<Radix>, grid, Radix::threads, stream, *shard, *keep, tile->row, key, kept);
    });
}

/* Mode block: whole blocks, best first, until they cover top_k tokens in sight. A block weighs its tokens in sight;
 * ranks differ, so exactly one block is the last one taken. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    cover_blocks(hisa_shard_t shard, hisa_keep_t keep, const hisa_row_t *rows, const uint32_t *keys, int32_t *kept_of,
                 uint8_t *bitmap) {
    __shared__ hisa_pick_t shared;
    const hisa_row_t row = rows[blockIdx.x];
    const hisa_block_sight_t sight = hisa_block_sight(shard, keep, row, 0);
    const uint32_t *key = keys + blockIdx.x * shard.local_blocks;
    int32_t *kept = kept_of + int64_t(blockIdx.x) * keep.width;
    const uint32_t most = static_cast<uint32_t>(keep.top_k);
    const auto rank_of = [&](int64_t block) {
        return hisa_rank_make(hisa_block_key(sight, key, block), static_cast<int32_t>(block));
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
