/* The second stream, points in a stream that the host looks at without waiting, and the memory that sizes are read back
 * to. */
#include <string.h>

#include "backend/cuda/cuda.h"
#include "base/checked.h"

cudaError_t hisa_cuda_make_events(hisa_cuda_t *cuda) {
    /* Exchanges first: they take few multiprocessors, and a thread block of theirs that waits for one until a scoring
     * kernel is through hides under nothing. */
    int least = 0;
    int greatest = 0;
    cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
    if (error == cudaSuccess) {
        error = cudaStreamCreateWithPriority(&cuda->exchange, cudaStreamNonBlocking, greatest);
    }
    for (int i = 0; i < HISA_EVENTS && error == cudaSuccess; ++i) {
        error = cudaEventCreateWithFlags(&cuda->events[i], cudaEventDisableTiming);
    }
    return error;
}

void hisa_cuda_drop_events(hisa_cuda_t *cuda) {
    if (cuda->exchange != NULL) {
        cudaStreamDestroy(cuda->exchange);
    }
    for (int i = 0; i < HISA_EVENTS; ++i) {
        if (cuda->events[i] != NULL) {
            cudaEventDestroy(cuda->events[i]);
        }
    }
}

hisa_status_t hisa_cuda_record(hisa_device_t *device, int32_t event, void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "recording an event",
                  cudaEventRecord(hisa_cuda_of(device)->events[event], (cudaStream_t)stream));
    return status;
}

hisa_status_t hisa_cuda_await(hisa_device_t *device, int32_t event, void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "waiting for another stream",
                  cudaStreamWaitEvent((cudaStream_t)stream, hisa_cuda_of(device)->events[event], 0));
    return status;
}

void *hisa_cuda_exchange_stream(const hisa_device_t *device) { return hisa_cuda_of(device)->exchange; }

static cudaError_t query(cudaEvent_t event, bool *done) {
    const cudaError_t error = cudaEventQuery(event);
    *done = error == cudaSuccess;
    if (error != cudaErrorNotReady) {
        return error;
    }
    if (cudaPeekAtLastError() == cudaErrorNotReady) {
        cudaGetLastError(); /* no error, and not to be found as one by the caller's next check */
    }
    return cudaSuccess;
}

hisa_status_t hisa_cuda_passed(hisa_device_t *device, int32_t event, bool *done) {
    hisa_status_t status;
    *done = false;
    HISA_CUDA_RUN(status, device, "asking for an event", query(hisa_cuda_of(device)->events[event], done));
    return status;
}

hisa_status_t hisa_cuda_alloc_host(hisa_device_t *device, int64_t bytes, void **memory) {
    const size_t size = (size_t)hisa_max(1, bytes);
    hisa_status_t status;
    void *fresh = NULL;
    HISA_CUDA_RUN(status, device, "allocating pinned host memory", cudaHostAlloc(&fresh, size, cudaHostAllocDefault));
    if (status == HISA_OK) {
        memset(fresh, 0, size);
        *memory = fresh;
    }
    return status;
}

void hisa_cuda_release_host(hisa_device_t *device, void *memory) {
    if (memory != NULL) {
        const hisa_cuda_scope_t scope = hisa_cuda_enter(device);
        cudaFreeHost(memory);
        hisa_cuda_leave(&scope);
    }
}

hisa_status_t hisa_cuda_read_sizes(hisa_device_t *device, int64_t *sizes, const int64_t *sums, int32_t ranks,
                                   void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(
        status, device, "reading sizes back",
        cudaMemcpyAsync(sizes, sums, 2 * (size_t)ranks * sizeof *sums, cudaMemcpyDeviceToHost, (cudaStream_t)stream));
    return status;
}
