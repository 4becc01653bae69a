/* The subcommands, and how each of them begins. */
#ifndef HISA_CLI_COMMAND_H
#define HISA_CLI_COMMAND_H

#include "cli/options.h"
#include "cli/session.h"

typedef struct cli_command {
    const char *name;
    const char *summary;
    /* Collective; the outcome is agreed. argv[0] is the subcommand. Only rank 0 prints. */
    hisa_status_t (*run)(cli_session_t *session, int argc, char **argv);
} cli_command_t;

hisa_status_t cli_select(cli_session_t *session, int argc, char **argv);
hisa_status_t cli_verify(cli_session_t *session, int argc, char **argv);
hisa_status_t cli_audit(cli_session_t *session, int argc, char **argv);
hisa_status_t cli_synth(cli_session_t *session, int argc, char **argv);
hisa_status_t cli_bench(cli_session_t *session, int argc, char **argv);
hisa_status_t cli_info(cli_session_t *session, int argc, char **argv);

/* Parses the arguments into `input` (the root parser's, whose children work on `options`), makes sure that all ranks
 * have good and equal ones, and settles communicator and threads. *go is false if nothing is left to do: the help or
 * the version was asked for and has been printed. Collective; agreed. */
hisa_status_t cli_command_begin(cli_session_t *session, const struct argp *argp, int argc, char **argv, void *input,
                                cli_options_t *options, bool *go);

/* For cli_command_begin's callers and main. */
void cli_print_version(void);

#endif
