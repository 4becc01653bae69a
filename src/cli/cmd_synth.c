/* hisa synth: makes a trace of any size. */
#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "cli/command.h"
#include "cli/synth_options.h"

typedef struct synth_arguments {
    cli_options_t options;
    hisa_synth_config_t config;
} synth_arguments_t;

static error_t parse(int key, char *arg, struct argp_state *state) {
    synth_arguments_t *arguments = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        cli_options_pass_on(state, 1, &arguments->options);
        return 0;
    case CLI_KEY_SYNTH_KEYS:
        arguments->options.keys = arg;
        return 0;
    case CLI_KEY_SYNTH_QUERIES:
        arguments->options.queries = arg;
        return 0;
    case ARGP_KEY_ARG:
        return ARGP_ERR_UNKNOWN;
    case ARGP_KEY_END:
        if (arguments->options.action == CLI_RUN &&
            (arguments->options.keys == NULL || arguments->options.queries == NULL)) {
            return cli_bad_argument(&arguments->options, "%s FILE is missing (see --help)",
                                    arguments->options.keys == NULL ? "--keys" : "--queries");
        }
        return 0;
    case CLI_KEY_SYNTH_TOKENS:
        return cli_parse_int(&arguments->options, "tokens", arg, 1, INT32_MAX, &arguments->config.num_tokens);
    default:
        return cli_parse_synth(&arguments->options, key, arg, &arguments->config);
    }
}

static const struct argp_option option_table[] = {
    {NULL, 0, NULL, 0, "Output:", 1},
    {"keys", CLI_KEY_SYNTH_KEYS, "FILE", 0, "Safetensors file of keys to write", 1},
    {"queries", CLI_KEY_SYNTH_QUERIES, "FILE", 0, "Safetensors file of queries to write", 1},
    {NULL, 0, NULL, 0, "What is made (K and M after a number mean 1024 and 1024^2):", 2},
    {"tokens", CLI_KEY_SYNTH_TOKENS, "N", 0, "Tokens of the sequence (default 128K)", 2},
    CLI_SYNTH_OPTIONS("256", 2),
    {0},
};
static const struct argp_child children[] = {{&cli_general_argp, 0, NULL, 0}, {0}};
static const struct argp parser = {
    .options = option_table,
    .parser = parse,
    .doc =
        "Makes a synthetic trace: a file of keys and a file of queries. The same options give the same bytes on every "
        "machine. Under mpirun rank 0 does it alone.",
    .children = children,
};

static hisa_status_t work(cli_session_t *session, const synth_arguments_t *arguments) {
    const hisa_synth_config_t *config = &arguments->config;
    if (session->rank != 0) {
        return HISA_OK;
    }
    hisa_status_t status = hisa_synth_check(config);
    if (status == HISA_OK) {
        status = hisa_synth_write(config, arguments->options.keys, arguments->options.queries);
    }
    if (status == HISA_OK) {
        printf("%s: %" PRId64 " tokens of dimension %" PRId32 "\n%s: %" PRId64 " queries of %" PRId32 " heads\n",
               arguments->options.keys, config->num_tokens, config->head_dim, arguments->options.queries,
               config->num_rows, config->num_heads);
    }
    return status;
}

hisa_status_t cli_synth(cli_session_t *session, int argc, char **argv) {
    synth_arguments_t arguments = {0};
    cli_options_init(&arguments.options);
    hisa_synth_config_init(&arguments.config);
    bool go = false;
    hisa_status_t status = cli_command_begin(session, &parser, argc, argv, &arguments, &arguments.options, &go);
    if (go) {
        status = cli_session_agree(session, work(session, &arguments));
    }
    cli_options_free(&arguments.options);
    return status;
}
