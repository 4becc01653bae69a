/* Launching, and this row's place in the grid. */
#ifndef HISA_CUDA_LAUNCH_CUH
#define HISA_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

#include "backend/cuda/kernels.h"

/* Launches and returns the launch's own outcome, without touching the error that the caller may have pending: a plain
 * <<<>>> could only be checked with cudaGetLastError(), which would take it. shared_bytes: dynamic shared memory. */
template <typename... Parameters, typename... Arguments>
static cudaError_t hisa_launch_with(cudaLaunchAttribute *attribute, void (*kernel)(Parameters...), dim3 grid,
                                    unsigned threads, unsigned shared_bytes, void *stream, Arguments... arguments) {
    if (grid.x == 0 || grid.y == 0) {
        return cudaSuccess;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = attribute;
    config.numAttrs = attribute != nullptr ? 1 : 0;
    return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

template <typename... Parameters, typename... Arguments>
static cudaError_t hisa_launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, void *stream,
                               Arguments... arguments) {
    return hisa_launch_with(nullptr, kernel, grid, threads, 0, stream, arguments...);
}

/* -- A kernel that starts while the one before it ends (programmatic dependent launch) --
 *
 * hisa_launch_next() lets a kernel begin as soon as each thread block of the kernel before it on the stream has called
 * hisa_grid_release() or ended. Such a kernel keeps two rules:
 * - every thread calls hisa_grid_wait() before it reads what any earlier kernel wrote, or writes what one may still
 *   read. Shared memory, registers and parameters can be made ready before;
 * - no thread ends without having called it, not even one that has nothing to do: "this kernel has ended" then means
 *   that all before it have, and the next kernel need wait for its neighbour only.
 * hisa_grid_release() promises nothing about memory and may be called first of all. */

__device__ __forceinline__ void hisa_grid_wait() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    cudaGridDependencySynchronize();
#endif
}

__device__ __forceinline__ void hisa_grid_release() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    cudaTriggerProgrammaticLaunchCompletion();
#endif
}

/* Whether the code that runs on the current device is code that waits: compiled for this very architecture, since what
 * an older one's PTX gives on a newer device has no hisa_grid_wait() in it. */
static inline bool hisa_launch_may_overlap(void) {
    constexpr int built_for[] = {__CUDA_ARCH_LIST__};
    int device = 0;
    int major = 0;
    int minor = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
        return false;
    }
    const int present = 100 * major + 10 * minor;
    bool exact = false;
    for (const int architecture : built_for) {
        exact = exact || architecture == present;
    }
    return exact && present >= 900;
}

/* For kernels that keep the rules above; not for the first of a call, which must find the caller's work done. */
template <typename... Parameters, typename... Arguments>
static cudaError_t hisa_launch_next_with(void (*kernel)(Parameters...), dim3 grid, unsigned threads,
                                         unsigned shared_bytes, void *stream, Arguments... arguments) {
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    return hisa_launch_with(hisa_launch_may_overlap() ? &attribute : nullptr, kernel, grid, threads, shared_bytes,
                            stream, arguments...);
}

template <typename... Parameters, typename... Arguments>
static cudaError_t hisa_launch_next(void (*kernel)(Parameters...), dim3 grid, unsigned threads, void *stream,
                                    Arguments... arguments) {
    return hisa_launch_next_with(kernel, grid, threads, 0, stream, arguments...);
}

/* Rows go to grid.x, which has room for 2^31 of them; pieces of a row to grid.y, which has not: kernels stride over
 * it. */
static inline dim3 hisa_row_grid(int64_t rows, int64_t pieces) {
    const int64_t y = pieces < 65535 ? pieces : 65535;
    return dim3(static_cast<unsigned>(rows), static_cast<unsigned>(y));
}

/* Blocks of `threads` threads for n elements, one each; kernels stride. */
static inline dim3 hisa_element_grid(int64_t n, int64_t threads) {
    const int64_t blocks = (n + threads - 1) / threads;
    return dim3(static_cast<unsigned>(blocks < (1 << 20) ? blocks : (1 << 20)));
}

#endif
