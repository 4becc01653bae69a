/* What C calls and .cu files define: each enqueues its kernels on `stream` and returns a cudaError_t, as int so that
 * this header needs no CUDA. The device is current. Shapes and meaning: backend.h. Structs are passed by address and
 * copied at launch; their own pointers are device pointers unless named host. */
#ifndef HISA_CUDA_KERNELS_H
#define HISA_CUDA_KERNELS_H

#include "backend/backend.h"

/* Ranks whose entry offsets fit a kernel's parameters. */
#define HISA_CUDA_MAX_RANKS 256

/* What scores. F32: CUDA cores, the reference's bits on any input. MMA: tensor cores of any device (score_mma.cuh).
 * WGMMA: Hopper's own, where it takes the shape, MMA elsewhere. An index uses one of them throughout. */
typedef enum hisa_cuda_scorer {
    HISA_CUDA_SCORER_F32 = 0,
    HISA_CUDA_SCORER_MMA,
    HISA_CUDA_SCORER_WGMMA,
    HISA_CUDA_SCORERS
} hisa_cuda_scorer_t;

/* Bytes of a tile's `prepared`: a ticket for hisa_cuda_launch_hopper_blocks, 0 when the tile's rows have been made. */
#define HISA_CUDA_PREPARED 4

#ifdef __cplusplus
extern "C" {
#endif

int hisa_cuda_launch_set_length(int32_t *length, int32_t value, void *stream);
int hisa_cuda_launch_write_tokens(const hisa_shard_t *shard, const hisa_span_t *span, const uint8_t *keys,
                                  const float *scales, bool local, void *stream);
int hisa_cuda_launch_pool_blocks(const hisa_shard_t *shard, const hisa_span_t *span, void *stream);
/* Clears `prepared`, HISA_CUDA_PREPARED bytes of it. */
int hisa_cuda_launch_make_rows(const hisa_shard_t *shard, const hisa_queries_t *queries, const hisa_segment_t *segments,
                               int32_t n_segments, hisa_row_t *row, void *prepared, void *stream);

/* key: uint32 [rows][shard->local_blocks] of scratch. */
int hisa_cuda_launch_score_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, hisa_cuda_scorer_t scorer,
                                  uint32_t *key, void *stream);
int hisa_cuda_launch_list_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_keep_t *keep,
                                 int32_t width, const uint32_t *key, uint64_t *list, int32_t *blocks, void *stream);
/* before: int32 [rows of the tile][ranks][width + 1] of scratch. */
int hisa_cuda_launch_merge_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_keep_t *keep,
                                  const uint64_t *lists, int32_t width, int64_t rank_stride, int64_t place_stride,
                                  int64_t row_begin, int64_t rows, int32_t *kept, int32_t *place, uint8_t *bitmap,
                                  int32_t *before, void *stream);
int hisa_cuda_launch_own_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width, const int32_t *kept,
                                int32_t own_width, int32_t *own, int32_t *place, void *stream);
/* next: int32 [ranks + 1][rows], sums: int64 [2][ranks] of scratch. On the stream's arrival sums holds send and recv.
 */
int hisa_cuda_launch_plan_tokens(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_segment_t *segments,
                                 int32_t width, const int32_t *kept, int64_t send_begin, int32_t *work, int32_t *place,
                                 int32_t *next, int64_t *sums, void *stream);
int hisa_cuda_launch_score_tokens(const hisa_shard_t *shard, const hisa_tile_t *tile, hisa_cuda_scorer_t scorer,
                                  int32_t width, const int32_t *kept, const int32_t *work, float *pool, void *stream);
int hisa_cuda_launch_select_tokens(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width, int32_t top_k,
                                   int64_t row_begin, int64_t rows, const int32_t *kept, const int32_t *place,
                                   const float *pool, uint8_t *bitmap, float *selected, void *stream);
int hisa_cuda_launch_list_tokens(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width, int32_t top_k,
                                 const int32_t *kept, const uint8_t *bitmap, const float *selected, int32_t list_width,
                                 uint64_t *list, void *stream);
int hisa_cuda_launch_emit(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width, const int32_t *kept,
                          const uint8_t *bitmap, const float *selected, const hisa_output_t *output, void *stream);

/* One rank. key: as written by score_blocks. Mode hisa: kept alone. Mode block: bitmap too. */
int hisa_cuda_launch_keep_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_keep_t *keep,
                                 const uint32_t *key, int32_t *kept, void *stream);
int hisa_cuda_launch_cover_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_keep_t *keep,
                                  const uint32_t *key, int32_t *kept, uint8_t *bitmap, void *stream);
int hisa_cuda_launch_select_emit(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width, const int32_t *kept,
                                 const int32_t *place, const float *pool, const hisa_output_t *output,
                                 const hisa_segment_t *segment, void *stream);

/* Hopper. Maps for the copy engine are made on the host, by address and shape (tensor_map.c). */
typedef struct hisa_hopper_maps {
    const void *q;      /* CUtensorMap: the tile's q as rows of a head, in boxes of H */
    const void *keys;   /* the store's keys, in boxes of 128 */
    const void *pooled; /* likewise */
    int multiprocessors;
} hisa_hopper_maps_t;
struct hisa_pairs;

