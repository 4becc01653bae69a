/* One run of the command on all its ranks: MPI's start and stop, the communicator, agreement, and how it ends. Only
 * this file and main.c know MPI. */
#ifndef HISA_CLI_SESSION_H
#define HISA_CLI_SESSION_H

#include <stdbool.h>

#include "cli/options.h"
#include "comm/comm.h"

typedef struct cli_session {
    const char *command;  /* the subcommand, for messages */
    hisa_comm_t *comm;    /* all ranks */
    hisa_comm_t *control; /* what comm agrees over, where that is another (nccl), or NULL */
    int rank;
    int size;
    int threads;      /* CPU threads of this rank, at least 1; set by cli_session_join */
    bool mpi_started; /* and so to be finalised */
    bool usage_error; /* what went wrong is the arguments */
} cli_session_t;

/* Starts MPI if the environment says that a launcher started us, and makes the communicator of all ranks. Collective
 * over them. On failure the session can still be finished. */
hisa_status_t cli_session_start(cli_session_t *session, int *argc, char ***argv);

/* Settles what the options say about communicator, backend and threads. Collective; agreed. */
hisa_status_t cli_session_join(cli_session_t *session, const cli_options_t *options);

/* Collective: the local outcomes of all ranks made one. On failure all ranks have the same status and message. Not for
 * the outcome of a collective library call, which is agreed already. */
hisa_status_t cli_session_agree_all(cli_session_t *session, hisa_status_t status);

/* The same, written so that static analyzers see that success here means success of this rank. */
static inline hisa_status_t cli_session_agree(cli_session_t *session, hisa_status_t status) {
    const hisa_status_t agreed = cli_session_agree_all(session, status);
    return agreed == HISA_OK ? status : agreed;
}

/* The same, and then that the values are equal on all ranks. */
hisa_status_t cli_session_agree_values(cli_session_t *session, hisa_status_t status, const hisa_agree_value_t *values,
                                       int count);

/* Collective: all ranks' records of `bytes` bytes, in order of rank, in all[size]. Host memory. */
hisa_status_t cli_session_gather(cli_session_t *session, const void *mine, void *all, int64_t bytes);

/* Prints the error, if any, once for all ranks, and ends MPI. Returns the exit status: 0, 1, or 2 for a usage error.
 * Does not return where ranks can no longer be brought together: it aborts them all. */
int cli_session_finish(cli_session_t *session, hisa_status_t status);

#endif
