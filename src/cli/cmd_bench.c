/* hisa bench: what each step costs. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "cli/bench_report.h"
#include "cli/command.h"
#include "cli/staging.h"
#include "cli/synth_options.h"

#define MODES_MAX 8

typedef struct bench_arguments {
    cli_options_t options;
    hisa_synth_config_t synth;
    int64_t *tokens; /* owned; NULL: the default */
    int64_t num_tokens_given;
    bool rows_given;
    hisa_mode_t modes[MODES_MAX];
    int num_modes;
    int64_t repeats;
    int64_t warmup;
    const char *json;
} bench_arguments_t;

enum { KEY_MODES = 0x200, KEY_REPEATS, KEY_WARMUP, KEY_JSON };

static error_t parse_modes(bench_arguments_t *arguments, const char *text) {
    arguments->num_modes = 0;
    const char *rest = text;
    while (true) {
        const size_t length = strcspn(rest, ",");
        char word[16];
        if (length >= sizeof word || arguments->num_modes == MODES_MAX) {
            return cli_bad_argument(&arguments->options, "--mode: '%s' is not a list of modes", text);
        }
        memcpy(word, rest, length);
        word[length] = '\0';
        int place = 0;
        const error_t error = cli_parse_word(&arguments->options, "mode", word, cli_mode_names, &place);
        if (error != 0) {
            return error;
        }
        arguments->modes[arguments->num_modes++] = (hisa_mode_t)place;
        if (rest[length] == '\0') {
            return 0;
        }
        rest += length + 1;
    }
}

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
    return 0;
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
        return parse_modes(arguments, arg);
    case KEY_REPEATS:
        return cli_parse_int(options, "repeats", arg, 1, 1000000, &arguments->repeats);
    case KEY_WARMUP:
        return cli_parse_int(options, "warmup", arg, 0, 1000000, &arguments->warmup);
    case KEY_JSON:
        arguments->json = arg;
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
    {"json", KEY_JSON, "FILE|-", 0,
     "Write one line of JSON for each mode and length; - is stdout, then without the tables", 2},
    {NULL, 0, NULL, 0, "Synthetic input, without --keys and --queries (K and M mean 1024 and 1024^2):", 2},
    {"tokens", CLI_KEY_SYNTH_TOKENS, "N,...", 0, "Tokens of the sequence; several make a growth curve (default 128K)",
     2},
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
        "slowest rank; the median over the repeats is given, with the fastest and the slowest.",
    .children = children,
};

/* ------------------------------------------------------------------------------------------- input */

/* The rows and the keys of one sequence length. */
typedef struct input {
    hisa_trace_t trace; /* zeroed if synthetic */
    uint8_t *q;         /* synthetic: owned */
    float *weights;
    int32_t *windows; /* begins, then ends */
    cli_rows_t rows;
    int64_t tokens;
} input_t;

static void input_free(input_t *input) {
    hisa_trace_close(&input->trace);
    free(input->q);
    free(input->weights);
    free(input->windows);
    *input = (input_t){0};
}

static hisa_status_t make_rows(const hisa_synth_config_t *config, input_t *input) {
    const hisa_status_t status = hisa_synth_check(config);
    if (status != HISA_OK) {
        return status;
    }
    const size_t rows = (size_t)config->num_rows;
    const size_t heads = (size_t)config->num_heads;
    input->q = calloc((rows + 1) * heads, (size_t)config->head_dim);
    input->weights = calloc((rows + 1) * heads, sizeof(float));
    input->windows = calloc(rows + 1, 2 * sizeof(int32_t));
    if (input->q == NULL || input->weights == NULL || input->windows == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for %" PRId64 " synthetic rows", config->num_rows);
    }
    hisa_synth_rows(config, 0, config->num_rows, input->q, input->weights, input->windows, input->windows + rows, NULL);
    input->tokens = config->num_tokens;
    input->rows = (cli_rows_t){.count = config->num_rows,
                               .num_heads = config->num_heads,
                               .head_dim = config->head_dim,
                               .q = input->q,
                               .weights = input->weights,
                               .window_begin = input->windows,
                               .window_end = input->windows + rows};
    return HISA_OK;
}

