/* The CUDA backend: what its C files share. C plans and checks, .cu files compute. */
#ifndef HISA_CUDA_H
#define HISA_CUDA_H

#include <cuda_runtime_api.h>

#include "backend/cuda/kernels.h"

/* Names a scorer for tests, by hisa_cuda_scorer_name; read when an index is created and at no other time. Unset or
 * empty: the best that the device and the shape allow. */
#define HISA_CUDA_SCORER_VARIABLE "HISA_CUDA_SCORER"

typedef struct hisa_cuda {
    hisa_device_t device;
    int ordinal;
    int32_t block_size;
    cudaEvent_t marks[HISA_MARKS]; /* NULL until first used, by timed calls only */
    cudaEvent_t events[HISA_EVENTS];
    cudaStream_t exchange; /* does not wait for the default stream */
    hisa_cuda_scorer_t scorer;
    int32_t num_sequences;
    int multiprocessors;
    int capability;        /* compute capability, 90 for 9.0 */
    void (*encoder)(void); /* hisa_cuda_encoder_t, with the scorer that needs it */
} hisa_cuda_t;

/* Choice of scorer and device: choose.c. major, minor: the device's compute capability. */
const char *hisa_cuda_scorer_name(hisa_cuda_scorer_t scorer);
bool hisa_cuda_scorer_available(hisa_cuda_scorer_t scorer, const hisa_index_config_t *config, int major, int minor);
hisa_cuda_scorer_t hisa_cuda_best_scorer(const hisa_index_config_t *config, int major, int minor);
/* By name; NULL or "": the best. HISA_ERR_INVALID_ARGUMENT: no such name; HISA_ERR_UNSUPPORTED: not for this shape on
 * this device. */
hisa_status_t hisa_cuda_choose_scorer(const char *name, const hisa_index_config_t *config, int major, int minor,
                                      hisa_cuda_scorer_t *scorer);
hisa_arithmetic_t hisa_cuda_scorer_arithmetic(hisa_cuda_scorer_t scorer);
cudaError_t hisa_cuda_capability(int ordinal, int *major, int *minor);
/* HISA_ERR_UNSUPPORTED if the device is older than what the kernels are compiled for. */
hisa_status_t hisa_cuda_check_capability(int ordinal, int major, int minor);

static inline const hisa_cuda_t *hisa_cuda_of(const hisa_device_t *device) { return (const hisa_cuda_t *)device; }

/* HISA_OK, or HISA_ERR_DEVICE (HISA_ERR_NO_MEMORY) with CUDA's text. An error that only earlier work can have left
 * behind is reported as such. `what` was being done. */
hisa_status_t hisa_cuda_status(cudaError_t error, const char *what);

/* Makes the opened device current for the calling thread until it leaves. Always paired. */
typedef struct hisa_cuda_scope {
    hisa_status_t status;
    int previous; /* -1: nothing to restore */
} hisa_cuda_scope_t;

hisa_cuda_scope_t hisa_cuda_enter(const hisa_device_t *device);
void hisa_cuda_leave(const hisa_cuda_scope_t *scope);

/* Evaluates a call that gives a cudaError_t with the device current, and gives its status. */
#define HISA_CUDA_RUN(status, device, what, call)                                                                      \
    do {                                                                                                               \
        const hisa_cuda_scope_t scope_ = hisa_cuda_enter(device);                                                      \
        (status) = scope_.status;                                                                                      \
        if ((status) == HISA_OK) {                                                                                     \
            (status) = hisa_cuda_status((cudaError_t)(call), (what));                                                  \
        }                                                                                                              \
        hisa_cuda_leave(&scope_);                                                                                      \
    } while (0)

/* HISA_ERR_INVALID_ARGUMENT unless the pointer can be used on the device and is a multiple of `alignment`. */
hisa_status_t hisa_cuda_check_memory(hisa_device_t *device, const char *name, const void *memory, int alignment);

/* As check_stream of the table. */
hisa_status_t hisa_cuda_check_stream(hisa_device_t *device, void *stream, const char *uncapturable);

/* Events and what is read back: events.c. */
cudaError_t hisa_cuda_make_events(hisa_cuda_t *cuda);
void hisa_cuda_drop_events(hisa_cuda_t *cuda);
hisa_status_t hisa_cuda_record(hisa_device_t *device, int32_t event, void *stream);
hisa_status_t hisa_cuda_await(hisa_device_t *device, int32_t event, void *stream);
hisa_status_t hisa_cuda_passed(hisa_device_t *device, int32_t event, bool *done);
hisa_status_t hisa_cuda_alloc_host(hisa_device_t *device, int64_t bytes, void **memory);
void hisa_cuda_release_host(hisa_device_t *device, void *memory);
void *hisa_cuda_exchange_stream(const hisa_device_t *device);
/* [2][ranks] to the host's sizes, in stream order. */
hisa_status_t hisa_cuda_read_sizes(hisa_device_t *device, int64_t *sizes, const int64_t *sums, int32_t ranks,
                                   void *stream);

