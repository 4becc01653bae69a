/* One rank: from the keys of a row's blocks straight to the blocks it keeps. Local blocks are all blocks. */
#include "backend/cuda/cover.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/radix.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* Blocks in sight, and which of them are kept whatever their keys. */
struct hisa_sight_t {
    int32_t begin;
    int32_t end;
    int32_t sink_end;
    int32_t local_begin;
};

static __device__ __forceinline__ hisa_sight_t sight_of(const hisa_shard_t &shard, const hisa_keep_t &keep,
                                                        const hisa_row_t &row) {
    hisa_sight_t sight;
    int64_t begin;
    int64_t end;
    hisa_blocks_in_sight(shard, row, &begin, &end);
    sight.begin = static_cast<int32_t>(begin);
    sight.end = static_cast<int32_t>(end);
    sight.sink_end = sight.begin + keep.sink_blocks;
    sight.local_begin = sight.end - keep.local_blocks;
    return sight;
}

static __device__ __forceinline__ uint32_t key_of(const hisa_sight_t &sight, const uint32_t *key, int64_t block) {
    return block < sight.sink_end || block >= sight.local_begin ? HISA_KEY_FORCED : key[block];
}

/* Four blocks from `first` on as radix keys; returns how many are in sight. `stride` keys are the row's own: those out
 * of sight mean nothing, but may be read. */
static __device__ __forceinline__ uint32_t load_blocks(const hisa_sight_t &sight, const uint32_t *key, int32_t stride,
                                                       bool eager, int32_t first, uint32_t (&out)[4]) {
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
        out[c] = there ? (forced ? HISA_KEY_FORCED : hisa_radix_from_key(raw[c])) : HISA_RADIX_NONE;
        n += there ? 1u : 0u;
    }
    return n;
}

/* Up to Radix::capacity blocks a row. */
template <typename Radix>
static __global__ void __launch_bounds__(Radix::threads, Radix::blocks)
    keep_blocks(hisa_shard_t shard, hisa_keep_t keep, const hisa_row_t *rows, const uint32_t *keys, int32_t *kept_of) {
    __shared__ typename Radix::shared_t shared;
    hisa_grid_release();
    Radix::clear(shared);
    hisa_grid_wait();
    const hisa_sight_t sight = sight_of(shard, keep, rows[blockIdx.x]);
    const int32_t stride = static_cast<int32_t>(shard.local_blocks);
    const uint32_t *row_keys = keys + int64_t(blockIdx.x) * stride;
    int32_t *kept = kept_of + int64_t(blockIdx.x) * keep.width;
    uint32_t key[Radix::keys];
    uint32_t n = 0;
#pragma unroll
    for (int v = 0; v < Radix::vectors; ++v) {
        uint32_t four[4];
        n += load_blocks(sight, row_keys, stride, Radix::eager, Radix::first(v), four);
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            key[4 * v + c] = four[c];
        }
    }
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

template <typename Radix>
static cudaError_t launch(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_keep_t *keep,
                          const uint32_t *key, int32_t *kept, void *stream) {
    return hisa_launch_next(keep_blocks<Radix>, hisa_row_grid(tile->rows, 1), Radix::threads, stream, *shard, *keep,
                            tile->row, key, kept);
}

extern "C" int hisa_cuda_launch_keep_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_keep_t *keep,
                                            const uint32_t *key, int32_t *kept, void *stream) {
    const int64_t blocks = shard->local_blocks;
    const bool wide = hisa_radix_wide(tile->rows);
    if (blocks <= hisa_radix_1k::capacity) {
        return wide ? launch<hisa_radix_1k_wide>(shard, tile, keep, key, kept, stream)
                    : launch<hisa_radix_1k>(shard, tile, keep, key, kept, stream);
    }
    if (blocks <= hisa_radix_4k::capacity) {
        return wide ? launch<hisa_radix_4k_wide>(shard, tile, keep, key, kept, stream)
                    : launch<hisa_radix_4k>(shard, tile, keep, key, kept, stream);
    }
    if (blocks <= hisa_radix_8k::capacity) {
        return wide ? launch<hisa_radix_8k_wide>(shard, tile, keep, key, kept, stream)
                    : launch<hisa_radix_8k>(shard, tile, keep, key, kept, stream);
    }
    if (blocks <= hisa_radix_32k::capacity) {
        return launch<hisa_radix_32k>(shard, tile, keep, key, kept, stream);
    }
    return hisa_launch_next(keep_blocks_any, hisa_row_grid(tile->rows, 1), HISA_PICK_THREADS, stream, *shard, *keep,
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
