#include "cli/command.h"

#include <stdio.h>

#include "cli/input.h"

void cli_print_version(void) {
    int major = 0;
    int minor = 0;
    int patch = 0;
    hisa_version(&major, &minor, &patch);
    printf("hisa %d.%d.%d\n", major, minor, patch);
}

static void print_help(const cli_session_t *session, const struct argp *argp) {
    char name[64];
    snprintf(name, sizeof name, "hisa %s", session->command);
    argp_help(argp, stdout, ARGP_HELP_SHORT_USAGE | ARGP_HELP_LONG | ARGP_HELP_DOC, name);
}

hisa_status_t cli_command_begin(cli_session_t *session, const struct argp *argp, int argc, char **argv, void *input,
                                cli_options_t *options, bool *go) {
    *go = false;
    hisa_status_t status = cli_session_agree(session, cli_options_parse(argp, argc, argv, input, options));
    session->usage_error = status != HISA_OK;
    if (status != HISA_OK) {
        return status;
    }
    const hisa_agree_value_t values[] = {{"whether --help or --version is given", options->action}};
    status = cli_session_agree_values(session, HISA_OK, values, 1);
    if (status != HISA_OK) {
        return status;
    }
    if (options->action != CLI_RUN) {
        if (session->rank == 0 && options->action == CLI_HELP) {
            print_help(session, argp);
        } else if (session->rank == 0) {
            cli_print_version();
        }
        return HISA_OK;
    }
    status = cli_session_join(session, options);
    if (status == HISA_OK) {
        status = cli_agree_options(session, options);
    }
    *go = status == HISA_OK;
    return status;
}
