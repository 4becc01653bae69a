#include "cli/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* Seconds between two updates: often enough to look alive, too rarely to cost anything. */
#define INTERVAL 0.2

double cli_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void cli_progress_begin(cli_progress_t *progress, const cli_session_t *session, const char *label, int64_t total) {
    *progress = (cli_progress_t){
        .shown = session->rank == 0 && isatty(STDERR_FILENO), .label = label, .total = total, .started = cli_seconds()};
}

void cli_progress_update(cli_progress_t *progress, int64_t done) {
    if (!progress->shown || progress->total <= 0) {
        return;
    }
    const double now = cli_seconds();
    if (now - progress->printed < INTERVAL) {
        return;
    }
    progress->printed = now;
    progress->line = true;
    fprintf(stderr, "\r\033[K%s: %3.0f %% (%" PRId64 " of %" PRId64 "), %.0f s", progress->label,
            100.0 * (double)done / (double)progress->total, done, progress->total, now - progress->started);
    fflush(stderr);
}

void cli_progress_end(cli_progress_t *progress) {
    if (progress->line) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
        progress->line = false;
    }
}
