/* What all communicators share: their making, the check for poison and the count of bytes. */
#include "comm/comm.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"
#include "comm/agree.h"

hisa_status_t hisa_comm_alloc(const hisa_comm_ops_t *ops, void *impl, int rank, int size, hisa_comm_t **comm) {
    hisa_comm_t *made = calloc(1, sizeof *made);
    void *scratch = calloc((size_t)size, sizeof(hisa_agree_record_t));
    if (made == NULL || scratch == NULL) {
        free(made);
        free(scratch);
        return hisa_fail(HISA_ERR_NO_MEMORY, "no memory for a communicator of %d ranks", size);
    }
    made->ops = ops;
    made->impl = impl;
    made->rank = rank;
    made->size = size;
    made->deadline = HISA_COMM_DEADLINE;
    made->cost = ops->cost.bandwidth > 0 ? ops->cost : (hisa_comm_cost_t){.bandwidth = 1e12};
    made->scratch = scratch;
    *comm = made;
    return HISA_OK;
}

void hisa_comm_destroy(hisa_comm_t *comm) {
    if (comm == NULL) {
        return;
    }
    comm->ops->destroy(comm);
    if (!comm->scratch_lent) {
        free(comm->scratch);
    }
    free(comm);
}

int hisa_comm_rank(const hisa_comm_t *comm) { return comm != NULL ? comm->rank : 0; }

int hisa_comm_size(const hisa_comm_t *comm) { return comm != NULL ? comm->size : 0; }

const char *hisa_comm_name(const hisa_comm_t *comm) { return comm != NULL ? comm->ops->name : ""; }

hisa_status_t hisa_comm_set_deadline(hisa_comm_t *comm, double seconds) {
    if (comm == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    }
    if (!isfinite(seconds) || seconds <= 0.0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "deadline of %g s: it must be finite and greater than 0", seconds);
    }
    comm->deadline = seconds;
    return HISA_OK;
}

hisa_status_t hisa_comm_set_cost(hisa_comm_t *comm, double latency, double bandwidth) {
    if (comm == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    }
    if (!isfinite(latency) || latency < 0.0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "latency of %g s: it must be finite and at least 0", latency);
    }
    if (!isfinite(bandwidth) || bandwidth <= 0.0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "bandwidth of %g bytes/s: it must be finite and greater than 0",
                         bandwidth);
    }
    comm->cost = (hisa_comm_cost_t){.latency = latency, .bandwidth = bandwidth};
    return HISA_OK;
}

void hisa_comm_cost(const hisa_comm_t *comm, double *latency, double *bandwidth) {
    if (comm != NULL && latency != NULL) {
        *latency = comm->cost.latency;
    }
    if (comm != NULL && bandwidth != NULL) {
        *bandwidth = comm->cost.bandwidth;
    }
}

/* First thing of each operation. */
static hisa_status_t enter(const hisa_comm_t *comm) {
    if (comm == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    }
    if (comm->poisoned) {
        return hisa_fail(HISA_ERR_POISONED, "the communicator failed earlier: %s", comm->cause);
    }
    return HISA_OK;
}

/* First thing of each data call. Refused before anything is sent, so that the communicator stays well. */
static hisa_status_t enter_data(const hisa_comm_t *comm) {
    const hisa_status_t status = enter(comm);
    if (status == HISA_OK && comm->ops->control_only && comm->size > 1) {
        return hisa_fail(HISA_ERR_UNSUPPORTED, "communicator %s is for control only: it moves no data",
                         comm->ops->name);
    }
    return status;
}

/* Last thing of each operation that was entered: whatever went wrong, peers may be anywhere in it. */
static hisa_status_t leave(hisa_comm_t *comm, hisa_status_t status) {
    if (status != HISA_OK) {
        comm->poisoned = true;
        snprintf(comm->cause, sizeof comm->cause, "%s", hisa_last_error());
    }
    return status;
}

/* Sums the sizes of all ranks but this one, whose entries mean nothing here, and checks each. */
static hisa_status_t sum_of_peers(const hisa_comm_t *comm, const int64_t *bytes, const int64_t *offsets, int64_t *sum) {
    int64_t total = 0;
    for (int r = 0; r < comm->size; ++r) {
        int64_t end = 0;
        if (r == comm->rank) {
            continue;
        }
        if (!hisa_add(bytes[r], offsets[r], &end) || !hisa_add(total, bytes[r], &total)) {
            return hisa_fail(HISA_ERR_INTERNAL, "part of rank %d has %lld bytes at %lld", r, (long long)bytes[r],
                             (long long)offsets[r]);
        }
    }
    *sum = total;
    return HISA_OK;
}

