/* hisa bench: what each step costs. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "base/checked.h"
#include "base/error.h"
#include "cli/bench_append.h"
#include "cli/bench_ranks.h"
#include "cli/bench_report.h"
#include "cli/bench_work.h"
#include "cli/command.h"
#include "cli/synth_options.h"
#include "comm/threads.h"

#if defined(HISA_HAVE_CUDA)
#include "cli/bench_device.h"
#endif

typedef struct bench_arguments {
    cli_options_t options;
    hisa_synth_config_t synth;
    int64_t *tokens; /* owned; NULL: the default */
    int64_t num_tokens_given;
    bool rows_given;
    int modes[CLI_LIST_MAX]; /* hisa_mode_t each */
    int num_modes;
    bench_plan_t plan;
    int64_t sets; /* 0: chosen here */
    int64_t append;
    int64_t *as_ranks; /* owned; NULL: not asked for */
    int64_t num_as_ranks;
    bool random_queries;
    const char *json;
    const char *commit;
} bench_arguments_t;

enum {
    KEY_MODES = 0x200,
    KEY_REPEATS,
    KEY_WARMUP,
    KEY_JSON,
    KEY_GRAPH,
    KEY_SETS,
    KEY_SEQUENCES,
    KEY_APPEND,
    KEY_QUERY_FAMILY,
    KEY_OVERLAP,
    KEY_AS_RANKS,
    KEY_COMMIT
};

/* What only makes sense with, or without, files. */
static error_t check_source(bench_arguments_t *arguments) {
    cli_options_t *options = &arguments->options;
    if (options->action != CLI_RUN) {
        return 0;
    }
    if ((options->keys == NULL) != (options->queries == NULL)) {
        return cli_bad_argument(options, "--keys and --queries go together");
    }
    if (options->keys != NULL && arguments->tokens != NULL) {
        return cli_bad_argument(options, "--tokens is for synthetic input, not for --keys");
    }
    if (options->keys != NULL && (options->sequences > 1 || arguments->sets > 1 || arguments->random_queries)) {
        return cli_bad_argument(options,
                                "--sequences, --sets and --query-family are for synthetic input, not for --keys");
    }
    if (arguments->as_ranks != NULL && (arguments->sets > 0 || arguments->append > 0 || arguments->plan.graph ||
                                        arguments->plan.overlap || options->rows_per_rank != NULL)) {
        return cli_bad_argument(options,
                                "--as-ranks goes without --sets, --append, --graph, --overlap and --rows-per-rank");
    }
    if (arguments->as_ranks != NULL && (options->num_exchanges > 1 || options->num_stripes > 1)) {
        return cli_bad_argument(options, "--as-ranks takes one --exchange and one --stripe");
    }
    if (arguments->synth.num_rows % options->sequences != 0) {
        return cli_bad_argument(options, "--rows: %" PRId64 " rows cannot be spread evenly over %" PRId32 " sequences",
                                arguments->synth.num_rows, options->sequences);
    }
    return 0;
}

