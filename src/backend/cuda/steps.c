/* Index changes, rows, and the two stages: scratch laid out, kernels launched. keys_scored grows by what the host can
 * know without waiting, an upper bound: windows and kept blocks are on the device. */
#include "backend/cuda/cuda.h"
#include "backend/cuda/hopper.h"
#include "base/checked.h"
#include "base/error.h"

hisa_status_t hisa_cuda_set_length(hisa_device_t *device, const hisa_shard_t *shard, int32_t sequence, int64_t length,
                                   void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "setting a length",
                  hisa_cuda_launch_set_length(shard->lengths + sequence, (int32_t)length, stream));
    return status;
}

hisa_status_t hisa_cuda_write_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_span_t *span,
                                     const uint8_t *keys, const float *scales, bool local, void *stream) {
    hisa_status_t status = hisa_cuda_check_memory(device, "keys", keys, 16);
    if (status == HISA_OK) {
        status = hisa_cuda_check_memory(device, "key_scales", scales, 4);
    }
    if (status == HISA_OK) {
        HISA_CUDA_RUN(status, device, "writing tokens",
                      hisa_cuda_launch_write_tokens(shard, span, keys, scales, local, stream));
    }
    return status;
}

hisa_status_t hisa_cuda_pool_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_span_t *span,
                                    void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "pooling blocks", hisa_cuda_launch_pool_blocks(shard, span, stream));
    return status;
}

hisa_status_t hisa_cuda_check_rows(hisa_device_t *device, const hisa_shard_t *shard, const hisa_queries_t *queries) {
    (void)shard;
    if (queries->num_rows == 0) {
        return HISA_OK;
    }
    hisa_status_t status = hisa_cuda_check_memory(device, "queries.q", queries->q, 16);
    if (status == HISA_OK) {
        status = hisa_cuda_check_memory(device, "queries.weights", queries->weights, 16);
    }
    if (status == HISA_OK) {
        status = hisa_cuda_check_memory(device, "queries.sequence", queries->sequence, 4);
    }
    if (status == HISA_OK) {
        status = hisa_cuda_check_memory(device, "queries.window_begin", queries->window_begin, 4);
    }
    return status == HISA_OK ? hisa_cuda_check_memory(device, "queries.window_end", queries->window_end, 4) : status;
}

hisa_status_t hisa_cuda_make_rows(hisa_device_t *device, const hisa_shard_t *shard, const hisa_queries_t *queries,
                                  const hisa_segment_t *segments, int32_t n_segments, hisa_row_t *row, void *prepared,
                                  void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "making rows",
                  hisa_cuda_launch_make_rows(shard, queries, segments, n_segments, row, prepared, stream));
    return status;
}

hisa_status_t hisa_cuda_prepare_queries(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                        void *stream) {
    (void)device;
    (void)shard;
    (void)tile;
    (void)stream;
    return HISA_OK;
}

int64_t hisa_cuda_two_stage_scratch(int64_t rows, int32_t width, int64_t blocks, int32_t ranks) {
    const int64_t keys = rows * blocks * (int64_t)sizeof(uint32_t);
    const int64_t merge = rows * ranks * (width + INT64_C(1)) * (int64_t)sizeof(int32_t);
    const int64_t plan =
        INT64_C(2) * ranks * (int64_t)sizeof(int64_t) + (ranks + INT64_C(1)) * rows * (int64_t)sizeof(int32_t);
    return hisa_max(keys, hisa_max(merge, plan));
}

/* Keys of all blocks in sight, uint32 [rows][local_blocks], into scratch. */
static hisa_status_t block_keys(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                void *stream) {
    if (hisa_cuda_of(device)->scorer == HISA_CUDA_SCORER_WGMMA) {
        return hisa_cuda_hopper_score_blocks(device, shard, tile, tile->scratch, stream);
    }
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "scoring blocks",
                  hisa_cuda_launch_score_blocks(shard, tile, hisa_cuda_of(device)->scorer, tile->scratch, stream));
    return status;
}

hisa_status_t hisa_cuda_score_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                     const hisa_keep_t *keep, int32_t width, uint64_t *list, int32_t *blocks,
                                     int64_t *keys_scored, void *stream) {
    hisa_status_t status = block_keys(device, shard, tile, stream);
    if (status == HISA_OK) {
        HISA_CUDA_RUN(status, device, "listing blocks",
                      hisa_cuda_launch_list_blocks(shard, tile, keep, width, tile->scratch, list, blocks, stream));
    }
    *keys_scored += tile->rows * shard->local_blocks;
    return status;
}

hisa_status_t hisa_cuda_merge_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                     const hisa_keep_t *keep, const uint64_t *lists, int32_t width, int64_t rank_stride,
                                     int64_t place_stride, int64_t row_begin, int64_t rows, int32_t *kept,
                                     int32_t *place, uint8_t *bitmap, void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "merging blocks",
                  hisa_cuda_launch_merge_blocks(shard, tile, keep, lists, width, rank_stride, place_stride, row_begin,
                                                rows, kept, place, bitmap, tile->scratch, stream));
    return status;
}

