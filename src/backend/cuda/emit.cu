/* From kept blocks and bitmaps to results. */
#include "backend/cuda/cuts.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

/* A thread takes 16 candidates at a time, which lie in one block and are a word of the bitmap. */
enum { EMIT_WORD = 16, EMIT_CHUNK = HISA_PICK_THREADS * EMIT_WORD };

/* Results on their way out: what a thread finds is scattered over lines of memory. Both count from the chunk on. */
struct emit_stage_t {
    hisa_pick_t pick;
    uint16_t candidate[EMIT_CHUNK];
    uint16_t score[EMIT_CHUNK];
};

/* Calls write(i, candidate, block, score) for each selected candidate whose block is `here`, in ascending order: i
 * counts them, `score` counts all that are selected. Returns how many were written. */
template <typename Here, typename Write>
static __device__ __forceinline__ uint32_t each_selected(emit_stage_t &stage, int32_t candidates, int size_log2,
                                                         const int32_t *kept, const uint16_t *bits, Here is_here,
                                                         Write write) {
    uint32_t taken_before = 0;
    uint32_t n = 0;
    for (int32_t chunk = 0; chunk < candidates; chunk += EMIT_CHUNK) {
        const int32_t first = chunk + static_cast<int32_t>(threadIdx.x) * EMIT_WORD;
        const int32_t block = first < candidates ? kept[first >> size_log2] : -1;
        const uint32_t word = block >= 0 ? bits[first / EMIT_WORD] : 0;
        const bool here = block >= 0 && is_here(block);
        const uint32_t count = static_cast<uint32_t>(__popc(word));
        uint32_t total;
        const uint32_t before = hisa_block_scan(stage.pick, count | (here ? count << 16 : 0u), &total);
        if (here) {
            uint32_t place = before >> 16;
            uint32_t score = before & 0xFFFF;
            for (uint32_t rest = word; rest != 0; rest &= rest - 1) {
                stage.candidate[place] = static_cast<uint16_t>(first - chunk + __ffs(static_cast<int>(rest)) - 1);
                stage.score[place++] = static_cast<uint16_t>(score++);
            }
        }
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < total >> 16; i += HISA_PICK_THREADS) {
            const int32_t candidate = chunk + stage.candidate[i];
            write(n + i, candidate, kept[candidate >> size_log2], taken_before + stage.score[i]);
        }
        taken_before += total & 0xFFFF;
        n += total >> 16;
    }
    return n;
}

static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    emit(hisa_shard_t shard, const hisa_row_t *rows, int32_t width, const int32_t *kept_of, const uint8_t *bitmap,
         const float *selected_of, hisa_output_t output, const __grid_constant__ hisa_segments_t group) {
    __shared__ emit_stage_t stage;
    int64_t in_segment = blockIdx.x;
    const hisa_segment_t &segment = hisa_segment_of(group, &in_segment);
    const int64_t r = segment.tile_begin + in_segment;
    const int64_t at = segment.output_begin + in_segment;
    const hisa_layout_t layout = hisa_row_layout(shard, rows[r]);
    const bool local = output.placement == HISA_PLACE_LOCAL;
    const int size_log2 = 31 - __clz(shard.block_size);
    const int32_t candidates = width << size_log2;
    int32_t *indices = output.indices + at * output.top_k;
    float *scores = selected_of != nullptr ? output.scores + at * output.top_k : nullptr;
    const uint32_t n = each_selected(
        stage, candidates, size_log2, kept_of + r * width,
        reinterpret_cast<const uint16_t *>(bitmap + r * candidates / 8),
        [&](int32_t block) { return !local || hisa_layout_owner(&layout, block) == shard.rank; },
        [&](uint32_t i, int32_t candidate, int32_t block, uint32_t score) {
            const int64_t to = local ? hisa_layout_local(&layout, block) : block;
            indices[i] = static_cast<int32_t>(to << size_log2) + (candidate & (shard.block_size - 1));
            if (scores != nullptr) {
                scores[i] = selected_of[r * output.top_k + score];
            }
        });
    if (output.counts != nullptr && threadIdx.x == 0) {
        output.counts[at] = static_cast<int32_t>(n);
    }
    for (int64_t i = n + threadIdx.x; i < output.top_k; i += HISA_PICK_THREADS) {
        indices[i] = -1;
        if (scores != nullptr) {
            scores[i] = 0.0f;
        }
    }
}

/* A row's selection as entries. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    list_tokens(hisa_shard_t shard, int32_t width, int32_t top_k, const int32_t *kept, const uint8_t *bitmap,
                const float *selected, int32_t list_width, uint64_t *lists) {
    __shared__ emit_stage_t stage;
    const int64_t r = blockIdx.x;
    const int size_log2 = 31 - __clz(shard.block_size);
    const int32_t candidates = width << size_log2;
    uint64_t *list = lists + r * list_width;
    const uint32_t n = each_selected(
        stage, candidates, size_log2, kept + r * width, reinterpret_cast<const uint16_t *>(bitmap + r * candidates / 8),
        [](int32_t) { return true; },
        [&](uint32_t i, int32_t candidate, int32_t block, uint32_t score) {
            list[i] = hisa_rank_make(hisa_key_from_score(selected[r * top_k + score]),
                                     (block << size_log2) + (candidate & (shard.block_size - 1)));
        });
    for (int32_t i = static_cast<int32_t>(n + threadIdx.x); i < list_width; i += HISA_PICK_THREADS) {
        list[i] = HISA_RANK_NONE;
    }
}

extern "C" int hisa_cuda_launch_list_tokens(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                            int32_t top_k, const int32_t *kept, const uint8_t *bitmap,
                                            const float *selected, int32_t list_width, uint64_t *list, void *stream) {
    return hisa_launch(list_tokens, hisa_row_grid(tile->rows, 1), HISA_PICK_THREADS, stream, *shard, width, top_k, kept,
                       bitmap, selected, list_width, list);
}

extern "C" int hisa_cuda_launch_emit(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                     const int32_t *kept, const uint8_t *bitmap, const float *selected,
                                     const hisa_output_t *output, void *stream) {
    cudaError_t error = cudaSuccess;
    for (int32_t next = 0; next < output->n_segments && error == cudaSuccess;) {
        const hisa_segments_t group = hisa_segments_of(output->segments, output->n_segments, true, &next);
        error = hisa_launch(emit, hisa_row_grid(group.rows, 1), HISA_PICK_THREADS, stream, *shard, tile->row, width,
                            kept, bitmap, selected, *output, group);
    }
    return error;
}
