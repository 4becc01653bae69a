/* Opening, memory, and the table. */
#include <stdlib.h>

#include "backend/cuda/cuda.h"
#include "backend/cuda/hopper.h"
#include "backend/cuda/tensor_map.h"
#include "base/checked.h"
#include "base/error.h"

static void cuda_close(hisa_device_t *device) {
    hisa_cuda_t *cuda = (hisa_cuda_t *)device;
    for (int i = 0; cuda != NULL && i < HISA_MARKS; ++i) {
        if (cuda->marks[i] != NULL) {
            cudaEventDestroy(cuda->marks[i]);
        }
    }
    if (cuda != NULL) {
        const hisa_cuda_scope_t scope = hisa_cuda_enter(device);
        hisa_cuda_drop_events(cuda);
        hisa_cuda_leave(&scope);
    }
    free(cuda);
}

static hisa_status_t choose_device(int asked, int *ordinal, int *major, int *minor) {
    int count = 0;
    hisa_status_t status = hisa_cuda_status(cudaGetDeviceCount(&count), "cudaGetDeviceCount");
    if (status == HISA_OK && asked < -1) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "device is %d: use an ordinal, or -1 for the current one", asked);
    }
    if (status == HISA_OK && asked >= count) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "device %d is not one of the %d present", asked, count);
    }
    *ordinal = asked;
    if (status == HISA_OK && asked == -1) {
        status = hisa_cuda_status(cudaGetDevice(ordinal), "cudaGetDevice");
    }
    if (status == HISA_OK) {
        status = hisa_cuda_status(hisa_cuda_capability(*ordinal, major, minor), "cudaDeviceGetAttribute");
    }
    return status == HISA_OK ? hisa_cuda_check_capability(*ordinal, *major, *minor) : status;
}

static hisa_status_t cuda_open(const hisa_index_config_t *config, hisa_device_t **device) {
    int ordinal = -1;
    int major = 0;
    int minor = 0;
    hisa_cuda_scorer_t scorer = HISA_CUDA_SCORER_F32;
    hisa_status_t status = choose_device(config->device, &ordinal, &major, &minor);
    if (status == HISA_OK) {
        status = hisa_cuda_choose_scorer(getenv(HISA_CUDA_SCORER_VARIABLE), config, major, minor, &scorer);
    }
    if (status != HISA_OK) {
        return status;
    }
    hisa_cuda_t *cuda = calloc(1, sizeof *cuda);
    if (cuda == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "cannot allocate the CUDA backend");
    }
    cuda->device.ops = &hisa_backend_cuda;
    cuda->ordinal = ordinal;
    cuda->block_size = config->block_size;
    cuda->scorer = scorer;
    cuda->num_sequences = config->num_sequences;
    cuda->capability = 10 * major + minor;
    /* Makes the context now, and finds an error that the caller's earlier work left behind. */
    HISA_CUDA_RUN(status, &cuda->device, "opening the device", cudaFree(NULL));
    if (status == HISA_OK) {
        status =
            hisa_cuda_status(cudaDeviceGetAttribute(&cuda->multiprocessors, cudaDevAttrMultiProcessorCount, ordinal),
                             "cudaDeviceGetAttribute");
    }
    if (status == HISA_OK) {
        HISA_CUDA_RUN(status, &cuda->device, "making events", hisa_cuda_make_events(cuda));
    }
    if (status == HISA_OK && scorer == HISA_CUDA_SCORER_WGMMA) {
        hisa_cuda_encoder_t encoder;
        status = hisa_cuda_find_encoder(&encoder);
        cuda->encoder = (void (*)(void))encoder;
    }
    if (status != HISA_OK) {
        cuda_close(&cuda->device);
        return status;
    }
    *device = &cuda->device;
    return HISA_OK;
}

static int64_t cuda_arithmetic(const hisa_device_t *device) {
    const hisa_cuda_t *cuda = hisa_cuda_of(device);
    const hisa_arithmetic_t arithmetic = hisa_cuda_scorer_arithmetic(cuda->scorer);
    return (int64_t)arithmetic | (arithmetic == HISA_ARITHMETIC_MMA ? (int64_t)cuda->capability << 8 : 0);
}

