/* Ranks that talk through NCCL, device to device, and agree through another communicator. Every wait has a deadline,
 * and a fault ends in one outcome on all ranks and one abort.
 *
 * A communicator that is made here is a blocking one. NCCL starts a thread for each call on a non-blocking one, 60 to
 * 80 us of the host's time where the exchange itself takes 10 on the device. On a blocking one whose ranks are
 * connected a call only enqueues. What may block on it, the making, the end, and what NCCL tells peers when it becomes
 * part of a graph, is done on a thread that is waited for up to the deadline (within.h). */
#include "comm/nccl_state.h"

#include <stdio.h>
#include <stdlib.h>

#include "comm/agree.h"
#include "comm/clock.h"
#include "comm/within.h"

#define ABORT_SECONDS 0.5 /* of the two that a fault may take beyond the deadline */

/* ---------------------------------------------------------------------------------------------- errors */

hisa_status_t hisa_nccl_fail(ncclComm_t nccl, ncclResult_t result, const char *what) {
    const char *detail = ncclGetLastError(nccl);
    const bool empty = detail == NULL || detail[0] == '\0';
    return hisa_fail(HISA_ERR_COMM, "%s: NCCL: %s%s%s", what, ncclGetErrorString(result), empty ? "" : ": ",
                     empty ? "" : detail);
}

hisa_status_t hisa_nccl_fail_cuda(cudaError_t error, const char *what) {
    const hisa_status_t status = error == cudaErrorMemoryAllocation ? HISA_ERR_NO_MEMORY : HISA_ERR_DEVICE;
    return hisa_fail(status, "%s: CUDA: %s", what, cudaGetErrorString(error));
}

/* ---------------------------------------------------------------------------------------------- waiting */

hisa_status_t hisa_nccl_settle(ncclComm_t nccl, ncclResult_t result, const char *what, double deadline, double *spent) {
    const double begin = hisa_now();
    *spent = 0.0;
    for (int64_t polls = 0; result == ncclInProgress; ++polls) {
        /* Read before the poll: a process that was itself held up sees what came meanwhile. */
        *spent = hisa_now() - begin;
        const ncclResult_t asked = ncclCommGetAsyncError(nccl, &result);
        if (asked != ncclSuccess) {
            result = asked;
        } else if (result == ncclInProgress) {
            if (*spent > deadline) {
                return hisa_fail(HISA_ERR_TIMEOUT, "%s: no answer from the other ranks within %.1f s", what, deadline);
            }
            hisa_relax(polls, *spent);
        }
    }
    return result == ncclSuccess ? HISA_OK : hisa_nccl_fail(nccl, result, what);
}

hisa_status_t hisa_nccl_look(ncclComm_t nccl) {
    ncclResult_t result = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(nccl, &result);
    if (asked != ncclSuccess) {
        return hisa_nccl_fail(nccl, asked, "looking for errors");
    }
    return result == ncclSuccess || result == ncclInProgress ? HISA_OK
                                                             : hisa_nccl_fail(nccl, result, "what was enqueued");
}

hisa_status_t hisa_nccl_wait_stream(ncclComm_t nccl, cudaStream_t stream, const char *what, double deadline) {
    const double begin = hisa_now();
    for (int64_t polls = 0;; ++polls) {
        const double waited = hisa_now() - begin;
        const cudaError_t error = cudaStreamQuery(stream);
        if (error == cudaSuccess) {
            return HISA_OK;
        }
        if (error != cudaErrorNotReady) {
            return hisa_nccl_fail_cuda(error, what);
        }
        const hisa_status_t status = hisa_nccl_look(nccl);
        if (status != HISA_OK) {
            return status;
        }
        if (waited > deadline) {
            return hisa_fail(HISA_ERR_TIMEOUT, "%s: no answer from the other ranks within %.1f s", what, deadline);
        }
        hisa_relax(polls, waited);
    }
}

double hisa_nccl_rest(const hisa_comm_t *comm, double spent) {
    const double left = comm->deadline + 1.0 - spent;
    return left > 0.5 ? left : 0.5;
}

/* ---------------------------------------------------------------------------------------------- faults */

hisa_status_t hisa_nccl_unanswered(void) {
    char why[HISA_ERROR_BYTES];
    snprintf(why, sizeof why, "%.150s", hisa_last_error());
    return hisa_fail(HISA_ERR_TIMEOUT, "a peer did not answer: %s", why);
}

