/* One rank of a group that talks through NCCL: its place on a GPU, and its waiting. With fewer GPUs than ranks several
 * ranks share one, which is for tests alone: answers are right, times mean nothing. */
#ifndef HISA_TESTS_NCCL_RANK_H
#define HISA_TESTS_NCCL_RANK_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "comm/comm.h"

/* Whether there is a device; says so if not. */
static inline bool nccl_rank_has_device(void) {
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error == cudaSuccess && devices > 0) {
        return true;
    }
    printf("no device: %s: skipped\n", error != cudaSuccess ? cudaGetErrorString(error) : "none is visible");
    return false;
}

/* Takes a device, and tells NCCL that this process is a host of its own where it shares it. Before the first NCCL call.
 * All ranks are on one host. */
static inline cudaError_t nccl_rank_place(int rank, int ranks) {
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess) {
        return error;
    }
    setenv("NCCL_SOCKET_IFNAME", "lo", 1);
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    if (ranks > devices) {
        char host[64];
        snprintf(host, sizeof host, "hisa-test-rank-%d", rank);
        setenv("NCCL_HOSTID", host, 1);
    }
    return cudaSetDevice(rank % devices);
}

static inline double nccl_rank_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Waits for the stream as whoever uses a communicator must: looking for failures, with the communicator's deadline, and
 * giving up together with the others. */
static inline hisa_status_t nccl_rank_wait(hisa_comm_t *comm, cudaStream_t stream) {
    const double begin = nccl_rank_now();
    for (;;) {
        const double waited = nccl_rank_now() - begin;
        const cudaError_t error = cudaStreamQuery(stream);
        if (error == cudaSuccess) {
            return HISA_OK;
        }
        if (error != cudaErrorNotReady) {
            return hisa_comm_fault(comm, hisa_fail(HISA_ERR_DEVICE, "stream: %s", cudaGetErrorString(error)), waited);
        }
        hisa_status_t status = hisa_comm_check(comm);
        if (status == HISA_OK && waited > comm->deadline) {
            status = hisa_fail(HISA_ERR_TIMEOUT, "the stream is not done within %.1f s", comm->deadline);
        }
        if (status != HISA_OK) {
            return hisa_comm_fault(comm, status, waited);
        }
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
    }
}

/* Whether the stream runs out within some seconds, well or badly. */
static inline bool nccl_rank_runs_out(cudaStream_t stream, double seconds) {
    const double begin = nccl_rank_now();
    while (cudaStreamQuery(stream) == cudaErrorNotReady) {
        if (nccl_rank_now() - begin > seconds) {
            return false;
        }
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return true;
}

#endif
