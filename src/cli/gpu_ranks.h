/* Ranks as threads that take turns on one device: what comm/threads.h needs to know of its memory. Compiled only where
 * the build has CUDA. */
#ifndef HISA_CLI_GPU_RANKS_H
#define HISA_CLI_GPU_RANKS_H

#include "cli/gpu.h"
#include "comm/threads.h"

/* For ranks that select on the device's stream, or on others of it. */
hisa_threads_memory_t cli_gpu_threads_memory(cli_gpu_t *gpu);

/* Makes the device the calling thread's current one. */
hisa_status_t cli_gpu_adopt(const cli_gpu_t *gpu);

/* Keeps the stream busy for a moment, in which the host can enqueue what is to be timed: the gaps between launches
 * would be timed else, as the device would always be done first. */
hisa_status_t cli_gpu_lead(void *stream);

#endif
