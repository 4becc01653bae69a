/* Which GPU this rank works on, among the ranks of its host. */
#ifndef HISA_CLI_RANK_GPU_H
#define HISA_CLI_RANK_GPU_H

#include "cli/session.h"

/* This rank's place among those of its host, as the launcher says it (Open MPI, Slurm, MPICH and Intel MPI, torchrun),
 * or -1. */
int cli_rank_gpu_place(void);

/* Makes one GPU of this host the calling thread's: the only one that it may see, or the `place`-th. Unless `share`, an
 * error on all ranks where a host has more ranks than GPUs, or two ranks have the same. Where ranks do share, NCCL is
 * told so by the environment: before its first call. Collective; agreed. */
hisa_status_t cli_rank_gpu_take(cli_session_t *session, int place, bool share);

#endif
