#include "gpu/thread_comm.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"

/* What a rank shows the others during a call. */
typedef struct shown {
    const uint8_t *data;
    const int64_t *bytes;
    const int64_t *offsets;
} shown_t;

typedef struct group {
    pthread_barrier_t barrier;
    atomic_int agreeing; /* control calls entered so far, over all ranks */
    shown_t shown[];     /* [ranks] */
} group_t;

static hisa_status_t wait_for(cudaStream_t stream) {
    const cudaError_t error = cudaStreamSynchronize(stream);
    return error == cudaSuccess ? HISA_OK : hisa_fail(HISA_ERR_COMM, "%s", cudaGetErrorString(error));
}

/* Shows this rank's part once the stream has filled it in, and returns when all are shown. */
static hisa_status_t show(hisa_comm_t *comm, const void *data, const int64_t *bytes, const int64_t *offsets,
                          void *stream) {
    group_t *group = comm->impl;
    const hisa_status_t status = wait_for(stream);
    group->shown[comm->rank] = (shown_t){.data = data, .bytes = bytes, .offsets = offsets};
    pthread_barrier_wait(&group->barrier);
    return status;
}

/* Returns when no rank looks at another's part any more. */
static hisa_status_t hide(hisa_comm_t *comm, hisa_status_t status, void *stream) {
    group_t *group = comm->impl;
    const hisa_status_t waited = wait_for(stream);
    pthread_barrier_wait(&group->barrier);
    return status == HISA_OK ? waited : status;
}

static hisa_status_t take(void *to, const void *from, int64_t bytes, void *stream) {
    if (bytes == 0) {
        return HISA_OK;
    }
    const cudaError_t error = cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDeviceToDevice, stream);
    return error == cudaSuccess ? HISA_OK : hisa_fail(HISA_ERR_COMM, "%s", cudaGetErrorString(error));
}

static hisa_status_t allgatherv(hisa_comm_t *comm, void *buffer, const int64_t *bytes, const int64_t *offsets,
                                void *stream) {
    const group_t *group = comm->impl;
    hisa_status_t status = show(comm, buffer, bytes, offsets, stream);
    for (int r = 0; r < comm->size && status == HISA_OK; ++r) {
        if (r != comm->rank) {
            const shown_t *them = &group->shown[r];
            status = them->bytes[r] == bytes[r]
                         ? take((uint8_t *)buffer + offsets[r], them->data + them->offsets[r], bytes[r], stream)
                         : hisa_fail(HISA_ERR_COMM, "all-gather: sizes differ");
        }
    }
    return hide(comm, status, stream);
}

static hisa_status_t allgather(hisa_comm_t *comm, void *buffer, int64_t bytes, void *stream) {
    int64_t size[64];
    int64_t offset[64];
    for (int r = 0; r < comm->size; ++r) {
        size[r] = bytes;
        offset[r] = r * bytes;
    }
    return allgatherv(comm, buffer, size, offset, stream);
}

static hisa_status_t alltoallv(hisa_comm_t *comm, const void *send, const int64_t *send_bytes,
                               const int64_t *send_offsets, void *recv, const int64_t *recv_bytes,
                               const int64_t *recv_offsets, void *stream) {
    const group_t *group = comm->impl;
    hisa_status_t status = show(comm, send, send_bytes, send_offsets, stream);
    for (int r = 0; r < comm->size && status == HISA_OK; ++r) {
        if (r != comm->rank) {
            const shown_t *them = &group->shown[r];
            status = them->bytes[comm->rank] == recv_bytes[r]
                         ? take((uint8_t *)recv + recv_offsets[r], them->data + them->offsets[comm->rank],
                                recv_bytes[r], stream)
                         : hisa_fail(HISA_ERR_COMM, "all-to-all: sizes differ");
        }
    }
    return hide(comm, status, stream);
}

static hisa_status_t control_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes) {
    group_t *group = comm->impl;
    group->shown[comm->rank].data = buffer;
    atomic_fetch_add(&group->agreeing, 1);
    pthread_barrier_wait(&group->barrier);
    for (int r = 0; r < comm->size; ++r) {
        if (r != comm->rank) {
            memcpy((uint8_t *)buffer + r * bytes, group->shown[r].data + r * bytes, (size_t)bytes);
        }
    }
    pthread_barrier_wait(&group->barrier);
    return HISA_OK;
}

void thread_comm_await(const hisa_comm_t *comm, int calls) {
    group_t *group = comm->impl;
    while (atomic_load(&group->agreeing) < calls) {
        sched_yield();
    }
}

static void destroy(hisa_comm_t *comm) { (void)comm; /* the group is thread_comm_destroy's */ }

static const hisa_comm_ops_t ops = {.name = "threads",
                                    .device_memory = true,
                                    .allgather = allgather,
                                    .allgatherv = allgatherv,
                                    .alltoallv = alltoallv,
                                    .control_allgather = control_allgather,
                                    .destroy = destroy};

hisa_status_t thread_comm_create(int ranks, hisa_comm_t **comms) {
    group_t *group = calloc(1, sizeof *group + (size_t)ranks * sizeof group->shown[0]);
    if (group == NULL || ranks > 64 || pthread_barrier_init(&group->barrier, NULL, (unsigned)ranks) != 0) {
        free(group);
        return hisa_fail(HISA_ERR_NO_MEMORY, "no memory for a group of %d threads", ranks);
    }
    hisa_status_t status = HISA_OK;
    for (int r = 0; r < ranks && status == HISA_OK; ++r) {
        status = hisa_comm_alloc(&ops, group, r, ranks, &comms[r]);
    }
    return status;
}

void thread_comm_destroy(int ranks, hisa_comm_t **comms) {
    group_t *group = comms[0]->impl;
    for (int r = 0; r < ranks; ++r) {
        hisa_comm_destroy(comms[r]);
    }
    pthread_barrier_destroy(&group->barrier);
    free(group);
}