/* Scratch, by operation. Each gives bytes for tiles of up to `rows` rows and grows with it. */
int64_t hisa_cuda_two_stage_scratch(int64_t rows, int32_t width, int64_t blocks, int32_t ranks);
int64_t hisa_cuda_flat_scratch(int64_t rows, int32_t list_width, int32_t ranks);

/* Operations by file. Shapes and meaning: backend.h. */
hisa_status_t hisa_cuda_set_length(hisa_device_t *device, const hisa_shard_t *shard, int32_t sequence, int64_t length,
                                   void *stream);
hisa_status_t hisa_cuda_write_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_span_t *span,
                                     const uint8_t *keys, const float *scales, bool local, void *stream);
hisa_status_t hisa_cuda_pool_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_span_t *span,
                                    void *stream);
hisa_status_t hisa_cuda_check_rows(hisa_device_t *device, const hisa_shard_t *shard, const hisa_queries_t *queries);
hisa_status_t hisa_cuda_make_rows(hisa_device_t *device, const hisa_shard_t *shard, const hisa_queries_t *queries,
                                  const hisa_segment_t *segments, int32_t n_segments, hisa_row_t *row, void *prepared,
                                  void *stream);
hisa_status_t hisa_cuda_prepare_queries(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                        void *stream);

hisa_status_t hisa_cuda_score_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                     const hisa_keep_t *keep, int32_t width, uint64_t *list, int32_t *blocks,
                                     int64_t *keys_scored, void *stream);
hisa_status_t hisa_cuda_merge_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                     const hisa_keep_t *keep, const uint64_t *lists, int32_t width, int64_t rank_stride,
                                     int64_t place_stride, int64_t row_begin, int64_t rows, int32_t *kept,
                                     int32_t *place, uint8_t *bitmap, void *stream);
hisa_status_t hisa_cuda_own_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   int32_t width, const int32_t *kept, int32_t own_width, int32_t *own, int32_t *place,
                                   void *stream);
hisa_status_t hisa_cuda_plan_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    const hisa_segment_t *segments, int32_t width, const int32_t *kept,
                                    int64_t send_begin, int32_t *work, int32_t *place, int64_t *sizes, void *stream);
hisa_status_t hisa_cuda_score_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                     int32_t width, const int32_t *kept, const int32_t *work, float *pool,
                                     int64_t *keys_scored, void *stream);
hisa_status_t hisa_cuda_select_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                      int32_t width, int32_t top_k, int64_t row_begin, int64_t rows,
                                      const int32_t *kept, const int32_t *place, const float *pool, uint8_t *bitmap,
                                      float *selected, void *stream);
hisa_status_t hisa_cuda_list_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    int32_t width, int32_t top_k, const int32_t *kept, const uint8_t *bitmap,
                                    const float *selected, int32_t list_width, uint64_t *list, void *stream);
hisa_status_t hisa_cuda_emit(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                             const int32_t *kept, const uint8_t *bitmap, const float *selected,
                             const hisa_output_t *output, void *stream);

hisa_status_t hisa_cuda_keep_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    const hisa_keep_t *keep, int32_t *kept, uint8_t *bitmap, int64_t *keys_scored,
                                    void *stream);
hisa_status_t hisa_cuda_select_emit(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    int32_t width, const int32_t *kept, const int32_t *place, const float *pool,
                                    const hisa_output_t *output, void *stream);

hisa_status_t hisa_cuda_flat_scan(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  int32_t top_k, int32_t list_width, uint64_t *list, int64_t *keys_scored,
                                  void *stream);
hisa_status_t hisa_cuda_flat_quantiles(hisa_device_t *device, const hisa_tile_t *tile, int32_t top_k,
                                       int32_t list_width, const uint64_t *list, uint32_t *quantiles, void *stream);
hisa_status_t hisa_cuda_flat_trim(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  int32_t list_width, const uint32_t *quantiles, uint64_t *list, int32_t *counts,
                                  void *stream);
hisa_status_t hisa_cuda_flat_sizes(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   const hisa_segment_t *segments, const int32_t *counts, int64_t *sizes, void *stream);
hisa_status_t hisa_cuda_flat_merge(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   int32_t top_k, int32_t list_width, const uint64_t *lists, const int64_t *offsets,
                                   const int32_t *counts, int64_t row_begin, int64_t rows, int32_t *positions,
                                   float *selected, uint64_t *threshold, void *stream);
hisa_status_t hisa_cuda_flat_emit(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  const int32_t *positions, const float *selected, const hisa_output_t *output,
                                  void *stream);
hisa_status_t hisa_cuda_flat_emit_local(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                        int32_t list_width, const uint64_t *list, const int32_t *counts,
                                        const uint64_t *threshold, const hisa_output_t *output, void *stream);

#endif
