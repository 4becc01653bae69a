/* Launching, and this row's place in the grid. */
#ifndef HISA_CUDA_LAUNCH_CUH
#define HISA_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

#include "backend/cuda/kernels.h"

/* Launches and returns the launch's own outcome, without touching the error that the caller may have pending: a plain
 * <<<>>> could only be checked with cudaGetLastError(), which would take it. */
template <typename... Parameters, typename... Arguments>
static cudaError_t hisa_launch(void (*kernel)(Parameters...), dim3 grid, unsigned threads, void *stream,
                               Arguments... arguments) {
    if (grid.x == 0 || grid.y == 0) {
        return cudaSuccess;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.stream = static_cast<cudaStream_t>(stream);
    return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
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
