/* From each rank's best blocks to the blocks a row keeps. */
#include "backend/cuda/cover.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/merge.cuh"
#include "backend/cuda/radix.cuh"
#include "backend/cuda/sight.cuh"

typedef struct merge_lists {
    const uint64_t *entry;
    int32_t width;
    int64_t rank_stride;
    int64_t place_stride;
} merge_lists_t;

enum { MERGE_MOST = 2048, MERGE_NONE = 0xFFFF };

/* A row's entries by rank, and the order of their blocks. */
template <typename Radix> struct hisa_merge_t {
    static constexpr uint32_t room = Radix::capacity < MERGE_MOST ? Radix::capacity : MERGE_MOST;
    typename Radix::shared_t radix;
    uint32_t low[room];  /* of each entry: descending in a list, as blocks ascend, then 0 where there are no more */
    uint32_t high[room]; /* of each entry; later on, which entries are taken */
    alignas(8) uint16_t entry[room]; /* by block */
};

/* How many of all entries have lower blocks than one of `own`. Four lists at a time, whose steps do not wait for each
 * other. `width` entries a list, of which `top` is the highest power of two. */
static __device__ __forceinline__ uint32_t count_lower(const uint32_t *low, int32_t ranks, uint32_t width, uint32_t top,
                                                       uint32_t own) {
    constexpr int TOGETHER = 4;
    uint32_t lower = 0;
    for (int32_t p = 0; p < ranks; p += TOGETHER) {
        const uint32_t *list[TOGETHER];
        uint32_t count[TOGETHER];
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            list[i] = low + min(p + i, ranks - 1) * width;
            count[i] = 0;
        }
        for (uint32_t step = top; step != 0; step /= 2) {
#pragma unroll
            for (int i = 0; i < TOGETHER; ++i) {
                const uint32_t next = count[i] + step;
                count[i] = next <= width && list[i][next - 1] > own ? next : count[i];
            }
        }
#pragma unroll
        for (int i = 0; i < TOGETHER; ++i) {
            lower += p + i < ranks ? count[i] : 0;
        }
    }
    return lower;
}

/* Mode hisa, up to `room` entries a row. They are brought into the order of their blocks, where ties go by order
 * as radix.cuh has it, and then the best are found as on one rank. */
template <typename Radix>
static __global__ void __launch_bounds__(Radix::threads, Radix::blocks)
    merge_blocks(int32_t ranks, int32_t keep_width, merge_lists_t lists, int64_t row_begin, int32_t *kept_of,
                 int32_t *place_of) {
    __shared__ hisa_merge_t<Radix> shared;
    hisa_grid_release();
    Radix::clear(shared.radix);
    for (uint32_t i = threadIdx.x; i < shared.room; i += Radix::threads) {
        shared.entry[i] = MERGE_NONE;
    }
    hisa_grid_wait();
    const int64_t r = row_begin + blockIdx.x;
    const uint32_t width = static_cast<uint32_t>(lists.width);
    const uint32_t n = static_cast<uint32_t>(ranks) * width;
    const uint32_t top = 1u << (31 - __clz(lists.width));
#pragma unroll 4
    for (uint32_t e = threadIdx.x; e < n; e += Radix::threads) {
        const uint64_t rank = lists.entry[e / width * lists.rank_stride + r * width + e % width];
        shared.low[e] = static_cast<uint32_t>(rank);
        shared.high[e] = hisa_rank_key(rank);
    }
    __syncthreads();
    for (uint32_t e = threadIdx.x; e < n; e += Radix::threads) {
        const uint32_t own = shared.low[e];
        if (own != 0) {
            shared.entry[count_lower(shared.low, ranks, width, top, own)] = static_cast<uint16_t>(e);
        }
    }
    __syncthreads();
    uint32_t key[Radix::keys];
    uint32_t there = 0;
#pragma unroll
    for (int v = 0; v < Radix::vectors; ++v) {
        const uint32_t first = static_cast<uint32_t>(Radix::first(v));
        ushort4 four = make_ushort4(MERGE_NONE, MERGE_NONE, MERGE_NONE, MERGE_NONE);
        if (first < n) {
            four = *reinterpret_cast<const ushort4 *>(&shared.entry[first]);
        }
        const uint32_t entry[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            const uint32_t own = entry[c] != MERGE_NONE ? shared.high[entry[c]] : 0;
            const uint32_t radix = own == HISA_KEY_FORCED ? HISA_RADIX_FORCED : hisa_radix_from_key(own);
            key[4 * v + c] = entry[c] != MERGE_NONE ? radix : HISA_RADIX_NONE;
            there += entry[c] != MERGE_NONE ? 1u : 0u;
        }
    }
    const hisa_cut_t cut = Radix::cut(shared.radix, key, there, static_cast<uint32_t>(keep_width));
    Radix::each_taken(key, cut, Radix::place(shared.radix, key, cut),
                      [&](uint32_t at, int i, uint32_t) { shared.high[at] = shared.entry[i]; });
    __syncthreads();
    int32_t *kept = kept_of + r * keep_width;
    int32_t *place = place_of != nullptr ? place_of + r * keep_width : nullptr;
    for (uint32_t j = threadIdx.x; j < static_cast<uint32_t>(keep_width); j += Radix::threads) {
        const bool taken = j < cut.taken;
        const uint32_t e = taken ? shared.high[j] : 0;
        kept[j] = taken ? hisa_rank_position(shared.low[e]) : -1;
        if (place != nullptr) {
            place[j] = taken ? static_cast<int32_t>(e / width * lists.place_stride + r * width + e % width) : -1;
        }
    }
}