/* Collective; agreed. */
static hisa_status_t input_open(cli_session_t *session, const bench_arguments_t *arguments,
                                const hisa_synth_config_t *config, input_t *input) {
    if (arguments->options.keys == NULL) {
        return cli_session_agree(session, make_rows(config, input));
    }
    const hisa_status_t status = cli_trace_open(session, &arguments->options, &input->trace);
    if (status == HISA_OK) {
        input->rows = cli_trace_rows(&input->trace);
        input->tokens = input->trace.num_tokens;
        if (arguments->rows_given) {
            input->rows.count = hisa_min(input->rows.count, config->num_rows);
        }
    }
    return status;
}

static hisa_status_t append_synthetic(const cli_session_t *session, const cli_options_t *options,
                                      const hisa_synth_config_t *config, hisa_index_t *index) {
    const int64_t chunk =
        hisa_min(config->num_tokens, options->append_chunk > 0 ? options->append_chunk : CLI_APPEND_CHUNK);
    uint8_t *keys = calloc((size_t)chunk, (size_t)config->head_dim);
    float *scales = calloc((size_t)chunk, sizeof *scales);
    hisa_status_t status = HISA_OK;
    if (keys == NULL || scales == NULL) {
        status = hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for %" PRId64 " synthetic keys", chunk);
    }
    cli_progress_t progress;
    cli_progress_begin(&progress, session, "make and append keys", config->num_tokens);
    for (int64_t at = 0; at < config->num_tokens && status == HISA_OK; at += chunk) {
        const int64_t count = hisa_min(chunk, config->num_tokens - at);
        hisa_synth_keys(config, at, count, keys, scales);
        status = cli_staged_append(index, 0, count, keys, scales);
        cli_progress_update(&progress, at + count);
    }
    cli_progress_end(&progress);
    free(keys);
    free(scales);
    return status;
}

/* ------------------------------------------------------------------------------------------- the work */

typedef struct run {
    cli_session_t *session;
    const bench_arguments_t *arguments;
    bench_setting_t setting;
    bench_result_t *results; /* all so far; owned */
    int64_t num_results;
    cli_report_t json; /* on rank 0 only */
} run_t;

/* Prints the table of a result. */
static void show(const run_t *run, const bench_result_t *result) {
    if (run->session->rank == 0 && !run->json.to_stdout) {
        bench_print(&run->setting, result);
        fflush(stdout);
    }
}

/* Writes the JSON of the results from `first` on: once all modes of a length are known, for the speedups. */
static hisa_status_t write_json(run_t *run, int64_t first) {
    hisa_status_t status = HISA_OK;
    if (run->session->rank != 0 || run->arguments->json == NULL) {
        return status;
    }
    for (int64_t i = first; i < run->num_results && status == HISA_OK; i++) {
        cJSON *object = bench_json(&run->setting, &run->results[i], run->results, run->num_results);
        status = cli_report_write(&run->json, object, false);
    }
    return status;
}

static hisa_status_t measure_modes(run_t *run, const input_t *input, const cli_deal_t *deal, hisa_index_t *index) {
    const int64_t begin = deal->begin[deal->mine];
    const hisa_queries_t queries = cli_rows_slice(&input->rows, begin, deal->begin[deal->mine + 1] - begin);
    const int64_t first = run->num_results;
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < run->arguments->num_modes && status == HISA_OK; i++) {
        hisa_select_options_t options = run->arguments->options.select;
        options.mode = run->arguments->modes[i];
        bench_result_t result;
        status = bench_measure(run->session, index, &options, &queries, input->rows.count, run->arguments->warmup,
                               run->arguments->repeats, &result);
        if (status == HISA_OK) {
            result.tokens = input->tokens;
            run->results[run->num_results++] = result;
            show(run, &result);
        }
    }
    return status == HISA_OK ? cli_session_agree(run->session, write_json(run, first)) : status;
}

