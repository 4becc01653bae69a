/* A suite of ranks that talk by NCCL: mpi_suite.h's main, where there is a device, and a communicator for its tests. */
#ifndef HISA_TESTS_NCCL_SUITE_H
#define HISA_TESTS_NCCL_SUITE_H

/* Ranks that share a GPU take milliseconds for a collective. */
#define MPI_SUITE_SECONDS 540

#include "hisa/hisa_nccl.h"
#include "support/mpi_suite.h"
#include "support/nccl_rank.h"

/* Of all communicators that the functions below make. */
static inline hisa_comm_t *nccl_suite_control(void) {
    static hisa_comm_t *control = NULL;
    if (control == NULL) {
        control = mpi_suite_comm();
        ck_ok(hisa_comm_set_deadline(control, 90.0));
    }
    return control;
}

/* Over all ranks, talking to each other on the host by MPI. The caller destroys it. */
static inline hisa_comm_t *nccl_suite_comm(void) {
    hisa_nccl_config_t config;
    hisa_comm_t *made = NULL;
    hisa_nccl_config_init(&config);
    config.control = nccl_suite_control();
    ck_ok(hisa_comm_create_nccl(&config, &made));
    return made;
}

static hisa_comm_t *nccl_suite_kept = NULL;

static inline void nccl_suite_drop_kept(void) {
    hisa_comm_destroy(nccl_suite_kept);
    hisa_comm_destroy(nccl_suite_control());
}

/* The same one for all tests of a program, which do not destroy it: making one takes seconds where ranks share a GPU.
 */
static inline hisa_comm_t *nccl_suite_shared_comm(void) {
    if (nccl_suite_kept == NULL) {
        nccl_suite_kept = nccl_suite_comm();
        mpi_suite_at_end = nccl_suite_drop_kept;
    }
    return nccl_suite_kept;
}

/* main of a suite: 77, which CTest takes for skipped, where there is no device. */
static inline int nccl_suite_main(Suite *suite) {
    int level = 0;
    if (!nccl_rank_has_device()) {
        srunner_free(srunner_create(suite));
        return 77;
    }
    MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
    if (nccl_rank_place(mpi_suite_rank(), mpi_suite_size()) != cudaSuccess) {
        fprintf(stderr, "rank %d: no device\n", mpi_suite_rank());
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    }
    return mpi_suite_main(suite);
}

#endif
