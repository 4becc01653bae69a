/* From kept blocks and bitmaps to results. */
#include "backend/cuda/cuts.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/cuda/warp.cuh"
#include "backend/order.h"

/* A lane takes 16 candidates at a time, which lie in one block and are a word of the bitmap, a warp a row or a part of
 * one. No warp waits for another. */
enum { EMIT_WORD = 16, EMIT_STEP = 32 * EMIT_WORD, EMIT_WARPS = 8, EMIT_DEVICE_WARPS = 132 * 64 };

/* Results of a step on their way out: what a lane finds is scattered over lines of memory. */
struct emit_stage_t {
    int32_t value[EMIT_STEP];
    uint16_t order[EMIT_STEP];
};

/* What a warp goes through: candidates [begin, end) of a row's kept blocks. */
struct emit_slice_t {
    const int32_t *kept;
    const uint16_t *bits;
    int size_log2;
    int32_t begin;
    int32_t end;
};

/* The lane's word of a step, and its block (-1: none). */
struct emit_word_t {
    int32_t block;
    uint32_t bits;
};

static __device__ __forceinline__ emit_word_t word_at(const emit_slice_t &slice, int32_t candidate) {
    const bool there = candidate < slice.end;
    const int32_t block = there ? slice.kept[candidate >> slice.size_log2] : -1;
    const uint32_t bits = there ? slice.bits[candidate / EMIT_WORD] : 0;
    return {block, block >= 0 ? bits : 0};
}

/* How many are selected, of all blocks and of those whose tokens have a place here. */
struct emit_count_t {
    uint32_t all;
    uint32_t here;
};

/* Those before the slice: what the warps of the row's earlier slices find. */
template <typename Base>
static __device__ __forceinline__ emit_count_t count_before(const emit_slice_t &slice, Base base_of) {
    emit_slice_t before = slice;
    uint32_t all = 0;
    uint32_t here = 0;
    before.end = slice.begin;
    for (int32_t step = 0; step < slice.begin; step += EMIT_STEP) {
        const emit_word_t word = word_at(before, step + static_cast<int32_t>(threadIdx.x % 32) * EMIT_WORD);
        const uint32_t count = static_cast<uint32_t>(__popc(word.bits));
        all += count;
        here += word.block >= 0 && base_of(word.block) >= 0 ? count : 0;
    }
    return {__reduce_add_sync(0xFFFFFFFFu, all), __reduce_add_sync(0xFFFFFFFFu, here)};
}

/* Calls write(i, value, order) for each selected candidate of the slice that has a place here, in ascending order: i
 * counts them and `order` all that are selected, both from the row's beginning. base_of(block): the value of the
 * block's first token, less than 0 where it has no place here. ALL: every block has one, so order is i. Returns one
 * past the last i. */
template <bool ALL, typename Base, typename Write>
static __device__ __forceinline__ uint32_t each_selected(emit_stage_t &stage, const emit_slice_t &slice, Base base_of,
                                                         Write write) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    const int32_t inside = (1 << slice.size_log2) - 1;
    emit_count_t count = count_before(slice, base_of);
    emit_word_t next = word_at(slice, slice.begin + lane * EMIT_WORD);
    for (int32_t step = slice.begin; step < slice.end; step += EMIT_STEP) {
        const int32_t first = step + lane * EMIT_WORD;
        const emit_word_t word = next;
        next = word_at(slice, first + EMIT_STEP);
        const int32_t base = word.block >= 0 ? base_of(word.block) : -1;
        const uint32_t found = static_cast<uint32_t>(__popc(word.bits));
        const uint32_t both = found | (base >= 0 ? found << 16 : 0u); /* at most 512 of either */
        const uint32_t up_to = hisa_warp_scan(both);
        const uint32_t total = __shfl_sync(0xFFFFFFFFu, up_to, 31);
        if (base >= 0) {
            uint32_t place = (up_to - both) >> 16;
            uint32_t order = (up_to - both) & 0xFFFF;
            const int32_t value = base + (first & inside);
            for (uint32_t rest = word.bits; rest != 0; rest &= rest - 1) {
                stage.value[place] = value + __ffs(static_cast<int>(rest)) - 1;
                if (!ALL) {
                    stage.order[place] = static_cast<uint16_t>(order++);
                }
                ++place;
            }
        }
        __syncwarp();
        for (uint32_t i = lane; i < total >> 16; i += 32) {
            write(count.here + i, stage.value[i], ALL ? count.here + i : count.all + stage.order[i]);
        }
        __syncwarp();
        count.all += total & 0xFFFF;
        count.here += total >> 16;
    }
    return count.here;
}

/* A row's candidates are dealt out to 2^spread warps. A step is some 2000 cycles of waiting, so what counts is that
 * there are warps enough to fill the device (half of what an H100 holds), and then that none counts what others before
 * it find: 4096 rows take 31 us by two warps each, 34 by four. */
static inline int spread_of(int64_t rows) {
    int spread = 0;
    while ((1 << spread) < EMIT_WARPS && (rows << spread) < EMIT_DEVICE_WARPS / 2) {
        ++spread;
    }
    return spread;
}

static inline dim3 emit_grid(int64_t rows) {
    return hisa_row_grid(hisa_ceil_div(rows, EMIT_WARPS >> spread_of(rows)), 1);
}

struct emit_deal_t {
    int64_t row;
    int32_t begin; /* of the warp's candidates */
    int32_t end;
    bool last; /* part of its row */
};

