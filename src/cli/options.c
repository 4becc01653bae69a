#include "cli/options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"

const char *const cli_mode_names[] = {"hisa", "flat", "block", NULL};
const char *const cli_exchange_names[] = {"auto", "owner", "oneshot", "lists", NULL};
const char *const cli_queries_on_names[] = {"replicated", "sharded", NULL};
static const char *const comm_names[] = {"auto", "self", "mpi", "nccl", NULL};
static const char *const backend_names[] = {"auto", "cpu", "cuda", NULL};

/* Longer than the library's own default: here ranks also read files and print while the others wait. */
#define DEFAULT_DEADLINE 600.0

enum {
    KEY_VERSION = 'V',
    KEY_HELP = 'h',
    KEY_COMM = 0x100,
    KEY_BACKEND,
    KEY_THREADS,
    KEY_DEADLINE,
    KEY_SHARE_GPU,
    KEY_COMM_LATENCY,
    KEY_COMM_BANDWIDTH,
    KEY_KEYS,
    KEY_QUERIES,
    KEY_MODE,
    KEY_BLOCK_SIZE,
    KEY_TOP_BLOCKS,
    KEY_TOP_K,
    KEY_SINK_BLOCKS,
    KEY_LOCAL_BLOCKS,
    KEY_STRIPE,
    KEY_EXCHANGE,
    KEY_QUERIES_ON,
    KEY_ROWS_PER_RANK,
    KEY_APPEND_CHUNK,
    KEY_TILE_ROWS
};

void cli_options_init(cli_options_t *options) {
    *options = (cli_options_t){
        .deadline = DEFAULT_DEADLINE, .comm_latency = -1, .sequences = 1, .num_exchanges = 1, .num_stripes = 1};
    hisa_select_options_init(&options->select);
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    options->block_size = config.block_size;
    options->stripe = config.stripe;
    options->stripes[0] = config.stripe;
}

void cli_options_free(cli_options_t *options) {
    free(options->rows_per_rank);
    options->rows_per_rank = NULL;
}

error_t cli_bad_argument(cli_options_t *options, const char *format, ...) {
    char message[HISA_ERROR_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s", message);
    options->complained = true;
    return EINVAL;
}

/* ------------------------------------------------------------------------------------------- single values */

/* The number at the start of text; *end is left after it and its suffix. False if there is none or it overflows. */
static bool scan_int(const char *text, char **end, int64_t *value) {
    errno = 0;
    const long long number = strtoll(text, end, 10);
    if (*end == text || errno == ERANGE || text[0] == ' ') {
        return false;
    }
    int64_t unit = 1;
    if (**end == 'K' || **end == 'M') {
        unit = **end == 'K' ? 1024 : 1024 * 1024;
        (*end)++;
    }
    return !__builtin_mul_overflow((int64_t)number, unit, value);
}

error_t cli_parse_int(cli_options_t *options, const char *name, const char *text, int64_t min, int64_t max,
                      int64_t *value) {
    char *end = NULL;
    int64_t number = 0;
    if (!scan_int(text, &end, &number) || *end != '\0' || number < min || number > max) {
        return cli_bad_argument(options, "--%s: '%s' is not a whole number from %" PRId64 " to %" PRId64, name, text,
                                min, max);
    }
    *value = number;
    return 0;
}

error_t cli_parse_int32(cli_options_t *options, const char *name, const char *text, int64_t min, int64_t max,
                        int32_t *value) {
    int64_t number = 0;
    const error_t error = cli_parse_int(options, name, text, min, hisa_min(max, INT32_MAX), &number);
    if (error == 0) {
        *value = (int32_t)number;
    }
    return error;
}

error_t cli_parse_ints(cli_options_t *options, const char *name, const char *text, int64_t min, int64_t max,
                       int64_t **values, int64_t *count) {
    int64_t places = 1;
    for (const char *c = text; *c != '\0'; c++) {
        places += *c == ',';
    }
    int64_t *list = calloc((size_t)places, sizeof *list);
    if (list == NULL) {
        return cli_bad_argument(options, "--%s: out of memory", name);
    }
    const char *rest = text;
    for (int64_t i = 0; i < places; i++) {
        char *end = NULL;
        const char stop = i + 1 < places ? ',' : '\0';
        if (!scan_int(rest, &end, &list[i]) || *end != stop || list[i] < min || list[i] > max) {
            free(list);
            return cli_bad_argument(options,
                                    "--%s: '%s' is not a list of whole numbers from %" PRId64 " to %" PRId64
                                    " with commas between them",
                                    name, text, min, max);
        }
        rest = end + 1;
    }
    free(*values);
    *values = list;
    *count = places;
    return 0;
}

error_t cli_parse_word(cli_options_t *options, const char *name, const char *text, const char *const *words,
                       int *place) {
    char known[128] = "";
    for (int i = 0; words[i] != NULL; i++) {
        if (strcmp(text, words[i]) == 0) {
            *place = i;
            return 0;
        }
        const size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i == 0 ? "" : ", ", words[i]);
    }
    return cli_bad_argument(options, "--%s: '%s' is not one of %s", name, text, known);
}