/* Any number of entries. The threshold is the rank of the last block taken: of the width-th best, or (mode block, where
 * a block weighs its tokens in sight) of the one that covers the k-th token. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    merge_blocks_any(hisa_shard_t shard, hisa_keep_t keep, const hisa_row_t *rows, merge_lists_t lists,
                     int64_t row_begin, int32_t *kept_of, int32_t *place_of, uint8_t *bitmap, int32_t *before_of) {
    __shared__ hisa_pick_t shared;
    hisa_grid_release();
    const int64_t r = row_begin + blockIdx.x;
    const hisa_row_t row = rows[r];
    const int64_t width = lists.width;
    const bool cover = keep.mode == HISA_MODE_BLOCK;
    const uint32_t most = static_cast<uint32_t>(cover ? keep.top_k : keep.width);
    int32_t *before = before_of + r * shard.ranks * (width + 1);
    int32_t *kept = kept_of + r * keep.width;
    int32_t *place = place_of != nullptr ? place_of + r * keep.width : nullptr;
    const auto list_of = [&](int32_t p, int64_t *count) {
        *count = width;
        return lists.entry + p * lists.rank_stride + r * width;
    };
    const auto weigh = [&](uint64_t rank) {
        if (!cover) {
            return 1u;
        }
        int64_t begin;
        int64_t end;
        hisa_tokens_in_sight(shard, row, hisa_rank_position(rank), &begin, &end);
        return static_cast<uint32_t>(end - begin);
    };
    const hisa_kth_t<uint64_t> kth =
        hisa_block_kth<uint64_t>(shared, shard.ranks * width, most, [&](int64_t i, uint64_t *rank) {
            *rank = lists.entry[i / width * lists.rank_stride + r * width + i % width];
            return *rank == HISA_RANK_NONE ? 0u : weigh(*rank);
        });
    const uint32_t n = hisa_merge_count(shared, shard.ranks, width, kth.threshold, list_of, before);
    hisa_merge_put(shard.ranks, width, kth.threshold, list_of, before,
                   [&](int64_t at, uint64_t rank, int32_t p, int64_t i) {
                       kept[at] = hisa_rank_position(rank);
                       if (place != nullptr) {
                           place[at] = cover ? 0 : static_cast<int32_t>(p * lists.place_stride + r * width + i);
                       }
                   });
    for (int64_t j = n + threadIdx.x; j < keep.width; j += HISA_PICK_THREADS) {
        kept[j] = -1;
        if (place != nullptr) {
            place[j] = -1;
        }
    }
    __syncthreads();
    if (cover) {
        const bool cut = kth.total >= most;
        hisa_cover_bitmap(shard, row, keep.width, kept, cut ? hisa_rank_position(kth.threshold) : -1, most - kth.above,
                          reinterpret_cast<uint16_t *>(bitmap + r * keep.width * shard.block_size / 8));
    }
}

extern "C" int hisa_cuda_launch_merge_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile,
                                             const hisa_keep_t *keep, const uint64_t *lists, int32_t width,
                                             int64_t rank_stride, int64_t place_stride, int64_t row_begin, int64_t rows,
                                             int32_t *kept, int32_t *place, uint8_t *bitmap, int32_t *before,
                                             void *stream) {
    const merge_lists_t from = {lists, width, rank_stride, place_stride};
    const int64_t entries = int64_t(shard->ranks) * width;
    const dim3 grid = hisa_row_grid(rows, 1);
    if (keep->mode == HISA_MODE_BLOCK || entries > MERGE_MOST) {
        return hisa_launch(merge_blocks_any, grid, HISA_PICK_THREADS, stream, *shard, *keep, tile->row, from, row_begin,
                           kept, place, bitmap, before);
    }
    /* Not hisa_launch_next: what comes before is an exchange. */
    const auto launch = [&](auto radix) {
        using Radix = decltype(radix);
        return hisa_launch(merge_blocks<Radix>, grid, Radix::threads, stream, shard->ranks, keep->width, from,
                           row_begin, kept, place);
    };
    if (entries <= hisa_radix_1k::capacity) {
        return hisa_radix_wide(rows) ? launch(hisa_radix_1k_wide()) : launch(hisa_radix_1k());
    }
    return hisa_radix_wide(rows) ? launch(hisa_radix_4k_wide()) : launch(hisa_radix_2k());
}
