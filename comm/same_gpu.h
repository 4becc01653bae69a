/* Whether ranks have a GPU in common, as NCCL sees it: told before its initialisation, in which only those that share
 * would fail, and the others wait for them. */
#ifndef HISA_COMM_SAME_GPU_H
#define HISA_COMM_SAME_GPU_H

#include <stdbool.h>
#include <stdint.h>

/* A number for the GPU at PCI address `bus` of what NCCL takes for this host: its name and boot, or NCCL_HOSTID, by
 * which ranks that share a GPU pass for ranks of different hosts. Equal for equal GPUs, else different but for chances
 * of 2^-64. */
int64_t hisa_gpu_place(const char *bus);

/* Whether two of the ranks' places are equal: the first such pair. */
bool hisa_gpu_shared(const int64_t *places, int size, int *first, int *second);

/* Whether the environment tells NCCL to let ranks share a GPU; only a version that knows of it does. */
bool hisa_gpu_may_be_shared(void);

#endif
