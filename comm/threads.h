/* A communicator whose ranks are threads of one process: for tests of what happens across ranks without a launcher, and
 * for measuring one rank after another on a single device. Not part of the library: it stands beside it, for the
 * command and the tests.
 *
 * Taking turns, the ranks compute one at a time: a rank works until its next data or control call, waits there until
 * nothing of its own is under way any more, and hands on to the next; when all are there they exchange, and then go on
 * one after the other again. So whatever one of them times between two calls, it has the machine for itself. Without
 * turns they run side by side.
 *
 * A rank that fails, or that does not come within the deadline, breaks the group: the others' calls fail, with
 * HISA_ERR_COMM and its cause or with HISA_ERR_TIMEOUT, rather than wait for it. */
#ifndef HISA_COMM_THREADS_H
#define HISA_COMM_THREADS_H

#include "comm/comm.h"

enum { HISA_THREADS_MAX = 64 };

/* The memory that data calls take, as callbacks: what it is is no business of comm/. All but copy may be NULL. */
typedef struct hisa_threads_memory {
    void *context;
    /* Enqueues a copy on the stream. */
    hisa_status_t (*copy)(void *context, void *to, const void *from, int64_t bytes, void *stream);
    /* Data calls in stream order, as NCCL's: they return when all ranks have made them, and nothing need have moved
     * yet. record: point number `point`, from 0 to 2 * ranks - 1, is from now on where the stream ends, those below
     * `ranks` before what is copied; await: the stream waits for the point. NULL: copies are done when copy returns, or
     * are waited for as turns have it. */
    hisa_status_t (*record)(void *context, int point, void *stream);
    hisa_status_t (*await)(void *context, int point, void *stream);
    /* With turns: waits until nothing that this process has enqueued is under way. NULL: nothing ever is. */
    hisa_status_t (*synchronize)(void *context);
    /* With turns: called when a rank goes on after a data call, before anything of its own is enqueued. */
    hisa_status_t (*resume)(void *context, void *stream);
} hisa_threads_memory_t;

/* comms [ranks], one for each thread. memory (read here, its context used until the end): NULL for host memory. */
hisa_status_t hisa_threads_create(int ranks, const hisa_threads_memory_t *memory, bool turns, hisa_comm_t **comms);

/* First and last thing of a rank's thread that takes turns: waits for its turn, and hands on for good. A status other
 * than HISA_OK, whose cause is this thread's hisa_last_error(), breaks the group. Without turns only the latter
 * matters.
 */
hisa_status_t hisa_threads_begin(hisa_comm_t *comm);
void hisa_threads_end(hisa_comm_t *comm, hisa_status_t status);

/* Control calls that ranks have entered so far, all together. */
int hisa_threads_control_calls(const hisa_comm_t *comm);

/* When no thread uses them any more. Entries of a failed create are NULL and allowed. */
void hisa_threads_destroy(int ranks, hisa_comm_t **comms);

#endif
