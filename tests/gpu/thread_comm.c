#include "gpu/thread_comm.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "comm/comm.h"

/* What a rank shows the others during a call. */
typedef struct shown {
    const uint8_t *data;
    const int64_t *bytes;
    const int64_t *offsets;
    cudaEvent_t ready; /* its stream has filled the part in */
    cudaEvent_t done;  /* its stream has taken what it wanted of the others' */
} shown_t;

typedef struct group {
    pthread_barrier_t barrier;
    struct timespec delay; /* of each data call, on the stream */
    atomic_int agreeing;   /* control calls entered so far, over all ranks */
    shown_t shown[];       /* [ranks] */
} group_t;

static hisa_status_t status_of(cudaError_t error) {
    return error == cudaSuccess ? HISA_OK : hisa_fail(HISA_ERR_COMM, "%s", cudaGetErrorString(error));
}

static void CUDART_CB linger(void *delay) { nanosleep(delay, NULL); }

/* Shows this rank's part, for when the stream has filled it in, and returns when all are shown and the stream waits for
 * all of them. Nothing here waits for a stream: who orders its streams wrongly gets wrong bytes. */
static hisa_status_t show(hisa_comm_t *comm, const void *data, const int64_t *bytes, const int64_t *offsets,
                          void *stream) {
    group_t *group = comm->impl;
    shown_t *own = &group->shown[comm->rank];
    cudaError_t error = cudaEventRecord(own->ready, stream);
    own->data = data;
    own->bytes = bytes;
    own->offsets = offsets;
    pthread_barrier_wait(&group->barrier);
    for (int r = 0; r < comm->size && error == cudaSuccess; ++r) {
        error = r == comm->rank ? cudaSuccess : cudaStreamWaitEvent(stream, group->shown[r].ready, 0);
    }
    if (error == cudaSuccess && group->delay.tv_nsec > 0) {
        error = cudaLaunchHostFunc(stream, linger, &group->delay);
    }
    return status_of(error);
}

/* Returns when the stream waits for all ranks to have taken what they wanted. An event is recorded again, and the parts
 * shown change, only when all have been here. */
static hisa_status_t hide(hisa_comm_t *comm, hisa_status_t status, void *stream) {
    group_t *group = comm->impl;
    cudaError_t error = cudaEventRecord(group->shown[comm->rank].done, stream);
    pthread_barrier_wait(&group->barrier);
    for (int r = 0; r < comm->size && error == cudaSuccess; ++r) {
        error = r == comm->rank ? cudaSuccess : cudaStreamWaitEvent(stream, group->shown[r].done, 0);
    }
    return status == HISA_OK ? status_of(error) : status;
}

static hisa_status_t take(void *to, const void *from, int64_t bytes, void *stream) {
    if (bytes == 0) {
        return HISA_OK;
    }
    return status_of(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDeviceToDevice, stream));
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

void thread_comm_delay(const hisa_comm_t *comm, long microseconds) {
    group_t *group = comm->impl;
    group->delay.tv_nsec = 1000 * microseconds;
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
        status = status_of(cudaEventCreateWithFlags(&group->shown[r].ready, cudaEventDisableTiming));
    }
    for (int r = 0; r < ranks && status == HISA_OK; ++r) {
        status = status_of(cudaEventCreateWithFlags(&group->shown[r].done, cudaEventDisableTiming));
    }
    for (int r = 0; r < ranks && status == HISA_OK; ++r) {
        status = hisa_comm_alloc(&ops, group, r, ranks, &comms[r]);
    }
    return status;
}

void thread_comm_destroy(int ranks, hisa_comm_t **comms) {
    group_t *group = comms[0]->impl;
    for (int r = 0; r < ranks; ++r) {
        hisa_comm_destroy(comms[r]);
        cudaEventDestroy(group->shown[r].ready);
        cudaEventDestroy(group->shown[r].done);
    }
    pthread_barrier_destroy(&group->barrier);
    free(group);
}
