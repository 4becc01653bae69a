/* hisa audit: how much of the exact selection the two-stage search, and whole blocks, keep. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "cli/batches.h"
#include "cli/command.h"
#include "cli/staging.h"
#include "cli/report.h"

typedef struct audit_arguments {
    cli_options_t options;
    int64_t rows; /* -1: all */
    const char *json;
} audit_arguments_t;

enum { KEY_ROWS = 0x200, KEY_JSON };

static error_t parse(int key, char *arg, struct argp_state *state) {
    audit_arguments_t *arguments = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        cli_options_pass_on(state, 4, &arguments->options);
        return 0;
    case KEY_ROWS:
        return cli_parse_int(&arguments->options, "rows", arg, 1, INT32_MAX, &arguments->rows);
    case KEY_JSON:
        arguments->json = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option option_table[] = {
    {NULL, 0, NULL, 0, "What is measured and printed:", 2},
    {"rows", KEY_ROWS, "N", 0, "Queries to audit, evenly spread (default: all)", 2},
    {"json", KEY_JSON, "FILE|-", 0, "Write the figures as JSON; - is stdout, then without the table", 2},
    {0},
};
static const struct argp_child children[] = {{&cli_input_argp, 0, NULL, 0},
                                             {&cli_select_argp, 0, NULL, 0},
                                             {&cli_run_argp, 0, NULL, 0},
                                             {&cli_general_argp, 0, NULL, 0},
                                             {0}};
static const struct argp parser = {
    .options = option_table,
    .parser = parse,
    .doc =
        "Measures, query by query, how much of the exact top-k (mode flat) the modes hisa and block keep: recall, the "
        "share of the score mass, and intersection over union. If the trace has planted needles, says how many each "
        "mode finds.",
    .children = children,
};

/* ------------------------------------------------------------------------------------------- needles */

typedef struct needle_count {
    int64_t planted;
    int64_t flat;
    int64_t hisa;
    int64_t block;
} needle_count_t;

/* What the row callback works on. */
typedef struct watcher {
    const int32_t *needles;   /* [M][n] of the trace, or NULL */
    int32_t needles_a_row;    /* n */
    const int64_t *trace_row; /* [audited rows] */
    needle_count_t found;
    cli_progress_t progress;
} watcher_t;

static bool contains(const int32_t *ascending, int64_t count, int32_t position) {
    int64_t low = 0;
    int64_t high = count;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (ascending[middle] < position) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < count && ascending[low] == position;
}

static void watch_row(void *context, int64_t row, const int32_t *flat, int64_t flat_count, const int32_t *hisa,
                      int64_t hisa_count, const int32_t *block, int64_t block_count) {
    watcher_t *watcher = context;
    for (int32_t i = 0; watcher->needles != NULL && i < watcher->needles_a_row; i++) {
        const int32_t needle = watcher->needles[watcher->trace_row[row] * watcher->needles_a_row + i];
        if (needle >= 0) {
            watcher->found.planted++;
            watcher->found.flat += contains(flat, flat_count, needle);
            watcher->found.hisa += contains(hisa, hisa_count, needle);
            watcher->found.block += contains(block, block_count, needle);
        }
    }
    cli_progress_update(&watcher->progress, row + 1);
}

/* ------------------------------------------------------------------------------------------- the rows */

/* The rows that are audited: all of the trace's, or copies of evenly spread ones. */
typedef struct sample {
    cli_rows_t rows;
    int64_t *trace_row; /* [rows.count]; owned */
    uint8_t *q;         /* owned copies, NULL where the trace's own rows are used */
    float *weights;
    int32_t *windows; /* begins, then ends */
} sample_t;

static void sample_free(sample_t *sample) {
    free(sample->trace_row);
    free(sample->q);
    free(sample->weights);
    free(sample->windows);
    *sample = (sample_t){0};
}

static hisa_status_t sample_copy(const cli_rows_t *all, int64_t count, sample_t *sample) {
    const size_t heads = (size_t)all->num_heads;
    const size_t row_bytes = heads * (size_t)all->head_dim;
    sample->q = calloc((size_t)count + 1, row_bytes);
    sample->weights = calloc((size_t)count + 1, heads * sizeof(float));
    sample->windows = calloc((size_t)count + 1, 2 * sizeof(int32_t));
    if (sample->q == NULL || sample->weights == NULL || sample->windows == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for %" PRId64 " sampled rows", count);
    }
    for (int64_t i = 0; i < count; i++) {
        const int64_t row = sample->trace_row[i];
        memcpy(sample->q + (size_t)i * row_bytes, all->q + (size_t)row * row_bytes, row_bytes);
        memcpy(sample->weights + (size_t)i * heads, all->weights + (size_t)row * heads, heads * sizeof(float));
        sample->windows[i] = all->window_begin == NULL ? 0 : all->window_begin[row];
        sample->windows[count + i] = all->window_end == NULL ? 0 : all->window_end[row];
    }
    sample->rows.q = sample->q;
    sample->rows.weights = sample->weights;
    sample->rows.window_begin = all->window_begin == NULL ? NULL : sample->windows;
    sample->rows.window_end = all->window_end == NULL ? NULL : sample->windows + count;
    return HISA_OK;
}

static hisa_status_t sample_create(const hisa_trace_t *trace, int64_t wanted, sample_t *sample) {
    const cli_rows_t all = cli_trace_rows(trace);
    const int64_t count = wanted < 0 ? all.count : hisa_min(wanted, all.count);
    *sample = (sample_t){.rows = all};
    sample->rows.count = count;
    sample->trace_row = calloc((size_t)hisa_max(count, 1), sizeof *sample->trace_row);
    if (sample->trace_row == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for %" PRId64 " sampled rows", count);
    }
    for (int64_t i = 0; i < count; i++) {
        sample->trace_row[i] = i * all.count / count;
    }
    return count == all.count ? HISA_OK : sample_copy(&all, count, sample);
}

/* ------------------------------------------------------------------------------------------- printing */

static void print_figure(const char *mode, const char *name, const hisa_audit_figure_t *figure,
                         const sample_t *sample) {
    printf("%-6s %-7s %9.4f %10.4f %10.4f %9.4f   %" PRId64 "\n", mode, name, figure->mean, figure->p10, figure->p1,
           figure->worst, sample->trace_row[figure->worst_row]);
}

static void print_mode(const char *mode, const hisa_audit_mode_t *figures, const sample_t *sample) {
    print_figure(mode, "recall", &figures->recall, sample);
    print_figure("", "mass", &figures->mass, sample);
    print_figure("", "iou", &figures->iou, sample);
}

static void print_needles(const needle_count_t *found) {
    if (found->planted == 0) {
        return;
    }
    const double all = (double)found->planted / 100.0;
    printf("\nneedles found, of %" PRId64 " planted:  flat %" PRId64 " (%.1f %%)   hisa %" PRId64
           " (%.1f %%)   block %" PRId64 " (%.1f %%)\n",
           found->planted, found->flat, (double)found->flat / all, found->hisa, (double)found->hisa / all, found->block,
           (double)found->block / all);
}

static void print_table(const cli_session_t *session, const cli_options_t *options, const hisa_trace_t *trace,
                        const hisa_audit_report_t *report, const sample_t *sample, const needle_count_t *found) {
    const hisa_select_options_t *select = &options->select;
    printf("%" PRId64 " of %" PRId64 " queries over %" PRId64 " tokens, k %" PRId32 ", %" PRId32 " blocks of %" PRId32
           " kept, ranks %d\n",
           report->rows, trace->num_rows, trace->num_tokens, select->top_k, select->top_blocks, options->block_size,
           session->size);
    if (report->rows_empty > 0) {
        printf("%" PRId64 " of them see no token and are left out\n", report->rows_empty);
    }
    if (report->rows > report->rows_empty) {
        printf("\nWhat each mode keeps of the exact top-k (mode flat), as a share from 0 to 1:\n\n");
        printf("%-6s %-7s %9s %10s %10s %9s   %s\n", "mode", "", "mean", "10th pct.", "1st pct.", "worst",
               "worst query");
        print_mode("hisa", &report->hisa, sample);
        print_mode("block", &report->block, sample);
        printf("\nrecall: tokens of the exact top-k that are selected too. mass: their share of its summed scores.\n"
               "iou: tokens in both over tokens in either. 10th pct.: nine queries of ten do better.\n");
    }
    print_needles(found);
}

static void add_figure(cJSON *object, const char *name, const hisa_audit_figure_t *figure, const sample_t *sample,
                       bool any) {
    cJSON *item = cJSON_AddObjectToObject(object, name);
    cJSON_AddNumberToObject(item, "mean", figure->mean);
    cJSON_AddNumberToObject(item, "p1", figure->p1);
    cJSON_AddNumberToObject(item, "p10", figure->p10);
    cJSON_AddNumberToObject(item, "worst", figure->worst);
    cJSON_AddNumberToObject(item, "worst_row", any ? (double)sample->trace_row[figure->worst_row] : -1);
}

static void add_mode(cJSON *object, const char *name, const hisa_audit_mode_t *figures, const sample_t *sample,
                     bool any) {
    cJSON *item = cJSON_AddObjectToObject(object, name);
    add_figure(item, "recall", &figures->recall, sample, any);
    add_figure(item, "mass", &figures->mass, sample, any);
    add_figure(item, "iou", &figures->iou, sample, any);
}

static cJSON *make_json(const cli_session_t *session, const cli_options_t *options, const hisa_trace_t *trace,
                        const hisa_audit_report_t *report, const sample_t *sample, const needle_count_t *found) {
    cJSON *root = cJSON_CreateObject();
    const bool any = report->rows > report->rows_empty;
    cJSON_AddStringToObject(root, "command", "audit");
    cJSON_AddStringToObject(root, "keys", options->keys);
    cJSON_AddStringToObject(root, "queries", options->queries);
    cJSON_AddNumberToObject(root, "tokens", (double)trace->num_tokens);
    cJSON_AddNumberToObject(root, "queries_in_file", (double)trace->num_rows);
    cJSON_AddNumberToObject(root, "heads", trace->num_heads);
    cJSON_AddNumberToObject(root, "head_dim", trace->head_dim);
    cJSON_AddNumberToObject(root, "block_size", options->block_size);
    cJSON_AddNumberToObject(root, "top_blocks", options->select.top_blocks);
    cJSON_AddNumberToObject(root, "top_k", options->select.top_k);
    cJSON_AddNumberToObject(root, "sink_blocks", options->select.sink_blocks);
    cJSON_AddNumberToObject(root, "local_blocks", options->select.local_blocks);
    cJSON_AddNumberToObject(root, "ranks", session->size);
    cJSON_AddNumberToObject(root, "rows", (double)report->rows);
    cJSON_AddNumberToObject(root, "rows_empty", (double)report->rows_empty);
    add_mode(root, "hisa", &report->hisa, sample, any);
    add_mode(root, "block", &report->block, sample, any);
    if (found->planted > 0) {
        cJSON *needles = cJSON_AddObjectToObject(root, "needles");
        cJSON_AddNumberToObject(needles, "planted", (double)found->planted);
        cJSON_AddNumberToObject(needles, "flat", (double)found->flat);
        cJSON_AddNumberToObject(needles, "hisa", (double)found->hisa);
        cJSON_AddNumberToObject(needles, "block", (double)found->block);
    }
    return root;
}

/* ------------------------------------------------------------------------------------------- the work */

typedef struct run {
    cli_session_t *session;
    const audit_arguments_t *arguments;
    hisa_trace_t trace;
    sample_t sample;
    cli_deal_t deal;
    hisa_index_t *index;
    cli_report_t json; /* on rank 0 only */
} run_t;

static hisa_status_t prepare_here(run_t *run) {
    const cli_options_t *options = &run->arguments->options;
    hisa_status_t status = sample_create(&run->trace, run->arguments->rows, &run->sample);
    if (status == HISA_OK) {
        status = cli_deal_create(run->session, options, run->sample.rows.count, &run->deal);
    }
    if (status == HISA_OK && run->session->rank == 0) {
        status = cli_report_open(run->arguments->json, &run->json);
    }
    return status;
}

static hisa_status_t publish(run_t *run, const hisa_audit_report_t *report, const needle_count_t *found) {
    if (run->session->rank != 0) {
        return HISA_OK;
    }
    const cli_options_t *options = &run->arguments->options;
    if (!run->json.to_stdout) {
        print_table(run->session, options, &run->trace, report, &run->sample, found);
    }
    if (run->arguments->json == NULL) {
        return HISA_OK;
    }
    const hisa_status_t status =
        cli_report_write(&run->json, make_json(run->session, options, &run->trace, report, &run->sample, found), true);
    return status == HISA_OK ? cli_report_commit(&run->json) : status;
}

static hisa_status_t audit_rows(run_t *run) {
    const int mine = run->deal.mine;
    const int64_t begin = run->deal.begin[mine];
    const hisa_queries_t queries = cli_rows_slice(&run->sample.rows, begin, run->deal.begin[mine + 1] - begin);
    watcher_t watcher = {
        .needles = run->trace.needles, .needles_a_row = run->trace.num_needles, .trace_row = run->sample.trace_row};
    cli_progress_begin(&watcher.progress, run->session, "audit", run->sample.rows.count);
    hisa_audit_report_t report = {.struct_size = sizeof report};
    cli_staged_queries_t staged = {0};
    hisa_status_t status = cli_session_agree(run->session, cli_staged_queries_create(run->index, &queries, &staged));
    if (status == HISA_OK) {
        status = hisa_audit(run->index, &staged.queries, &run->arguments->options.select, watch_row, &watcher, NULL,
                            &report);
    }
    cli_staged_queries_free(&staged);
    cli_progress_end(&watcher.progress);
    return status == HISA_OK ? cli_session_agree(run->session, publish(run, &report, &watcher.found)) : status;
}

static hisa_status_t work(run_t *run) {
    cli_session_t *session = run->session;
    const cli_options_t *options = &run->arguments->options;
    const hisa_agree_value_t values[] = {{"--rows", run->arguments->rows}};
    hisa_status_t status = cli_session_agree_values(session, HISA_OK, values, 1);
    if (status == HISA_OK) {
        status = cli_trace_open(session, options, &run->trace);
    }
    if (status == HISA_OK) {
        status = cli_session_agree(session, prepare_here(run));
    }
    if (status == HISA_OK) {
        status = cli_index_create(session, options, session->comm, run->trace.head_dim, run->trace.num_heads,
                                  run->trace.num_tokens, &run->index);
    }
    if (status == HISA_OK) {
        status = cli_session_agree(session, cli_index_fill(session, options, &run->trace, run->index));
    }
    return status == HISA_OK ? audit_rows(run) : status;
}

hisa_status_t cli_audit(cli_session_t *session, int argc, char **argv) {
    audit_arguments_t arguments = {.rows = -1};
    cli_options_init(&arguments.options);
    arguments.options.files_needed = true;
    bool go = false;
    hisa_status_t status = cli_command_begin(session, &parser, argc, argv, &arguments, &arguments.options, &go);
    if (go) {
        run_t run = {.session = session, .arguments = &arguments};
        status = work(&run);
        cli_report_close(&run.json);
        hisa_index_destroy(run.index);
        cli_deal_free(&run.deal);
        sample_free(&run.sample);
        hisa_trace_close(&run.trace);
    }
    cli_options_free(&arguments.options);
    return status;
}
