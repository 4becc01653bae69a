/* From each rank's best blocks to the blocks a row keeps. */
#include "backend/cuda/cover.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/merge.cuh"
#include "backend/cuda/radix.cuh"
#include "backend/cuda/sight.cuh"

typedef struct merge_lists {
    const uint64_t *entry;
    int32_t width;
    hisa_divisor_t by_width;
    int64_t rank_stride;
    int64_t place_stride;
} merge_lists_t;

enum { MERGE_MOST = 2048 };

/* A row's entries. Of each the word (the lower half of a rank), which is the larger the lower the block, and never 0.
 * Those that are taken have the histogram's room, in any order. */
template <typename Radix> struct hisa_merge_t {
    static constexpr uint32_t room = Radix::capacity < MERGE_MOST ? Radix::capacity : MERGE_MOST;
    union {
        typename Radix::shared_t radix;
        struct {
            typename Radix::sums_t sums;
            alignas(16) uint32_t word[room];
            uint16_t entry[room];
        } taken;
    };
    uint32_t word[room];
    uint32_t n_taken;
};

/* The thread's v-th entry. */
template <typename Radix> static __device__ __forceinline__ uint32_t entry_of(int v) {
    return static_cast<uint32_t>(v) * Radix::threads + threadIdx.x;
}

/* Where an entry lies, counted from the row's entries of rank 0 on, in lists that are `stride` apart. */
static __device__ __forceinline__ int64_t entry_at(const merge_lists_t &lists, uint32_t entry, int64_t stride) {
    return hisa_divide(entry, lists.by_width) * (stride - lists.width) + entry;
}

/* The keys of the thread's entries; returns how many there are. */
template <typename Radix>
static __device__ __forceinline__ uint32_t load_entries(hisa_merge_t<Radix> &shared, const merge_lists_t &lists,
                                                        uint32_t n, int64_t r, uint32_t (&key)[Radix::keys]) {
    const uint64_t *row = lists.entry + r * lists.width;
    uint32_t there = 0;
#pragma unroll
    for (int v = 0; v < Radix::keys; ++v) {
        const uint32_t e = entry_of<Radix>(v);
        const uint64_t rank = e < n ? row[entry_at(lists, e, lists.rank_stride)] : HISA_RANK_NONE;
        const uint32_t own = hisa_rank_key(rank);
        const uint32_t radix = own == HISA_KEY_FORCED ? HISA_RADIX_FORCED : hisa_radix_from_key(own);
        key[v] = rank != HISA_RANK_NONE ? radix : HISA_RADIX_NONE;
        there += rank != HISA_RANK_NONE ? 1u : 0u;
        if (e < n) {
            shared.word[e] = static_cast<uint32_t>(rank);
        }
    }
    return there;
}

/* Where keys are equal at the cut, blocks decide: what is above it has the largest key from here on, what is at it its
 * word. (That of block 0 is the largest key too, and the first to be taken.) Returns how many there are. */
template <typename Radix>
static __device__ __forceinline__ uint32_t go_by_word(const hisa_merge_t<Radix> &shared, const hisa_cut_t &cut,
                                                      uint32_t (&key)[Radix::keys]) {
    uint32_t there = 0;
#pragma unroll
    for (int v = 0; v < Radix::keys; ++v) {
        const uint32_t above = key[v] >= cut.from ? 0xFFFFFFFFu : HISA_RADIX_NONE;
        key[v] = key[v] == cut.tie ? shared.word[entry_of<Radix>(v)] : above;
        there += key[v] != HISA_RADIX_NONE ? 1u : 0u;
    }
    return there;
}