static error_t parse_query_family(bench_arguments_t *arguments, const char *text) {
    static const char *const names[] = {"same", "random", NULL};
    int place = 0;
    const error_t error = cli_parse_word(&arguments->options, "query-family", text, names, &place);
    arguments->random_queries = place == 1;
    return error;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    bench_arguments_t *arguments = state->input;
    cli_options_t *options = &arguments->options;
    switch (key) {
    case ARGP_KEY_INIT:
        cli_options_pass_on(state, 4, options);
        return 0;
    case CLI_KEY_SYNTH_TOKENS:
        return cli_parse_ints(options, "tokens", arg, 1, INT32_MAX, &arguments->tokens, &arguments->num_tokens_given);
    case CLI_KEY_SYNTH_ROWS:
        arguments->rows_given = true;
        return cli_parse_synth(options, key, arg, &arguments->synth);
    case KEY_MODES:
        return cli_parse_words(options, "mode", arg, cli_mode_names, arguments->modes, &arguments->num_modes);
    case KEY_REPEATS:
        return cli_parse_int(options, "repeats", arg, 1, 1000000, &arguments->plan.repeats);
    case KEY_WARMUP:
        return cli_parse_int(options, "warmup", arg, 0, 1000000, &arguments->plan.warmup);
    case KEY_JSON:
        arguments->json = arg;
        return 0;
    case KEY_GRAPH:
        arguments->plan.graph = true;
        return 0;
    case KEY_OVERLAP:
        arguments->plan.overlap = true;
        return 0;
    case KEY_SETS:
        return cli_parse_int(options, "sets", arg, 1, 4096, &arguments->sets);
    case KEY_SEQUENCES:
        return cli_parse_int32(options, "sequences", arg, 1, 65536, &options->sequences);
    case KEY_APPEND:
        return cli_parse_int(options, "append", arg, 1, INT32_MAX, &arguments->append);
    case KEY_AS_RANKS:
        return cli_parse_ints(options, "as-ranks", arg, 1, HISA_THREADS_MAX, &arguments->as_ranks,
                              &arguments->num_as_ranks);
    case KEY_QUERY_FAMILY:
        return parse_query_family(arguments, arg);
    case KEY_COMMIT:
        arguments->commit = arg;
        return 0;
    case ARGP_KEY_END:
        return check_source(arguments);
    default:
        return cli_parse_synth(options, key, arg, &arguments->synth);
    }
}

static const struct argp_option option_table[] = {
    {NULL, 0, NULL, 0, "What is timed and printed:", 2},
    {"mode", KEY_MODES, "MODE,...", 0, "Modes to time, of hisa, flat and block (default hisa,flat)", 2},
    {"repeats", KEY_REPEATS, "N", 0, "Timed calls of each mode (default 5)", 2},
    {"warmup", KEY_WARMUP, "N", 0, "Calls before the timed ones (default 1)", 2},
    {"json", KEY_JSON, "FILE|-", 0, "Write one line of JSON for each case; - is stdout, then without the tables", 2},
    {"append", KEY_APPEND, "N", 0, "Time appends of N tokens as well", 2},
    {"as-ranks", KEY_AS_RANKS, "P,...", 0,
     "Without mpirun: what a rank of P computes (P up to 64), the ranks taking turns on this machine or GPU, and what "
     "does not shrink with P",
     2},
    {"overlap", KEY_OVERLAP, NULL, 0, "Tell how much of its selection a query shares with the one before it", 2},
    {"graph", KEY_GRAPH, NULL, 0,
     "CUDA: also capture a call in a graph and time its replays, but of owner merges, which cannot be captured", 2},
    {"commit", KEY_COMMIT, "TEXT", 0, "What is measured, for the JSON", 2},
    {NULL, 0, NULL, 0, "Synthetic input, without --keys and --queries (K and M mean 1024 and 1024^2):", 2},
    {"tokens", CLI_KEY_SYNTH_TOKENS, "N,...", 0, "Tokens of the sequence; several make a growth curve (default 128K)",
     2},
    {"sequences", KEY_SEQUENCES, "N", 0,
     "Sequences of that many tokens each, over which the rows are spread evenly (default 1)", 2},
    {"query-family", KEY_QUERY_FAMILY, "same|random", 0,
     "same (default): queries of the keys' family. random: each by itself, so that neighbours share few blocks", 2},
    {"sets", KEY_SETS, "N", 0,
     "CUDA: sets of queries that calls take in turn (default: more bytes than L2 holds, 64 at the most)", 2},
    CLI_SYNTH_OPTIONS("64; with --queries: all, else the first N", 2),
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
        "Times each step of the selection on synthetic input or on a trace, counts the bytes that ranks exchange, and "
        "compares the scoring rate with the peak rate of the cores, which it measures first. Times are those of the "
        "slowest rank; the median over the repeats is given, with the fastest and the slowest. On CUDA times are those "
        "of "
        "events on the stream, and the rates stand beside a copy and a matrix product measured on the same device. "
        "Across ranks it is told how long exchanges take, and how much of them runs under computing: what a call saves "
        "against its steps one after the other, as a share of the exchanges, waiting for peers included. --exchange "
        "and "
        "--stripe may be lists with commas, of which each is timed.",
    .children = children,
};