int hisa_cuda_launch_hopper_blocks(const hisa_hopper_maps_t *maps, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   uint32_t *key, void *stream);
/* Which rows kept a block, for hopper_tokens; work may be NULL, see score_tokens. */
int hisa_cuda_launch_hopper_pairs(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                  const int32_t *kept, const int32_t *work, const struct hisa_pairs *pairs,
                                  void *stream);
/* pairs: NULL for few rows, which are scored one by one. */
int hisa_cuda_launch_hopper_tokens(const hisa_hopper_maps_t *maps, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   int32_t width, const int32_t *kept, const int32_t *work, float *pool,
                                   const struct hisa_pairs *pairs, void *stream);

/* The best of each row so far, and behind them what a chunk adds: entries (order.h) in any order. */
typedef struct hisa_flat_lists {
    uint64_t *list;  /* [rows][capacity] */
    uint32_t *count; /* [rows] */
    uint64_t *least; /* [rows]: the top_k-th, or HISA_RANK_NONE while there are fewer */
    int64_t capacity;
} hisa_flat_lists_t;

/* Local tokens [begin, begin + chunk): multiples of 128. ticket: device, 0 before; next_ticket: 0 after. */
int hisa_cuda_launch_hopper_flat(const hisa_hopper_maps_t *maps, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                 int64_t begin, int64_t chunk, uint32_t *ticket, uint32_t *next_ticket,
                                 const hisa_flat_lists_t *lists, void *stream);

/* Of each row that has more than `idle` entries the best top_k stay, at the front in any order, and least is set. */
int hisa_cuda_launch_flat_compact(int64_t rows, int32_t top_k, int64_t idle, const hisa_flat_lists_t *lists,
                                  void *stream);
/* After the last compaction: entries in ascending position, as flat_scan gives them or as a row's results. */
int hisa_cuda_launch_flat_order(int64_t rows, int32_t top_k, int32_t list_width, const hisa_flat_lists_t *lists,
                                uint64_t *list, void *stream);
/* One rank: a place among its own tokens is the position. */
int hisa_cuda_launch_flat_order_emit(const hisa_flat_lists_t *lists, const hisa_output_t *output,
                                     const hisa_segment_t *segment, void *stream);

/* Several ranks: as flat_merge gives them; positions [rows][top_k]. */
int hisa_cuda_launch_flat_order_merged(int64_t rows, int32_t top_k, const hisa_flat_lists_t *lists, int32_t *positions,
                                       float *selected, uint64_t *threshold, void *stream);

/* A row's best so far, in `list`; least: the top_k-th of them, or HISA_RANK_NONE while there are fewer. */
typedef struct hisa_flat_state {
    uint64_t least;
    int64_t n;
} hisa_flat_state_t;

/* Scores local tokens [begin, begin + chunk) of each row into score [rows][chunk], then merges them into the lists. */
int hisa_cuda_launch_flat_score(const hisa_shard_t *shard, const hisa_tile_t *tile, hisa_cuda_scorer_t scorer,
                                int64_t begin, int64_t chunk, float *score, void *stream);
int hisa_cuda_launch_flat_keep(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t top_k, int32_t list_width,
                               int64_t begin, int64_t chunk, const float *score, uint64_t *list,
                               hisa_flat_state_t *state, void *stream);
int hisa_cuda_launch_flat_finish(int64_t rows, int32_t list_width, const hisa_flat_state_t *state, uint64_t *list,
                                 void *stream);
int hisa_cuda_launch_flat_quantiles(int64_t rows, int32_t top_k, int32_t list_width, const uint64_t *list,
                                    uint32_t *quantiles, void *stream);
/* trimmed: uint64 [rows][list_width], begin: int64 [rows] of scratch. */
int hisa_cuda_launch_flat_trim(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t list_width,
                               const uint32_t *quantiles, uint64_t *list, int32_t *counts, uint64_t *trimmed,
                               int64_t *begin, void *stream);
/* sums: int64 [2][ranks] of scratch, as flat_sizes gives them. */
int hisa_cuda_launch_flat_sizes(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_segment_t *segments,
                                const int32_t *counts, int64_t *sums, void *stream);
/* offsets: host. scratch: hisa_cuda_flat_merge_scratch bytes for so many rows, or for more. */
int64_t hisa_cuda_flat_merge_scratch(int64_t rows, int32_t list_width, int32_t ranks);
int hisa_cuda_launch_flat_merge(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t top_k, int32_t list_width,
                                const uint64_t *lists, const int64_t *offsets, const int32_t *counts, int64_t row_begin,
                                int64_t rows, int32_t *positions, float *selected, uint64_t *threshold, void *scratch,
                                void *stream);
int hisa_cuda_launch_flat_emit(const int32_t *positions, const float *selected, const hisa_output_t *output,
                               void *stream);
int hisa_cuda_launch_flat_emit_local(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t list_width,
                                     const uint64_t *list, const int32_t *counts, const uint64_t *threshold,
                                     const hisa_output_t *output, const hisa_segment_t *segment, void *stream);

#ifdef __cplusplus
}
#endif
#endif
