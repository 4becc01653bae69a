/* One hisa_select under way: what its files share. */
#ifndef HISA_SELECT_RUN_H
#define HISA_SELECT_RUN_H

#include "select/plan.h"

/* A tile under way, and what it has of its own. */
typedef struct hisa_lane {
    hisa_tile_t tile;
    hisa_segment_t *segments; /* [ranks] */
    int64_t *sizes;           /* [2][ranks]: what an exchange sends and receives, once its event has passed */
    uint8_t *memory;          /* its part of the workspace */
    int64_t place;            /* of the tile among the call's */
} hisa_lane_t;

typedef struct hisa_run {
    hisa_index_t *index;
    const hisa_backend_ops_t *ops;
    const hisa_queries_t *queries;
    const hisa_select_options_t *options;
    const hisa_selection_t *selection;
    hisa_plan_t plan;
    uint8_t *workspace;
    void *stream;
    /* Host, [ranks]: rows that each rank merges, and the first of them in the numbering of all rows. */
    int64_t *owner_rows;
    int64_t *owner_begin;
    int64_t total_rows;
    int64_t tiles;
    /* Host, [ranks]: the exchange at hand. */
    int64_t *send_bytes;
    int64_t *send_offsets;
    int64_t *recv_bytes;
    int64_t *recv_offsets;
    hisa_lane_t lanes[HISA_LANES];
    hisa_lane_t *lane; /* the one at hand */
    /* Since when, and from what counts, the step under way is measured. A backend with a clock of its own notes the
     * ends of steps in its slots, to be read when they are used up and at the end of the call. */
    double mark;
    int64_t mark_sent;
    int64_t mark_received;
    int32_t marks;                 /* slots in use */
    uint8_t mark_step[HISA_MARKS]; /* the step that ended there, or its exchange; slot 0 begins */
} hisa_run_t;

/* The phases of a tile by owner merge, each after the one before. Those that compute go on the caller's stream, those
 * that exchange may go on another (pipeline.c); both are given theirs. What they do in modes hisa and block, and in
 * mode flat in brackets. */
typedef enum hisa_phase {
    HISA_PHASE_COPY,   /* the tile is cut; this rank's queries, if sharded, to where they are gathered */
    HISA_PHASE_GATHER, /* exchange: sharded queries to all */
    HISA_PHASE_SCORE,  /* block scores and the best of them (token scores likewise) */
    HISA_PHASE_LISTS,  /* exchange: lists to owners (quantiles to all) */
    HISA_PHASE_MERGE,  /* blocks kept (what cannot win dropped) */
    HISA_PHASE_KEPT,   /* exchange: kept blocks to all (counts to all) */
    HISA_PHASE_SIZES,  /* what goes where in HISA_PHASE_SCORES, to the host */
    HISA_PHASE_TOKENS, /* token scores (nothing) */
    HISA_PHASE_SCORES, /* exchange, sizes known: token scores (entries) to owners */
    HISA_PHASE_SELECT, /* the selection */
    HISA_PHASE_SPREAD, /* exchange: its results to all that want them */
    HISA_PHASE_EMIT,   /* and to where the caller wants them */
    HISA_PHASES
} hisa_phase_t;

typedef hisa_status_t (*hisa_phase_fn)(hisa_run_t *run, void *stream);

/* A mode's phases; NULL where there is nothing to do. */
typedef struct hisa_way {
    hisa_phase_fn phase[HISA_PHASES];
} hisa_way_t;

extern const hisa_way_t hisa_way_hisa;
extern const hisa_way_t hisa_way_block;
extern const hisa_way_t hisa_way_flat;

/* Piece of the workspace of the lane at hand, at a plan's offset. */
static inline void *hisa_run_at(const hisa_run_t *run, int64_t offset) { return run->lane->memory + offset; }

/* Books the bytes and the time since the last booking under a step. */
hisa_status_t hisa_run_step(hisa_run_t *run, hisa_step_t step);

/* Around the data calls of an exchange within a step: the time between is booked as the step's exchange, and the bytes
 * under the step. exchange_end takes what became of the calls, and gives it back if it is an error. */
hisa_status_t hisa_run_exchange(hisa_run_t *run, hisa_step_t step);
hisa_status_t hisa_run_exchange_end(hisa_run_t *run, hisa_step_t step, hisa_status_t status);

/* In-place all-gather over the tile's rows: `bytes` a row at buffer, each rank's segment filled in by that rank. */
hisa_status_t hisa_run_gather_rows(hisa_run_t *run, void *buffer, int64_t bytes, void *stream);

/* Rows whose selection this rank works out in a one-shot exchange: its own for placement owner, else all. */
void hisa_run_oneshot_rows(const hisa_run_t *run, int64_t *begin, int64_t *rows);

/* The output's description for the tile at hand. */
hisa_output_t hisa_run_output(const hisa_run_t *run);

/* The first phases, whatever the way; load begins the third. */
hisa_status_t hisa_run_copy(hisa_run_t *run, void *stream);
hisa_status_t hisa_run_gather(hisa_run_t *run, void *stream);
hisa_status_t hisa_run_load(hisa_run_t *run, void *stream);

/* A tile on the caller's stream alone, after its rows are there: by one-shot, or on one rank. */
hisa_status_t hisa_run_two_stage_oneshot(hisa_run_t *run);
hisa_status_t hisa_run_single(hisa_run_t *run);
hisa_status_t hisa_run_flat_oneshot(hisa_run_t *run);
hisa_status_t hisa_run_two_stage_lists(hisa_run_t *run);
hisa_status_t hisa_run_flat_single(hisa_run_t *run);

/* The second half of the ways whose ranks gather lists of tokens: every rank's list to every rank, the merge of all
 * rows there, and the results. lists: uint64 [ranks][rows of the tile][width], this rank's part filled in. */
hisa_status_t hisa_run_merge_lists(hisa_run_t *run, uint64_t *lists, int32_t width);

/* All tiles by owner merge, under way side by side where the plan has lanes for it. */
hisa_status_t hisa_run_pipeline(hisa_run_t *run, const hisa_way_t *way);

/* Cuts the call into tiles and takes each its way. */
hisa_status_t hisa_run_tiles(hisa_run_t *run);

#endif
