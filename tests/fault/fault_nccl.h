/* One rank of a group over NCCL, as far as all cases of a lost rank go alike: from the communicators to what the
 * survivors make anew. What is fault.h's holds here too. */
#ifndef HISA_TESTS_FAULT_NCCL_H
#define HISA_TESTS_FAULT_NCCL_H

#include <mpi.h>

#include "fault/fault.h"
#include "hisa/hisa_mpi.h"
#include "hisa/hisa_nccl.h"
#include "support/nccl_rank.h"

typedef struct group {
    hisa_comm_t *control;
    hisa_comm_t *comm;
    cudaStream_t stream;
    int rank;
    int size;
    bool victim; /* the last rank */
} group_t;

static inline void expect_cuda(const char *what, cudaError_t error) {
    if (error != cudaSuccess) {
        verdict("%s: %s", what, cudaGetErrorString(error));
    }
}

/* main's beginning, with its arguments CASE DIRECTORY: this rank's place and its stream. Where there is no device the
 * verdict is "skipped". */
static inline group_t group_begin(int argc, char **argv) {
    group_t group = {.comm = NULL};
    if (argc != 3) {
        fprintf(stderr, "usage: %s CASE DIRECTORY\n", argv[0]);
        exit(EXIT_FAILURE);
    }
    MPI_Init(&argc, &argv);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &group.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &group.size);
    group.victim = group.rank == group.size - 1;
    fault_begin(argv[2], group.rank);
    if (!nccl_rank_has_device()) {
        MPI_Finalize();
        verdict("skipped");
    }
    expect_cuda("device", nccl_rank_place(group.rank, group.size));
    expect_cuda("stream", cudaStreamCreateWithFlags(&group.stream, cudaStreamNonBlocking));
    return group;
}

static inline void group_create(group_t *group, MPI_Comm over) {
    hisa_nccl_config_t config;
    hisa_nccl_config_init(&config);
    expect("control", hisa_comm_create_mpi(over, &group->control), HISA_OK, NULL);
    config.control = group->control;
    expect("creation", hisa_comm_create_nccl(&config, &group->comm), HISA_OK, NULL);
}

/* What a survivor saw of the loss, and how long that took. All survivors look for the same, so they return the same. */
static inline void group_expect_loss(const group_t *group, const char *name, hisa_status_t status, double seconds,
                                     double deadline) {
    expect("the loss", status, HISA_ERR_TIMEOUT, "a peer did not answer");
    if (seconds > deadline + 2.0) {
        verdict("the failure took %.1f s, more than the deadline of %.1f s and 2 s", seconds, deadline);
    }
    printf("%s: rank %d: after %.1f s: %s\n", name, group->rank, seconds, hisa_last_error());
    fflush(stdout);
}

static inline void group_expect_run_out(const group_t *group) {
    if (!nccl_rank_runs_out(group->stream, 5.0)) {
        verdict("the stream does not run out");
    }
}

/* Of a lost group; begin: when the destroying began, with what was made on it. */
static inline void group_destroy_lost(group_t *group, double begin) {
    hisa_comm_destroy(group->comm);
    hisa_comm_destroy(group->control);
    if (nccl_rank_now() - begin > 5.0) {
        verdict("destroying took %.1f s", nccl_rank_now() - begin);
    }
}

/* All ranks but the lost one, together again. */
static inline void group_create_again(group_t *group) {
    MPI_Group all = MPI_GROUP_NULL;
    MPI_Group survivors = MPI_GROUP_NULL;
    MPI_Comm over = MPI_COMM_NULL;
    int lost = group->size - 1;
    MPI_Comm_group(MPI_COMM_WORLD, &all);
    MPI_Group_excl(all, 1, &lost, &survivors);
    if (MPI_Comm_create_group(MPI_COMM_WORLD, survivors, 7, &over) != MPI_SUCCESS || over == MPI_COMM_NULL) {
        verdict("no MPI communicator of the survivors");
    }
    group_create(group, over);
}

/* Of a group that is well. */
static inline void group_destroy(group_t *group) {
    hisa_comm_destroy(group->comm);
    expect("control of the survivors", hisa_comm_agree(group->control, HISA_OK, NULL), HISA_OK, NULL);
    hisa_comm_destroy(group->control);
}

#endif
