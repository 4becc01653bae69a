/* hisa verify: the sharded selection against the same selection on one rank, and against the plain reference.
 *
 * Rows are taken in small batches. All ranks make the sharded selection of a batch; then each compares its share of the
 * rows with what it selects alone, from an index of its own that holds every key, and with the reference. So a rank
 * needs memory for all keys here, and the work is shared. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "cli/batches.h"
#include "cli/command.h"
#include "layout/layout.h"
#include "oracle/oracle.h"

/* Rows of a batch for each rank: the reference may take a second a row, and ranks meet after each batch. */
#define ROWS_A_RANK 16

typedef struct verify_arguments {
    cli_options_t options;
    int64_t oracle_rows; /* -1: all */
} verify_arguments_t;

enum { KEY_ORACLE_ROWS = 0x200 };

static error_t parse(int key, char *arg, struct argp_state *state) {
    verify_arguments_t *arguments = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        cli_options_pass_on(state, 5, &arguments->options);
        return 0;
    case KEY_ORACLE_ROWS:
        return cli_parse_int(&arguments->options, "oracle-rows", arg, 0, INT32_MAX, &arguments->oracle_rows);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option option_table[] = {
    {NULL, 0, NULL, 0, "What is compared:", 2},
    {"oracle-rows", KEY_ORACLE_ROWS, "N", 0,
     "Rows, evenly spread, that are also compared with the plain reference, which is slow (default: all)", 2},
    {0},
};
static const struct argp_child children[] = {{&cli_input_argp, 0, NULL, 0},   {&cli_mode_argp, 0, NULL, 0},
                                             {&cli_select_argp, 0, NULL, 0},  {&cli_run_argp, 0, NULL, 0},
                                             {&cli_general_argp, 0, NULL, 0}, {0}};
static const struct argp parser = {
    .options = option_table,
    .parser = parse,
    .doc =
        "Makes the selection on all ranks and compares it, bit for bit, with the same selection on one rank and with a "
        "plain reference that shares no code with the backends: positions, counts and scores. Prints how many rows "
        "were compared and how many differ; the exit status is 1 if any does. Each rank holds all keys.",
    .children = children,
};

/* The outcome of one comparison. */
typedef struct tally {
    int64_t compared;
    int64_t differ;
    int64_t first; /* lowest row that differs; INT64_MAX: none */
} tally_t;

enum { AGAINST_ONE_RANK, AGAINST_REFERENCE, COMPARISONS };

typedef struct run {
    cli_session_t *session;
    const verify_arguments_t *arguments;
    hisa_trace_t trace;
    bool scores;
    int64_t oracle_rows;
    cli_deal_t deal;
    cli_batch_t batch;
    hisa_index_t *index; /* over all ranks */
    cli_selector_t selector;
    hisa_comm_t *self;
    hisa_index_t *self_index;
    cli_selector_t self_selector;
    hisa_oracle_keys_t oracle;
    int32_t *oracle_indices; /* [k] */
    float *oracle_scores;    /* [k] */
    int64_t *row_of;         /* [rows of a batch]: the trace's row of each row of the batch */
    int64_t sampled;         /* rows met so far that the reference is due to see */
    tally_t tallies[COMPARISONS];
} run_t;

/* ------------------------------------------------------------------------------------------- comparing */

static void compare(tally_t *tally, int64_t row, int32_t k, const int32_t *indices, int32_t count, const float *scores,
                    const int32_t *other_indices, int32_t other_count, const float *other_scores) {
    const size_t bytes = (size_t)k * sizeof(int32_t);
    const bool same = count == other_count && memcmp(indices, other_indices, bytes) == 0 &&
                      (scores == NULL || memcmp(scores, other_scores, bytes) == 0);
    tally->compared++;
    if (!same) {
        tally->differ++;
        tally->first = hisa_min(tally->first, row);
    }
}

static float *scores_of(const hisa_selection_t *selection, int64_t row, int32_t k) {
    return selection->scores == NULL ? NULL : selection->scores + row * k;
}

/* Rows [begin, end) of the batch, which are consecutive in the trace, selected by this rank alone. */
static hisa_status_t compare_with_one_rank(run_t *run, int64_t begin, int64_t end) {
    const cli_rows_t rows = cli_trace_rows(&run->trace);
    const hisa_queries_t queries = cli_rows_slice(&rows, run->row_of[begin], end - begin);
    const hisa_status_t status = cli_selector_run(&run->self_selector, &queries, queries.num_rows);
    if (status != HISA_OK) {
        return status;
    }
    const int32_t k = run->arguments->options.select.top_k;
    const hisa_selection_t *mine = &run->self_selector.selection;
    const hisa_selection_t *all = &run->selector.selection;
    for (int64_t i = begin; i < end; i++) {
        const int64_t j = i - begin;
        compare(&run->tallies[AGAINST_ONE_RANK], run->row_of[i], k, all->indices + i * k, all->counts[i],
                scores_of(all, i, k), mine->indices + j * k, mine->counts[j], scores_of(mine, j, k));
    }
    return HISA_OK;
}

/* Row i of the batch. */
static hisa_status_t compare_with_reference(run_t *run, int64_t i) {
    const hisa_trace_t *trace = &run->trace;
    const hisa_select_options_t *options = &run->arguments->options.select;
    const int64_t row = run->row_of[i];
    const int64_t ks = trace->window_begin == NULL ? 0 : trace->window_begin[row];
    const int64_t ke = trace->window_end == NULL ? trace->num_tokens : trace->window_end[row];
    int32_t count = 0;
    const hisa_status_t status = hisa_oracle_select(
        &run->oracle, options, trace->q + row * trace->num_heads * trace->head_dim,
        trace->weights + row * trace->num_heads, ks, ke, run->oracle_indices, run->oracle_scores, &count);
    if (status == HISA_OK) {
        const int32_t k = options->top_k;
        const hisa_selection_t *all = &run->selector.selection;
        compare(&run->tallies[AGAINST_REFERENCE], row, k, all->indices + i * k, all->counts[i], scores_of(all, i, k),
                run->oracle_indices, count, run->oracle_scores);
    }
    return status;
}

/* Whether `row` is one of `wanted` rows spread evenly over `rows`: the i-th of them is floor(i * rows / wanted). */
static bool is_sampled(int64_t row, int64_t rows, int64_t wanted) {
    const int64_t i = hisa_ceil_div(row * wanted, rows);
    return i < wanted && i * rows / wanted == row;
}

/* This rank's share of a batch that has been selected on all ranks. */
static hisa_status_t compare_batch(run_t *run) {
    const cli_session_t *session = run->session;
    const cli_batch_t *batch = &run->batch;
    int64_t i = 0;
    for (int r = 0; r < run->deal.runs; r++) {
        for (int64_t j = 0; j < batch->count[r]; j++) {
            run->row_of[i++] = batch->begin[r] + j;
        }
    }
    hisa_status_t status = HISA_OK;
    const int64_t end = hisa_layout_row_begin(batch->rows, session->size, session->rank + 1);
    int64_t begin = hisa_layout_row_begin(batch->rows, session->size, session->rank);
    while (begin < end && status == HISA_OK) {
        int64_t stop = begin + 1;
        while (stop < end && run->row_of[stop] == run->row_of[stop - 1] + 1) {
            stop++;
        }
        status = compare_with_one_rank(run, begin, stop);
        begin = stop;
    }
    for (i = 0; i < batch->rows; i++) {
        if (is_sampled(run->row_of[i], run->trace.num_rows, run->oracle_rows) &&
            run->sampled++ % session->size == session->rank && status == HISA_OK) {
            status = compare_with_reference(run, i);
        }
    }
    return status;
}

static hisa_status_t compare_all(run_t *run) {
    const cli_rows_t rows = cli_trace_rows(&run->trace);
    cli_progress_t progress;
    cli_progress_begin(&progress, run->session, "verify", rows.count);
    hisa_status_t status = HISA_OK;
    int64_t done = 0;
    while (status == HISA_OK && cli_batch_next(&run->batch)) {
        const int mine = run->deal.mine;
        const hisa_queries_t queries = cli_rows_slice(&rows, run->batch.begin[mine], run->batch.count[mine]);
        status = cli_selector_run(&run->selector, &queries, run->batch.rows);
        if (status == HISA_OK) {
            status = cli_session_agree(run->session, compare_batch(run));
        }
        done += run->batch.rows;
        cli_progress_update(&progress, done);
    }
    cli_progress_end(&progress);
    return status;
}

/* ------------------------------------------------------------------------------------------- preparing and reporting
 */

static hisa_status_t prepare_oracle(run_t *run) {
    const hisa_trace_t *trace = &run->trace;
    const int32_t k = run->arguments->options.select.top_k;
    run->oracle = (hisa_oracle_keys_t){.num_tokens = trace->num_tokens,
                                       .head_dim = trace->head_dim,
                                       .num_heads = trace->num_heads,
                                       .block_size = run->arguments->options.block_size,
                                       .keys = trace->keys,
                                       .scales = trace->key_scales};
    run->oracle_indices = calloc((size_t)k, sizeof *run->oracle_indices);
    run->oracle_scores = run->scores ? calloc((size_t)k, sizeof *run->oracle_scores) : NULL;
    run->row_of = calloc((size_t)cli_batch_capacity(&run->batch), sizeof *run->row_of);
    if (run->oracle_indices == NULL || (run->scores && run->oracle_scores == NULL) || run->row_of == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the reference");
    }
    return run->oracle_rows > 0 ? hisa_oracle_pool(&run->oracle) : HISA_OK;
}

static hisa_status_t prepare_here(run_t *run) {
    const cli_session_t *session = run->session;
    const cli_options_t *options = &run->arguments->options;
    const hisa_trace_t *trace = &run->trace;
    hisa_select_options_t alone = options->select;
    alone.queries_on = HISA_QUERIES_REPLICATED;
    hisa_status_t status = cli_deal_create(session, options, trace->num_rows, &run->deal);
    if (status == HISA_OK) {
        const int64_t rows = hisa_min(cli_rows_of_batch(options->select.top_k), (int64_t)ROWS_A_RANK * session->size);
        status = cli_batch_create(&run->deal, rows, &run->batch);
    }
    if (status == HISA_OK) {
        status = cli_selector_create(run->index, &options->select, cli_batch_capacity(&run->batch), run->scores,
                                     &run->selector);
    }
    if (status == HISA_OK) {
        status = hisa_comm_create_self(&run->self);
    }
    if (status == HISA_OK) {
        status = cli_index_create(session, options, run->self, trace->head_dim, trace->num_heads, trace->num_tokens,
                                  &run->self_index);
    }
    if (status == HISA_OK) {
        status = cli_selector_create(run->self_index, &alone, cli_batch_capacity(&run->batch), run->scores,
                                     &run->self_selector);
    }
    return status == HISA_OK ? prepare_oracle(run) : status;
}

static hisa_status_t fill_here(run_t *run) {
    const cli_options_t *options = &run->arguments->options;
    /* The index of one rank is filled in one go of default chunks, whatever the other one is asked to do. */
    cli_options_t alone = *options;
    alone.append_chunk = 0;
    hisa_status_t status = cli_index_fill(run->session, options, &run->trace, run->index);
    if (status == HISA_OK) {
        status = cli_index_fill(run->session, &alone, &run->trace, run->self_index);
    }
    return status;
}

/* Makes one tally of the tallies of all ranks. Collective. */
static hisa_status_t reduce(run_t *run) {
    const int size = run->session->size;
    tally_t *all = calloc((size_t)size, sizeof run->tallies);
    if (all == NULL) {
        hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the comparison");
    }
    hisa_status_t status = cli_session_agree(run->session, all == NULL ? HISA_ERR_NO_MEMORY : HISA_OK);
    if (status == HISA_OK) {
        status = cli_session_gather(run->session, run->tallies, all, sizeof run->tallies);
    }
    if (status == HISA_OK) {
        for (int c = 0; c < COMPARISONS; c++) {
            tally_t sum = {.first = INT64_MAX};
            for (int r = 0; r < size; r++) {
                const tally_t *one = &all[r * COMPARISONS + c];
                sum.compared += one->compared;
                sum.differ += one->differ;
                sum.first = hisa_min(sum.first, one->first);
            }
            run->tallies[c] = sum;
        }
    }
    free(all);
    return status;
}

static void print_tally(const char *name, const tally_t *tally) {
    printf("%-28s %10" PRId64 " %10" PRId64 "   ", name, tally->compared, tally->differ);
    if (tally->differ > 0) {
        printf("row %" PRId64 "\n", tally->first);
    } else {
        printf("-\n");
    }
}

/* Prints the table and says how it ends: the same on all ranks. */
static hisa_status_t report(run_t *run) {
    const tally_t *one = &run->tallies[AGAINST_ONE_RANK];
    const tally_t *reference = &run->tallies[AGAINST_REFERENCE];
    const bool ok = one->differ == 0 && reference->differ == 0;
    if (run->session->rank == 0) {
        const cli_options_t *options = &run->arguments->options;
        printf("%" PRId64 " queries over %" PRId64 " tokens, mode %s, k %" PRId32 ", ranks %d (%s)\n\n",
               run->trace.num_rows, run->trace.num_tokens, cli_mode_names[options->select.mode], options->select.top_k,
               run->session->size, hisa_comm_name(run->session->comm));
        printf("%-28s %10s %10s   %s\n", "compared with", "rows", "differ", "first");
        print_tally("the same on one rank", one);
        print_tally("the plain reference", reference);
        printf("\n%s\n", ok ? "ok" : "NOT ok");
    }
    if (ok) {
        return HISA_OK;
    }
    return hisa_fail(HISA_ERR_INTERNAL,
                     "the selection differs: %" PRId64 " of %" PRId64 " rows from one rank's, %" PRId64 " of %" PRId64
                     " from the reference's",
                     one->differ, one->compared, reference->differ, reference->compared);
}

static hisa_status_t work(run_t *run) {
    cli_session_t *session = run->session;
    const cli_options_t *options = &run->arguments->options;
    const hisa_agree_value_t values[] = {{"--oracle-rows", run->arguments->oracle_rows}};
    hisa_status_t status = cli_session_agree_values(session, HISA_OK, values, 1);
    if (status == HISA_OK) {
        status = cli_trace_open(session, options, &run->trace);
    }
    if (status != HISA_OK) {
        return status;
    }
    const int64_t rows = run->trace.num_rows;
    const int64_t wanted = run->arguments->oracle_rows;
    run->oracle_rows = wanted < 0 ? rows : hisa_min(wanted, rows);
    status = cli_index_create(session, options, session->comm, run->trace.head_dim, run->trace.num_heads,
                              run->trace.num_tokens, &run->index);
    if (status == HISA_OK) {
        status = cli_session_agree(session, prepare_here(run));
    }
    if (status == HISA_OK) {
        status = cli_session_agree(session, fill_here(run));
    }
    if (status == HISA_OK) {
        status = compare_all(run);
    }
    if (status == HISA_OK) {
        status = reduce(run);
    }
    return status == HISA_OK ? report(run) : status;
}

static void release(run_t *run) {
    hisa_oracle_free(&run->oracle);
    free(run->oracle_indices);
    free(run->oracle_scores);
    free(run->row_of);
    cli_selector_free(&run->self_selector);
    hisa_index_destroy(run->self_index);
    hisa_comm_destroy(run->self);
    cli_selector_free(&run->selector);
    hisa_index_destroy(run->index);
    cli_batch_free(&run->batch);
    cli_deal_free(&run->deal);
    hisa_trace_close(&run->trace);
}

hisa_status_t cli_verify(cli_session_t *session, int argc, char **argv) {
    verify_arguments_t arguments = {.oracle_rows = -1};
    cli_options_init(&arguments.options);
    arguments.options.files_needed = true;
    bool go = false;
    hisa_status_t status = cli_command_begin(session, &parser, argc, argv, &arguments, &arguments.options, &go);
    if (go) {
        run_t run = {.session = session,
                     .arguments = &arguments,
                     .scores = arguments.options.select.mode != HISA_MODE_BLOCK,
                     .tallies = {{.first = INT64_MAX}, {.first = INT64_MAX}}};
        status = work(&run);
        release(&run);
    }
    cli_options_free(&arguments.options);
    return status;
}
