/* hisa_select: checks, agreement, and the call under way. */
#include "base/checked.h"
#include "base/error.h"
#include "base/hash.h"
#include "layout/layout.h"
#include "select/options.h"
#include "select/policy.h"
#include "select/run.h"

enum { WORKSPACE_ALIGNMENT = 256 };

hisa_status_t hisa_select_workspace_size(const hisa_index_t *index, const hisa_select_options_t *options,
                                         int64_t max_rows, size_t *bytes) {
    if (index == NULL || options == NULL || bytes == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "index, options or bytes is NULL");
    }
    hisa_status_t status = hisa_select_options_check(options, index->shard.block_size);
    if (status != HISA_OK) {
        return status;
    }
    if (max_rows < 0 || max_rows > INT32_MAX) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "max_rows is %lld: it must be 0 to %d", (long long)max_rows,
                         INT32_MAX);
    }
    /* The policy may take either way, by the number of rows of each call. */
    int64_t most = 0;
    for (hisa_exchange_t exchange = HISA_EXCHANGE_OWNER; exchange <= HISA_EXCHANGE_LISTS; ++exchange) {
        const bool automatic = options->exchange == HISA_EXCHANGE_AUTO && exchange != HISA_EXCHANGE_LISTS;
        hisa_plan_t plan;
        if (!automatic && options->exchange != exchange) {
            continue;
        }
        status = hisa_plan_make(index, options, exchange, max_rows, &plan);
        if (status != HISA_OK) {
            return status;
        }
        most = hisa_max(most, plan.bytes);
    }
    *bytes = (size_t)most;
    return HISA_OK;
}

/* -- what one rank can check alone -- */

static hisa_status_t check_queries(const hisa_index_t *index, const hisa_queries_t *queries,
                                   const hisa_select_options_t *options) {
    if (queries->struct_size != sizeof *queries) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "queries.struct_size is %zu, not %zu: use hisa_queries_init",
                         queries->struct_size, sizeof *queries);
    }
    if (queries->num_rows < 0 || queries->num_rows > INT32_MAX) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "num_rows is %lld: it must be 0 to %d",
                         (long long)queries->num_rows, INT32_MAX);
    }
    if (queries->num_rows > 0 && (queries->q == NULL || queries->weights == NULL)) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "queries.%s is NULL", queries->q == NULL ? "q" : "weights");
    }
    if (options->queries_on == HISA_QUERIES_SHARDED && queries->rows_per_rank != NULL) {
        const int64_t *rows = queries->rows_per_rank;
        if (rows[index->shard.rank] != queries->num_rows) {
            return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "rows_per_rank[%d] is %lld but num_rows is %lld",
                             index->shard.rank, (long long)rows[index->shard.rank], (long long)queries->num_rows);
        }
        for (int32_t p = 0; p < index->shard.ranks; ++p) {
            if (rows[p] < 0 || rows[p] > INT32_MAX) {
                return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "rows_per_rank[%d] is %lld", p, (long long)rows[p]);
            }
        }
    } else if (options->queries_on == HISA_QUERIES_SHARDED && (options->flags & HISA_SELECT_UNCHECKED) != 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "sharded queries without the agreement need rows_per_rank");
    }
    return hisa_index_ops(index)->check_rows(index->device, &index->shard, queries);
}

static hisa_status_t check_selection(const hisa_selection_t *selection, const hisa_select_options_t *options,
                                     int64_t rows) {
    if (selection->struct_size != sizeof *selection) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "selection.struct_size is %zu, not %zu: use hisa_selection_init",
                         selection->struct_size, sizeof *selection);
    }
    if (selection->scores != NULL && options->mode == HISA_MODE_BLOCK) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "mode block has no token scores: selection.scores must be NULL");
    }
    if (selection->indices == NULL && rows > 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "selection.indices is NULL");
    }
    if (selection->counts == NULL && options->placement == HISA_PLACE_LOCAL && rows > 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "selection.counts is NULL: local results need it");
    }
    return HISA_OK;
}

