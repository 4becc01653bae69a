/* What the device can do: the yardsticks for the rates that bench prints. Compiled only where the build has CUDA. */
#ifndef HISA_CLI_GPU_PEAK_H
#define HISA_CLI_GPU_PEAK_H

#include "cli/gpu.h"

typedef struct cli_gpu_peak {
    double copy;          /* bytes a second of a device-to-device copy, read and written ones together */
    double matrix;        /* floating-point operations a second of an fp8 matrix product; 0: not measured */
    char matrix_name[96]; /* which product, or why it was not measured */
} cli_gpu_peak_t;

/* A second or two, most of it the loading of cuBLASLt. */
hisa_status_t cli_gpu_peak(cli_gpu_t *gpu, cli_gpu_peak_t *peak);

#endif