/* What the jobs below take. */
typedef struct ending {
    ncclComm_t nccl;
    int device;
    double deadline;
} ending_t;

static hisa_status_t abort_now(void *arguments) {
    const ending_t *ending = arguments;
    cudaSetDevice(ending->device);
    ncclCommAbort(ending->nccl);
    return HISA_OK;
}

void hisa_nccl_drop(hisa_comm_t *comm) {
    static const hisa_within_job_t job = {.what = "aborting", .call = abort_now};
    hisa_nccl_state_t *state = comm->impl;
    while (state->depth > 0) {
        ncclGroupEnd(); /* the group is the thread's, not the communicator's: it must not stay open */
        --state->depth;
    }
    if (state->own && state->nccl != NULL) {
        ending_t ending = {.nccl = state->nccl, .device = state->device};
        char kept[HISA_ERROR_BYTES];
        snprintf(kept, sizeof kept, "%s", hisa_last_error());
        state->nccl = NULL;
        /* It ends what is on the streams at once, and then takes its time, which nobody has to wait for. */
        const hisa_status_t status = hisa_within(ABORT_SECONDS, &job, &ending, sizeof ending);
        if (status == HISA_ERR_NO_MEMORY) {
            abort_now(&ending);
        }
        if (status != HISA_OK) {
            hisa_fail(status, "%s", kept); /* the message that counts */
        }
    }
}

/* hisa_nccl_drop on the way out with `outcome`, whose message is this thread's last. */
static hisa_status_t give_up(hisa_comm_t *comm, hisa_status_t outcome) {
    const hisa_nccl_state_t *state = comm->impl;
    hisa_nccl_drop(comm);
    if (state->own) {
        return outcome;
    }
    char why[HISA_ERROR_BYTES];
    snprintf(why, sizeof why, "%.140s", hisa_last_error());
    return hisa_fail(outcome, "%s (the engine must abort its NCCL communicator, which hisa borrowed)", why);
}

static hisa_status_t nccl_fault(hisa_comm_t *comm, hisa_status_t status, double seconds) {
    hisa_nccl_state_t *state = comm->impl;
    hisa_comm_t *control = state->control;
    const double kept = control->deadline;
    hisa_status_t sent = HISA_OK;
    control->deadline = hisa_nccl_rest(comm, seconds);
    const hisa_status_t agreed = hisa_agree_fault(control, status, &sent);
    control->deadline = kept;
    return give_up(comm, sent != HISA_OK ? hisa_nccl_unanswered() : agreed);
}

/* ---------------------------------------------------------------------------------------------- operations */

/* Last thing of each data call. `result` is what NCCL said to it; inside a group nothing is under way yet. A rank that
 * fails here tells its peers, which may already wait for it in their streams. */
static hisa_status_t finish(hisa_comm_t *comm, ncclResult_t result, const char *what) {
    const hisa_nccl_state_t *state = comm->impl;
    if (result == ncclSuccess || (result == ncclInProgress && state->depth > 0)) {
        return HISA_OK;
    }
    double spent = 0.0;
    const hisa_status_t status = hisa_nccl_settle(state->nccl, result, what, comm->deadline, &spent);
    return status == HISA_OK ? HISA_OK : nccl_fault(comm, status, spent);
}

typedef struct gathering {
    ncclComm_t nccl;
    int device;
    const char *own;
    void *buffer;
    int64_t bytes;
    cudaStream_t stream;
} gathering_t;

static hisa_status_t gather_captured(void *arguments) {
    const gathering_t *gathering = arguments;
    cudaSetDevice(gathering->device);
    const ncclResult_t result = ncclAllGather(gathering->own, gathering->buffer, (size_t)gathering->bytes, ncclUint8,
                                              gathering->nccl, gathering->stream);
    return result == ncclSuccess || result == ncclInProgress
               ? HISA_OK
               : hisa_nccl_fail(gathering->nccl, result, "an all-gather in a graph");
}

static void abort_late_gathering(void *arguments) { ncclCommAbort(((gathering_t *)arguments)->nccl); }

