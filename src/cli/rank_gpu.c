#include "cli/rank_gpu.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/cuda/cuda.h"
#include "base/error.h"

/* What the ranks tell each other. */
typedef struct taken {
    char host[64];
    cudaUUID_t gpu;
} taken_t;

int cli_rank_gpu_place(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID", "MPI_LOCALRANKID", "LOCAL_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *text = getenv(names[i]);
        char *end = NULL;
        const long place = text != NULL ? strtol(text, &end, 10) : -1;
        if (text != NULL && end != text && *end == '\0' && place >= 0 && place < 1 << 20) {
            return (int)place;
        }
    }
    return -1;
}

/* On this rank alone. */
static hisa_status_t choose(int place, bool share, taken_t *taken) {
    struct cudaDeviceProp properties;
    int devices = 0;
    hisa_status_t status = hisa_cuda_status(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
    if (status != HISA_OK) {
        return status;
    }
    /* A launcher that binds ranks to GPUs lets each see one. */
    if (devices > 1 && place >= devices && !share) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT,
                         "this is rank %d of its host (from 0), which has %d GPUs: start no more ranks than GPUs, or "
                         "give --share-gpu for a test",
                         place, devices);
    }
    const int device = devices > 1 ? place % devices : 0;
    status = hisa_cuda_status(cudaSetDevice(device), "cudaSetDevice");
    if (status == HISA_OK) {
        status = hisa_cuda_status(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
    }
    if (status == HISA_OK) {
        taken->gpu = properties.uuid;
    }
    return status;
}

/* The first rank that has the GPU of rank `rank`, which may be itself. */
static int first_with(const taken_t *all, int rank) {
    int first = 0;
    while (memcmp(&all[first].gpu, &all[rank].gpu, sizeof all->gpu) != 0) {
        first++;
    }
    return first;
}

static hisa_status_t check_shared(const cli_session_t *session, const taken_t *all, bool share) {
    bool shared = false;
    bool one_host = true;
    for (int r = 0; r < session->size; r++) {
        const int first = first_with(all, r);
        shared = shared || first != r;
        one_host = one_host && strcmp(all[r].host, all[0].host) == 0;
        if (first != r && !share) {
            return hisa_fail(HISA_ERR_INVALID_ARGUMENT,
                             "ranks %d and %d have the same GPU, on %s: start no more ranks than GPUs, or give "
                             "--share-gpu for a test",
                             first, r, all[r].host);
        }
    }
    if (!shared) {
        return HISA_OK;
    }
    /* NCCL refuses two ranks of one host on one GPU, and so each is told that it is a host of its own. */
    char host[96];
    snprintf(host, sizeof host, "%s-hisa-%d", all[session->rank].host, session->rank);
    if (setenv("NCCL_HOSTID", host, 0) != 0 || (one_host && setenv("NCCL_SOCKET_IFNAME", "lo", 0) != 0)) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "no room in the environment for NCCL's settings");
    }
    return HISA_OK;
}

hisa_status_t cli_rank_gpu_take(cli_session_t *session, int place, bool share) {
    taken_t mine = {.host = ""};
    gethostname(mine.host, sizeof mine.host - 1);
    taken_t *all = calloc((size_t)session->size, sizeof *all);
    hisa_status_t status =
        all != NULL ? choose(place, share, &mine) : hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the ranks' GPUs");
    status = cli_session_agree(session, status);
    if (status == HISA_OK && all != NULL) {
        status = cli_session_gather(session, &mine, all, (int64_t)sizeof mine);
    }
    if (status == HISA_OK && all != NULL) {
        status = cli_session_agree(session, check_shared(session, all, share));
    }
    free(all);
    return status;
}
