#include "comm/within.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "comm/clock.h"

/* Who comes second frees: the thread that has done, or the caller that has waited long enough. */
enum { RUNNING, DONE, LEFT };

typedef struct within {
    hisa_within_job_t job;
    atomic_int state;
    hisa_status_t status;
    char message[HISA_ERROR_BYTES];
    max_align_t arguments[];
} within_t;

static void *run(void *context) {
    within_t *within = context;
    int running = RUNNING;
    within->status = within->job.call(within->arguments);
    if (within->status != HISA_OK) {
        snprintf(within->message, sizeof within->message, "%s", hisa_last_error());
    }
    if (!atomic_compare_exchange_strong(&within->state, &running, DONE)) {
        if (within->job.late != NULL) {
            within->job.late(within->arguments);
        }
        free(within);
    }
    return NULL;
}

/* The process's signals are for threads that the program knows of: this one takes none. */
static int start(pthread_t *thread, within_t *within) {
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    const int masked = pthread_sigmask(SIG_SETMASK, &all, &before);
    if (masked != 0) {
        return masked;
    }
    const int started = pthread_create(thread, NULL, run, within);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return started;
}

hisa_status_t hisa_within(double seconds, const hisa_within_job_t *job, void *arguments, size_t bytes) {
    const double begin = hisa_now();
    within_t *within = calloc(1, sizeof *within + bytes);
    pthread_t thread;
    if (within == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "%s: no memory for a thread", job->what);
    }
    within->job = *job;
    atomic_init(&within->state, RUNNING);
    memcpy(within->arguments, arguments, bytes);
    if (start(&thread, within) != 0) {
        free(within);
        return hisa_fail(HISA_ERR_NO_MEMORY, "%s: no thread to be had", job->what);
    }
    pthread_detach(thread);
    for (int64_t polls = 0; atomic_load(&within->state) == RUNNING; ++polls) {
        const double waited = hisa_now() - begin;
        int running = RUNNING;
        if (waited > seconds && atomic_compare_exchange_strong(&within->state, &running, LEFT)) {
            return hisa_fail(HISA_ERR_TIMEOUT, "%s: not done within %.1f s", job->what, seconds);
        }
        hisa_relax(polls, waited);
    }
    const hisa_status_t status = within->status;
    memcpy(arguments, within->arguments, bytes);
    if (status != HISA_OK) {
        hisa_fail(status, "%s", within->message);
    }
    free(within);
    return status;
}
