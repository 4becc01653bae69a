/* Selecting many rows piece by piece: who passes which rows, the buffers of one piece, and where its results belong. */
#ifndef HISA_CLI_BATCHES_H
#define HISA_CLI_BATCHES_H

#include <stdbool.h>

#include "cli/input.h"

/* Which rows each rank passes if queries are sharded: rank r has [begin[r], begin[r + 1]). One run of all rows if they
 * are replicated. */
typedef struct cli_deal {
    int64_t rows;
    int runs;       /* ranks if sharded, else 1 */
    int mine;       /* this rank's run */
    int64_t *begin; /* [runs + 1]; owned */
} cli_deal_t;

/* Local, with the same outcome on all ranks. */
hisa_status_t cli_deal_create(const cli_session_t *session, const cli_options_t *options, int64_t rows,
                              cli_deal_t *deal);
void cli_deal_free(cli_deal_t *deal);

/* A piece of every run: of run r, rows [begin[r], begin[r] + count[r]). Results stand in the order of the runs. */
typedef struct cli_batch {
    const cli_deal_t *deal;
    int64_t limit;  /* rows of a run in a batch */
    int64_t at;     /* rows of each run before this batch */
    int64_t rows;   /* over all runs */
    int64_t *begin; /* [runs]; owned */
    int64_t *count; /* [runs]; owned */
} cli_batch_t;

/* Before the first batch. max_rows: rows of a batch over all runs, at least; a run gives at least one. */
hisa_status_t cli_batch_create(const cli_deal_t *deal, int64_t max_rows, cli_batch_t *batch);
void cli_batch_free(cli_batch_t *batch);

/* Goes to the next batch; false after the last. The first is there even without rows, so that a selection of no rows is
 * checked by the library like any other. */
bool cli_batch_next(cli_batch_t *batch);

/* Most rows that a batch can have over all runs. */
int64_t cli_batch_capacity(const cli_batch_t *batch);

/* Workspace and result buffers of one index, for rows placed on all ranks. */
typedef struct cli_selector {
    hisa_index_t *index; /* not owned */
    hisa_select_options_t options;
    void *workspace; /* backend memory; owned */
    size_t workspace_bytes;
    bool on_host;               /* whether backend memory is host memory */
    hisa_selection_t results;   /* of the last call, in backend memory; its arrays are owned */
    hisa_selection_t selection; /* the same on the host, after cli_selector_run; the same arrays if on_host */
} cli_selector_t;

/* Local. scores: whether token scores are wanted. */
hisa_status_t cli_selector_create(hisa_index_t *index, const hisa_select_options_t *options, int64_t max_rows,
                                  bool scores, cli_selector_t *selector);
void cli_selector_free(cli_selector_t *selector);

/* Selects for queries of host memory, results to the host: `rows` of them, those that all ranks passed together.
 * Collective over the index's communicator, and agreed, up to the fetching of results. */
hisa_status_t cli_selector_run(cli_selector_t *selector, const hisa_queries_t *queries, int64_t rows);

/* Selects for queries of backend memory, and waits: what is to be timed. Collective, and agreed by the library. */
hisa_status_t cli_selector_call(cli_selector_t *selector, const hisa_queries_t *queries);

/* Copies the results of the last call, of `rows` rows, to the host. */
hisa_status_t cli_selector_fetch(cli_selector_t *selector, int64_t rows);

/* Rows that fit a batch of bounded size: 1024, or fewer where k is large. */
int64_t cli_rows_of_batch(int32_t top_k);

#endif
