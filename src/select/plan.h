/* What a call will do: its exchange, its tiles, and where everything lies in the workspace. A function of the index's
 * configuration, the options and the number of rows alone, and so equal on all ranks. */
#ifndef HISA_SELECT_PLAN_H
#define HISA_SELECT_PLAN_H

#include "index/index.h"

typedef struct hisa_plan {
    hisa_exchange_t exchange; /* never AUTO */
    bool lists_of_tokens;     /* exchange LISTS where it is not one-shot: in mode hisa */
    bool single;              /* one rank, nothing exchanged: single.c */
    hisa_keep_t keep;
    int32_t token_width;  /* lists_of_tokens: entries of a rank's list of tokens */
    int32_t list_width;   /* entries of a rank's own list: of blocks, or of tokens in mode flat */
    int64_t tile_rows;    /* rows aimed at in a tile */
    int64_t rows_cap;     /* most rows in a tile: dealing adds up to one row a rank */
    int64_t own_cap;      /* most rows of a tile that one rank merges */
    int64_t pool_receive; /* blocks in the receiving part of the pool */
    int32_t lanes;        /* tiles under way at a time: more than one where exchanges run beside the computing */
    /* The workspace, in bytes; 256-byte aligned: scratch that all tiles share, then a part for each lane. */
    int64_t scratch;
    int64_t lane_begin;
    int64_t lane_bytes;
    /* Offsets into a lane's part. */
    int64_t row; /* hisa_row_t [rows_cap] */
    int64_t q;   /* gathered queries, weights, and rows to be gathered (sharded queries only) */
    int64_t weights;
    int64_t prepared;
    int64_t lists;     /* blocks: uint64 [ranks][rows][list_width]; one-shot: a rank's part also holds its pool */
    int64_t kept;      /* int32 [rows][keep.width] */
    int64_t place;     /* int32 [rows][keep.width] */
    int64_t work_kept; /* int32 [rows][list_width], one-shot and lists_of_tokens */
    int64_t work;      /* int32, owner merge: [rows][keep.width], lists_of_tokens: [rows][list_width] */
    int64_t pool;      /* f32, owner merge: pool_receive blocks, then those to send; single: [rows][keep.width][B];
                          lists_of_tokens: [rows][list_width][B] */
    int64_t bitmap;    /* [rows][keep.width * B / 8], lists_of_tokens: [rows][list_width * B / 8] */
    int64_t selected;  /* f32 [rows][k] */
    int64_t quantiles; /* flat: uint32 [ranks][rows][HISA_QUANTILES] */
    int64_t counts;    /* flat: int32 [ranks][rows] */
    int64_t receive;   /* flat, owner merge: uint64, entries of own rows from all ranks */
    int64_t tokens;    /* lists_of_tokens: uint64 [ranks][rows][token_width] */
    int64_t positions; /* flat and lists_of_tokens: int32 [rows][k] */
    int64_t threshold; /* likewise: uint64 [rows] */
    int64_t bytes;     /* all of it */
} hisa_plan_t;

/* options are checked; exchange is not AUTO (hisa_policy_choose); rows over all ranks.
 * HISA_ERR_INVALID_ARGUMENT where sizes overflow. */
hisa_status_t hisa_plan_make(const hisa_index_t *index, const hisa_select_options_t *options, hisa_exchange_t exchange,
                             int64_t rows, hisa_plan_t *plan);

/* One-shot: bytes of a rank's part of `lists` in a tile of `rows` rows, and where its pool begins in it. */
int64_t hisa_plan_part_bytes(const hisa_plan_t *plan, int32_t block_size, int64_t rows);
int64_t hisa_plan_part_pool(const hisa_plan_t *plan, int64_t rows);

#endif
