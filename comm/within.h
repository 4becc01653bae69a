/* Calls that may block for ever, with a deadline: on a thread of their own. For the rare ones, at the beginning and the
 * end of a communicator's life. */
#ifndef HISA_WITHIN_H
#define HISA_WITHIN_H

#include <stddef.h>

#include "hisa/hisa.h"

typedef struct hisa_within_job {
    const char *what; /* it goes by in messages */
    hisa_status_t (*call)(void *arguments);
    void (*late)(void *arguments); /* for a call that comes back when nobody waits any more. NULL: nothing to do */
} hisa_within_job_t;

/* Runs job->call on another thread, on a copy of `bytes` bytes of arguments, and waits for it up to `seconds`. If it is
 * back by then: returns what it returned, with its message, and copies the arguments back. If not: HISA_ERR_TIMEOUT,
 * with the arguments as they were; the call goes on, with whatever its arguments point to, and when it comes back after
 * all, its thread calls job->late on its copy. HISA_ERR_NO_MEMORY if there is no thread to be had. */
hisa_status_t hisa_within(double seconds, const hisa_within_job_t *job, void *arguments, size_t bytes);

#endif