/* Puts the entries with keys from `from` on into shared.taken. */
template <typename Radix>
static __device__ __forceinline__ void take_entries(hisa_merge_t<Radix> &shared, const uint32_t (&key)[Radix::keys],
                                                    uint32_t from) {
    const uint32_t lane = threadIdx.x % 32;
    uint32_t all = 0;
#pragma unroll
    for (int v = 0; v < Radix::keys; ++v) {
        all += __popc(__ballot_sync(0xFFFFFFFFu, key[v] >= from));
    }
    uint32_t begin = 0;
    if (lane == 0) {
        begin = atomicAdd(&shared.n_taken, all);
    }
    begin = __shfl_sync(0xFFFFFFFFu, begin, 0);
#pragma unroll
    for (int v = 0; v < Radix::keys; ++v) {
        const uint32_t mask = __ballot_sync(0xFFFFFFFFu, key[v] >= from);
        if (key[v] >= from) {
            const uint32_t at = begin + __popc(mask & ((1u << lane) - 1));
            shared.taken.word[at] = shared.word[entry_of<Radix>(v)];
            shared.taken.entry[at] = static_cast<uint16_t>(entry_of<Radix>(v));
        }
        begin += __popc(mask);
    }
}

/* How many of n words, a multiple of 16, are larger than `own`. Four lanes in a row call it for the same. */
static __device__ __forceinline__ uint32_t count_larger(const uint32_t *word, uint32_t n, uint32_t own) {
    uint32_t larger = 0;
    for (uint32_t i = threadIdx.x % 4 * 4; i < n; i += 16) {
        const uint4 four = *reinterpret_cast<const uint4 *>(word + i);
        larger +=
            (four.x > own ? 1u : 0u) + (four.y > own ? 1u : 0u) + (four.z > own ? 1u : 0u) + (four.w > own ? 1u : 0u);
    }
    larger += __shfl_xor_sync(0xFFFFFFFFu, larger, 1);
    return larger + __shfl_xor_sync(0xFFFFFFFFu, larger, 2);
}

/* Mode hisa, up to `room` entries a row. The best are found first, and then each of them its place, by comparison with
 * all of them: these are few, and no search waits for another. */
template <typename Radix>
static __global__ void __launch_bounds__(Radix::threads, Radix::blocks)
    merge_blocks(int32_t ranks, int32_t keep_width, merge_lists_t lists, int64_t row_begin, int32_t *kept_of,
                 int32_t *place_of) {
    __shared__ hisa_merge_t<Radix> shared;
    hisa_grid_release();
    Radix::clear(shared.radix);
    if (threadIdx.x == 0) {
        shared.n_taken = 0;
    }
    hisa_grid_wait();
    const int64_t r = row_begin + blockIdx.x;
    const uint32_t k = static_cast<uint32_t>(keep_width);
    uint32_t key[Radix::keys];
    uint32_t there = load_entries<Radix>(shared, lists, static_cast<uint32_t>(ranks * lists.width), r, key);
    hisa_cut_t cut = {};
#pragma unroll 1
    for (int pass = 0; pass < 2; ++pass) { /* a second leaves no tie: words differ */
        cut = Radix::cut(shared.radix, key, there, k);
        if (cut.ties == 0) {
            break;
        }
        there = go_by_word<Radix>(shared, cut, key);
    }
    take_entries<Radix>(shared, key, cut.from);
    const uint32_t compared = (cut.taken + 15) / 16 * 16;
    if (threadIdx.x < compared - cut.taken) {
        shared.taken.word[cut.taken + threadIdx.x] = 0;
    }
    __syncthreads();
    int32_t *kept = kept_of + r * keep_width;
    int32_t *place = place_of != nullptr ? place_of + r * keep_width : nullptr;
    for (uint32_t first = threadIdx.x / 32 * 8; first < cut.taken; first += Radix::threads / 4) {
        const uint32_t i = first + threadIdx.x % 32 / 4;
        const uint32_t own = shared.taken.word[i];
        const uint32_t at = count_larger(shared.taken.word, compared, own);
        if (i < cut.taken && threadIdx.x % 4 == 0) {
            kept[at] = hisa_rank_position(own);
        }
        if (i < cut.taken && threadIdx.x % 4 == 1 && place != nullptr) {
            place[at] =
                static_cast<int32_t>(entry_at(lists, shared.taken.entry[i], lists.place_stride) + r * lists.width);
        }
    }
    for (uint32_t j = cut.taken + threadIdx.x; j < k; j += Radix::threads) {
        kept[j] = -1;
        if (place != nullptr) {
            place[j] = -1;
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
    const merge_lists_t from = {lists, width, hisa_divisor_make(width), rank_stride, place_stride};
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
