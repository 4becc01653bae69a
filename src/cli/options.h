/* What the subcommands have in common on the command line: argp parsers to hang in as children, and the parsing of
 * single values. Nothing here prints or exits: a bad argument is a status with a one-line message, so that ranks can
 * agree on it. */
#ifndef HISA_CLI_OPTIONS_H
#define HISA_CLI_OPTIONS_H

#include <argp.h>
#include <stdbool.h>

#include "hisa/hisa.h"

typedef enum cli_action { CLI_RUN, CLI_HELP, CLI_VERSION } cli_action_t;

typedef enum cli_comm_kind { CLI_COMM_AUTO, CLI_COMM_SELF, CLI_COMM_MPI, CLI_COMM_NCCL } cli_comm_kind_t;

/* Entries of a list of words. */
#define CLI_LIST_MAX 8

typedef struct cli_options {
    cli_action_t action;
    bool complained; /* a parser has recorded what is wrong */

    cli_comm_kind_t comm;
    hisa_backend_t backend;
    int threads;     /* 0: chosen by the session */
    double deadline; /* seconds */
    bool share_gpu;
    double comm_latency;   /* seconds, negative: the communicator's own */
    double comm_bandwidth; /* bytes a second, 0: the communicator's own */

    bool files_needed;   /* set by the subcommand: --keys and --queries must be given */
    const char *keys;    /* path or NULL */
    const char *queries; /* path or NULL */

    hisa_select_options_t select;
    int32_t block_size;
    int32_t sequences; /* of the index; set by the subcommand, else 1 */
    int64_t stripe;
    /* What --exchange and --stripe list, if the subcommand set lists_taken; the first are in select and above. */
    bool lists_taken;
    int exchanges[CLI_LIST_MAX];
    int num_exchanges; /* at least 1, as num_stripes */
    int64_t stripes[CLI_LIST_MAX];
    int num_stripes;
    int64_t append_chunk;   /* tokens, 0: chosen here */
    int64_t *rows_per_rank; /* owned; NULL: dealt evenly */
    int64_t rows_per_rank_count;
} cli_options_t;

void cli_options_init(cli_options_t *options);
void cli_options_free(cli_options_t *options);

/* Parsers of groups of options. Their input is a cli_options_t. */
extern const struct argp cli_general_argp; /* --help, --version; refuses arguments that are not options */
extern const struct argp cli_run_argp;     /* --comm and its cost, --share-gpu, --backend, --threads, --deadline */
extern const struct argp cli_input_argp;   /* --keys, --queries */
extern const struct argp cli_mode_argp;    /* --mode */
extern const struct argp cli_select_argp;  /* block size, m, k, placement of keys and queries, exchange */

/* For the ARGP_KEY_INIT of a subcommand: all `children` children get `options` as their input. */
void cli_options_pass_on(struct argp_state *state, int children, cli_options_t *options);

/* Parses argv (argv[0] is the subcommand) with `input` for the root parser, which must hand `options` on to its
 * children. HISA_ERR_INVALID_ARGUMENT with a message. */
hisa_status_t cli_options_parse(const struct argp *argp, int argc, char **argv, void *input, cli_options_t *options);

/* Records a message and returns what an argp parser returns for a bad argument. */
error_t cli_bad_argument(cli_options_t *options, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A whole number in [min, max], with an optional suffix K (1024) or M (1024^2). `name` is the option's, without dashes.
 */
error_t cli_parse_int(cli_options_t *options, const char *name, const char *text, int64_t min, int64_t max,
                      int64_t *value);
error_t cli_parse_int32(cli_options_t *options, const char *name, const char *text, int64_t min, int64_t max,
                        int32_t *value);

/* Numbers with commas between them. *values is allocated here, the old one freed. */
error_t cli_parse_ints(cli_options_t *options, const char *name, const char *text, int64_t min, int64_t max,
                       int64_t **values, int64_t *count);

/* A word of a list that NULL ends; *place is its place in the list. */
error_t cli_parse_word(cli_options_t *options, const char *name, const char *text, const char *const *words,
                       int *place);

/* Words with commas between them, CLI_LIST_MAX at the most: their places in the list of `words`. */
error_t cli_parse_words(cli_options_t *options, const char *name, const char *text, const char *const *words,
                        int *places, int *count);

/* Names of modes, by hisa_mode_t, ended by NULL; and of exchanges and places of queries. */
extern const char *const cli_mode_names[];
extern const char *const cli_exchange_names[];
extern const char *const cli_queries_on_names[];

#endif
