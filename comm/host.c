/* Ranks that talk through an all-gather of the caller's: control, and no data. */
#include <stdlib.h>

#include "comm/agree.h"
#include "comm/version.h"

typedef struct host_state {
    hisa_host_allgather_t allgather;
    void *context;
} host_state_t;

static hisa_status_t control_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes) {
    const host_state_t *state = comm->impl;
    if (comm->size == 1) {
        return HISA_OK;
    }
    const int code = state->allgather(state->context, buffer, bytes, comm->deadline);
    if (code == 0) {
        return HISA_OK;
    }
    if (code == (int)HISA_ERR_TIMEOUT) {
        return hisa_fail(HISA_ERR_TIMEOUT, "no answer from the other ranks within %.1f s (the caller's all-gather)",
                         comm->deadline);
    }
    return hisa_fail(HISA_ERR_COMM, "the caller's all-gather of %lld bytes a rank failed: %d", (long long)bytes, code);
}

/* Data calls of a group of one; a larger group never gets here (control_only). */

static hisa_status_t allgather(hisa_comm_t *comm, void *buffer, int64_t bytes, void *stream) {
    (void)comm, (void)buffer, (void)bytes, (void)stream;
    return HISA_OK;
}

static hisa_status_t allgatherv(hisa_comm_t *comm, void *buffer, const int64_t *bytes, const int64_t *offsets,
                                void *stream) {
    (void)comm, (void)buffer, (void)bytes, (void)offsets, (void)stream;
    return HISA_OK;
}

static hisa_status_t alltoallv(hisa_comm_t *comm, const void *send, const int64_t *send_bytes,
                               const int64_t *send_offsets, void *recv, const int64_t *recv_bytes,
                               const int64_t *recv_offsets, void *stream) {
    (void)comm, (void)send, (void)send_bytes, (void)send_offsets;
    (void)recv, (void)recv_bytes, (void)recv_offsets, (void)stream;
    return HISA_OK;
}

static void destroy(hisa_comm_t *comm) { free(comm->impl); }

static const hisa_comm_ops_t ops = {
    .name = "host",
    .device_memory = false,
    .control_only = true,
    .allgather = allgather,
    .allgatherv = allgatherv,
    .alltoallv = alltoallv,
    .control_allgather = control_allgather,
    .destroy = destroy,
};

/* The version first, as between all ranks; then whether each is well, and each at its place. */
static hisa_status_t agree_on_creation(hisa_comm_t *comm, hisa_status_t status) {
    hisa_version_record_t *versions = comm->scratch;
    versions[comm->rank] = hisa_version_record();
    hisa_status_t agreed = hisa_comm_control_allgather(comm, versions, (int64_t)sizeof *versions);
    if (agreed == HISA_OK) {
        agreed = hisa_version_check(versions, comm->size);
    }
    const hisa_agree_value_t size = {"number of ranks", comm->size};
    if (agreed == HISA_OK) {
        agreed = hisa_comm_agree_values(comm, status, &size, 1, comm->rank, NULL);
    }
    if (agreed != HISA_OK) {
        return agreed;
    }
    const hisa_agree_record_t *records = comm->scratch;
    for (int r = 0; r < comm->size; ++r) {
        if (records[r].mine != r) {
            return hisa_fail(HISA_ERR_MISMATCH, "the caller's all-gather has at place %d a rank that says it is %lld",
                             r, (long long)records[r].mine);
        }
    }
    return HISA_OK;
}

hisa_status_t hisa_comm_create_host(int rank, int size, hisa_host_allgather_t allgather_of_caller, void *context,
                                    hisa_comm_t **comm) {
    if (allgather_of_caller == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "allgather is NULL");
    }
    if (size < 1 || rank < 0 || rank >= size) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "rank %d of %d", rank, size);
    }
    host_state_t *state = calloc(1, sizeof *state);
    if (state == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "no memory for a communicator");
    }
    *state = (host_state_t){.allgather = allgather_of_caller, .context = context};
    hisa_comm_t *made = NULL;
    hisa_status_t status = hisa_comm_alloc(&ops, state, rank, size, &made);
    if (status != HISA_OK) {
        free(state);
        return status;
    }
    status = comm == NULL ? hisa_fail(HISA_ERR_INVALID_ARGUMENT, "comm is NULL") : HISA_OK;
    status = agree_on_creation(made, status);
    if (status != HISA_OK || comm == NULL) {
        hisa_comm_destroy(made);
        return status;
    }
    *comm = made;
    return HISA_OK;
}
