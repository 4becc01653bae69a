/* Mode flat: scratch laid out, kernels launched. */
#include "backend/cuda/cuda.h"
#include "backend/cuda/hopper.h"
#include "base/checked.h"
#include "base/error.h"

/* Scores of a chunk of tokens of all rows lie in scratch: enough of them that a launch fills the device however few the
 * rows are, and no more than 64K tokens at a time for a single one. */
enum { PANEL = 128, CHUNK_LEAST = 4096, CHUNK_MOST = 65536, CHUNK_SCORES = 1 << 22 };

static int64_t chunk_of(int64_t rows) {
    const int64_t even = CHUNK_SCORES / hisa_max(1, rows) / PANEL * PANEL;
    return hisa_max(CHUNK_LEAST, hisa_min(CHUNK_MOST, even));
}

/* At least chunk_of(rows) * rows, and growing with rows. */
static int64_t most_scores(int64_t rows) {
    return hisa_max(rows * CHUNK_LEAST, hisa_min(rows * CHUNK_MOST, CHUNK_SCORES));
}

int64_t hisa_cuda_flat_scratch(int64_t rows, int32_t list_width, int32_t ranks) {
    const int64_t scan = rows * (int64_t)sizeof(hisa_flat_state_t) + most_scores(rows) * (int64_t)sizeof(float);
    const int64_t trim = rows * (list_width + INT64_C(1)) * (int64_t)sizeof(uint64_t);
    const int64_t sizes = INT64_C(2) * ranks * (int64_t)sizeof(int64_t);
    const int64_t merge = hisa_cuda_flat_merge_scratch(rows, list_width, ranks);
    return hisa_max(hisa_max(scan, hisa_cuda_hopper_flat_scratch(rows, list_width)),
                    hisa_max(sizes, hisa_max(trim, merge)));
}

static cudaError_t scan_chunks(const hisa_shard_t *shard, const hisa_tile_t *tile, hisa_cuda_scorer_t scorer,
                               int32_t top_k, int32_t list_width, uint64_t *list, void *stream) {
    hisa_flat_state_t *state = tile->scratch;
    float *score = (float *)(void *)(state + tile->rows);
    const int64_t chunk = chunk_of(tile->rows);
    const int64_t tokens = shard->local_blocks * shard->block_size;
    int error = (int)cudaMemsetAsync(state, 0, (size_t)tile->rows * sizeof *state, (cudaStream_t)stream);
    for (int64_t begin = 0; begin < tokens && error == cudaSuccess; begin += chunk) {
        error = hisa_cuda_launch_flat_score(shard, tile, scorer, begin, chunk, score, stream);
        if (error == cudaSuccess) {
            error =
                hisa_cuda_launch_flat_keep(shard, tile, top_k, list_width, begin, chunk, score, list, state, stream);
        }
    }
    if (error == cudaSuccess) {
        error = hisa_cuda_launch_flat_finish(tile->rows, list_width, state, list, stream);
    }
    return (cudaError_t)error;
}

hisa_status_t hisa_cuda_flat_scan(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  int32_t top_k, int32_t list_width, uint64_t *list, int64_t *keys_scored,
                                  void *stream) {
    hisa_status_t status;
    if (hisa_cuda_of(device)->scorer == HISA_CUDA_SCORER_WGMMA) {
        hisa_flat_lists_t lists;
        status = hisa_cuda_hopper_flat_scan(device, shard, tile, top_k, list_width, &lists, stream);
        if (status == HISA_OK) {
            HISA_CUDA_RUN(status, device, "ordering lists",
                          hisa_cuda_launch_flat_order(tile->rows, top_k, list_width, &lists, list, stream));
        }
        *keys_scored += tile->rows * shard->local_blocks * shard->block_size;
        return status;
    }
    HISA_CUDA_RUN(status, device, "scanning tokens",
                  scan_chunks(shard, tile, hisa_cuda_of(device)->scorer, top_k, list_width, list, stream));
    /* A bound: how many are in sight is known on the device alone. */
    *keys_scored += tile->rows * shard->local_blocks * shard->block_size;
    return status;
}

hisa_status_t hisa_cuda_flat_quantiles(hisa_device_t *device, const hisa_tile_t *tile, int32_t top_k,
                                       int32_t list_width, const uint64_t *list, uint32_t *quantiles, void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "counting scores",
                  hisa_cuda_launch_flat_quantiles(tile->rows, top_k, list_width, list, quantiles, stream));
    return status;
}

hisa_status_t hisa_cuda_flat_trim(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  int32_t list_width, const uint32_t *quantiles, uint64_t *list, int32_t *counts,
                                  void *stream) {
    int64_t *begin = tile->scratch;
    uint64_t *trimmed = (uint64_t *)(begin + tile->rows);
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "trimming lists",
                  hisa_cuda_launch_flat_trim(shard, tile, list_width, quantiles, list, counts, trimmed, begin, stream));
    return status;
}

hisa_status_t hisa_cuda_flat_sizes(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   const hisa_segment_t *segments, const int32_t *counts, int64_t *sizes,
                                   void *stream) {
    int64_t *sums = tile->scratch;
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "counting entries",
                  hisa_cuda_launch_flat_sizes(shard, tile, segments, counts, sums, stream));
    return status == HISA_OK ? hisa_cuda_read_sizes(device, sizes, sums, shard->ranks, stream) : status;
}

hisa_status_t hisa_cuda_flat_merge(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   int32_t top_k, int32_t list_width, const uint64_t *lists, const int64_t *offsets,
                                   const int32_t *counts, int64_t row_begin, int64_t rows, int32_t *positions,
                                   float *selected, uint64_t *threshold, void *stream) {
    if (shard->ranks > HISA_CUDA_MAX_RANKS) {
        return hisa_fail(HISA_ERR_UNSUPPORTED, "mode flat on backend cuda takes up to %d ranks", HISA_CUDA_MAX_RANKS);
    }
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "merging lists",
                  hisa_cuda_launch_flat_merge(shard, tile, top_k, list_width, lists, offsets, counts, row_begin, rows,
                                              positions, selected, threshold, tile->scratch, stream));
    return status;
}

hisa_status_t hisa_cuda_flat_emit(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  const int32_t *positions, const float *selected, const hisa_output_t *output,
                                  void *stream) {
    hisa_status_t status;
    (void)shard;
    (void)tile;
    HISA_CUDA_RUN(status, device, "writing results", hisa_cuda_launch_flat_emit(positions, selected, output, stream));
    return status;
}

hisa_status_t hisa_cuda_flat_emit_local(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                        int32_t list_width, const uint64_t *list, const int32_t *counts,
                                        const uint64_t *threshold, const hisa_output_t *output, void *stream) {
    hisa_status_t status = HISA_OK;
    for (int32_t i = 0; i < output->n_segments && status == HISA_OK; ++i) {
        HISA_CUDA_RUN(status, device, "writing results",
                      hisa_cuda_launch_flat_emit_local(shard, tile, list_width, list, counts, threshold, output,
                                                       &output->segments[i], stream));
    }
    return status;
}
