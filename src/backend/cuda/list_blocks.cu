/* Several ranks: from the keys of a row's local blocks to the list of the best of them, for the merge; and, where these
 * are refined before it, to their blocks. */
#include "backend/cuda/block_keys.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"

/* The row's best `width` blocks: all above the width-th key, and of those equal to it the lowest. Up to Radix::capacity
 * local blocks. */
template <typename Radix>
static __global__ void __launch_bounds__(Radix::threads, Radix::blocks)
    list_blocks(hisa_shard_t shard, hisa_keep_t keep, const hisa_row_t *rows, int32_t width, const uint32_t *keys,
                uint64_t *lists, int32_t *blocks) {
    __shared__ typename Radix::shared_t shared;
    hisa_grid_release();
    Radix::clear(shared);
    hisa_grid_wait();
    const hisa_row_t row = rows[blockIdx.x];
    const uint32_t *row_keys = keys + blockIdx.x * shard.local_blocks;
    uint64_t *list = lists + int64_t(blockIdx.x) * width;
    int32_t *own_blocks = blocks != nullptr ? blocks + int64_t(blockIdx.x) * width : nullptr;
    uint32_t first;
    uint32_t key[Radix::keys];
    const uint32_t n = hisa_load_block_keys<Radix>(shard, keep, row, row_keys, &first, key);
    const hisa_cut_t cut = Radix::cut(shared, key, n, static_cast<uint32_t>(width));
    Radix::each_taken(key, cut, Radix::place(shared, key, cut), [&](uint32_t place, int i, uint32_t own) {
        const int32_t block = hisa_deal_global(&shard.deal, first, i);
        list[place] = hisa_rank_make(hisa_radix_to_key(own), block);
        if (own_blocks != nullptr) {
            own_blocks[place] = block;
        }
    });
    for (int32_t j = static_cast<int32_t>(cut.taken + threadIdx.x); j < width; j += Radix::threads) {
        list[j] = HISA_RANK_NONE;
        if (own_blocks != nullptr) {
            own_blocks[j] = -1;
        }
    }
}

/* Any number of blocks. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    list_blocks_any(hisa_shard_t shard, hisa_keep_t keep, const hisa_row_t *rows, int32_t width, const uint32_t *keys,
                    uint64_t *lists, int32_t *blocks) {
    __shared__ hisa_pick_t shared;
    hisa_grid_release();
    hisa_grid_wait();
    const hisa_row_t row = rows[blockIdx.x];
    const uint32_t first = hisa_row_first(shard, row);
    const hisa_block_sight_t sight = hisa_block_sight(shard, keep, row, first);
    const uint32_t *key = keys + blockIdx.x * shard.local_blocks;
    uint64_t *list = lists + int64_t(blockIdx.x) * width;
    int32_t *own_blocks = blocks != nullptr ? blocks + int64_t(blockIdx.x) * width : nullptr;
    const hisa_kth_t<uint32_t> kth =
        hisa_block_kth<uint32_t>(shared, sight.end - sight.begin, width, [&](int64_t i, uint32_t *out) {
            *out = hisa_block_key(sight, key, sight.begin + i);
            return 1u;
        });
    hisa_taker_t taker = hisa_taker_make(kth, width);
    for (int64_t chunk = sight.begin; chunk < sight.end; chunk += HISA_PICK_THREADS) {
        const int64_t block = chunk + threadIdx.x;
        const bool there = block < sight.end;
        const uint32_t own = there ? hisa_block_key(sight, key, block) : 0;
        uint32_t place;
        if (hisa_take(shared, taker, there, own, kth.threshold, &place)) {
            const int32_t global = hisa_deal_global(&shard.deal, first, static_cast<int32_t>(block));
            list[place] = hisa_rank_make(own, global);
            if (own_blocks != nullptr) {
                own_blocks[place] = global;
            }
        }
    }
    for (int64_t j = hisa_taken(taker) + threadIdx.x; j < width; j += HISA_PICK_THREADS) {
        list[j] = HISA_RANK_NONE;
        if (own_blocks != nullptr) {
            own_blocks[j] = -1;
        }
    }
}

extern "C" int hisa_cuda_launch_list_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_keep_t *keep,
                                            int32_t width, const uint32_t *key, uint64_t *list, int32_t *blocks,
                                            void *stream) {
    const dim3 grid = hisa_row_grid(tile->rows, 1);
    if (shard->local_blocks > hisa_radix_32k::capacity) {
        return hisa_launch_next(list_blocks_any, grid, HISA_PICK_THREADS, stream, *shard, *keep, tile->row, width, key,
                                list, blocks);
    }
    return hisa_with_radix(shard->local_blocks, tile->rows, [&](auto radix) {
        using Radix = decltype(radix);
        return hisa_launch_next(list_blocks<Radix>, grid, Radix::threads, stream, *shard, *keep, tile->row, width, key,
                                list, blocks);
    });
}
