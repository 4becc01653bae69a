#include "cli/batches.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/error.h"
#include "cli/staging.h"
#include "index/index.h"

/* Rows selected by one call, and the bytes that its indices and scores may take. Enough for the exchange to be one of
 * many rows, few enough that results stay small beside the index. */
#define BATCH_ROWS 1024
#define BATCH_BYTES ((int64_t)32 << 20)

int64_t cli_rows_of_batch(int32_t top_k) {
    const int64_t row_bytes = (int64_t)top_k * (int64_t)(sizeof(int32_t) + sizeof(float));
    return hisa_max(1, hisa_min(BATCH_ROWS, BATCH_BYTES / row_bytes));
}

/* ------------------------------------------------------------------------------------------- dealing */

static hisa_status_t check_dealt(const cli_session_t *session, const cli_options_t *options, int64_t rows) {
    if (options->rows_per_rank == NULL) {
        return HISA_OK;
    }
    if (options->select.queries_on != HISA_QUERIES_SHARDED) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "--rows-per-rank needs --queries-on sharded");
    }
    if (options->rows_per_rank_count != session->size) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "--rows-per-rank has %" PRId64 " entries for %d ranks",
                         options->rows_per_rank_count, session->size);
    }
    int64_t sum = 0;
    for (int r = 0; r < session->size; r++) {
        sum += options->rows_per_rank[r];
    }
    if (sum != rows) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT,
                         "--rows-per-rank sums to %" PRId64 ", but there are %" PRId64 " rows", sum, rows);
    }
    return HISA_OK;
}

hisa_status_t cli_deal_create(const cli_session_t *session, const cli_options_t *options, int64_t rows,
                              cli_deal_t *deal) {
    const hisa_status_t status = check_dealt(session, options, rows);
    if (status != HISA_OK) {
        return status;
    }
    const bool sharded = options->select.queries_on == HISA_QUERIES_SHARDED;
    *deal = (cli_deal_t){.rows = rows, .runs = sharded ? session->size : 1, .mine = sharded ? session->rank : 0};
    deal->begin = calloc((size_t)deal->runs + 1, sizeof *deal->begin);
    if (deal->begin == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the deal of rows");
    }
    for (int r = 0; r < deal->runs; r++) {
        deal->begin[r + 1] =
            options->rows_per_rank != NULL ? deal->begin[r] + options->rows_per_rank[r] : rows * (r + 1) / deal->runs;
    }
    return HISA_OK;
}

void cli_deal_free(cli_deal_t *deal) {
    free(deal->begin);
    *deal = (cli_deal_t){0};
}

/* ------------------------------------------------------------------------------------------- batches */

hisa_status_t cli_batch_create(const cli_deal_t *deal, int64_t max_rows, cli_batch_t *batch) {
    *batch = (cli_batch_t){.deal = deal, .limit = hisa_max(1, max_rows / deal->runs), .at = -1};
    batch->begin = calloc((size_t)deal->runs, sizeof *batch->begin);
    batch->count = calloc((size_t)deal->runs, sizeof *batch->count);
    if (batch->begin == NULL || batch->count == NULL) {
        cli_batch_free(batch);
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for a batch of rows");
    }
    return HISA_OK;
}

void cli_batch_free(cli_batch_t *batch) {
    free(batch->begin);
    free(batch->count);
    *batch = (cli_batch_t){0};
}

bool cli_batch_next(cli_batch_t *batch) {
    const bool first = batch->at < 0;
    batch->at = first ? 0 : batch->at + batch->limit;
    batch->rows = 0;
    for (int r = 0; r < batch->deal->runs; r++) {
        const int64_t begin = batch->deal->begin[r];
        const int64_t end = batch->deal->begin[r + 1];
        batch->begin[r] = hisa_min(end, begin + batch->at);
        batch->count[r] = hisa_min(end - batch->begin[r], batch->limit);
        batch->rows += batch->count[r];
    }
    return first || batch->rows > 0;
}

int64_t cli_batch_capacity(const cli_batch_t *batch) {
    int64_t rows = 0;
    for (int r = 0; r < batch->deal->runs; r++) {
        rows += hisa_min(batch->limit, batch->deal->begin[r + 1] - batch->deal->begin[r]);
    }
    return hisa_max(1, rows);
}

/* ------------------------------------------------------------------------------------------- selecting */

