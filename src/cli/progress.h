/* How far long work has come: a line on the terminal that overwrites itself. Nothing where stderr is not a terminal. */
#ifndef HISA_CLI_PROGRESS_H
#define HISA_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/session.h"

typedef struct cli_progress {
    bool shown;        /* this rank speaks and stderr is a terminal */
    bool line;         /* something stands on the line */
    const char *label; /* static storage */
    int64_t total;
    double started; /* seconds, monotonic */
    double printed;
} cli_progress_t;

/* `label` names the work, `total` its amount in any unit. */
void cli_progress_begin(cli_progress_t *progress, const cli_session_t *session, const char *label, int64_t total);
void cli_progress_update(cli_progress_t *progress, int64_t done);

/* Clears the line; allowed on a zeroed struct. To be called before anything else is printed. */
void cli_progress_end(cli_progress_t *progress);

/* Seconds on a clock that only goes forward. */
double cli_seconds(void);

#endif