static __device__ __forceinline__ emit_deal_t deal_of(int spread, int32_t candidates) {
    const int64_t warp = int64_t(blockIdx.x) * EMIT_WARPS + threadIdx.x / 32;
    const int32_t part = static_cast<int32_t>(warp & ((1 << spread) - 1));
    const int32_t steps = (candidates + (EMIT_STEP << spread) - 1) / (EMIT_STEP << spread);
    const int32_t begin = part * steps * EMIT_STEP;
    const int32_t end = begin + steps * EMIT_STEP;
    return {warp >> spread, begin < candidates ? begin : candidates, end < candidates ? end : candidates,
            part == (1 << spread) - 1};
}

template <bool LOCAL>
static __global__ void __launch_bounds__(EMIT_WARPS * 32)
    emit(hisa_shard_t shard, const hisa_row_t *rows, int spread, int32_t width, const int32_t *kept_of,
         const uint8_t *bitmap, const float *selected_of, hisa_output_t output,
         const __grid_constant__ hisa_segments_t group) {
    __shared__ emit_stage_t stages[EMIT_WARPS];
    hisa_grid_release();
    hisa_grid_wait();
    const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
    const int size_log2 = 31 - __clz(shard.block_size);
    const int32_t candidates = width << size_log2;
    const emit_deal_t deal = deal_of(spread, candidates);
    if (deal.row >= group.rows) {
        return;
    }
    int64_t in_segment = deal.row;
    const hisa_segment_t &segment = hisa_segment_of(group, &in_segment);
    const int64_t r = segment.tile_begin + in_segment;
    const int64_t at = segment.output_begin + in_segment;
    const uint32_t first = LOCAL ? hisa_row_first(shard, rows[r]) : 0;
    int32_t *indices = output.indices + at * output.top_k;
    const float *selected = selected_of + r * output.top_k;
    float *scores = selected_of != nullptr ? output.scores + at * output.top_k : nullptr;
    const emit_slice_t slice = {kept_of + r * width, reinterpret_cast<const uint16_t *>(bitmap + r * candidates / 8),
                                size_log2, deal.begin, deal.end};
    const uint32_t n = each_selected<!LOCAL>(
        stages[threadIdx.x / 32], slice,
        [&](int32_t block) {
            if (LOCAL) {
                const int32_t local = hisa_deal_local(&shard.deal, first, block);
                return local >= 0 ? local << size_log2 : -1;
            }
            return block << size_log2;
        },
        [&](uint32_t i, int32_t value, uint32_t order) {
            indices[i] = value;
            if (scores != nullptr) {
                scores[i] = selected[order];
            }
        });
    if (!deal.last) {
        return;
    }
    if (output.counts != nullptr && lane == 0) {
        output.counts[at] = static_cast<int32_t>(n);
    }
    for (int64_t i = n + lane; i < output.top_k; i += 32) {
        indices[i] = -1;
        if (scores != nullptr) {
            scores[i] = 0.0f;
        }
    }
}

/* A row's selection as entries. */
static __global__ void __launch_bounds__(EMIT_WARPS * 32)
    list_tokens(int64_t n_rows, int spread, int size_log2, int32_t width, int32_t top_k, const int32_t *kept,
                const uint8_t *bitmap, const float *selected, int32_t list_width, uint64_t *lists) {
    __shared__ emit_stage_t stages[EMIT_WARPS];
    const int32_t candidates = width << size_log2;
    const emit_deal_t deal = deal_of(spread, candidates);
    const int64_t r = deal.row;
    if (r >= n_rows) {
        return;
    }
    uint64_t *list = lists + r * list_width;
    const emit_slice_t slice = {kept + r * width, reinterpret_cast<const uint16_t *>(bitmap + r * candidates / 8),
                                size_log2, deal.begin, deal.end};
    const uint32_t n = each_selected<true>(
        stages[threadIdx.x / 32], slice, [&](int32_t block) { return block << size_log2; },
        [&](uint32_t i, int32_t position, uint32_t order) {
            list[i] = hisa_rank_make(hisa_key_from_score(selected[r * top_k + order]), position);
        });
    for (int32_t i = static_cast<int32_t>(n + threadIdx.x % 32); deal.last && i < list_width; i += 32) {
        list[i] = HISA_RANK_NONE;
    }
}

extern "C" int hisa_cuda_launch_list_tokens(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                            int32_t top_k, const int32_t *kept, const uint8_t *bitmap,
                                            const float *selected, int32_t list_width, uint64_t *list, void *stream) {
    return hisa_launch(list_tokens, emit_grid(tile->rows), EMIT_WARPS * 32, stream, tile->rows, spread_of(tile->rows),
                       31 - __builtin_clz(static_cast<unsigned>(shard->block_size)), width, top_k, kept, bitmap,
                       selected, list_width, list);
}

extern "C" int hisa_cuda_launch_emit(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                     const int32_t *kept, const uint8_t *bitmap, const float *selected,
                                     const hisa_output_t *output, void *stream) {
    cudaError_t error = cudaSuccess;
    for (int32_t next = 0; next < output->n_segments && error == cudaSuccess;) {
        const hisa_segments_t group = hisa_segments_of(output->segments, output->n_segments, true, &next);
        error = hisa_launch_next(output->placement == HISA_PLACE_LOCAL ? emit<true> : emit<false>,
                                 emit_grid(group.rows), EMIT_WARPS * 32, stream, *shard, tile->row,
                                 spread_of(group.rows), width, kept, bitmap, selected, *output, group);
    }
    return error;
}