/* The next of the words that commas part; *rest is left behind its comma, or NULL after the last. False if it is too
 * long to be one. */
static bool next_word(const char **rest, char word[16]) {
    const size_t length = strcspn(*rest, ",");
    if (length >= 16) {
        return false;
    }
    memcpy(word, *rest, length);
    word[length] = '\0';
    *rest = (*rest)[length] == ',' ? *rest + length + 1 : NULL;
    return true;
}

error_t cli_parse_words(cli_options_t *options, const char *name, const char *text, const char *const *words,
                        int *places, int *count) {
    int n = 0;
    for (const char *rest = text; rest != NULL; n++) {
        char word[16];
        if (n == CLI_LIST_MAX || !next_word(&rest, word)) {
            return cli_bad_argument(options, "--%s: '%s' is not a list of %d words or fewer", name, text, CLI_LIST_MAX);
        }
        const error_t error = cli_parse_word(options, name, word, words, &places[n]);
        if (error != 0) {
            return error;
        }
    }
    *count = n;
    return 0;
}

/* A number of `unit`s, stored in *value times `scale`; greater than 0, or `zero`: at least 0. */
static error_t parse_amount(cli_options_t *options, const char *name, const char *text, const char *unit, double scale,
                            bool zero, double *value) {
    char *end = NULL;
    const double number = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(number) || number < 0 || (number == 0 && !zero)) {
        return cli_bad_argument(options, "--%s: '%s' is not a number of %s %s 0", name, text, unit,
                                zero ? "of at least" : "greater than");
    }
    *value = number * scale;
    return 0;
}

/* ------------------------------------------------------------------------------------------- groups of options */

/* The option of that long name among the parser's own and its children's, or NULL. */
static const struct argp_option *find_option(const struct argp *argp, const char *name, size_t length) {
    for (const struct argp_option *o = argp->options; o != NULL && (o->name != NULL || o->doc != NULL); o++) {
        if (o->name != NULL && strlen(o->name) == length && strncmp(o->name, name, length) == 0) {
            return o;
        }
    }
    for (const struct argp_child *child = argp->children; child != NULL && child->argp != NULL; child++) {
        const struct argp_option *found = find_option(child->argp, name, length);
        if (found != NULL) {
            return found;
        }
    }
    return NULL;
}

/* What getopt stumbled over, in one line. With ARGP_NO_ERRS argp itself says nothing, and only the place is known. */
static void describe_bad_option(const struct argp_state *state, cli_options_t *options) {
    const int last = state->next - 1;
    const char *text = last >= 1 ? state->argv[last] : "";
    if (text[0] != '-' && state->next < state->argc) {
        text = state->argv[state->next]; /* inside a cluster of short options getopt has not moved on */
    }
    const struct argp_option *option =
        strncmp(text, "--", 2) == 0 ? find_option(state->root_argp, text + 2, strcspn(text + 2, "=")) : NULL;
    if (option == NULL) {
        cli_bad_argument(options, "unknown or ambiguous option '%s' (see --help)", text);
    } else {
        cli_bad_argument(options, option->arg != NULL ? "option '%s' needs a value" : "option '%s' takes no value",
                         text);
    }
}

