/* From kept blocks and bitmaps to results. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/sight.cuh"

static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    emit(hisa_shard_t shard, const hisa_row_t *rows, int32_t width, const int32_t *kept_of, const uint8_t *bitmap,
         const float *selected_of, hisa_output_t output, hisa_segment_t segment) {
    __shared__ hisa_pick_t shared;
    const int64_t r = segment.tile_begin + blockIdx.x;
    const int64_t at = segment.output_begin + blockIdx.x;
    const hisa_layout_t layout = hisa_row_layout(shard, rows[r]);
    const bool local = output.placement == HISA_PLACE_LOCAL;
    const int64_t size = shard.block_size;
    const int64_t candidates = width * size;
    const int32_t *kept = kept_of + r * width;
    const uint8_t *bits = bitmap + r * candidates / 8;
    int32_t *indices = output.indices + at * output.top_k;
    float *scores = selected_of != nullptr ? output.scores + at * output.top_k : nullptr;
    uint32_t taken_before = 0; /* all selected tokens; `selected` counts them */
    uint32_t n = 0;            /* those written: fewer if only local ones are */
    for (int64_t chunk = 0; chunk < candidates; chunk += HISA_PICK_THREADS) {
        const int64_t i = chunk + threadIdx.x;
        bool taken = false;
        bool here = false;
        int64_t first = 0;
        if (i < candidates && kept[i / size] >= 0) {
            const int32_t block = kept[i / size];
            taken = (bits[i / 8] >> (i % 8) & 1) != 0;
            here = taken && (!local || hisa_layout_owner(&layout, block) == shard.rank);
            first = (local ? hisa_layout_local(&layout, block) : block) * size;
        }
        uint32_t total;
        const uint32_t before = hisa_block_scan(shared, (taken ? 1u : 0u) | (here ? 1u << 16 : 0u), &total);
        if (here) {
            const uint32_t place = n + (before >> 16);
            indices[place] = static_cast<int32_t>(first + i % size);
            if (scores != nullptr) {
                scores[place] = selected_of[r * output.top_k + taken_before + (before & 0xFFFF)];
            }
        }
        taken_before += total & 0xFFFF;
        n += total >> 16;
    }
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

extern "C" int hisa_cuda_launch_emit(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                     const int32_t *kept, const uint8_t *bitmap, const float *selected,
                                     const hisa_output_t *output, const hisa_segment_t *segment, void *stream) {
    return hisa_launch(emit, hisa_row_grid(segment->rows, 1), HISA_PICK_THREADS, stream, *shard, tile->row, width, kept,
                       bitmap, selected, *output, *segment);
}