/* ------------------------------------------------------------------------------------------- the work */

typedef struct run {
    cli_session_t *session;
    bench_arguments_t *arguments; /* options.stripe and options.select: of the case at hand */
    bench_setting_t setting;
    bench_result_t *results; /* all so far; owned */
    int64_t num_results;
    cli_report_t json;   /* on rank 0 only */
    struct cli_gpu *gpu; /* NULL on the CPU */
    cli_gpu_t device;    /* where gpu points */
} run_t;

/* Prints the table of a result. */
static void show(const run_t *run, const bench_result_t *result) {
    if (run->session->rank == 0 && !run->json.to_stdout) {
        bench_print(&run->setting, result);
        fflush(stdout);
    }
}

/* Writes the JSON of the results from `first` on: once all modes of a length are known, for the speedups. */
static hisa_status_t write_json(run_t *run, int64_t first, const bench_append_t *append) {
    hisa_status_t status = HISA_OK;
    if (run->session->rank != 0 || run->arguments->json == NULL) {
        return status;
    }
    for (int64_t i = first; i < run->num_results && status == HISA_OK; i++) {
        cJSON *object = bench_json(&run->setting, &run->results[i], run->results, run->num_results);
        status = cli_report_write(&run->json, object, false);
    }
    if (status == HISA_OK && append->tokens > 0) {
        status = cli_report_write(&run->json, bench_append_json(&run->setting, append), false);
    }
    return status;
}

#if defined(HISA_HAVE_CUDA)
/* This rank's part of every set. Keys by the windows, which the backend cannot see. */
static hisa_status_t measure_device(run_t *run, const bench_input_t *input, const cli_deal_t *deal, hisa_index_t *index,
                                    const hisa_select_options_t *options, const bench_plan_t *plan,
                                    bench_result_t *result) {
    const int64_t begin = deal->begin[deal->mine];
    hisa_queries_t *sets = calloc((size_t)input->sets, sizeof *sets);
    hisa_status_t status = HISA_OK;
    if (sets == NULL) {
        status = hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for %" PRId64 " sets of queries", input->sets);
    }
    status = cli_session_agree(run->session, status);
    for (int64_t s = 0; s < input->sets && status == HISA_OK && sets != NULL; s++) {
        const cli_rows_t rows = bench_input_set(input, s);
        sets[s] = cli_rows_slice(&rows, begin, deal->begin[deal->mine + 1] - begin);
    }
    if (status == HISA_OK) {
        status = bench_measure_device(run->session, run->gpu, index, options, sets, input->sets, input->rows.count,
                                      plan, result);
    }
    if (status == HISA_OK) {
        const bench_keys_t keys =
            bench_count_keys(options, run->arguments->options.block_size, &input->rows, input->tokens);
        result->steps[HISA_STEP_SCORE_BLOCKS].keys = keys.blocks;
        result->steps[HISA_STEP_SCORE_TOKENS].keys = keys.tokens;
        result->device.keys_exact = keys.exact;
    }
    free(sets);
    return status;
}
#endif

/* One mode and exchange at one length. */
static hisa_status_t measure(run_t *run, const bench_input_t *input, const cli_deal_t *deal, hisa_index_t *index,
                             hisa_mode_t mode, bench_result_t *result) {
    const int64_t begin = deal->begin[deal->mine];
    hisa_select_options_t options = run->arguments->options.select;
    bench_plan_t plan = run->arguments->plan;
    options.mode = mode;
    plan.rows_per_sequence = input->rows_per_sequence;
#if defined(HISA_HAVE_CUDA)
    if (run->gpu != NULL) {
        return measure_device(run, input, deal, index, &options, &plan, result);
    }
#endif
    const hisa_queries_t queries = cli_rows_slice(&input->rows, begin, deal->begin[deal->mine + 1] - begin);
    return bench_measure(run->session, index, &options, &queries, input->rows.count, &plan, result);
}