/* Of a stream that is being captured. NCCL may have the peers map the buffer, and wait for them on the host. */
static hisa_status_t capture_allgather(hisa_comm_t *comm, const char *own, void *buffer, int64_t bytes, void *stream) {
    static const hisa_within_job_t job = {
        .what = "an all-gather in a graph", .call = gather_captured, .late = abort_late_gathering};
    hisa_nccl_state_t *state = comm->impl;
    const double begin = hisa_now();
    gathering_t gathering = {
        .nccl = state->nccl, .device = state->device, .own = own, .buffer = buffer, .bytes = bytes, .stream = stream};
    const hisa_status_t status = hisa_within(comm->deadline, &job, &gathering, sizeof gathering);
    if (status == HISA_ERR_TIMEOUT) {
        state->nccl = NULL; /* it is the late thread's */
    }
    return status == HISA_OK ? finish(comm, ncclInProgress, job.what) : nccl_fault(comm, status, hisa_now() - begin);
}

static hisa_status_t nccl_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes, void *stream) {
    const hisa_nccl_state_t *state = comm->impl;
    enum cudaStreamCaptureStatus captured = cudaStreamCaptureStatusNone;
    if (bytes == 0 || comm->size == 1) {
        return HISA_OK;
    }
    const char *own = (const char *)buffer + bytes * comm->rank;
    if (state->own && state->depth == 0 && cudaStreamIsCapturing(stream, &captured) == cudaSuccess &&
        captured == cudaStreamCaptureStatusActive) {
        return capture_allgather(comm, own, buffer, bytes, stream);
    }
    return finish(comm, ncclAllGather(own, buffer, (size_t)bytes, ncclUint8, state->nccl, stream), "all-gather");
}

ncclResult_t hisa_nccl_post(ncclComm_t nccl, const hisa_nccl_part_t *part, int to, int from, cudaStream_t stream) {
    ncclResult_t result = ncclSuccess;
    if (part->send_bytes > 0) {
        result = ncclSend(part->send, (size_t)part->send_bytes, ncclUint8, to, nccl, stream);
    }
    if (part->recv_bytes > 0 && (result == ncclSuccess || result == ncclInProgress)) {
        result = ncclRecv(part->recv, (size_t)part->recv_bytes, ncclUint8, from, nccl, stream);
    }
    return result;
}

ncclResult_t hisa_nccl_end_group(ncclResult_t posted) {
    const ncclResult_t ended = ncclGroupEnd(); /* also after a failure: the group must not stay open */
    return posted == ncclSuccess || posted == ncclInProgress ? ended : posted;
}

static hisa_status_t nccl_allgatherv(hisa_comm_t *comm, void *buffer, const int64_t *bytes, const int64_t *offsets,
                                     void *stream) {
    const hisa_nccl_state_t *state = comm->impl;
    char *base = buffer;
    if (comm->size == 1) {
        return HISA_OK;
    }
    ncclResult_t result = ncclGroupStart();
    if (result != ncclSuccess) {
        return finish(comm, result, "all-gather");
    }
    for (int i = 1; i < comm->size && (result == ncclSuccess || result == ncclInProgress); ++i) {
        const int to = (comm->rank + i) % comm->size;
        const int from = (comm->rank - i + comm->size) % comm->size;
        const hisa_nccl_part_t part = {.send = base + offsets[comm->rank],
                                       .recv = base + offsets[from],
                                       .send_bytes = bytes[comm->rank],
                                       .recv_bytes = bytes[from]};
        result = hisa_nccl_post(state->nccl, &part, to, from, stream);
    }
    return finish(comm, hisa_nccl_end_group(result), "all-gather of uneven parts");
}

static hisa_status_t nccl_alltoallv(hisa_comm_t *comm, const void *send, const int64_t *send_bytes,
                                    const int64_t *send_offsets, void *recv, const int64_t *recv_bytes,
                                    const int64_t *recv_offsets, void *stream) {
    const hisa_nccl_state_t *state = comm->impl;
    if (comm->size == 1) {
        return HISA_OK;
    }
    ncclResult_t result = ncclGroupStart();
    if (result != ncclSuccess) {
        return finish(comm, result, "all-to-all");
    }
    for (int i = 1; i < comm->size && (result == ncclSuccess || result == ncclInProgress); ++i) {
        const int to = (comm->rank + i) % comm->size;
        const int from = (comm->rank - i + comm->size) % comm->size;
        const hisa_nccl_part_t part = {.send = (const char *)send + send_offsets[to],
                                       .recv = (char *)recv + recv_offsets[from],
                                       .send_bytes = send_bytes[to],
                                       .recv_bytes = recv_bytes[from]};
        result = hisa_nccl_post(state->nccl, &part, to, from, stream);
    }
    return finish(comm, hisa_nccl_end_group(result), "all-to-all");
}