static error_t parse_general(int key, char *arg, struct argp_state *state) {
    cli_options_t *options = state->input;
    switch (key) {
    case KEY_HELP:
        options->action = CLI_HELP;
        return 0;
    case KEY_VERSION:
        options->action = options->action == CLI_HELP ? CLI_HELP : CLI_VERSION;
        return 0;
    case ARGP_KEY_ARG:
        return cli_bad_argument(options, "unexpected argument '%s' (see --help)", arg);
    case ARGP_KEY_ERROR:
        if (!options->complained) {
            describe_bad_option(state, options);
        }
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option general_options[] = {
    {"help", KEY_HELP, NULL, 0, "Print this help and exit", -1},
    {"version", KEY_VERSION, NULL, 0, "Print the version and exit", -1},
    {0},
};
const struct argp cli_general_argp = {.options = general_options, .parser = parse_general};

static error_t parse_run(int key, char *arg, struct argp_state *state) {
    cli_options_t *options = state->input;
    int place = 0;
    error_t error = 0;
    switch (key) {
    case KEY_COMM:
        error = cli_parse_word(options, "comm", arg, comm_names, &place);
        options->comm = (cli_comm_kind_t)place;
        return error;
    case KEY_BACKEND:
        error = cli_parse_word(options, "backend", arg, backend_names, &place);
        options->backend = (hisa_backend_t)place;
        return error;
    case KEY_THREADS:
        return cli_parse_int32(options, "threads", arg, 0, 4096, &options->threads);
    case KEY_DEADLINE:
        return parse_amount(options, "deadline", arg, "seconds", 1, false, &options->deadline);
    case KEY_SHARE_GPU:
        options->share_gpu = true;
        return 0;
    case KEY_COMM_LATENCY:
        return parse_amount(options, "comm-latency", arg, "microseconds", 1e-6, true, &options->comm_latency);
    case KEY_COMM_BANDWIDTH:
        return parse_amount(options, "comm-bandwidth", arg, "GB/s", 1e9, false, &options->comm_bandwidth);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option run_options[] = {
    {NULL, 0, NULL, 0, "Where it runs:", 5},
    {"comm", KEY_COMM, "auto|self|mpi|nccl", 0,
     "How ranks talk. auto (default): mpi under mpirun, else self, which is one rank. nccl: from GPU to GPU, one "
     "rank a GPU, by its place on its host",
     5},
    {"share-gpu", KEY_SHARE_GPU, NULL, 0,
     "With --comm nccl: several ranks may have one GPU. For tests: results are right, times mean nothing", 5},
    {"comm-latency", KEY_COMM_LATENCY, "MICROSECONDS", 0,
     "What a collective takes, for --exchange auto (default: see hisa info; --measure takes it here)", 5},
    {"comm-bandwidth", KEY_COMM_BANDWIDTH, "GB/S", 0, "What a rank receives in a collective, likewise", 5},
    {"backend", KEY_BACKEND, "auto|cpu|cuda", 0, "What computes. auto (default): the best that is built in", 5},
    {"threads", KEY_THREADS, "N", 0,
     "CPU threads of each rank; 0 (default): the OpenMP default alone, under mpirun the rank's share of the cores", 5},
    {"deadline", KEY_DEADLINE, "SECONDS", 0, "How long a rank waits for another before it gives up (default 600)", 5},
    {0},
};
const struct argp cli_run_argp = {.options = run_options, .parser = parse_run};

/* NOLINTNEXTLINE(readability-non-const-parameter): argp's signature */
static error_t parse_input(int key, char *arg, struct argp_state *state) {
    cli_options_t *options = state->input;
    switch (key) {
    case KEY_KEYS:
        options->keys = arg;
        return 0;
    case KEY_QUERIES:
        options->queries = arg;
        return 0;
    case ARGP_KEY_END:
        if (options->action == CLI_RUN && options->files_needed &&
            (options->keys == NULL || options->queries == NULL)) {
            return cli_bad_argument(options, "%s FILE is missing (see --help)",
                                    options->keys == NULL ? "--keys" : "--queries");
        }
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option input_options[] = {
    {NULL, 0, NULL, 0, "Input:", 1},
    {"keys", KEY_KEYS, "FILE", 0, "Safetensors file with k F8_E4M3 [N, D] and k_scale F32 [N]", 1},
    {"queries", KEY_QUERIES, "FILE", 0,
     "Safetensors file with q F8_E4M3 [M, H, D], weights F32 [M, H] and, if wanted, the windows cu_seqlen_ks and "
     "cu_seqlen_ke I32 [M] (without: 0 and N)",
     1},
    {0},
};
const struct argp cli_input_argp = {.options = input_options, .parser = parse_input};

static error_t parse_mode(int key, char *arg, struct argp_state *state) {
    cli_options_t *options = state->input;
    if (key != KEY_MODE) {
        return ARGP_ERR_UNKNOWN;
    }
    int place = 0;
    const error_t error = cli_parse_word(options, "mode", arg, cli_mode_names, &place);
    options->select.mode = (hisa_mode_t)place;
    return error;
}

static const struct argp_option mode_options[] = {
    {"mode", KEY_MODE, "hisa|flat|block", 0,
     "hisa (default): score blocks, keep m, select among their tokens. flat: select among all tokens, exactly. block: "
     "take whole blocks",
     3},
    {0},
};
const struct argp cli_mode_argp = {.options = mode_options, .parser = parse_mode};

static error_t parse_stripe(cli_options_t *options, const char *text, int64_t *stripe) {
    if (strcmp(text, "contiguous") == 0) {
        *stripe = HISA_STRIPE_CONTIGUOUS;
        return 0;
    }
    return cli_parse_int(options, "stripe", text, 1, INT32_MAX, stripe);
}

static error_t parse_stripes(cli_options_t *options, const char *text) {
    int n = 0;
    if (!options->lists_taken) {
        return parse_stripe(options, text, &options->stripe);
    }
    for (const char *rest = text; rest != NULL; n++) {
        char word[16];
        if (n == CLI_LIST_MAX || !next_word(&rest, word)) {
            return cli_bad_argument(options, "--stripe: '%s' is not a list of %d stripes or fewer", text, CLI_LIST_MAX);
        }
        const error_t error = parse_stripe(options, word, &options->stripes[n]);
        if (error != 0) {
            return error;
        }
    }
    options->num_stripes = n;
    options->stripe = options->stripes[0];
    return 0;
}

static error_t parse_exchanges(cli_options_t *options, const char *text) {
    const error_t error = options->lists_taken
                              ? cli_parse_words(options, "exchange", text, cli_exchange_names, options->exchanges,
                                                &options->num_exchanges)
                              : cli_parse_word(options, "exchange", text, cli_exchange_names, options->exchanges);
    options->select.exchange = (hisa_exchange_t)options->exchanges[0];
    return error;
}

/* Options that place work and never change a result. */
static error_t parse_placing(int key, char *arg, cli_options_t *options) {
    int place = 0;
    error_t error = 0;
    switch (key) {
    case KEY_STRIPE:
        return parse_stripes(options, arg);
    case KEY_EXCHANGE:
        return parse_exchanges(options, arg);
    case KEY_QUERIES_ON:
        error = cli_parse_word(options, "queries-on", arg, cli_queries_on_names, &place);
        options->select.queries_on = (hisa_queries_on_t)place;
        return error;
    case KEY_ROWS_PER_RANK:
        return cli_parse_ints(options, "rows-per-rank", arg, 0, INT32_MAX, &options->rows_per_rank,
                              &options->rows_per_rank_count);
    case KEY_APPEND_CHUNK:
        return cli_parse_int(options, "append-chunk", arg, 0, INT32_MAX, &options->append_chunk);
    case KEY_TILE_ROWS:
        return cli_parse_int32(options, "tile-rows", arg, 0, INT32_MAX, &options->select.tile_rows);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse_select(int key, char *arg, struct argp_state *state) {
    cli_options_t *options = state->input;
    hisa_select_options_t *select = &options->select;
    switch (key) {
    case KEY_BLOCK_SIZE:
        return cli_parse_int32(options, "block-size", arg, 1, INT32_MAX, &options->block_size);
    case KEY_TOP_BLOCKS:
        return cli_parse_int32(options, "top-blocks", arg, 1, INT32_MAX, &select->top_blocks);
    case KEY_TOP_K:
        return cli_parse_int32(options, "top-k", arg, 1, INT32_MAX, &select->top_k);
    case KEY_SINK_BLOCKS:
        return cli_parse_int32(options, "sink-blocks", arg, 0, INT32_MAX, &select->sink_blocks);
    case KEY_LOCAL_BLOCKS:
        return cli_parse_int32(options, "local-blocks", arg, 0, INT32_MAX, &select->local_blocks);
    default:
        return parse_placing(key, arg, options);
    }
}

static const struct argp_option select_options[] = {
    {NULL, 0, NULL, 0, "What is selected:", 3},
    {"block-size", KEY_BLOCK_SIZE, "B", 0, "Tokens of a block: 16, 32, 64, 128 or 256 (default 128)", 3},
    {"top-blocks", KEY_TOP_BLOCKS, "M", 0, "Blocks kept for a query (default 64); top-blocks * block-size >= top-k", 3},
    {"top-k", KEY_TOP_K, "K", 0, "Tokens selected for a query (default 2048)", 3},
    {"sink-blocks", KEY_SINK_BLOCKS, "N", 0, "First blocks in sight that are always kept (default 1)", 3},
    {"local-blocks", KEY_LOCAL_BLOCKS, "N", 0, "Last blocks in sight that are always kept (default 1)", 3},
    {NULL, 0, NULL, 0, "How it is spread over ranks (never changes a result):", 4},
    {"stripe", KEY_STRIPE, "N|contiguous", 0,
     "Consecutive blocks a rank stores before the next rank's turn (default 1), or one contiguous range for each", 4},
    {"exchange", KEY_EXCHANGE, "auto|owner|oneshot|lists", 0,
     "How ranks merge: at the row's owner, or all at once everywhere (default auto: by a cost model). lists, to "
     "compare "
     "with: every rank gathers and merges all ranks' lists of k tokens, as engines do",
     4},
    {"queries-on", KEY_QUERIES_ON, "replicated|sharded", 0,
     "replicated (default): each rank passes all rows. sharded: each passes rows of its own", 4},
    {"rows-per-rank", KEY_ROWS_PER_RANK, "N,N,...", 0,
     "With --queries-on sharded: how many rows each rank passes, in order (default: dealt evenly)", 4},
    {"append-chunk", KEY_APPEND_CHUNK, "N", 0, "Tokens appended at a time; 0 (default): 65536", 4},
    {"tile-rows", KEY_TILE_ROWS, "N", 0, "Rows in flight; 0 (default): chosen by the library", 4},
    {0},
};
const struct argp cli_select_argp = {.options = select_options, .parser = parse_select};

void cli_options_pass_on(struct argp_state *state, int children, cli_options_t *options) {
    for (int i = 0; i < children; i++) {
        state->child_inputs[i] = options;
    }
}

hisa_status_t cli_options_parse(const struct argp *argp, int argc, char **argv, void *input, cli_options_t *options) {
    const error_t error = argp_parse(argp, argc, argv, ARGP_NO_ERRS | ARGP_NO_HELP, NULL, input);
    if (error == 0) {
        return HISA_OK;
    }
    if (!options->complained) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "arguments: %s", strerror(error));
    }
    return HISA_ERR_INVALID_ARGUMENT;
}
