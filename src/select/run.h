/* One hisa_select under way: what its files share. */
#ifndef HISA_SELECT_RUN_H
#define HISA_SELECT_RUN_H

#include "select/plan.h"

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
    /* Host, [ranks]: the exchange at hand. */
    int64_t *send_bytes;
    int64_t *send_offsets;
    int64_t *recv_bytes;
    int64_t *recv_offsets;
    int64_t *sizes; /* [2][ranks]: what the backend says of it, once hisa_run_wait_sizes has returned */
    /* The tile at hand. */
    hisa_tile_t tile;
    hisa_segment_t *segments; /* [ranks] */
    /* Since when, and from what counts, the step under way is measured. A backend with a clock of its own notes the
     * ends of steps in its slots, to be read when they are used up and at the end of the call. */
    double mark;
    int64_t mark_sent;
    int64_t mark_received;
    int32_t marks;                 /* slots in use */
    uint8_t mark_step[HISA_MARKS]; /* the step that ended there; slot 0 begins */
} hisa_run_t;

/* Piece of the workspace at a plan's offset. */
static inline void *hisa_run_at(const hisa_run_t *run, int64_t offset) { return run->workspace + offset; }

/* Books the time and the bytes since the last call under a step. */
hisa_status_t hisa_run_step(hisa_run_t *run, hisa_step_t step);

/* Around the work that may run on while the host waits for run->sizes: the first after what writes them. */
hisa_status_t hisa_run_note_sizes(hisa_run_t *run);
hisa_status_t hisa_run_wait_sizes(hisa_run_t *run);

/* In-place all-gather over the tile's rows: `bytes` a row at buffer, each rank's segment filled in by that rank. */
hisa_status_t hisa_run_gather_rows(hisa_run_t *run, void *buffer, int64_t bytes);

/* Rows whose selection this rank works out in a one-shot exchange: its own for placement owner, else all. */
void hisa_run_oneshot_rows(const hisa_run_t *run, int64_t *begin, int64_t *rows);

/* The output's description for the tile at hand. */
hisa_output_t hisa_run_output(const hisa_run_t *run);

/* The way of a tile, after its rows are there. */
hisa_status_t hisa_run_two_stage(hisa_run_t *run);
hisa_status_t hisa_run_single(hisa_run_t *run);
hisa_status_t hisa_run_flat(hisa_run_t *run);

/* Cuts the call into tiles and takes each its way. */
hisa_status_t hisa_run_tiles(hisa_run_t *run);

#endif