static hisa_status_t check_alone(const hisa_index_t *index, const hisa_queries_t *queries,
                                 const hisa_select_options_t *options, const hisa_selection_t *selection) {
    if (queries == NULL || options == NULL || selection == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s is NULL",
                         queries == NULL ? "queries" : (options == NULL ? "options" : "selection"));
    }
    hisa_status_t status = hisa_select_options_check(options, index->shard.block_size);
    if (status == HISA_OK) {
        status = check_queries(index, queries, options);
    }
    if (status == HISA_OK) {
        status = check_selection(selection, options, queries->num_rows);
    }
    return status;
}

/* -- what ranks must agree on -- */

static uint64_t hash_lengths(const hisa_index_t *index) {
    uint64_t hash = index->changes;
    for (int32_t s = 0; s < index->shard.num_sequences; ++s) {
        hash = hisa_hash(hash, index->lengths[s]);
    }
    return hash;
}

static uint64_t hash_rows(const hisa_index_t *index, const hisa_queries_t *queries) {
    uint64_t hash = 1;
    for (int32_t p = 0; queries->rows_per_rank != NULL && p < index->shard.ranks; ++p) {
        hash = hisa_hash(hash, queries->rows_per_rank[p]);
    }
    return hash;
}

/* Gathers each rank's number of rows into run->owner_rows on the way. */
static hisa_status_t agree(hisa_run_t *run, hisa_status_t status) {
    static const hisa_select_options_t no_options = {0};
    static const hisa_queries_t no_queries = {0};
    const hisa_select_options_t *options = run->options != NULL ? run->options : &no_options;
    const hisa_queries_t *queries = run->queries != NULL ? run->queries : &no_queries;
    const bool sharded = options->queries_on == HISA_QUERIES_SHARDED;
    const hisa_agree_value_t values[] = {
        {"mode", options->mode},
        {"exchange", options->exchange},
        {"queries_on", options->queries_on},
        {"placement", options->placement},
        {"top_blocks", options->top_blocks},
        {"top_k", options->top_k},
        {"sink_blocks", options->sink_blocks},
        {"local_blocks", options->local_blocks},
        {"tile_rows", options->tile_rows},
        {"flags", options->flags},
        {"scores wanted", run->selection != NULL && run->selection->scores != NULL},
        {"rows", sharded ? 0 : queries->num_rows},
        {"rows_per_rank (hash)", sharded && status == HISA_OK ? (int64_t)hash_rows(run->index, queries) : 0},
        {"sequence lengths and changes (hash)", (int64_t)hash_lengths(run->index)},
    };
    return hisa_comm_agree_values(run->index->comm, status, values, sizeof values / sizeof values[0], queries->num_rows,
                                  run->owner_rows);
}

/* -- the call -- */

static void bind_scratch(hisa_run_t *run) {
    const int64_t ranks = run->index->shard.ranks;
    int64_t *counts = run->index->counts;
    run->owner_rows = counts;
    run->owner_begin = counts + ranks;
    run->send_bytes = counts + 2 * ranks;
    run->send_offsets = counts + 3 * ranks;
    run->recv_bytes = counts + 4 * ranks;
    run->recv_offsets = counts + 5 * ranks;
}

/* Who merges which rows. Sharded: each rank its own; replicated: equal shares. */
static hisa_status_t deal_rows(hisa_run_t *run) {
    const int32_t ranks = run->index->shard.ranks;
    int64_t total = 0;
    for (int32_t p = 0; p < ranks; ++p) {
        if (run->options->queries_on == HISA_QUERIES_REPLICATED) {
            run->owner_rows[p] = hisa_layout_row_begin(run->queries->num_rows, ranks, p + 1) -
                                 hisa_layout_row_begin(run->queries->num_rows, ranks, p);
        } else if (run->queries->rows_per_rank != NULL) {
            run->owner_rows[p] = run->queries->rows_per_rank[p];
        }
        run->owner_begin[p] = total;
        total += run->owner_rows[p];
    }
    run->total_rows = total;
    if (total > INT32_MAX) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%lld rows over all ranks are more than %d", (long long)total,
                         INT32_MAX);
    }
    return HISA_OK;
}

/* That workspace and results are memory of the backend, as far as it can tell. */
static hisa_status_t check_memory(const hisa_run_t *run) {
    const struct {
        const char *name;
        const void *memory;
    } given[] = {{"the workspace", run->workspace},
                 {"selection.indices", run->selection->indices},
                 {"selection.counts", run->selection->counts},
                 {"selection.scores", run->selection->scores}};
    hisa_status_t status = HISA_OK;
    for (size_t i = 0; i < sizeof given / sizeof given[0] && status == HISA_OK; ++i) {
        status = run->ops->check_memory(run->index->device, given[i].name, given[i].memory, (int)sizeof(int32_t));
    }
    return status;
}

