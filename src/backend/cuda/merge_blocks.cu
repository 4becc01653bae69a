/* From each rank's best blocks to the blocks a row keeps. */
#include "backend/cuda/cover.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/merge.cuh"
#include "backend/cuda/sight.cuh"

typedef struct merge_lists {
    const uint64_t *entry;
    int32_t width;
    int64_t rank_stride;
    int64_t place_stride;
} merge_lists_t;

/* The threshold is the rank of the last block taken: of the width-th best, or (mode block, where a block weighs its
 * tokens in sight) of the one that covers the k-th token. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    merge_blocks(hisa_shard_t shard, hisa_keep_t keep, const hisa_row_t *rows, merge_lists_t lists, int64_t row_begin,
                 int32_t *kept_of, int32_t *place_of, uint8_t *bitmap, int32_t *before_of) {
    __shared__ hisa_pick_t shared;
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
    return hisa_launch(merge_blocks, hisa_row_grid(rows, 1), HISA_PICK_THREADS, stream, *shard, *keep, tile->row, from,
                       row_begin, kept, place, bitmap, before);
}