hisa_status_t hisa_cuda_own_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   int32_t width, const int32_t *kept, int32_t own_width, int32_t *own, int32_t *place,
                                   void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "listing own blocks",
                  hisa_cuda_launch_own_blocks(shard, tile, width, kept, own_width, own, place, stream));
    return status;
}

hisa_status_t hisa_cuda_plan_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    const hisa_segment_t *segments, int32_t width, const int32_t *kept,
                                    int64_t send_begin, int32_t *work, int32_t *place, int64_t *sizes, void *stream) {
    int64_t *sums = tile->scratch;
    int32_t *next = (int32_t *)(sums + INT64_C(2) * shard->ranks);
    hisa_status_t status;
    HISA_CUDA_RUN(
        status, device, "planning tokens",
        hisa_cuda_launch_plan_tokens(shard, tile, segments, width, kept, send_begin, work, place, next, sums, stream));
    return status == HISA_OK ? hisa_cuda_read_sizes(device, sizes, sums, shard->ranks, stream) : status;
}

hisa_status_t hisa_cuda_score_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                     int32_t width, const int32_t *kept, const int32_t *work, float *pool,
                                     int64_t *keys_scored, void *stream) {
    *keys_scored += tile->rows * width * shard->block_size;
    if (hisa_cuda_of(device)->scorer == HISA_CUDA_SCORER_WGMMA) {
        return hisa_cuda_hopper_score_tokens(device, shard, tile, width, kept, work, pool, stream);
    }
    hisa_status_t status;
    HISA_CUDA_RUN(
        status, device, "scoring tokens",
        hisa_cuda_launch_score_tokens(shard, tile, hisa_cuda_of(device)->scorer, width, kept, work, pool, stream));
    return status;
}

hisa_status_t hisa_cuda_select_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                      int32_t width, int32_t top_k, int64_t row_begin, int64_t rows,
                                      const int32_t *kept, const int32_t *place, const float *pool, uint8_t *bitmap,
                                      float *selected, void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "selecting tokens",
                  hisa_cuda_launch_select_tokens(shard, tile, width, top_k, row_begin, rows, kept, place, pool, bitmap,
                                                 selected, stream));
    return status;
}

hisa_status_t hisa_cuda_list_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    int32_t width, int32_t top_k, const int32_t *kept, const uint8_t *bitmap,
                                    const float *selected, int32_t list_width, uint64_t *list, void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(
        status, device, "listing tokens",
        hisa_cuda_launch_list_tokens(shard, tile, width, top_k, kept, bitmap, selected, list_width, list, stream));
    return status;
}

hisa_status_t hisa_cuda_emit(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                             const int32_t *kept, const uint8_t *bitmap, const float *selected,
                             const hisa_output_t *output, void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "writing results",
                  hisa_cuda_launch_emit(shard, tile, width, kept, bitmap, selected, output, stream));
    return status;
}

hisa_status_t hisa_cuda_keep_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    const hisa_keep_t *keep, int32_t *kept, uint8_t *bitmap, int64_t *keys_scored,
                                    void *stream) {
    hisa_status_t status = block_keys(device, shard, tile, stream);
    if (status == HISA_OK && keep->mode == HISA_MODE_BLOCK) {
        HISA_CUDA_RUN(status, device, "covering tokens with blocks",
                      hisa_cuda_launch_cover_blocks(shard, tile, keep, tile->scratch, kept, bitmap, stream));
    } else if (status == HISA_OK) {
        HISA_CUDA_RUN(status, device, "keeping blocks",
                      hisa_cuda_launch_keep_blocks(shard, tile, keep, tile->scratch, kept, stream));
    }
    *keys_scored += tile->rows * shard->local_blocks;
    return status;
}

/* Whether the segment's rows follow those of the one before in the tile and in the results. */
static bool continues(const hisa_segment_t *before, const hisa_segment_t *segment) {
    return segment->tile_begin == before->tile_begin + before->rows &&
           segment->output_begin == before->output_begin + before->rows;
}

/* The rows of all ranks are one launch where they lie as they do in a call of a single tile. */
hisa_status_t hisa_cuda_select_emit(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    int32_t width, const int32_t *kept, const int32_t *place, const float *pool,
                                    const hisa_output_t *output, void *stream) {
    hisa_status_t status = HISA_OK;
    for (int32_t i = 0; i < output->n_segments && status == HISA_OK;) {
        hisa_segment_t joined = output->segments[i++];
        while (i < output->n_segments && joined.output_begin >= 0 && continues(&joined, &output->segments[i])) {
            joined.rows += output->segments[i++].rows;
        }
        if (joined.output_begin >= 0 && joined.rows > 0) {
            HISA_CUDA_RUN(status, device, "selecting tokens",
                          hisa_cuda_launch_select_emit(shard, tile, width, kept, place, pool, output, &joined, stream));
        }
    }
    return status;
}