/* All that is asked for at one length. */
static hisa_status_t measure_index(run_t *run, const bench_source_t *source, const bench_input_t *input,
                                   const cli_deal_t *deal, hisa_index_t *index) {
    const int64_t first = run->num_results;
    bench_append_t append = {0};
    hisa_status_t status = HISA_OK;
    cli_options_t *options = &run->arguments->options;
    const int cases = run->arguments->num_modes * options->num_exchanges;
    for (int i = 0; i < cases && status == HISA_OK; i++) {
        bench_result_t result;
        options->select.exchange = (hisa_exchange_t)options->exchanges[i % options->num_exchanges];
        const hisa_mode_t mode = (hisa_mode_t)run->arguments->modes[i / options->num_exchanges];
        status = measure(run, input, deal, index, mode, &result);
        if (status == HISA_OK) {
            result.tokens = input->tokens;
            result.asked = options->select.exchange;
            result.stripe = options->stripe;
            run->results[run->num_results++] = result;
            show(run, &result);
        }
    }
    if (status == HISA_OK && run->arguments->append > 0) {
        status = bench_measure_append(run->session, run->gpu, index, source, input, run->arguments->append,
                                      &run->arguments->plan, &append);
        if (status == HISA_OK && run->session->rank == 0 && !run->json.to_stdout) {
            bench_print_append(&run->setting, &append);
        }
    }
    return status == HISA_OK ? cli_session_agree(run->session, write_json(run, first, &append)) : status;
}

/* Appended tokens are those at the start of the input. */
static hisa_status_t check_append(const bench_arguments_t *arguments, const bench_input_t *input) {
    if (arguments->append > input->tokens) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT,
                         "--append: %" PRId64 " tokens are more than the %" PRId64 " there are", arguments->append,
                         input->tokens);
    }
    return HISA_OK;
}

/* All modes at one length, on several numbers of ranks that take turns. */
static hisa_status_t measure_as_ranks(run_t *run, const bench_source_t *source, const bench_input_t *input) {
    const bench_arguments_t *arguments = run->arguments;
    const bench_ranks_plan_t plan = {.ranks = arguments->as_ranks,
                                     .num_ranks = arguments->num_as_ranks,
                                     .modes = arguments->modes,
                                     .num_modes = arguments->num_modes,
                                     .warmup = arguments->plan.warmup,
                                     .repeats = arguments->plan.repeats};
    return bench_ranks_run(run->session, &run->setting, run->gpu, source, input, &plan, &run->json);
}

/* All that is asked for on an index of the session's own ranks. */
static hisa_status_t measure_here(run_t *run, const bench_source_t *source, const bench_input_t *input) {
    cli_session_t *session = run->session;
    const cli_options_t *options = &run->arguments->options;
    cli_deal_t deal = {0};
    hisa_index_t *index = NULL;
    hisa_status_t status = check_append(run->arguments, input);
    status = cli_session_agree(session, status == HISA_OK ? cli_deal_create(session, options, input->rows.count, &deal)
                                                          : status);
    if (status == HISA_OK) {
        status = cli_index_create(session, options, session->comm, input->rows.head_dim, input->rows.num_heads,
                                  input->tokens + run->arguments->append, &index);
    }
    if (status == HISA_OK) {
        status = cli_session_agree(session, bench_input_fill(session, source, input, index));
    }
    if (status == HISA_OK) {
        status = measure_index(run, source, input, &deal, index);
    }
    hisa_index_destroy(index);
    cli_deal_free(&deal);
    return status;
}

static hisa_status_t measure_stripes(run_t *run, const bench_source_t *source, const bench_input_t *input) {
    cli_options_t *options = &run->arguments->options;
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < options->num_stripes && status == HISA_OK; i++) {
        options->stripe = options->stripes[i];
        status = measure_here(run, source, input);
    }
    return status;
}