/* Zeroed before any stream of the caller's can see it: a stream need not wait for the default one. */
static cudaError_t take_zeroed(size_t bytes, void **memory) {
    cudaError_t error = cudaMalloc(memory, bytes);
    if (error == cudaSuccess) {
        error = cudaMemset(*memory, 0, bytes);
        if (error == cudaSuccess) {
            error = cudaStreamSynchronize(NULL);
        }
        if (error != cudaSuccess) {
            cudaFree(*memory);
        }
    }
    return error;
}

static hisa_status_t cuda_alloc(hisa_device_t *device, int64_t bytes, void **memory) {
    hisa_status_t status;
    void *fresh = NULL;
    if (bytes < 0) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "cannot allocate %lld bytes", (long long)bytes);
    }
    HISA_CUDA_RUN(status, device, "allocating device memory", take_zeroed((size_t)hisa_max(1, bytes), &fresh));
    if (status == HISA_ERR_NO_MEMORY) {
        return hisa_fail(status, "cannot allocate %lld bytes of device memory", (long long)bytes);
    }
    if (status == HISA_OK) {
        *memory = fresh;
    }
    return status;
}

static void cuda_release(hisa_device_t *device, void *memory) {
    if (memory != NULL) {
        const hisa_cuda_scope_t scope = hisa_cuda_enter(device);
        cudaFree(memory);
        hisa_cuda_leave(&scope);
    }
}

static hisa_status_t move(hisa_device_t *device, void *to, const void *from, int64_t bytes, enum cudaMemcpyKind kind,
                          void *stream) {
    hisa_status_t status = HISA_OK;
    if (bytes > 0) {
        HISA_CUDA_RUN(status, device, "copying", cudaMemcpyAsync(to, from, (size_t)bytes, kind, (cudaStream_t)stream));
    }
    return status;
}

static hisa_status_t cuda_copy(hisa_device_t *device, void *to, const void *from, int64_t bytes, void *stream) {
    return move(device, to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}

static hisa_status_t cuda_synchronize(hisa_device_t *device, void *stream) {
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "waiting for the stream", cudaStreamSynchronize((cudaStream_t)stream));
    return status;
}

static hisa_status_t cuda_to_host(hisa_device_t *device, void *host, const void *from, int64_t bytes, void *stream) {
    const hisa_status_t status = move(device, host, from, bytes, cudaMemcpyDeviceToHost, stream);
    return status == HISA_OK ? cuda_synchronize(device, stream) : status;
}

static hisa_status_t cuda_from_host(hisa_device_t *device, void *to, const void *host, int64_t bytes, void *stream) {
    const hisa_status_t status = move(device, to, host, bytes, cudaMemcpyHostToDevice, stream);
    return status == HISA_OK ? cuda_synchronize(device, stream) : status;
}

static cudaError_t note(cudaEvent_t *event, cudaStream_t stream) {
    cudaError_t error = *event != NULL ? cudaSuccess : cudaEventCreate(event);
    return error == cudaSuccess ? cudaEventRecord(*event, stream) : error;
}

static hisa_status_t cuda_mark(hisa_device_t *device, int32_t slot, void *stream) {
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "cudaStreamIsCapturing", cudaStreamIsCapturing((cudaStream_t)stream, &capture));
    if (status == HISA_OK && capture != cudaStreamCaptureStatusNone) {
        /* A captured event has no time. */
        return hisa_fail(HISA_ERR_UNSUPPORTED, "a timed call cannot be captured in a graph");
    }
    if (status == HISA_OK) {
        HISA_CUDA_RUN(status, device, "marking a step",
                      note(&((hisa_cuda_t *)device)->marks[slot], (cudaStream_t)stream));
    }
    return status;
}

static hisa_status_t cuda_marked(hisa_device_t *device, int32_t from, int32_t to, double *seconds) {
    const cudaEvent_t *marks = hisa_cuda_of(device)->marks;
    hisa_status_t status;
    float milliseconds = 0;
    HISA_CUDA_RUN(status, device, "waiting for a step", cudaEventSynchronize(marks[to]));
    if (status == HISA_OK) {
        HISA_CUDA_RUN(status, device, "timing a step", cudaEventElapsedTime(&milliseconds, marks[from], marks[to]));
    }
    if (status == HISA_OK) {
        *seconds = 1e-3 * (double)milliseconds;
    }
    return status;
}

