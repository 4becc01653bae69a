/* The device that bench measures on: its facts, a stream with a clock, graphs. Compiled only where the build has CUDA.
 */
#ifndef HISA_CLI_GPU_H
#define HISA_CLI_GPU_H

#include <stdint.h>

#include "hisa/hisa.h"

/* Moments that can be noted before they must be read. */
#define CLI_GPU_SLOTS 256

typedef struct cli_gpu {
    char name[256];
    char driver[64]; /* version of the kernel module; "" if it cannot be read */
    int cuda_driver; /* newest CUDA version that the driver knows, 1000 * major + 10 * minor */
    int cuda_runtime;
    int ordinal;
    int major; /* compute capability */
    int minor;
    int multiprocessors;
    int64_t memory_bytes;
    int64_t l2_bytes;
    void *stream; /* owned, as is all below */
    void *slots[CLI_GPU_SLOTS];
    void *flush; /* flush_bytes of device memory */
    int64_t flush_bytes;
} cli_gpu_t;

/* The calling thread's current device. A zeroed struct may be closed. */
hisa_status_t cli_gpu_open(cli_gpu_t *gpu);
void cli_gpu_close(cli_gpu_t *gpu);

/* Notes when the stream gets here. */
hisa_status_t cli_gpu_mark(cli_gpu_t *gpu, int slot);

/* Waits for the later slot; seconds between the two. Without a deadline: where peers may be lost, after a wait that has
 * one. */
hisa_status_t cli_gpu_seconds(cli_gpu_t *gpu, int from, int to, double *seconds);

/* Enqueues writes to more memory than L2 holds, so that what comes next finds nothing of its own there. */
hisa_status_t cli_gpu_flush(cli_gpu_t *gpu);

/* Runs `call` while the stream is captured, and gives a graph of what it has enqueued. If the call may not be captured,
 * HISA_ERR_UNSUPPORTED with the reason. */
hisa_status_t cli_gpu_capture(cli_gpu_t *gpu, hisa_status_t (*call)(void *context, int64_t turn), void *context,
                              int64_t turn, void **graph);
hisa_status_t cli_gpu_replay(cli_gpu_t *gpu, void *graph);
void cli_gpu_graph_free(void *graph); /* NULL is allowed */

#endif