/* All modes at one length. */
static hisa_status_t measure_length(run_t *run, const hisa_synth_config_t *config) {
    cli_session_t *session = run->session;
    const cli_options_t *options = &run->arguments->options;
    input_t input = {0};
    cli_deal_t deal = {0};
    hisa_index_t *index = NULL;
    hisa_status_t status = input_open(session, run->arguments, config, &input);
    if (status == HISA_OK) {
        run->setting.num_heads = input.rows.num_heads;
        run->setting.head_dim = input.rows.head_dim;
        status = cli_session_agree(session, cli_deal_create(session, options, input.rows.count, &deal));
    }
    if (status == HISA_OK) {
        status = cli_index_create(session, options, session->comm, input.rows.head_dim, input.rows.num_heads,
                                  input.tokens, &index);
    }
    if (status == HISA_OK) {
        const hisa_status_t filled = options->keys != NULL ? cli_index_fill(session, options, &input.trace, index)
                                                           : append_synthetic(session, options, config, index);
        status = cli_session_agree(session, filled);
    }
    if (status == HISA_OK) {
        status = measure_modes(run, &input, &deal, index);
    }
    hisa_index_destroy(index);
    cli_deal_free(&deal);
    input_free(&input);
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
    const hisa_synth_config_t *synth = &arguments->synth;
    const hisa_agree_value_t values[] = {
        {"a hash of --tokens", tokens},    {"a hash of --mode", modes},
        {"--repeats", arguments->repeats}, {"--warmup", arguments->warmup},
        {"--family", synth->family},       {"--rows", synth->num_rows},
        {"--heads", synth->num_heads},     {"--head-dim", synth->head_dim},
        {"--needles", synth->num_needles}, {"--neighbours", synth->neighbours},
        {"--seed", (int64_t)synth->seed},  {"whether --rows is given", arguments->rows_given},
    };
    return cli_session_agree_values(session, HISA_OK, values, sizeof values / sizeof values[0]);
}

/* On this rank: room for the results, and on rank 0 the report and the peak, which the others wait for so that nothing
 * disturbs it. */
static hisa_status_t prepare_here(run_t *run, int64_t lengths) {
    const bench_arguments_t *arguments = run->arguments;
    run->results = calloc((size_t)lengths * (size_t)arguments->num_modes, sizeof *run->results);
    if (run->results == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the results");
    }
    bench_setting_t *setting = &run->setting;
    *setting = (bench_setting_t){.options = &arguments->options,
                                 .comm = hisa_comm_name(run->session->comm),
                                 .ranks = run->session->size,
                                 .threads = run->session->threads,
                                 .repeats = arguments->repeats,
                                 .family = arguments->options.keys != NULL               ? "trace"
                                           : arguments->synth.family == HISA_SYNTH_EXACT ? "exact"
                                                                                         : "drift",
                                 .peak_name = ""};
    if (run->session->rank != 0) {
        return HISA_OK;
    }
    const hisa_status_t status = cli_report_open(arguments->json, &run->json);
    if (status == HISA_OK) {
        setting->peak = cli_peak_flops(&setting->peak_name);
    }
    return status;
}

static hisa_status_t work(run_t *run) {
    const bench_arguments_t *arguments = run->arguments;
    const int64_t lengths = hisa_max(1, arguments->num_tokens_given);
    hisa_status_t status = agree_arguments(run->session, arguments);
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
        .modes = {HISA_MODE_HISA, HISA_MODE_FLAT}, .num_modes = 2, .repeats = 5, .warmup = 1};
    cli_options_init(&arguments.options);
    hisa_synth_config_init(&arguments.synth);
    arguments.synth.num_rows = 64;
    bool go = false;
    hisa_status_t status = cli_command_begin(session, &parser, argc, argv, &arguments, &arguments.options, &go);
    if (go) {
        run_t run = {.session = session, .arguments = &arguments};
        status = work(&run);
        cli_report_close(&run.json);
        free(run.results);
    }
    free(arguments.tokens);
    cli_options_free(&arguments.options);
    return status;
}
