/* The CPU backend: what its files share. */
#ifndef HISA_CPU_H
#define HISA_CPU_H

#include "backend/backend.h"
#include "backend/cpu/isa.h"

/* What one thread needs while it scores: a panel of keys, its dots, padded scales and scores. 64-byte aligned. */
typedef struct hisa_cpu_lane {
    float *panel; /* [D][32] */
    float *dots;  /* [H rounded up to 8][32] */
    float *scale; /* [32] */
    float *score; /* [32] */
} hisa_cpu_lane_t;

typedef struct hisa_cpu {
    hisa_device_t device;
    const hisa_cpu_isa_t *isa;
    int threads;
    int32_t head_dim;
    int32_t num_heads;
    int32_t block_size;
    int64_t groups;         /* heads in eights, rounded up */
    hisa_cpu_lane_t *lanes; /* [threads] */
    void *lane_memory;
} hisa_cpu_t;

static inline const hisa_cpu_t *hisa_cpu_of(const hisa_device_t *device) { return (const hisa_cpu_t *)device; }

/* For tests: makes an opened device use another instruction set than the best. */
void hisa_cpu_use_isa(hisa_device_t *device, const hisa_cpu_isa_t *isa);

/* The calling thread's place among the threads of the parallel region, 0 outside of one. */
int hisa_cpu_thread(void);

/* A row's queries as f32 [H / 8][D][8], heads beyond H zero. */
const float *hisa_cpu_prepared_row(const hisa_cpu_t *cpu, const hisa_tile_t *tile, int64_t row);

/* The row's local places of the blocks in sight: [*begin, *end) of this rank's blocks of the sequence. */
void hisa_cpu_row_blocks(const hisa_shard_t *shard, const hisa_row_t *row, int64_t *begin, int64_t *end);

/* First and one past the last block in sight, over all ranks; equal if the window is empty. */
void hisa_cpu_blocks_in_sight(const hisa_shard_t *shard, const hisa_row_t *row, int64_t *begin, int64_t *end);

/* Tokens of a block that the row sees, counted inside the block: [*begin, *end), empty if it sees none. */
void hisa_cpu_tokens_in_sight(const hisa_shard_t *shard, const hisa_row_t *row, int64_t block, int64_t *begin,
                              int64_t *end);

/* True if no earlier row of the tile is of the row's sequence: one pass over the keys serves all rows of a sequence. */
bool hisa_cpu_first_of_sequence(const hisa_tile_t *tile, int64_t row);

/* Decodes up to 32 keys and their scales into the lane. */
void hisa_cpu_load_panel(const hisa_cpu_t *cpu, const hisa_cpu_lane_t *lane, const uint8_t *codes, const float *scales,
                         int64_t keys);

/* Scores the lane's panel for a row of the tile, into lane->score. */
void hisa_cpu_score_panel(const hisa_cpu_t *cpu, const hisa_cpu_lane_t *lane, const hisa_tile_t *tile, int64_t row);

/* Operations by file. Shapes and meaning: backend.h. */
hisa_status_t hisa_cpu_write_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_span_t *span,
                                    const uint8_t *keys, const float *scales, bool local, void *stream);
hisa_status_t hisa_cpu_pool_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_span_t *span,
                                   void *stream);

hisa_status_t hisa_cpu_check_rows(hisa_device_t *device, const hisa_shard_t *shard, const hisa_queries_t *queries);
hisa_status_t hisa_cpu_make_rows(hisa_device_t *device, const hisa_shard_t *shard, const hisa_queries_t *queries,
                                 const hisa_segment_t *segments, int32_t n_segments, hisa_row_t *row, void *prepared,
                                 void *stream);
int64_t hisa_cpu_queries_bytes(const hisa_device_t *device, int64_t rows);
hisa_status_t hisa_cpu_prepare_queries(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                       void *stream);

int64_t hisa_cpu_score_blocks_scratch(int64_t rows, int64_t blocks, int threads);
hisa_status_t hisa_cpu_score_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    const hisa_keep_t *keep, int32_t width, uint64_t *list, int32_t *blocks,
                                    int64_t *keys_scored, void *stream);

int64_t hisa_cpu_merge_blocks_scratch(int32_t width, int32_t ranks, int threads);
hisa_status_t hisa_cpu_merge_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    const hisa_keep_t *keep, const uint64_t *lists, int32_t width, int64_t rank_stride,
                                    int64_t place_stride, int64_t row_begin, int64_t rows, int32_t *kept,
                                    int32_t *place, uint8_t *bitmap, void *stream);
hisa_status_t hisa_cpu_own_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  int32_t width, const int32_t *kept, int32_t own_width, int32_t *own, int32_t *place,
                                  void *stream);
hisa_status_t hisa_cpu_plan_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   const hisa_segment_t *segments, int32_t width, const int32_t *kept,
                                   int64_t send_begin, int32_t *work, int32_t *place, int64_t *sizes, void *stream);

int64_t hisa_cpu_score_tokens_scratch(int64_t rows, int32_t width);
hisa_status_t hisa_cpu_score_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    int32_t width, const int32_t *kept, const int32_t *work, float *pool,
                                    int64_t *keys_scored, void *stream);

int64_t hisa_cpu_select_tokens_scratch(int32_t width, int32_t block_size, int threads);
hisa_status_t hisa_cpu_select_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                     int32_t width, int32_t top_k, int64_t row_begin, int64_t rows, const int32_t *kept,
                                     const int32_t *place, const float *pool, uint8_t *bitmap, float *selected,
                                     void *stream);
hisa_status_t hisa_cpu_list_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   int32_t width, int32_t top_k, const int32_t *kept, const uint8_t *bitmap,
                                   const float *selected, int32_t list_width, uint64_t *list, void *stream);
hisa_status_t hisa_cpu_emit(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                            const int32_t *kept, const uint8_t *bitmap, const float *selected,
                            const hisa_output_t *output, void *stream);

int64_t hisa_cpu_flat_scratch(int64_t rows, int32_t top_k, int32_t ranks, int32_t block_size, int threads);
hisa_status_t hisa_cpu_flat_scan(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                 int32_t top_k, int32_t list_width, uint64_t *list, int64_t *keys_scored, void *stream);
hisa_status_t hisa_cpu_flat_quantiles(hisa_device_t *device, const hisa_tile_t *tile, int32_t top_k, int32_t list_width,
                                      const uint64_t *list, uint32_t *quantiles, void *stream);
hisa_status_t hisa_cpu_flat_trim(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                 int32_t list_width, const uint32_t *quantiles, uint64_t *list, int32_t *counts,
                                 void *stream);
hisa_status_t hisa_cpu_flat_sizes(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  const hisa_segment_t *segments, const int32_t *counts, int64_t *sizes, void *stream);
hisa_status_t hisa_cpu_flat_merge(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  int32_t top_k, int32_t list_width, const uint64_t *lists, const int64_t *offsets,
                                  const int32_t *counts, int64_t row_begin, int64_t rows, int32_t *positions,
                                  float *selected, uint64_t *threshold, void *stream);
hisa_status_t hisa_cpu_flat_emit(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                 const int32_t *positions, const float *selected, const hisa_output_t *output,
                                 void *stream);
hisa_status_t hisa_cpu_flat_emit_local(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                       int32_t list_width, const uint64_t *list, const int32_t *counts,
                                       const uint64_t *threshold, const hisa_output_t *output, void *stream);

#endif
