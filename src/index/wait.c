/* Waiting on the host for what was enqueued, where a lost peer must not make it for ever. */
#include <time.h>

#include "base/error.h"
#include "index/index.h"

/* Sizes are there within a fraction of a millisecond: until then looking again at once is the shortest wait. */
static const double spin_seconds = 2e-3;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void nap(void) {
    const struct timespec time = {.tv_nsec = 100000};
    nanosleep(&time, NULL);
}

/* The deadline counts from here on and not from the last sign of progress: nothing short of an event after each call
 * would show progress, and a replayed graph has none of those. hisa_comm_set_deadline tells the caller. */
hisa_status_t hisa_index_wait(hisa_index_t *index, int32_t event) {
    const hisa_backend_ops_t *ops = hisa_index_ops(index);
    hisa_comm_t *comm = index->comm;
    const double begin = now();
    bool done = ops->passed == NULL;
    double waited = 0;
    hisa_status_t status = HISA_OK;
    while (!done && status == HISA_OK) {
        status = ops->passed(index->device, event, &done);
        /* Also when it has passed: what failed may end like what succeeded. */
        if (status == HISA_OK && comm->size > 1) {
            status = hisa_comm_check(comm);
        }
        waited = now() - begin;
        if (status == HISA_OK && !done && comm->size > 1 && waited > comm->deadline) {
            status = hisa_fail(HISA_ERR_TIMEOUT, "what was enqueued has not ended after %.3g s: a peer is missing",
                               comm->deadline);
        }
        if (status == HISA_OK && !done && waited > spin_seconds) {
            nap();
        }
    }
    return status == HISA_OK ? status : hisa_comm_fault(comm, status, waited);
}

hisa_status_t hisa_index_synchronize(hisa_index_t *index, void *stream) {
    if (index == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "index is NULL");
    }
    const hisa_backend_ops_t *ops = hisa_index_ops(index);
    if (ops->record == NULL) {
        return HISA_OK;
    }
    hisa_status_t status = ops->check_stream(index->device, stream, "waiting for it cannot be part of a graph");
    if (status != HISA_OK) {
        return status;
    }
    status = ops->record(index->device, HISA_EVENT_WAIT, stream);
    return status == HISA_OK ? hisa_index_wait(index, HISA_EVENT_WAIT) : hisa_comm_fault(index->comm, status, 0);
}
