/* hisa select: from a trace to a file of selected tokens. */
#include "base/error.h"
#include "cli/batches.h"
#include "cli/command.h"

typedef struct select_arguments {
    cli_options_t options;
    const char *out;
    bool scores;
} select_arguments_t;

enum { KEY_OUT = 'o', KEY_SCORES = 0x200 };

/* NOLINTNEXTLINE(readability-non-const-parameter): argp's signature */
static error_t parse(int key, char *arg, struct argp_state *state) {
    select_arguments_t *arguments = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        cli_options_pass_on(state, 5, &arguments->options);
        return 0;
    case KEY_OUT:
        arguments->out = arg;
        return 0;
    case KEY_SCORES:
        arguments->scores = true;
        return 0;
    case ARGP_KEY_END:
        if (arguments->options.action == CLI_RUN && arguments->out == NULL) {
            return cli_bad_argument(&arguments->options, "--out FILE is missing (see --help)");
        }
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option option_table[] = {
    {NULL, 0, NULL, 0, "Output:", 2},
    {"out", KEY_OUT, "FILE", 0,
     "Safetensors file to write: indices I32 [M, k], ascending, padded with -1; counts I32 [M]", 2},
    {"scores", KEY_SCORES, NULL, 0, "Write scores F32 [M, k] as well, padded with 0 (not in mode block)", 2},
    {0},
};
static const struct argp_child children[] = {{&cli_input_argp, 0, NULL, 0},   {&cli_mode_argp, 0, NULL, 0},
                                             {&cli_select_argp, 0, NULL, 0},  {&cli_run_argp, 0, NULL, 0},
                                             {&cli_general_argp, 0, NULL, 0}, {0}};
static const struct argp parser = {
    .options = option_table,
    .parser = parse,
    .doc =
        "Selects, for each query of a trace, the tokens that it attends to, and writes them to a file. The file is the "
        "same bytes whatever the number of ranks and the options that spread the work. On failure no file is written.",
    .children = children,
};

/* Places of the output's tensors. */
enum { OUT_INDICES, OUT_COUNTS, OUT_SCORES };

typedef struct run {
    cli_session_t *session;
    const select_arguments_t *arguments;
    hisa_trace_t trace;
    cli_deal_t deal;
    cli_batch_t batch;
    hisa_index_t *index;
    cli_selector_t selector;
    hisa_safetensors_writer_t *writer; /* on rank 0 only */
} run_t;

static hisa_status_t open_output(run_t *run) {
    if (run->session->rank != 0) {
        return HISA_OK;
    }
    const int64_t rows = run->trace.num_rows;
    const int32_t k = run->arguments->options.select.top_k;
    const hisa_tensor_spec_t specs[] = {
        [OUT_INDICES] = {.name = "indices", .dtype = HISA_DTYPE_I32, .dims = 2, .shape = {rows, k}},
        [OUT_COUNTS] = {.name = "counts", .dtype = HISA_DTYPE_I32, .dims = 1, .shape = {rows}},
        [OUT_SCORES] = {.name = "scores", .dtype = HISA_DTYPE_F32, .dims = 2, .shape = {rows, k}},
    };
    return hisa_safetensors_create(run->arguments->out, specs, run->arguments->scores ? 3 : 2, NULL, 0, &run->writer);
}

/* What can fail on one rank alone before the work starts: the deal of rows, memory, the output file. */
static hisa_status_t prepare_here(run_t *run) {
    const cli_options_t *options = &run->arguments->options;
    hisa_status_t status = cli_deal_create(run->session, options, run->trace.num_rows, &run->deal);
    if (status == HISA_OK) {
        status = cli_batch_create(&run->deal, cli_rows_of_batch(options->select.top_k), &run->batch);
    }
    if (status == HISA_OK) {
        status = cli_selector_create(run->index, &options->select, cli_batch_capacity(&run->batch),
                                     run->arguments->scores, &run->selector);
    }
    return status == HISA_OK ? open_output(run) : status;
}

static hisa_status_t write_tensor(run_t *run, int place, int64_t row, int64_t rows, int64_t row_bytes, const void *data,
                                  int64_t data_row) {
    return hisa_safetensors_write(run->writer, place, row * row_bytes, (const char *)data + data_row * row_bytes,
                                  rows * row_bytes);
}

static hisa_status_t write_batch(run_t *run) {
    if (run->session->rank != 0) {
        return HISA_OK;
    }
    const hisa_selection_t *selection = &run->selector.selection;
    const int64_t cells = run->arguments->options.select.top_k * (int64_t)sizeof(int32_t);
    hisa_status_t status = HISA_OK;
    int64_t done = 0;
    for (int r = 0; r < run->deal.runs && status == HISA_OK; r++) {
        const int64_t row = run->batch.begin[r];
        const int64_t rows = run->batch.count[r];
        status = write_tensor(run, OUT_INDICES, row, rows, cells, selection->indices, done);
        if (status == HISA_OK) {
            status = write_tensor(run, OUT_COUNTS, row, rows, sizeof(int32_t), selection->counts, done);
        }
        if (status == HISA_OK && run->arguments->scores) {
            status = write_tensor(run, OUT_SCORES, row, rows, cells, selection->scores, done);
        }
        done += rows;
    }
    return status;
}

static hisa_status_t select_all(run_t *run) {
    const cli_rows_t rows = cli_trace_rows(&run->trace);
    cli_progress_t progress;
    cli_progress_begin(&progress, run->session, "select", rows.count);
    hisa_status_t status = HISA_OK;
    int64_t done = 0;
    while (status == HISA_OK && cli_batch_next(&run->batch)) {
        const int mine = run->deal.mine;
        const hisa_queries_t queries = cli_rows_slice(&rows, run->batch.begin[mine], run->batch.count[mine]);
        status = cli_selector_run(&run->selector, &queries, run->batch.rows);
        if (status == HISA_OK) {
            status = cli_session_agree(run->session, write_batch(run));
        }
        done += run->batch.rows;
        cli_progress_update(&progress, done);
    }
    cli_progress_end(&progress);
    return status;
}

static hisa_status_t commit(run_t *run) {
    if (run->session->rank != 0) {
        return HISA_OK;
    }
    hisa_safetensors_writer_t *writer = run->writer;
    run->writer = NULL;
    return hisa_safetensors_commit(writer);
}

static hisa_status_t work(run_t *run) {
    cli_session_t *session = run->session;
    const cli_options_t *options = &run->arguments->options;
    const hisa_agree_value_t values[] = {{"--scores", run->arguments->scores}};
    hisa_status_t status = cli_session_agree_values(session, HISA_OK, values, 1);
    if (status == HISA_OK) {
        status = cli_trace_open(session, options, &run->trace);
    }
    if (status == HISA_OK) {
        status = cli_index_create(session, options, session->comm, run->trace.head_dim, run->trace.num_heads,
                                  run->trace.num_tokens, &run->index);
    }
    if (status == HISA_OK) {
        status = cli_session_agree(session, prepare_here(run));
    }
    if (status == HISA_OK) {
        status = cli_session_agree(session, cli_index_fill(session, options, &run->trace, run->index));
    }
    if (status == HISA_OK) {
        status = select_all(run);
    }
    return status == HISA_OK ? cli_session_agree(session, commit(run)) : status;
}

hisa_status_t cli_select(cli_session_t *session, int argc, char **argv) {
    select_arguments_t arguments = {0};
    cli_options_init(&arguments.options);
    arguments.options.files_needed = true;
    bool go = false;
    hisa_status_t status = cli_command_begin(session, &parser, argc, argv, &arguments, &arguments.options, &go);
    if (go) {
        run_t run = {.session = session, .arguments = &arguments};
        status = work(&run);
        hisa_safetensors_abandon(run.writer);
        cli_selector_free(&run.selector);
        hisa_index_destroy(run.index);
        cli_batch_free(&run.batch);
        cli_deal_free(&run.deal);
        hisa_trace_close(&run.trace);
    }
    cli_options_free(&arguments.options);
    return status;
}