/* What keeps this call out of a graph, or NULL. */
static const char *uncapturable(const hisa_run_t *run) {
    if ((run->options->flags & HISA_SELECT_TIMED) != 0) {
        return "a timed call waits for it (HISA_SELECT_TIMED)";
    }
    if (run->plan.exchange == HISA_EXCHANGE_OWNER && run->options->mode != HISA_MODE_BLOCK) {
        return "the owner merge reads sizes back (HISA_EXCHANGE_OWNER)";
    }
    return NULL;
}

/* With the number of all rows known: the plan, the workspace for it, and room for the results. */
static hisa_status_t plan_call(hisa_run_t *run, size_t workspace_bytes) {
    hisa_status_t status = deal_rows(run);
    if (status == HISA_OK) {
        status = hisa_plan_make(run->index, run->options, hisa_policy_choose(run->index, run->options, run->total_rows),
                                run->total_rows, &run->plan);
    }
    if (status == HISA_OK) {
        status = check_selection(run->selection, run->options,
                                 run->options->placement == HISA_PLACE_OWNER ? run->owner_rows[run->index->shard.rank]
                                                                             : run->total_rows);
    }
    if (status != HISA_OK || run->total_rows == 0) {
        return status;
    }
    if (run->workspace == NULL || (uintptr_t)run->workspace % WORKSPACE_ALIGNMENT != 0) {
        return hisa_fail(HISA_ERR_WORKSPACE, "the workspace is %s",
                         run->workspace == NULL ? "NULL" : "not 256-byte aligned");
    }
    if (workspace_bytes < (size_t)run->plan.bytes) {
        return hisa_fail(HISA_ERR_WORKSPACE, "the workspace has %zu bytes: %lld rows need %lld", workspace_bytes,
                         (long long)run->total_rows, (long long)run->plan.bytes);
    }
    status = run->ops->check_stream(run->index->device, run->stream, uncapturable(run));
    return status == HISA_OK ? check_memory(run) : status;
}

/* Checks and agreement: on return all ranks go on, or none does. */
static hisa_status_t prepare(hisa_run_t *run, size_t workspace_bytes) {
    hisa_status_t status = check_alone(run->index, run->queries, run->options, run->selection);
    const bool unchecked = run->options != NULL && (run->options->flags & HISA_SELECT_UNCHECKED) != 0;
    /* Unless other ranks' rows must be learnt first, one agreement covers everything. */
    const bool rows_known = unchecked || run->options == NULL || run->queries == NULL ||
                            run->options->queries_on == HISA_QUERIES_REPLICATED || run->queries->rows_per_rank != NULL;
    if (rows_known && status == HISA_OK) {
        status = plan_call(run, workspace_bytes);
    }
    if (unchecked) {
        return status;
    }
    /* Gathers into owner_rows; where they were dealt already they are dealt again below. */
    status = agree(run, status);
    if (status == HISA_OK && rows_known) {
        return deal_rows(run);
    }
    if (status == HISA_OK) {
        status = plan_call(run, workspace_bytes);
        status = hisa_comm_agree(run->index->comm, status, hisa_last_error());
    }
    return status;
}

hisa_status_t hisa_select(hisa_index_t *index, const hisa_queries_t *queries, const hisa_select_options_t *options,
                          const hisa_selection_t *selection, void *workspace, size_t workspace_bytes, void *stream) {
    if (index == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "index is NULL");
    }
    hisa_run_t run = {.index = index,
                      .ops = hisa_index_ops(index),
                      .queries = queries,
                      .options = options,
                      .selection = selection,
                      .workspace = workspace,
                      .stream = stream};
    bind_scratch(&run);
    hisa_status_t status = prepare(&run, workspace_bytes);
    if (status == HISA_OK) {
        status = hisa_run_tiles(&run);
    }
    if (status == HISA_OK) {
        ++index->stats.calls;
        index->stats.rows += run.total_rows;
        index->stats.exchange = run.plan.exchange;
    }
    return status;
}
