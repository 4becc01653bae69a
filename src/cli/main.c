/* hisa: the command. Finds the subcommand, runs it on all ranks, and reports its end. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "cli/command.h"

static const cli_command_t commands[] = {
    {"select", "select the tokens that each query of a trace attends to, and write them to a file", cli_select},
    {"verify", "compare the sharded selection with one rank's and with a plain reference", cli_verify},
    {"audit", "measure how much of the exact selection the two-stage search keeps", cli_audit},
    {"synth", "make a synthetic trace", cli_synth},
    {"bench", "time each step of the selection and count the bytes exchanged", cli_bench},
    {"info", "say what this build of hisa has", cli_info},
};
#define COMMANDS ((int)(sizeof commands / sizeof commands[0]))

/* What main is asked for: a subcommand's place, or one of these. */
enum { ASKED_NOTHING = -1, ASKED_HELP = -2, ASKED_VERSION = -3 };

static int find_command(const char *word) {
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(word, commands[i].name) == 0) {
            return i;
        }
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        return ASKED_HELP;
    }
    return strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0 ? ASKED_VERSION : ASKED_NOTHING;
}

static void print_help(void) {
    printf("Usage: hisa SUBCOMMAND [OPTION...]\n"
           "       mpirun -n RANKS hisa SUBCOMMAND [OPTION...]\n"
           "Sharded, hierarchical, deterministic token selection for sparse attention.\n\n");
    for (int i = 0; i < COMMANDS; i++) {
        printf("  %-8s %s\n", commands[i].name, commands[i].summary);
    }
    printf("\n'hisa SUBCOMMAND --help' says more. 'hisa --version' prints the version.\n"
           "Exit status: 0 success, 1 failure (or, of verify, a difference), 2 wrong arguments.\n");
}

static hisa_status_t ask(int argc, char **argv, int *asked) {
    *asked = argc < 2 ? ASKED_NOTHING : find_command(argv[1]);
    if (*asked != ASKED_NOTHING) {
        return HISA_OK;
    }
    return argc < 2 ? hisa_fail(HISA_ERR_INVALID_ARGUMENT, "a subcommand is missing (see hisa --help)")
                    : hisa_fail(HISA_ERR_INVALID_ARGUMENT, "unknown subcommand '%s' (see hisa --help)", argv[1]);
}

static hisa_status_t run(cli_session_t *session, int argc, char **argv) {
    int asked = ASKED_NOTHING;
    hisa_status_t status = cli_session_agree(session, ask(argc, argv, &asked));
    session->usage_error = status != HISA_OK;
    if (status == HISA_OK) {
        const hisa_agree_value_t values[] = {{"the subcommand", asked}};
        status = cli_session_agree_values(session, HISA_OK, values, 1);
    }
    if (status != HISA_OK) {
        return status;
    }
    if (asked >= 0) {
        session->command = commands[asked].name;
        return commands[asked].run(session, argc - 1, argv + 1);
    }
    if (session->rank == 0 && asked == ASKED_HELP) {
        print_help();
    } else if (session->rank == 0) {
        cli_print_version();
    }
    return HISA_OK;
}

/* What was printed has to have arrived: a full disk or a closed pipe is a failure like any other. */
static hisa_status_t flush_output(void) {
    errno = 0;
    if (fflush(stdout) != 0 || ferror(stdout)) {
        return hisa_fail(HISA_ERR_IO, "standard output: %s", errno != 0 ? strerror(errno) : "write failed");
    }
    return HISA_OK;
}

int main(int argc, char **argv) {
    /* A closed pipe is to be an error that is reported, not a death in the middle of a collective. */
    signal(SIGPIPE, SIG_IGN);
    cli_session_t session;
    hisa_status_t status = cli_session_start(&session, &argc, &argv);
    if (status == HISA_OK) {
        status = run(&session, argc, argv);
    }
    if (status == HISA_OK) {
        status = cli_session_agree(&session, flush_output());
    }
    return cli_session_finish(&session, status);
}
