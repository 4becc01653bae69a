/* Where the arithmetic runs: one table of operations, an implementation a folder. Knows nothing of communication.
 *
 * "Backend memory" is what `alloc` gives: host memory for the CPU, device memory for CUDA. Operations that take a
 * stream are enqueued on it and neither allocate nor wait, unless they say so; the CPU backend has finished when they
 * return. Pointers are backend memory unless named host. A row of a tile and its lists are addressed by its place in
 * the tile. */
#ifndef HISA_BACKEND_H
#define HISA_BACKEND_H

#include <stdbool.h>

#include "hisa/hisa.h"
#include "layout/layout.h"

typedef struct hisa_device hisa_device_t; /* an opened backend, each implementation its own */

/* Where keys live. The one place that turns a slot (a block's place in this rank's storage, over all sequences) into
 * addresses: a view of engine-owned pages goes here. */
typedef struct hisa_store {
    uint8_t *keys;        /* [slots][B][D] e4m3 */
    float *scales;        /* [slots][B] */
    uint8_t *pooled;      /* [slots][D] e4m3 */
    float *pooled_scales; /* [slots] */
} hisa_store_t;

/* What operations need to know of this rank's part of an index. */
typedef struct hisa_shard {
    int32_t head_dim;   /* D */
    int32_t num_heads;  /* H */
    int32_t block_size; /* B */
    int32_t num_sequences;
    int32_t rank;
    int32_t ranks;
    int64_t stripe;
    hisa_deal_t deal;     /* of stripe and ranks */
    int64_t local_blocks; /* most blocks of one sequence that any rank stores: for backends that cannot see lengths */
    int64_t slots;        /* of the store, over all sequences */
    hisa_store_t store;
    int32_t *lengths; /* [num_sequences] tokens over all ranks */
    int32_t *offsets; /* [num_sequences] rank that owns block 0 */
    int32_t *bases;   /* [num_sequences] slot of this rank's local block 0 */
} hisa_shard_t;

HISA_INLINE hisa_layout_t hisa_shard_layout(const hisa_shard_t *shard, int32_t offset) {
    hisa_layout_t layout; /* by assignment: this header is also C++17, in device code */
    layout.stripe = shard->stripe;
    layout.ranks = shard->ranks;
    layout.block_size = shard->block_size;
    layout.offset = offset;
    return layout;
}

/* Tokens [begin, end) of a sequence whose block 0 is owned by rank `offset` and whose local block 0 is slot `base`. */
typedef struct hisa_span {
    int32_t offset;
    int32_t base;
    int64_t begin;
    int64_t end;
    int64_t length; /* of the sequence, after the change */
} hisa_span_t;

/* A row of a tile. */
typedef struct hisa_row {
    int32_t sequence;
    int32_t begin;  /* ks */
    int32_t end;    /* ke */
    int32_t source; /* the row's place in q and weights */
} hisa_row_t;

/* The rows of a tile that one rank merges: tile rows [tile_begin, tile_begin + rows). */
typedef struct hisa_segment {
    int64_t tile_begin;
    int64_t rows;
    int64_t query_begin;  /* place of the first in the caller's sequence/window arrays */
    int64_t source_begin; /* place of the first in the tile's q and weights */
    int64_t output_begin; /* place of the first in the caller's results, or -1: these rows are not written */
} hisa_segment_t;

typedef struct hisa_tile {
    int64_t rows;
    const hisa_row_t *row; /* [rows] */
    const uint8_t *q;      /* [..][H][D], by row.source */
    const float *weights;  /* [..][H], by row.source */
    void *prepared;        /* queries_bytes(rows), by make_rows and prepare_queries */
    void *scratch;         /* scratch_bytes(...): the operation under way. Tiles may share it on one stream */
} hisa_tile_t;

/* Which blocks a row keeps. */
typedef struct hisa_keep {
    hisa_mode_t mode;
    int32_t width; /* entries of a block list: m, or enough blocks to cover k in mode block */
    int32_t sink_blocks;
    int32_t local_blocks;
    int32_t top_k;
} hisa_keep_t;

/* The caller's result arrays and what to write there. */
typedef struct hisa_output {
    hisa_placement_t placement;
    int32_t top_k;
    const hisa_segment_t *segments; /* host, [n_segments] */
    int32_t n_segments;
    int32_t *indices; /* [..][k] */
    int32_t *counts;  /* [..] or NULL */
    float *scores;    /* [..][k] or NULL */
} hisa_output_t;

