/* A group of one. A rank's own part never moves, so there is nothing to do, for whatever kind of memory. */
#include "comm/comm.h"

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

static hisa_status_t control_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes) {
    (void)comm, (void)buffer, (void)bytes;
    return HISA_OK;
}

static void destroy(hisa_comm_t *comm) { (void)comm; }

static const hisa_comm_ops_t ops = {
    .name = "self",
    .device_memory = false,
    .allgather = allgather,
    .allgatherv = allgatherv,
    .alltoallv = alltoallv,
    .control_allgather = control_allgather,
    .destroy = destroy,
};

hisa_status_t hisa_comm_create_self(hisa_comm_t **comm) {
    if (comm == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    }
    return hisa_comm_alloc(&ops, NULL, 0, 1, comm);
}
