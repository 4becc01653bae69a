#include "cli/gpu.h"

#include <stdio.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "base/error.h"

/* What is written to empty L2, in sizes of it: some lines of what was there would survive a single one, as hashes of
 * addresses do not spread evenly. */
#define FLUSH_FACTOR 3

/* "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  ...": the first word that begins with a digit and has a
 * point. */
static void read_driver(char *text, size_t size) {
    char line[512] = "";
    FILE *file = fopen("/proc/driver/nvidia/version", "r");
    if (file == NULL) {
        return;
    }
    if (fgets(line, sizeof line, file) != NULL) {
        char *rest = NULL;
        for (const char *word = strtok_r(line, " \t\n", &rest); word != NULL; word = strtok_r(NULL, " \t\n", &rest)) {
            if (word[0] >= '0' && word[0] <= '9' && strchr(word, '.') != NULL) {
                snprintf(text, size, "%s", word);
                break;
            }
        }
    }
    fclose(file);
}

static hisa_status_t read_facts(cli_gpu_t *gpu) {
    struct cudaDeviceProp properties;
    int device = 0;
    hisa_status_t status = hisa_cuda_status(cudaGetDevice(&device), "cudaGetDevice");
    if (status == HISA_OK) {
        status = hisa_cuda_status(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    }
    if (status == HISA_OK) {
        status = hisa_cuda_status(cudaDriverGetVersion(&gpu->cuda_driver), "cudaDriverGetVersion");
    }
    if (status == HISA_OK) {
        status = hisa_cuda_status(cudaRuntimeGetVersion(&gpu->cuda_runtime), "cudaRuntimeGetVersion");
    }
    if (status != HISA_OK) {
        return status;
    }
    snprintf(gpu->name, sizeof gpu->name, "%s", properties.name);
    gpu->ordinal = device;
    gpu->major = properties.major;
    gpu->minor = properties.minor;
    gpu->multiprocessors = properties.multiProcessorCount;
    gpu->memory_bytes = (int64_t)properties.totalGlobalMem;
    gpu->l2_bytes = properties.l2CacheSize;
    read_driver(gpu->driver, sizeof gpu->driver);
    return HISA_OK;
}

hisa_status_t cli_gpu_open(cli_gpu_t *gpu) {
    *gpu = (cli_gpu_t){0};
    hisa_status_t status = read_facts(gpu);
    if (status == HISA_OK) {
        /* Not the default stream: that one cannot be captured. */
        status = hisa_cuda_status(cudaStreamCreateWithFlags((cudaStream_t *)&gpu->stream, cudaStreamNonBlocking),
                                  "cudaStreamCreate");
    }
    for (int i = 0; i < CLI_GPU_SLOTS && status == HISA_OK; i++) {
        status = hisa_cuda_status(cudaEventCreate((cudaEvent_t *)&gpu->slots[i]), "cudaEventCreate");
    }
    if (status == HISA_OK) {
        gpu->flush_bytes = FLUSH_FACTOR * gpu->l2_bytes;
        status = hisa_cuda_status(cudaMalloc(&gpu->flush, (size_t)gpu->flush_bytes), "cudaMalloc");
    }
    if (status != HISA_OK) {
        cli_gpu_close(gpu);
    }
    return status;
}

void cli_gpu_close(cli_gpu_t *gpu) {
    for (int i = 0; i < CLI_GPU_SLOTS; i++) {
        if (gpu->slots[i] != NULL) {
            cudaEventDestroy((cudaEvent_t)gpu->slots[i]);
        }
    }
    if (gpu->flush != NULL) {
        cudaFree(gpu->flush);
    }
    if (gpu->stream != NULL) {
        cudaStreamDestroy((cudaStream_t)gpu->stream);
    }
    *gpu = (cli_gpu_t){0};
}

hisa_status_t cli_gpu_mark(cli_gpu_t *gpu, int slot) {
    return hisa_cuda_status(cudaEventRecord((cudaEvent_t)gpu->slots[slot], (cudaStream_t)gpu->stream),
                            "cudaEventRecord");
}

hisa_status_t cli_gpu_seconds(cli_gpu_t *gpu, int from, int to, double *seconds) {
    float milliseconds = 0;
    hisa_status_t status =
        hisa_cuda_status(cudaEventSynchronize((cudaEvent_t)gpu->slots[to]), "waiting for a timed call");
    if (status == HISA_OK) {
        status = hisa_cuda_status(
            cudaEventElapsedTime(&milliseconds, (cudaEvent_t)gpu->slots[from], (cudaEvent_t)gpu->slots[to]),
            "cudaEventElapsedTime");
    }
    if (status == HISA_OK) {
        *seconds = 1e-3 * (double)milliseconds;
    }
    return status;
}

hisa_status_t cli_gpu_flush(cli_gpu_t *gpu) {
    return hisa_cuda_status(cudaMemsetAsync(gpu->flush, 0x55, (size_t)gpu->flush_bytes, (cudaStream_t)gpu->stream),
                            "emptying L2");
}

/* ------------------------------------------------------------------------------------------- graphs */

hisa_status_t cli_gpu_capture(cli_gpu_t *gpu, hisa_status_t (*call)(void *context, int64_t turn), void *context,
                              int64_t turn, void **graph) {
    struct CUstream_st *const stream = gpu->stream;
    hisa_status_t status =
        hisa_cuda_status(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
    if (status != HISA_OK) {
        return status;
    }
    const hisa_status_t called = call(context, turn);
    char reason[HISA_ERROR_BYTES];
    snprintf(reason, sizeof reason, "%s", called == HISA_OK ? "" : hisa_last_error());
    /* Always ended, or the stream would stay captured. */
    cudaGraph_t captured = NULL;
    const cudaError_t ended = cudaStreamEndCapture(stream, &captured);
    if (called != HISA_OK || ended != cudaSuccess) {
        cudaGetLastError(); /* reported here */
        if (captured != NULL) {
            cudaGraphDestroy(captured);
        }
        return hisa_fail(HISA_ERR_UNSUPPORTED, "--graph: this call cannot be captured: %s",
                         called != HISA_OK ? reason : cudaGetErrorString(ended));
    }
    cudaGraphExec_t made = NULL;
    status = hisa_cuda_status(cudaGraphInstantiate(&made, captured, 0), "cudaGraphInstantiate");
    cudaGraphDestroy(captured);
    if (status == HISA_OK) {
        /* What the first launch would do once. */
        status = hisa_cuda_status(cudaGraphUpload(made, stream), "cudaGraphUpload");
        *graph = made;
    }
    return status;
}

hisa_status_t cli_gpu_replay(cli_gpu_t *gpu, void *graph) {
    return hisa_cuda_status(cudaGraphLaunch((cudaGraphExec_t)graph, (cudaStream_t)gpu->stream), "cudaGraphLaunch");
}

void cli_gpu_graph_free(void *graph) {
    if (graph != NULL) {
        cudaGraphExecDestroy((cudaGraphExec_t)graph);
    }
}