/* All modes at one length. */
static hisa_status_t measure_length(run_t *run, const hisa_synth_config_t *config) {
    const bench_arguments_t *arguments = run->arguments;
    const bool as_ranks = arguments->as_ranks != NULL;
    const bench_source_t source = {.options = &arguments->options,
                                   .synth = *config,
                                   .rows_given = arguments->rows_given,
                                   .random_queries = arguments->random_queries,
                                   .sets = as_ranks ? 1 : arguments->sets, /* L2 is emptied instead */
                                   .l2_bytes = run->setting.l2_bytes,
                                   .threads = run->session->threads};
    bench_input_t input = {0};
    hisa_status_t status = bench_input_open(run->session, &source, &input);
    if (status == HISA_OK) {
        run->setting.num_heads = input.rows.num_heads;
        run->setting.head_dim = input.rows.head_dim;
        status = as_ranks ? measure_as_ranks(run, &source, &input) : measure_stripes(run, &source, &input);
    }
    bench_input_close(&input);
    return status;
}

static hisa_status_t agree_arguments(cli_session_t *session, const bench_arguments_t *arguments) {
    int64_t tokens = arguments->num_tokens_given;
    for (int64_t i = 0; i < arguments->num_tokens_given; i++) {
        tokens = tokens * 31 % INT32_MAX + arguments->tokens[i];
    }
    int64_t modes = arguments->num_modes;
    for (int i = 0; i < arguments->num_modes; i++) {
        modes = modes * 4 + arguments->modes[i];
    }
    const cli_options_t *options = &arguments->options;
    int64_t exchanges = options->num_exchanges;
    for (int i = 0; i < options->num_exchanges; i++) {
        exchanges = exchanges * 4 + options->exchanges[i];
    }
    int64_t stripes = options->num_stripes;
    for (int i = 0; i < options->num_stripes; i++) {
        stripes = stripes * 31 % INT32_MAX + options->stripes[i];
    }
    const hisa_synth_config_t *synth = &arguments->synth;
    const hisa_agree_value_t values[] = {
        {"a hash of --exchange", exchanges},
        {"a hash of --stripe", stripes},
        {"a hash of --tokens", tokens},
        {"a hash of --mode", modes},
        {"--repeats", arguments->plan.repeats},
        {"--warmup", arguments->plan.warmup},
        {"--family", synth->family},
        {"--rows", synth->num_rows},
        {"--heads", synth->num_heads},
        {"--head-dim", synth->head_dim},
        {"--needles", synth->num_needles},
        {"--neighbours", synth->neighbours},
        {"--seed", (int64_t)synth->seed},
        {"whether --rows is given", arguments->rows_given},
        {"--sequences", options->sequences},
        {"--sets", arguments->sets},
        {"--append", arguments->append},
        {"entries of --as-ranks", arguments->num_as_ranks},
        {"--query-family", arguments->random_queries},
        {"--graph", arguments->plan.graph},
        {"--overlap", arguments->plan.overlap},
    };
    return cli_session_agree_values(session, HISA_OK, values, sizeof values / sizeof values[0]);
}

/* The device, if it is one that the index will be on. */
static hisa_status_t open_device(run_t *run) {
    const bench_arguments_t *arguments = run->arguments;
    const hisa_backend_t asked = arguments->options.backend;
    const hisa_backend_ops_t *ops = NULL;
    hisa_status_t status = hisa_backend_find(asked, &ops);
    if (status == HISA_OK && asked == HISA_BACKEND_AUTO && run->session->size > 1 &&
        ops->device_memory != run->session->comm->ops->device_memory) {
        status = hisa_backend_find(HISA_BACKEND_CPU, &ops); /* as hisa_index_create has it */
    }
    if (status != HISA_OK) {
        return status;
    }
#if defined(HISA_HAVE_CUDA)
    if (ops->kind == HISA_BACKEND_CUDA) {
        status = cli_gpu_open(&run->device);
        if (status == HISA_OK) {
            run->gpu = &run->device;
            run->setting.gpu = run->gpu;
            run->setting.l2_bytes = run->gpu->l2_bytes;
            status = cli_gpu_peak(run->gpu, &run->setting.gpu_peak);
        }
        return status;
    }
#endif
    if (arguments->plan.graph || arguments->sets > 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "--%s is for backend cuda, and this run is on %s",
                         arguments->plan.graph ? "graph" : "sets", ops->name);
    }
    return HISA_OK;
}