hisa_status_t hisa_comm_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes, void *stream) {
    hisa_status_t status = enter_data(comm);
    if (status != HISA_OK) {
        return status;
    }
    int64_t total = 0;
    if (!hisa_mul(bytes, comm->size, &total)) {
        return leave(comm, hisa_fail(HISA_ERR_INTERNAL, "all-gather of %lld bytes a rank", (long long)bytes));
    }
    status = comm->ops->allgather(comm, buffer, bytes, stream);
    if (status == HISA_OK) {
        comm->bytes_sent += total - bytes;
        comm->bytes_received += total - bytes;
    }
    return leave(comm, status);
}

hisa_status_t hisa_comm_allgatherv(hisa_comm_t *comm, void *buffer, const int64_t *bytes, const int64_t *offsets,
                                   void *stream) {
    hisa_status_t status = enter_data(comm);
    if (status != HISA_OK) {
        return status;
    }
    int64_t sent = 0;
    int64_t received = 0;
    status = sum_of_peers(comm, bytes, offsets, &received);
    if (status == HISA_OK && !hisa_mul(bytes[comm->rank], comm->size - 1, &sent)) {
        status = hisa_fail(HISA_ERR_INTERNAL, "all-gather of %lld own bytes", (long long)bytes[comm->rank]);
    }
    if (status == HISA_OK) {
        status = comm->ops->allgatherv(comm, buffer, bytes, offsets, stream);
    }
    if (status == HISA_OK) {
        comm->bytes_sent += sent;
        comm->bytes_received += received;
    }
    return leave(comm, status);
}

hisa_status_t hisa_comm_alltoallv(hisa_comm_t *comm, const void *send, const int64_t *send_bytes,
                                  const int64_t *send_offsets, void *recv, const int64_t *recv_bytes,
                                  const int64_t *recv_offsets, void *stream) {
    hisa_status_t status = enter_data(comm);
    if (status != HISA_OK) {
        return status;
    }
    int64_t sent = 0;
    int64_t received = 0;
    status = sum_of_peers(comm, send_bytes, send_offsets, &sent);
    if (status == HISA_OK) {
        status = sum_of_peers(comm, recv_bytes, recv_offsets, &received);
    }
    if (status == HISA_OK) {
        status = comm->ops->alltoallv(comm, send, send_bytes, send_offsets, recv, recv_bytes, recv_offsets, stream);
    }
    if (status == HISA_OK) {
        comm->bytes_sent += sent;
        comm->bytes_received += received;
    }
    return leave(comm, status);
}

hisa_status_t hisa_comm_control_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes) {
    hisa_status_t status = enter(comm);
    if (status != HISA_OK) {
        return status;
    }
    int64_t total = 0;
    if (!hisa_mul(bytes, comm->size, &total)) {
        return leave(comm, hisa_fail(HISA_ERR_INTERNAL, "all-gather of %lld bytes a rank", (long long)bytes));
    }
    return leave(comm, comm->ops->control_allgather(comm, buffer, bytes));
}

hisa_status_t hisa_comm_begin(hisa_comm_t *comm) {
    const hisa_status_t status = enter(comm);
    return status != HISA_OK || comm->ops->begin == NULL ? status : leave(comm, comm->ops->begin(comm));
}

hisa_status_t hisa_comm_end(hisa_comm_t *comm) {
    const hisa_status_t status = enter(comm);
    return status != HISA_OK || comm->ops->end == NULL ? status : leave(comm, comm->ops->end(comm));
}

hisa_status_t hisa_comm_check(hisa_comm_t *comm) {
    const hisa_status_t status = enter(comm);
    return status != HISA_OK || comm->ops->check == NULL ? status : comm->ops->check(comm);
}

hisa_status_t hisa_comm_fault(hisa_comm_t *comm, hisa_status_t status, double seconds) {
    if (comm->poisoned || comm->size == 1) {
        return status;
    }
    return leave(comm, comm->ops->fault == NULL ? status : comm->ops->fault(comm, status, seconds));
}

void hisa_comm_drop(hisa_comm_t *comm, hisa_status_t status) {
    if (!comm->poisoned && comm->ops->drop != NULL) {
        leave(comm, status);
        comm->ops->drop(comm);
    }
}
