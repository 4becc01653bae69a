#include "cli/gpu_ranks.h"

#include <time.h>

#include "backend/cuda/cuda.h"

/* Some twenty launches of 5 us. */
#define LEAD_NANOSECONDS 100000

static void CUDART_CB linger(void *unused) {
    const struct timespec lead = {.tv_nsec = LEAD_NANOSECONDS};
    (void)unused;
    nanosleep(&lead, NULL);
}

hisa_status_t cli_gpu_lead(void *stream) {
    return hisa_cuda_status(cudaLaunchHostFunc((cudaStream_t)stream, linger, NULL), "cudaLaunchHostFunc");
}

hisa_status_t cli_gpu_adopt(const cli_gpu_t *gpu) {
    return hisa_cuda_status(cudaSetDevice(gpu->ordinal), "cudaSetDevice");
}

static hisa_status_t copy(void *context, void *to, const void *from, int64_t bytes, void *stream) {
    (void)context;
    return hisa_cuda_status(cudaMemcpyAsync(to, from, (size_t)bytes, cudaMemcpyDeviceToDevice, (cudaStream_t)stream),
                            "copying between ranks");
}

/* Of the whole device: a rank has more than one stream. */
static hisa_status_t synchronize(void *context) {
    (void)context;
    return hisa_cuda_status(cudaDeviceSynchronize(), "waiting for a rank's work");
}

static hisa_status_t resume(void *context, void *stream) {
    (void)context;
    return cli_gpu_lead(stream);
}

hisa_threads_memory_t cli_gpu_threads_memory(cli_gpu_t *gpu) {
    return (hisa_threads_memory_t){.context = gpu, .copy = copy, .synchronize = synchronize, .resume = resume};
}