/* On this rank: room for the results, and on rank 0 the report and the peak, which the others wait for so that nothing
 * disturbs it. */
static hisa_status_t prepare_here(run_t *run, int64_t lengths) {
    const bench_arguments_t *arguments = run->arguments;
    hisa_status_t status = HISA_OK;
    const int cases = arguments->num_modes * arguments->options.num_exchanges * arguments->options.num_stripes;
    run->results = calloc((size_t)lengths * (size_t)cases, sizeof *run->results);
    if (run->results == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the results");
    }
    bench_setting_t *setting = &run->setting;
    *setting = (bench_setting_t){.options = &arguments->options,
                                 .comm = hisa_comm_name(run->session->comm),
                                 .ranks = run->session->size,
                                 .threads = run->session->threads,
                                 .repeats = arguments->plan.repeats,
                                 .queries = arguments->random_queries ? "random" : NULL,
                                 .commit = arguments->commit,
                                 .family = arguments->options.keys != NULL               ? "trace"
                                           : arguments->synth.family == HISA_SYNTH_EXACT ? "exact"
                                                                                         : "drift",
                                 .peak_name = ""};
    status = open_device(run);
    if (status != HISA_OK || run->session->rank != 0) {
        return status;
    }
    status = cli_report_open(arguments->json, &run->json);
    if (status == HISA_OK) {
        setting->peak = cli_peak_flops(&setting->peak_name);
    }
    return status;
}

static hisa_status_t work(run_t *run) {
    const bench_arguments_t *arguments = run->arguments;
    const int64_t lengths = hisa_max(1, arguments->num_tokens_given);
    hisa_status_t status = agree_arguments(run->session, arguments);
    if (status == HISA_OK && arguments->as_ranks != NULL && run->session->size > 1) {
        status =
            hisa_fail(HISA_ERR_INVALID_ARGUMENT, "--as-ranks: the ranks are threads of one process: leave mpirun out");
    }
    if (status == HISA_OK) {
        status = cli_session_agree(run->session, prepare_here(run, lengths));
    }
    for (int64_t i = 0; i < lengths && status == HISA_OK; i++) {
        hisa_synth_config_t config = arguments->synth;
        config.num_tokens = arguments->tokens != NULL ? arguments->tokens[i] : config.num_tokens;
        status = measure_length(run, &config);
    }
    if (status == HISA_OK && run->session->rank == 0 && !run->json.to_stdout) {
        bench_print_summary(&run->setting, run->results, run->num_results);
    }
    return status == HISA_OK ? cli_session_agree(run->session, cli_report_commit(&run->json)) : status;
}

hisa_status_t cli_bench(cli_session_t *session, int argc, char **argv) {
    bench_arguments_t arguments = {
        .modes = {HISA_MODE_HISA, HISA_MODE_FLAT}, .num_modes = 2, .plan = {.repeats = 5, .warmup = 1}};
    cli_options_init(&arguments.options);
    arguments.options.lists_taken = true;
    hisa_synth_config_init(&arguments.synth);
    arguments.synth.num_rows = 64;
    bool go = false;
    hisa_status_t status = cli_command_begin(session, &parser, argc, argv, &arguments, &arguments.options, &go);
    if (go) {
        run_t run = {.session = session, .arguments = &arguments};
        status = work(&run);
        cli_report_close(&run.json);
#if defined(HISA_HAVE_CUDA)
        cli_gpu_close(&run.device);
#endif
        free(run.results);
    }
    free(arguments.tokens);
    free(arguments.as_ranks);
    cli_options_free(&arguments.options);
    return status;
}
