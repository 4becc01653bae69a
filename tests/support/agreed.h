/* How the runs of a case went, on all ranks together. */
#ifndef HISA_TESTS_AGREED_H
#define HISA_TESTS_AGREED_H

#include "support/mpi_suite.h"
#include "support/runs.h"

/* Agrees on how a run went and says what went wrong; true on all ranks or on none. */
static inline bool agreed(bool well, const run_t *run, const test_case_t *made, const char *why) {
    int all = well ? 1 : 0;
    MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (!well) {
        char what[320] = "";
        run_describe(run, made, what, sizeof what);
        fprintf(stderr, "rank %d: %s; %s\n", mpi_suite_rank(), why, what);
    }
    return all == 1;
}

#endif