/* Backend memory for the workspace and the results, and host memory for the latter where it is not the same. */
static hisa_status_t allocate(cli_selector_t *selector, int64_t max_rows, bool scores) {
    hisa_selection_t *results = &selector->results;
    hisa_selection_t *selection = &selector->selection;
    int64_t cells = 0;
    if (!hisa_mul(max_rows, selector->options.top_k, &cells) || cells > INT64_MAX / 8) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "results of %" PRId64 " rows and k %" PRId32 " do not fit in memory",
                         max_rows, selector->options.top_k);
    }
    void *memory[4] = {NULL};
    const int64_t bytes[4] = {(int64_t)selector->workspace_bytes, cells * (int64_t)sizeof(int32_t),
                              max_rows * (int64_t)sizeof(int32_t), scores ? cells * (int64_t)sizeof(float) : 0};
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < (scores ? 4 : 3) && status == HISA_OK; i++) {
        status = cli_staged_alloc(selector->index, bytes[i], &memory[i]);
    }
    selector->workspace = memory[0];
    results->indices = memory[1];
    results->counts = memory[2];
    results->scores = memory[3];
    if (status != HISA_OK || selector->on_host) {
        *selection = *results;
        return status;
    }
    selection->indices = calloc((size_t)cells + 1, sizeof(int32_t));
    selection->counts = calloc((size_t)max_rows + 1, sizeof(int32_t));
    selection->scores = scores ? calloc((size_t)cells + 1, sizeof(float)) : NULL;
    if (selection->indices == NULL || selection->counts == NULL || (scores && selection->scores == NULL)) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for results of %" PRId64 " rows", max_rows);
    }
    return HISA_OK;
}

hisa_status_t cli_selector_create(hisa_index_t *index, const hisa_select_options_t *options, int64_t max_rows,
                                  bool scores, cli_selector_t *selector) {
    *selector = (cli_selector_t){.index = index, .options = *options, .on_host = cli_staged_on_host(index)};
    hisa_selection_init(&selector->results);
    hisa_selection_init(&selector->selection);
    selector->options.placement = HISA_PLACE_REPLICATED;
    hisa_status_t status = hisa_select_workspace_size(index, &selector->options, max_rows, &selector->workspace_bytes);
    if (status == HISA_OK) {
        status = allocate(selector, max_rows, scores);
    }
    if (status != HISA_OK) {
        cli_selector_free(selector);
    }
    return status;
}

void cli_selector_free(cli_selector_t *selector) {
    cli_staged_release(selector->index, selector->workspace);
    cli_staged_release(selector->index, selector->results.indices);
    cli_staged_release(selector->index, selector->results.counts);
    cli_staged_release(selector->index, selector->results.scores);
    if (!selector->on_host) {
        free(selector->selection.indices);
        free(selector->selection.counts);
        free(selector->selection.scores);
    }
    *selector = (cli_selector_t){0};
}

hisa_status_t cli_selector_call(cli_selector_t *selector, const hisa_queries_t *queries) {
    const hisa_status_t status = hisa_select(selector->index, queries, &selector->options, &selector->results,
                                             selector->workspace, selector->workspace_bytes, NULL);
    return status == HISA_OK ? cli_staged_wait(selector->index) : status;
}

hisa_status_t cli_selector_fetch(cli_selector_t *selector, int64_t rows) {
    if (selector->on_host) {
        return HISA_OK; /* the same arrays */
    }
    const int64_t cells = rows * selector->options.top_k;
    const hisa_selection_t *from = &selector->results;
    const hisa_selection_t *to = &selector->selection;
    hisa_status_t status =
        cli_staged_fetch(selector->index, to->indices, from->indices, cells * (int64_t)sizeof(int32_t));
    if (status == HISA_OK) {
        status = cli_staged_fetch(selector->index, to->counts, from->counts, rows * (int64_t)sizeof(int32_t));
    }
    if (status == HISA_OK && from->scores != NULL) {
        status = cli_staged_fetch(selector->index, to->scores, from->scores, cells * (int64_t)sizeof(float));
    }
    return status;
}

hisa_status_t cli_selector_run(cli_selector_t *selector, const hisa_queries_t *queries, int64_t rows) {
    if (selector->on_host) {
        return cli_selector_call(selector, queries);
    }
    cli_staged_queries_t staged = {0};
    hisa_status_t status = cli_staged_queries_create(selector->index, queries, &staged);
    /* Staging can fail on one rank alone. */
    status = hisa_comm_agree(selector->index->comm, status, hisa_last_error());
    if (status == HISA_OK) {
        status = cli_selector_call(selector, &staged.queries);
    }
    if (status == HISA_OK) {
        status = cli_selector_fetch(selector, rows);
    }
    cli_staged_queries_free(&staged);
    return status;
}