/* Queries are decoded where they are used. */
static int64_t cuda_queries_bytes(const hisa_device_t *device, int64_t rows) {
    (void)device;
    (void)rows;
    return HISA_CUDA_PREPARED;
}

static int64_t cuda_scratch_bytes(const hisa_device_t *device, int64_t rows, int32_t width, int32_t top_k,
                                  int64_t blocks, int32_t ranks, bool flat) {
    const int64_t size = hisa_cuda_of(device)->block_size;
    return flat ? hisa_cuda_flat_scratch(rows, (int32_t)hisa_min(top_k, blocks * size), ranks)
                : hisa_max(hisa_cuda_two_stage_scratch(rows, width, blocks, ranks),
                           hisa_cuda_hopper_scratch(hisa_cuda_of(device), rows, width, blocks));
}

const hisa_backend_ops_t hisa_backend_cuda = {
    .name = "cuda",
    .kind = HISA_BACKEND_CUDA,
    .device_memory = true,
    .open = cuda_open,
    .close = cuda_close,
    .arithmetic = cuda_arithmetic,
    .flop_rate = 850e12,    /* tokens of kept blocks and mode flat on an H100: launch/results */
    .candidate_rate = 3e11, /* merge tokens of 4096 queries there */
    .host_wait = 20e-6,     /* an event seen by a polling host, and the launches after it */
    .tile_cost = 100e-6,    /* one H100, 1M tokens: 97 us on 2 ranks, 125 on 8 */
    .tile_share = 0.04,     /* 2 and 4 H100, 128K to 4M tokens: 0.034 to 0.062 a tile more (launch/results, flat) */
    .alloc = cuda_alloc,
    .release = cuda_release,
    .alloc_host = hisa_cuda_alloc_host,
    .release_host = hisa_cuda_release_host,
    .copy = cuda_copy,
    .to_host = cuda_to_host,
    .from_host = cuda_from_host,
    .synchronize = cuda_synchronize,
    .record = hisa_cuda_record,
    .await = hisa_cuda_await,
    .exchange_stream = hisa_cuda_exchange_stream,
    .passed = hisa_cuda_passed,
    .mark = cuda_mark,
    .marked = cuda_marked,
    .check_memory = hisa_cuda_check_memory,
    .check_stream = hisa_cuda_check_stream,
    .set_length = hisa_cuda_set_length,
    /* A prefill chunk of 4096 queries is one tile: at m = 64, B = 128 its scores take 134 MB. */
    .tile_rows = 4096,
    .tile_budget = INT64_C(256) << 20,
    .queries_bytes = cuda_queries_bytes,
    .scratch_bytes = cuda_scratch_bytes,
    .write_tokens = hisa_cuda_write_tokens,
    .pool_blocks = hisa_cuda_pool_blocks,
    .check_rows = hisa_cuda_check_rows,
    .make_rows = hisa_cuda_make_rows,
    .prepare_queries = hisa_cuda_prepare_queries,
    .score_blocks = hisa_cuda_score_blocks,
    .merge_blocks = hisa_cuda_merge_blocks,
    .own_blocks = hisa_cuda_own_blocks,
    .plan_tokens = hisa_cuda_plan_tokens,
    .score_tokens = hisa_cuda_score_tokens,
    .select_tokens = hisa_cuda_select_tokens,
    .list_tokens = hisa_cuda_list_tokens,
    .emit = hisa_cuda_emit,
    .keep_blocks = hisa_cuda_keep_blocks,
    .select_emit = hisa_cuda_select_emit,
    .flat_scan = hisa_cuda_flat_scan,
    .flat_quantiles = hisa_cuda_flat_quantiles,
    .flat_trim = hisa_cuda_flat_trim,
    .flat_sizes = hisa_cuda_flat_sizes,
    .flat_merge = hisa_cuda_flat_merge,
    .flat_emit = hisa_cuda_flat_emit,
    .flat_emit_local = hisa_cuda_flat_emit_local,
};