static hisa_status_t nccl_begin(hisa_comm_t *comm) {
    hisa_nccl_state_t *state = comm->impl;
    const ncclResult_t result = ncclGroupStart();
    state->depth += result == ncclSuccess;
    return finish(comm, result, "beginning a group");
}

static hisa_status_t nccl_end(hisa_comm_t *comm) {
    hisa_nccl_state_t *state = comm->impl;
    if (state->depth == 0) {
        return nccl_fault(comm, hisa_fail(HISA_ERR_INTERNAL, "the end of a group that was not begun"), 0.0);
    }
    const ncclResult_t result = ncclGroupEnd();
    --state->depth;
    return finish(comm, result, "a group of exchanges");
}

/* A peer that is lost may be missed here while other ranks miss it in their streams: the outcome is the same, and so is
 * the end of what this rank has enqueued, which waits for that peer too. */
static hisa_status_t nccl_control_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes) {
    const hisa_nccl_state_t *state = comm->impl;
    const double kept = state->control->deadline;
    state->control->deadline = comm->deadline;
    const hisa_status_t status = hisa_comm_control_allgather(state->control, buffer, bytes);
    state->control->deadline = kept;
    return status == HISA_OK || status == HISA_ERR_POISONED ? status : give_up(comm, hisa_nccl_unanswered());
}

static hisa_status_t nccl_check(hisa_comm_t *comm) {
    const hisa_nccl_state_t *state = comm->impl;
    return hisa_nccl_look(state->nccl);
}

/* ---------------------------------------------------------------------------------------------- life */

/* Relaxed: streams that other threads capture are none of its business. */
static hisa_status_t idle(void *arguments) {
    const ending_t *ending = arguments;
    enum cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaSetDevice(ending->device);
    cudaThreadExchangeStreamCaptureMode(&mode);
    cudaDeviceSynchronize();
    return HISA_OK; /* what failed on the device is for those to say who put it there */
}

static hisa_status_t finalise(void *arguments) {
    const ending_t *ending = arguments;
    double spent = 0.0;
    cudaSetDevice(ending->device);
    const hisa_status_t status =
        hisa_nccl_settle(ending->nccl, ncclCommFinalize(ending->nccl), "finalising", ending->deadline, &spent);
    if (status == HISA_OK) {
        ncclCommDestroy(ending->nccl);
    } else {
        ncclCommAbort(ending->nccl);
    }
    return status;
}

/* The end of a communicator in good health, with the peers. An exchange that still waits for one of them after the
 * deadline makes it an abort, which must not meet a finalisation under way: so the device is asked first. */
static void close_well(hisa_comm_t *comm) {
    static const hisa_within_job_t wait = {.what = "the end of what was enqueued", .call = idle};
    static const hisa_within_job_t end = {.what = "finalising", .call = finalise};
    hisa_nccl_state_t *state = comm->impl;
    ending_t ending = {.nccl = state->nccl, .device = state->device, .deadline = comm->deadline};
    if (hisa_within(comm->deadline, &wait, &ending, sizeof ending) == HISA_ERR_TIMEOUT) {
        hisa_nccl_drop(comm);
        return;
    }
    state->nccl = NULL;
    if (hisa_within(comm->deadline, &end, &ending, sizeof ending) == HISA_ERR_NO_MEMORY) {
        finalise(&ending);
    }
}

static void nccl_destroy(hisa_comm_t *comm) {
    hisa_nccl_state_t *state = comm->impl;
    if (!comm->poisoned && state->own && state->nccl != NULL) {
        close_well(comm);
    } else {
        hisa_nccl_drop(comm);
    }
    free(state);
}

const hisa_comm_ops_t hisa_nccl_ops = {
    .name = "nccl",
    .device_memory = true,
    /* NVLink on one host: fitted to owner merges of 4096 rows in 1, 2 and 4 tiles on 2 H200 (203, 268 and 394 us for 37
     * MB in 4 collectives a tile). A gather of 1 KB alone takes 9.6 us. */
    .cost = {.latency = 16e-6, .bandwidth = 260e9},
    .allgather = nccl_allgather,
    .allgatherv = nccl_allgatherv,
    .alltoallv = nccl_alltoallv,
    .control_allgather = nccl_control_allgather,
    .begin = nccl_begin,
    .end = nccl_end,
    .check = nccl_check,
    .fault = nccl_fault,
    .drop = hisa_nccl_drop,
    .destroy = nccl_destroy,
};
