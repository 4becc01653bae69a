#include "gpu/thread_comm.h"

#include <cuda_runtime_api.h>
#include <sched.h>
#include <time.h>

#include "comm/threads.h"

/* Longer than what a rank takes under a sanitizer. */
#define DEADLINE 600.0

/* Of the group that there is: tests make one at a time. */
static struct device {
    int ranks;
    struct timespec delay; /* of each data call, on the stream */
    cudaEvent_t point[2 * HISA_THREADS_MAX];
} device;

static hisa_status_t status_of(cudaError_t error) {
    return error == cudaSuccess ? HISA_OK : hisa_fail(HISA_ERR_COMM, "%s", cudaGetErrorString(error));
}

static void CUDART_CB linger(void *delay) { nanosleep(delay, NULL); }

static hisa_status_t copy(void *context, void *to, const void *from, int64_t bytes, void *stream) {
    (void)context;
    return status_of(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDeviceToDevice, stream));
}

static hisa_status_t record(void *context, int point, void *stream) {
    struct device *d = context;
    cudaError_t error = cudaSuccess;
    if (point < d->ranks && d->delay.tv_nsec > 0) {
        error = cudaLaunchHostFunc(stream, linger, &d->delay);
    }
    return status_of(error == cudaSuccess ? cudaEventRecord(d->point[point], stream) : error);
}

static hisa_status_t await(void *context, int point, void *stream) {
    const struct device *d = context;
    return status_of(cudaStreamWaitEvent(stream, d->point[point], 0));
}

void thread_comm_await(const hisa_comm_t *comm, int calls) {
    while (hisa_threads_control_calls(comm) < calls) {
        sched_yield();
    }
}

void thread_comm_delay(long microseconds) { device.delay.tv_nsec = 1000 * microseconds; }

hisa_status_t thread_comm_create(int ranks, hisa_comm_t **comms) {
    const hisa_threads_memory_t memory = {.context = &device, .copy = copy, .record = record, .await = await};
    device = (struct device){.ranks = ranks};
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < 2 * ranks && status == HISA_OK; ++i) {
        status = status_of(cudaEventCreateWithFlags(&device.point[i], cudaEventDisableTiming));
    }
    if (status == HISA_OK) {
        status = hisa_threads_create(ranks, &memory, false, comms);
    }
    for (int r = 0; r < ranks && status == HISA_OK; ++r) {
        status = hisa_comm_set_deadline(comms[r], DEADLINE);
    }
    return status;
}

void thread_comm_destroy(int ranks, hisa_comm_t **comms) {
    hisa_threads_destroy(ranks, comms);
    for (int i = 0; i < 2 * ranks; ++i) {
        cudaEventDestroy(device.point[i]);
    }
}
