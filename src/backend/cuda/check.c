/* Errors, the current device, and what can be checked of the caller's pointers and streams. */
#include <stdio.h>

#include "backend/cuda/cuda.h"
#include "base/error.h"

/* Errors of kernels: they spoil the context, and surface in whatever call comes next. */
static bool is_sticky(cudaError_t error) {
    switch (error) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorECCUncorrectable:
        return true;
    default:
        return false;
    }
}

hisa_status_t hisa_cuda_status(cudaError_t error, const char *what) {
    if (error == cudaSuccess) {
        return HISA_OK;
    }
    if (is_sticky(error)) {
        return hisa_fail(HISA_ERR_DEVICE, "work enqueued earlier on this device failed, found at %s: %s (%s)", what,
                         cudaGetErrorString(error), cudaGetErrorName(error));
    }
    cudaGetLastError(); /* reported here: not to be found by the caller's next check */
    return hisa_fail(error == cudaErrorMemoryAllocation ? HISA_ERR_NO_MEMORY : HISA_ERR_DEVICE, "%s: %s (%s)", what,
                     cudaGetErrorString(error), cudaGetErrorName(error));
}

hisa_cuda_scope_t hisa_cuda_enter(const hisa_device_t *device) {
    hisa_cuda_scope_t scope = {.status = HISA_OK, .previous = -1};
    int current = -1;
    scope.status = hisa_cuda_status(cudaGetDevice(&current), "cudaGetDevice");
    if (scope.status == HISA_OK && current != hisa_cuda_of(device)->ordinal) {
        scope.status = hisa_cuda_status(cudaSetDevice(hisa_cuda_of(device)->ordinal), "cudaSetDevice");
        scope.previous = current;
    }
    return scope;
}

void hisa_cuda_leave(const hisa_cuda_scope_t *scope) {
    if (scope->previous >= 0) {
        cudaSetDevice(scope->previous);
    }
}

hisa_status_t hisa_cuda_check_memory(hisa_device_t *device, const char *name, const void *memory, int alignment) {
    if (memory == NULL) {
        return HISA_OK;
    }
    struct cudaPointerAttributes attributes = {.type = cudaMemoryTypeUnregistered};
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "cudaPointerGetAttributes", cudaPointerGetAttributes(&attributes, memory));
    if (status != HISA_OK) {
        return status;
    }
    if (attributes.type == cudaMemoryTypeUnregistered) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s is host memory: backend cuda takes device memory", name);
    }
    if (attributes.type == cudaMemoryTypeDevice && attributes.device != hisa_cuda_of(device)->ordinal) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s is memory of device %d: the index is on device %d", name,
                         attributes.device, hisa_cuda_of(device)->ordinal);
    }
    if ((uintptr_t)memory % (uintptr_t)alignment != 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s is not %d-byte aligned", name, alignment);
    }
    return HISA_OK;
}

static cudaError_t capturing(cudaStream_t stream, bool *yes) {
    enum cudaStreamCaptureStatus captured = cudaStreamCaptureStatusNone;
    const cudaError_t error = cudaStreamIsCapturing(stream, &captured);
    *yes = captured != cudaStreamCaptureStatusNone;
    return error;
}

hisa_status_t hisa_cuda_check_stream(hisa_device_t *device, void *stream, const char *uncapturable) {
    /* The default streams have no device of their own, and the legacy one is never captured. */
    if (stream == NULL || stream == (void *)cudaStreamLegacy) {
        return HISA_OK;
    }
    bool captured = false;
    hisa_status_t status;
    HISA_CUDA_RUN(status, device, "cudaStreamIsCapturing", capturing((cudaStream_t)stream, &captured));
    if (status != HISA_OK) {
        return status;
    }
    if (captured) {
        if (uncapturable != NULL) {
            return hisa_fail(HISA_ERR_UNSUPPORTED, "the stream is being captured: %s", uncapturable);
        }
        /* A stream's device cannot be asked for during a capture in every version of CUDA: the launch will tell. */
        return HISA_OK;
    }
#if CUDART_VERSION >= 12080
    int ordinal = hisa_cuda_of(device)->ordinal;
    if (stream != (void *)cudaStreamPerThread) {
        HISA_CUDA_RUN(status, device, "cudaStreamGetDevice", cudaStreamGetDevice((cudaStream_t)stream, &ordinal));
    }
    if (status == HISA_OK && ordinal != hisa_cuda_of(device)->ordinal) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "the stream is of device %d: the index is on device %d", ordinal,
                         hisa_cuda_of(device)->ordinal);
    }
#endif
    return status;
}

cudaError_t hisa_cuda_capability(int ordinal, int *major, int *minor) {
    const cudaError_t error = cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor, ordinal);
    return error == cudaSuccess ? cudaDeviceGetAttribute(minor, cudaDevAttrComputeCapabilityMinor, ordinal) : error;
}

hisa_status_t hisa_cuda_present(void) {
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (is_sticky(error)) { /* there is one, spoilt */
        return hisa_cuda_status(error, "cudaGetDeviceCount");
    }
    if (error != cudaSuccess) {
        cudaGetLastError();
        return hisa_fail(HISA_ERR_UNSUPPORTED, "backend cuda: no device: %s", cudaGetErrorString(error));
    }
    for (int i = 0; i < count; ++i) {
        int major = 0;
        int minor = 0;
        if (hisa_cuda_capability(i, &major, &minor) == cudaSuccess &&
            hisa_cuda_check_capability(i, major, minor) == HISA_OK) {
            return HISA_OK;
        }
    }
    if (count > 0) {
        return HISA_ERR_UNSUPPORTED; /* the message of the last one that was looked at */
    }
    return hisa_fail(HISA_ERR_UNSUPPORTED, "backend cuda: no device");
}

void hisa_cuda_describe(char *text, size_t size) {
    struct cudaDeviceProp properties;
    int device = 0;
    if (hisa_cuda_present() != HISA_OK) {
        snprintf(text, size, "%s", hisa_last_error());
        return;
    }
    if (cudaGetDevice(&device) != cudaSuccess || cudaGetDeviceProperties(&properties, device) != cudaSuccess) {
        cudaGetLastError();
        snprintf(text, size, "a device that does not answer");
        return;
    }
    snprintf(text, size, "%s, sm_%d%d, %.1f GB, %d multiprocessors", properties.name, properties.major,
             properties.minor, (double)properties.totalGlobalMem / 1e9, properties.multiProcessorCount);
}