enum { HISA_EVENTS = 40 }; /* of a device: for each phase of three tiles under way, and some to spare */
enum { HISA_MARKS = 128 }; /* slots of a device's clock: some ten tiles of a timed call before they must be read */

/* How scores are rounded. Those of equal arithmetic are equal to the bit on any input; those of different ones only
 * where every sum is exact. The numbers travel between ranks: append, never renumber. */
typedef enum hisa_arithmetic {
    HISA_ARITHMETIC_F32 = 0,  /* f32, products exact, summed over d ascending, then over heads ascending */
    HISA_ARITHMETIC_MMA = 2,  /* tensor cores by mma.sync */
    HISA_ARITHMETIC_WGMMA = 3 /* tensor cores by wgmma */
} hisa_arithmetic_t;

/* Mode flat: what each rank says of a row's list before entries are sent, 4 bytes each to every peer. Half a part of
 * top_k a rank is sent in vain, so that more of them would cost more bytes than they save. */
enum { HISA_QUANTILES = 16 };

typedef struct hisa_backend_ops {
    const char *name;
    hisa_backend_t kind;
    bool device_memory; /* pointers are device pointers: needs a communicator that takes them, or a single rank */

    /* Checks that the shape is one it computes and opens the device. `threads` and `device` as in hisa_index_config_t.
     */
    hisa_status_t (*open)(const hisa_index_config_t *config, hisa_device_t **device);
    void (*close)(hisa_device_t *device);
    /* Of the scores that this device computes for the shape it was opened for: a hisa_arithmetic_t, with the device's
     * compute capability above it where each chip rounds in its own way (MMA). Ranks of one index agree on it: scores
     * of different arithmetic in one selection would make the result depend on who owns which block. */
    int64_t (*arithmetic)(const hisa_device_t *device);
    /* 256-byte aligned, zeroed. HISA_ERR_NO_MEMORY. */
    hisa_status_t (*alloc)(hisa_device_t *device, int64_t bytes, void **memory);
    void (*release)(hisa_device_t *device, void *memory);
    /* Host memory, zeroed, that operations write to in stream order: where sizes are read back. */
    hisa_status_t (*alloc_host)(hisa_device_t *device, int64_t bytes, void **memory);
    void (*release_host)(hisa_device_t *device, void *memory);
    hisa_status_t (*copy)(hisa_device_t *device, void *to, const void *from, int64_t bytes, void *stream);
    /* To and from host memory; waits. */
    hisa_status_t (*to_host)(hisa_device_t *device, void *host, const void *from, int64_t bytes, void *stream);
    hisa_status_t (*from_host)(hisa_device_t *device, void *to, const void *host, int64_t bytes, void *stream);
    hisa_status_t (*synchronize)(hisa_device_t *device, void *stream);
    /* Points in a stream, made with the device: HISA_EVENTS of them, that the caller numbers. NULL where an operation
     * has finished when it returns. record: event `event` is from now on where the stream now ends. await: what is
     * enqueued on this stream from now on comes after the event, wherever it was recorded. passed: whether the event's
     * stream has got there, without waiting; it is also where the failure of what was enqueued shows. */
    hisa_status_t (*record)(hisa_device_t *device, int32_t event, void *stream);
    hisa_status_t (*await)(hisa_device_t *device, int32_t event, void *stream);
    hisa_status_t (*passed)(hisa_device_t *device, int32_t event, bool *done);
    /* A second stream, made with the device, for what runs beside the caller's: ordered by events alone, even if the
     * caller's is the default stream. NULL where there are no events. */
    void *(*exchange_stream)(const hisa_device_t *device);
    /* The backend's own clock, for timed calls; both NULL where an operation has finished when it returns. mark: notes
     * when the stream gets here, as number `slot`. Makes what it needs at a slot's first use. HISA_ERR_UNSUPPORTED
     * while the stream is captured. marked: waits until both have been passed, and gives the time between. */
    hisa_status_t (*mark)(hisa_device_t *device, int32_t slot, void *stream);
    hisa_status_t (*marked)(hisa_device_t *device, int32_t from, int32_t to, double *seconds);
    /* HISA_ERR_INVALID_ARGUMENT unless the caller's `memory` (NULL passes) can be used by the device and is a multiple
     * of `alignment`; `name` is for the message. Does not wait. */
    hisa_status_t (*check_memory)(hisa_device_t *device, const char *name, const void *memory, int alignment);
    /* HISA_ERR_INVALID_ARGUMENT if the caller's stream is another device's; HISA_ERR_UNSUPPORTED if it is being
     * captured into a graph and `uncapturable` (a text for the message: what cannot be captured and why) is not NULL.
     * Does not wait, and leaves a capture as it was. */
    hisa_status_t (*check_stream)(hisa_device_t *device, void *stream, const char *uncapturable);
    hisa_status_t (*set_length)(hisa_device_t *device, const hisa_shard_t *shard, int32_t sequence, int64_t length,
                                void *stream);

    /* When the library chooses a tile's rows: those worth having in flight at a time, and the bytes that their lists
     * and pool may take. Beyond these a larger tile gains nothing, and a caller with long lists (large m or k) is
     * better off with fewer rows at a time. */
    int32_t tile_rows;
    int64_t tile_budget;
    /* For the choice between exchanges, which must be one on all ranks: figures of the kind of backend, of one of its
     * usual devices, whatever this one is and however many threads it has. */
    double flop_rate;      /* scoring, multiplications and additions a second */
    double candidate_rate; /* candidates a second through the final selection, many rows at a time */
    double host_wait;      /* seconds that an exchange waits for the host to learn sizes; 0 where the host computes */
    /* Seconds that one tile more adds to a call whose exchanges run under scoring: launches, and keys and blocks that
     * fewer rows share. For the rows of a tile, likewise one on all ranks. 0 without exchange_stream. tile_share: what
     * it adds besides in mode flat, as a share of scoring all rows once. */
    double tile_cost;
    double tile_share;
    /* Bytes for tiles of up to `rows` rows with lists of `width` blocks and `top_k` results, and `blocks` local blocks
     * of a sequence at the most. flat: for flat_scan and flat_merge. */
    int64_t (*queries_bytes)(const hisa_device_t *device, int64_t rows);
    int64_t (*scratch_bytes)(const hisa_device_t *device, int64_t rows, int32_t width, int32_t top_k, int64_t blocks,
                             int32_t ranks, bool flat);

    /* -- index -- */
    /* Copies the span's tokens that this rank owns into the store. keys [tokens][D], scales [tokens]: all tokens of the
     * span, or (local) only the owned ones. */
    hisa_status_t (*write_tokens)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_span_t *span,
                                  const uint8_t *keys, const float *scales, bool local, void *stream);
    /* Recomputes the pooled keys of the owned blocks that hold tokens of the span, from the tokens below span.length.
     */
    hisa_status_t (*pool_blocks)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_span_t *span,
                                 void *stream);

    /* -- rows of a tile -- */
    /* Checks what can be checked without waiting for a stream: sequence in range, 0 <= ks <= ke <= length. Messages
     * name the row. A backend that cannot look clamps windows into [0, length] later on. */
    hisa_status_t (*check_rows)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_queries_t *queries);
    /* Fills in row[] of the tile rows in the segments (host, n_segments) from the caller's arrays or their defaults.
     * Once for each tile, even if it has no rows here: a backend may clear counters in the tile's `prepared`, which
     * score_blocks or keep_blocks, once for each tile likewise, uses up. */
    hisa_status_t (*make_rows)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_queries_t *queries,
                               const hisa_segment_t *segments, int32_t n_segments, hisa_row_t *row, void *prepared,
                               void *stream);
    hisa_status_t (*prepare_queries)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                     void *stream);

    /* -- two stages -- */
    /* Scores this rank's blocks in sight and lists the best `width` of each row, ascending by block, as ranks (order.h,
     * position = block; the forced ones with HISA_KEY_FORCED), padded with HISA_RANK_NONE. list [rows][width]. blocks
     * (same shape, may be NULL): their blocks alone, padded with -1, as a kept list for score_tokens. *keys_scored
     * (host) grows by the number of (row, block) pairs in sight; a backend that cannot know adds its bound. */
    hisa_status_t (*score_blocks)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  const hisa_keep_t *keep, int32_t width, uint64_t *list, int32_t *blocks,
                                  int64_t *keys_scored, void *stream);
    /* Merges lists of all ranks: entry (rank p, tile row r, j) at lists[p * rank_stride + r * width + j], for tile rows
     * [row_begin, row_begin + rows). kept [..][keep.width] (row r of the tile at r): blocks ascending, padded with -1.
     * place (same shape, may be NULL): where in the lists each came from, p * place_stride + r * width + j.
     * Mode block only: bitmap as from select_tokens. */
    hisa_status_t (*merge_blocks)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  const hisa_keep_t *keep, const uint64_t *lists, int32_t width, int64_t rank_stride,
                                  int64_t place_stride, int64_t row_begin, int64_t rows, int32_t *kept, int32_t *place,
                                  uint8_t *bitmap, void *stream);
    /* The kept blocks that this rank stores, as a kept list for score_tokens and select_tokens: own [rows][own_width]
     * in the order of kept [rows][width], padded with -1; place (same shape) = r * own_width + j. own_width >= such
     * blocks of a row. */
    hisa_status_t (*own_blocks)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                int32_t width, const int32_t *kept, int32_t own_width, int32_t *own, int32_t *place,
                                void *stream);
    /* Owner merge: who scores which kept block, and where the scores go. The pool is counted in blocks of B scores. Its
     * first part receives: for this rank's own rows, by source rank, row and block, this rank's own contribution
     * included; the second part sends: for the other segments' rows, by segment, row and block, from `send_begin` on.
     * work [tile.rows][keep.width]: place in the pool of each kept block that this rank scores, -1 for others.
     * place [tile.rows][keep.width], own rows only: place in the pool of each kept block's scores.
     * sizes: of alloc_host, [2][ranks]: blocks of scores to, then from each rank, written when the stream gets there.
     */
    hisa_status_t (*plan_tokens)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                 const hisa_segment_t *segments, int32_t width, const int32_t *kept, int64_t send_begin,
                                 int32_t *work, int32_t *place, int64_t *sizes, void *stream);
    /* Scores the tokens of kept blocks with work >= 0 into pool[work * B ..]; what lies outside the row's window is not
     * defined. work NULL: each kept block j of row r that is not -1, into pool[(r * width + j) * B ..]. keys_scored as
     * in score_blocks. */
    hisa_status_t (*score_tokens)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  int32_t width, const int32_t *kept, const int32_t *work, float *pool,
                                  int64_t *keys_scored, void *stream);
    /* The selection of tile rows [row_begin, row_begin + rows) inside their kept blocks, scores of kept block j of row
     * r at pool[place * B ..]. bitmap [..][width * B / 8]: bit i of a row stands for token i % B of its kept block i /
     * B. selected (may be NULL) [..][k]: scores of the selected tokens by ascending position, padded with 0. */
    hisa_status_t (*select_tokens)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   int32_t width, int32_t top_k, int64_t row_begin, int64_t rows, const int32_t *kept,
                                   const int32_t *place, const float *pool, uint8_t *bitmap, float *selected,
                                   void *stream);
    /* What select_tokens selected (selected not NULL, [..][top_k]) as entries for flat_merge: list [rows][list_width]
     * ranks (order.h) by ascending position, padded with HISA_RANK_NONE. list_width >= such tokens of a row. */
    hisa_status_t (*list_tokens)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                 int32_t width, int32_t top_k, const int32_t *kept, const uint8_t *bitmap,
                                 const float *selected, int32_t list_width, uint64_t *list, void *stream);
    /* Writes the results of all rows of the output's segments. */
    hisa_status_t (*emit)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                          const int32_t *kept, const uint8_t *bitmap, const float *selected,
                          const hisa_output_t *output, void *stream);

    /* -- two stages, steps joined that exchange nothing in between. Both NULL: a backend that goes the way above. */
    /* One rank. Scores the blocks in sight and keeps the best of each row, what score_blocks and merge_blocks give on
     * one rank: kept [tile.rows][keep.width], blocks ascending, padded with -1. Mode block only: bitmap as from
     * select_tokens. keys_scored as in score_blocks. */
    hisa_status_t (*keep_blocks)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                 const hisa_keep_t *keep, int32_t *kept, uint8_t *bitmap, int64_t *keys_scored,
                                 void *stream);
    /* select_tokens and emit in one: the selection of each row inside its kept blocks, straight to the results of all
     * rows of the output's segments. A segment that does not continue the one before it, in the tile and in the
     * results, may cost a launch. place NULL: pool is [tile.rows][width][B] (score_tokens without work). Gives
     * positions: one rank's places are these too, but several ranks have emit for placement local. */
    hisa_status_t (*select_emit)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                 int32_t width, const int32_t *kept, const int32_t *place, const float *pool,
                                 const hisa_output_t *output, void *stream);

    /* -- flat -- */
    /* The best min(top_k, in sight) of this rank's own tokens, in one pass over the keys: list [rows][list_width] ranks
     * by ascending position (flat_trim keeps the order, flat_emit_local may count on it), the rest HISA_RANK_NONE.
     * list_width >= min(top_k, tokens of this rank). */
    hisa_status_t (*flat_scan)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t top_k,
                               int32_t list_width, uint64_t *list, int64_t *keys_scored, void *stream);
    /* How good the lists are: quantile i of a row is a key, as high as may be, that at least i + 1 of HISA_QUANTILES
     * parts of top_k entries reach, 0 if there are fewer. quantiles [rows][HISA_QUANTILES]. */
    hisa_status_t (*flat_quantiles)(hisa_device_t *device, const hisa_tile_t *tile, int32_t top_k, int32_t list_width,
                                    const uint64_t *list, uint32_t *quantiles, void *stream);
    /* Drops entries that cannot be among a row's best top_k, by quantiles [ranks][rows][HISA_QUANTILES] of all ranks:
     * what is below the HISA_QUANTILES-th highest of a row's, since each of those stands for one part of top_k entries
     * that reach it. Packs the rest in tile order; counts [rows]: entries left of each row. In place (list is the
     * packed array). */
    hisa_status_t (*flat_trim)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                               int32_t list_width, const uint32_t *quantiles, uint64_t *list, int32_t *counts,
                               void *stream);
    /* By counts [ranks][rows]. sizes: of alloc_host, [2][ranks]: entries that this rank holds for each segment, then
     * those that each rank holds for this rank's own; written when the stream gets there. */
    hisa_status_t (*flat_sizes)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                const hisa_segment_t *segments, const int32_t *counts, int64_t *sizes, void *stream);
    /* Merges for tile rows [row_begin, row_begin + rows). Entries of rank p start at lists[offsets[p]] (host offsets,
     * [ranks]), packed by row: counts [ranks][tile rows] entries each, or list_width each if counts is NULL.
     * positions [..][k] (by place in the tile): ascending, padded with -1; selected (may be NULL) [..][k] scores;
     * threshold [..]: what reaches it is selected (HISA_RANK_NONE: all). */
    hisa_status_t (*flat_merge)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                int32_t top_k, int32_t list_width, const uint64_t *lists, const int64_t *offsets,
                                const int32_t *counts, int64_t row_begin, int64_t rows, int32_t *positions,
                                float *selected, uint64_t *threshold, void *stream);
    /* Writes positions and selected scores of the output's segments (placements replicated and owner). */
    hisa_status_t (*flat_emit)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                               const int32_t *positions, const float *selected, const hisa_output_t *output,
                               void *stream);
    /* Placement local, and one rank: this rank's own entries that reach the threshold (NULL: all). list: packed with
     * counts [rows], or [rows][list_width] if counts is NULL. */
    hisa_status_t (*flat_emit_local)(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                     int32_t list_width, const uint64_t *list, const int32_t *counts,
                                     const uint64_t *threshold, const hisa_output_t *output, void *stream);
} hisa_backend_ops_t;

/* An opened device begins with its table. */
struct hisa_device {
    const hisa_backend_ops_t *ops;
};

extern const hisa_backend_ops_t hisa_backend_cpu;
#if defined(HISA_HAVE_CUDA)
extern const hisa_backend_ops_t hisa_backend_cuda;
/* HISA_OK if there is a device that it computes on; HISA_ERR_UNSUPPORTED and why if there is none; HISA_ERR_DEVICE if
 * earlier work has left the device unusable to this process. */
hisa_status_t hisa_cuda_present(void);
/* "NVIDIA H100 (sm_90), ..." of the calling thread's current device, or why there is none. */
void hisa_cuda_describe(char *text, size_t size);
#endif

/* The table for a choice; AUTO takes the best that is built in and present. HISA_ERR_UNSUPPORTED with the reason. */
hisa_status_t hisa_backend_find(hisa_backend_t choice, const hisa_backend_ops_t **ops);

#endif
