/* The ways to an NCCL communicator, what they refuse, and how ranks give up together. */
#include <stddef.h>

#include "hisa/hisa_nccl.h"
#include "nccl_data.h"
#include "support/host_gather.h"

static hisa_comm_t *control;
static hisa_nccl_config_t config;

static void setup(void) {
    nccl_data_place();
    control = mpi_suite_comm();
    ck_ok(hisa_comm_set_deadline(control, 90.0)); /* ranks that share a GPU take their time */
    hisa_nccl_config_init(&config);
    config.control = control;
}

static void teardown(void) {
    hisa_comm_destroy(control);
    control = NULL;
}

static hisa_comm_t *create(void) {
    hisa_comm_t *made = NULL;
    ck_ok(hisa_comm_create_nccl(&config, &made));
    ck_assert_str_eq(hisa_comm_name(made), "nccl");
    ck_assert_int_eq(hisa_comm_rank(made), hisa_comm_rank(config.control));
    ck_assert_int_eq(hisa_comm_size(made), hisa_comm_size(config.control));
    ck_assert(made->ops->device_memory);
    ck_assert_int_eq(made->bytes_sent, 0); /* warming up does not count */
    return made;
}

/* Made by the test, as an engine makes its own: blocking. rank: this rank's number in it. */
static ncclComm_t engine_comm(int rank) {
    ncclUniqueId id;
    ncclComm_t nccl = NULL;
    if (mpi_suite_rank() == 0) {
        ck_assert_int_eq(ncclGetUniqueId(&id), ncclSuccess);
    }
    MPI_Bcast(&id, (int)sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    ck_assert_int_eq(ncclCommInitRank(&nccl, mpi_suite_size(), id, rank), ncclSuccess);
    return nccl;
}

/* It is the engine's still, and works. */
static void engine_check(ncclComm_t nccl) {
    cudaStream_t stream = nccl_data_stream();
    int32_t values[RANKS_MAX];
    for (int r = 0; r < RANKS_MAX; ++r) {
        values[r] = 7 * mpi_suite_rank();
    }
    char *device = nccl_data_up(values, sizeof values, stream);
    ck_assert_int_eq(ncclAllGather(device + 4 * mpi_suite_rank(), device, 1, ncclInt32, nccl, stream), ncclSuccess);
    ck_cuda(cudaMemcpyAsync(values, device, sizeof values, cudaMemcpyDeviceToHost, stream));
    ck_cuda(cudaStreamSynchronize(stream));
    for (int r = 0; r < mpi_suite_size(); ++r) {
        ck_assert_int_eq(values[r], 7 * r);
    }
    ck_cuda(cudaFree(device));
    ck_cuda(cudaStreamDestroy(stream));
}

/* ---------------------------------------------------------------------------------------------- ways */

START_MPI_TEST(test_over_mpi) {
    hisa_comm_t *comm = create();
    nccl_data_check(comm, 1);
    hisa_comm_destroy(comm);
    comm = create(); /* again over the same control */
    nccl_data_check(comm, 2);
    hisa_comm_destroy(comm);
}

START_MPI_TEST(test_by_id) {
    ncclUniqueId id;
    if (mpi_suite_rank() == 0) {
        ck_assert_int_eq(ncclGetUniqueId(&id), ncclSuccess);
    }
    MPI_Bcast(&id, (int)sizeof id, MPI_BYTE, 0, MPI_COMM_WORLD);
    config.id = &id;
    hisa_comm_t *comm = create();
    nccl_data_check(comm, 3);
    hisa_comm_destroy(comm);
}

START_MPI_TEST(test_over_host) {
    host_gather_t gather = {0};
    hisa_comm_t *host = NULL;
    ck_ok(hisa_comm_create_host(mpi_suite_rank(), mpi_suite_size(), host_gather, &gather, &host));
    config.control = host;
    hisa_comm_t *comm = create();
    nccl_data_check(comm, 4);
    ck_ok(hisa_comm_agree(comm, HISA_OK, NULL));
    hisa_comm_destroy(comm);
    hisa_comm_destroy(host);
}

START_MPI_TEST(test_borrowed) {
    ncclComm_t nccl = engine_comm(mpi_suite_rank());
    config.nccl = nccl;
    hisa_comm_t *comm = create();
    nccl_data_check(comm, 5);
    hisa_comm_destroy(comm);
    engine_check(nccl);
    config.split = 1;
    comm = create();
    nccl_data_check(comm, 6);
    hisa_comm_destroy(comm);
    engine_check(nccl);
    /* The child is aborted, the parent lives. */
    comm = create();
    const hisa_status_t status = hisa_comm_fault(comm, hisa_fail(HISA_ERR_INTERNAL, "on purpose"), 0.0);
    ck_assert_int_eq(status, HISA_ERR_INTERNAL);
    mpi_suite_same_outcome(status);
    hisa_comm_destroy(comm);
    engine_check(nccl);
    ck_assert_int_eq(ncclCommDestroy(nccl), ncclSuccess);
}

/* ---------------------------------------------------------------------------------------------- refusals */

/* The creation fails with this on every rank, and control is none the worse for it. */
static void refused(hisa_status_t expected, const char *text) {
    hisa_comm_t *none = NULL;
    const hisa_status_t status = hisa_comm_create_nccl(&config, &none);
    ck_assert_msg(status == expected, "%s (%s)", hisa_status_string(status), hisa_last_error());
    ck_assert_msg(strstr(hisa_last_error(), text) != NULL, "\"%s\" lacks \"%s\"", hisa_last_error(), text);
    mpi_suite_same_outcome(status);
    ck_assert_ptr_null(none);
    ck_ok(hisa_comm_agree(config.control, HISA_OK, NULL));
}

START_MPI_TEST(test_arguments) {
    const bool me = mpi_suite_rank() == mpi_suite_size() - 1;
    const hisa_status_t bad = HISA_ERR_INVALID_ARGUMENT;
    ncclUniqueId id;
    memset(&id, mpi_suite_rank(), sizeof id);
    hisa_comm_t *none = NULL;
    hisa_status_t status = hisa_comm_create_nccl(&config, me ? NULL : &none);
    ck_assert_int_eq(status, bad);
    ck_assert_ptr_nonnull(strstr(hisa_last_error(), "comm is NULL"));
    mpi_suite_same_outcome(status);
    config.struct_size = me ? 16 : sizeof config;
    refused(bad, "config.struct_size is 16");
    config.struct_size = sizeof config;
    config.split = me;
    refused(bad, "split without a communicator");
    config.split = 0;
    config.device = me ? 99 : -1;
    refused(bad, "device 99: there are");
    config.device = me ? -2 : -1;
    refused(bad, "device -2: there are");
    config.device = -1;
    config.id = me ? &id : NULL;
    refused(HISA_ERR_MISMATCH, "hisa_nccl_config.id (given or not) differs between ranks: 0 on rank 0, 1 on rank");
    config.id = &id;
    refused(HISA_ERR_MISMATCH, "hisa_nccl_config.id (its hash) differs between ranks");
}

START_MPI_TEST(test_versions) {
    const bool me = mpi_suite_rank() == mpi_suite_size() - 1;
    host_gather_t gather = {0};
    ck_ok(hisa_comm_create_host(mpi_suite_rank(), mpi_suite_size(), host_gather, &gather, &config.control));
    gather.false_value_at = me ? gather.calls + 1 : 0;
    refused(HISA_ERR_MISMATCH, "version of NCCL differs between ranks");
    hisa_comm_destroy(config.control);
}

START_MPI_TEST(test_borrowed_refused) {
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    const bool me = rank == ranks - 1;
    ncclUniqueId id;
    memset(&id, 0, sizeof id);
    ncclComm_t nccl = engine_comm(ranks - 1 - rank);
    config.nccl = nccl;
    char text[160];
    snprintf(text, sizeof text, "rank 0: the borrowed NCCL communicator has rank %d of %d, control rank 0 of %d",
             ranks - 1, ranks, ranks);
    refused(HISA_ERR_MISMATCH, text);
    ck_assert_int_eq(ncclCommDestroy(nccl), ncclSuccess);

    nccl = engine_comm(rank);
    config.nccl = me ? nccl : NULL;
    refused(HISA_ERR_MISMATCH, "hisa_nccl_config.nccl (given or not) differs between ranks: 0 on rank 0, 1 on rank");
    config.nccl = nccl;
    config.split = me;
    refused(HISA_ERR_MISMATCH, "hisa_nccl_config.split differs between ranks");
    config.split = 0;
    config.id = me ? &id : NULL;
    refused(HISA_ERR_INVALID_ARGUMENT, "both nccl and id are given");
    config.id = NULL;

    /* Control of half of the ranks each: another size. */
    MPI_Comm half = MPI_COMM_NULL;
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &half);
    ck_ok(hisa_comm_create_mpi(half, &config.control));
    hisa_comm_t *none = NULL;
    ck_fails(hisa_comm_create_nccl(&config, &none), HISA_ERR_MISMATCH, "the borrowed NCCL communicator has rank");
    ck_assert_ptr_null(none);
    hisa_comm_destroy(config.control);
    MPI_Comm_free(&half);
    engine_check(nccl);
    ck_assert_int_eq(ncclCommDestroy(nccl), ncclSuccess);
}

/* ---------------------------------------------------------------------------------------------- giving up */

/* Poisoned, with the cause; then destroyed, locally. */
static void check_poisoned(hisa_comm_t *comm, const char *cause) {
    const int64_t none[RANKS_MAX] = {0};
    const hisa_status_t poisoned = HISA_ERR_POISONED;
    ck_fails(hisa_comm_allgather(comm, NULL, 0, NULL), poisoned, cause);
    ck_fails(hisa_comm_allgatherv(comm, NULL, none, none, NULL), poisoned, cause);
    ck_fails(hisa_comm_alltoallv(comm, NULL, none, none, NULL, none, none, NULL), poisoned, cause);
    ck_fails(hisa_comm_begin(comm), poisoned, cause);
    ck_fails(hisa_comm_end(comm), poisoned, cause);
    ck_fails(hisa_comm_check(comm), poisoned, cause);
    ck_fails(hisa_comm_agree(comm, HISA_OK, NULL), poisoned, cause);
    hisa_comm_destroy(comm);
    ck_ok(hisa_comm_agree(control, HISA_OK, NULL));
}

/* A rank that knows why it gives up decides over those that waited in vain. */
START_MPI_TEST(test_fault_cause) {
    hisa_comm_t *comm = create();
    const int last = mpi_suite_size() - 1;
    const hisa_status_t own = mpi_suite_rank() == last ? hisa_fail(HISA_ERR_CAPACITY, "the index is full here")
                                                       : hisa_fail(HISA_ERR_TIMEOUT, "no answer");
    const hisa_status_t status = hisa_comm_fault(comm, own, 0.0);
    char text[64];
    snprintf(text, sizeof text, "rank %d: the index is full here", last);
    ck_assert_int_eq(status, HISA_ERR_CAPACITY);
    ck_assert_str_eq(hisa_last_error(), text);
    check_poisoned(comm, text);
    nccl_data_check(comm = create(), 7); /* a new one works */
    hisa_comm_destroy(comm);
}

/* A rank that is in an agreement, not in its stream, hears of it there. */
START_MPI_TEST(test_fault_meets_agreement) {
    hisa_comm_t *comm = create();
    hisa_status_t status = HISA_OK;
    if (mpi_suite_rank() == 0) {
        status =
            _i == 0 ? hisa_comm_agree(comm, HISA_OK, NULL) : hisa_comm_agree_values(comm, HISA_OK, NULL, 0, 0, NULL);
    } else {
        status = hisa_comm_fault(comm, hisa_fail(HISA_ERR_DEVICE, "out of order"), 0.0);
    }
    ck_assert_int_eq(status, HISA_ERR_DEVICE);
    ck_assert_str_eq(hisa_last_error(), "rank 1: out of order");
    mpi_suite_same_outcome(status);
    check_poisoned(comm, "rank 1: out of order");
}

/* One rank never enqueues what the others wait for in their streams: all end alike, and the streams run out. */
START_MPI_TEST(test_fault_in_stream) {
    hisa_comm_t *comm = create();
    cudaStream_t stream = nccl_data_stream();
    char zeros[RANKS_MAX * 64] = "";
    char *device = nccl_data_up(zeros, sizeof zeros, stream);
    ck_ok(hisa_comm_set_deadline(comm, 4.0));
    hisa_status_t status = HISA_OK;
    const bool me = mpi_suite_rank() == mpi_suite_size() - 1;
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = nccl_rank_now();
    if (!me) {
        ck_ok(hisa_comm_allgather(comm, device, 64, stream));
        status = nccl_rank_wait(comm, stream);
    } else {
        nanosleep(&(struct timespec){.tv_nsec = 500000000}, NULL);
        status = hisa_comm_fault(comm, hisa_fail(HISA_ERR_FORMAT, "bad row"), 0.5);
    }
    ck_assert_msg(nccl_rank_now() - begin < 6.0, "took %.1f s", nccl_rank_now() - begin);
    ck_assert_int_eq(status, HISA_ERR_FORMAT);
    mpi_suite_same_outcome(status);
    ck_assert(nccl_rank_runs_out(stream, 5.0));
    check_poisoned(comm, "bad row");
    ck_cuda(cudaFree(device));
    ck_cuda(cudaStreamDestroy(stream));
    nccl_data_check(comm = create(), 8);
    hisa_comm_destroy(comm);
}

/* An open group, and an end without a beginning. */
START_MPI_TEST(test_fault_in_group) {
    hisa_comm_t *comm = create();
    ck_ok(hisa_comm_begin(comm));
    ck_assert_int_eq(hisa_comm_fault(comm, hisa_fail(HISA_ERR_IO, "in a group"), 0.0), HISA_ERR_IO);
    check_poisoned(comm, "in a group");
    comm = create();
    ck_fails(hisa_comm_end(comm), HISA_ERR_INTERNAL, "not begun");
    check_poisoned(comm, "not begun");
}

/* Destroyed in good faith, while all but one wait in their streams for an exchange that one never joins. */
START_MPI_TEST(test_destroyed_under_way) {
    hisa_comm_t *comm = create();
    cudaStream_t stream = nccl_data_stream();
    char zeros[RANKS_MAX * 64] = "";
    char *device = nccl_data_up(zeros, sizeof zeros, stream);
    ck_cuda(cudaStreamSynchronize(stream));
    ck_ok(hisa_comm_set_deadline(comm, 3.0));
    if (mpi_suite_rank() != mpi_suite_size() - 1) {
        ck_ok(hisa_comm_allgather(comm, device, 64, stream));
    }
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = nccl_rank_now();
    hisa_comm_destroy(comm);
    ck_assert_msg(nccl_rank_now() - begin < 8.0, "took %.1f s", nccl_rank_now() - begin); /* to wait and to finalise */
    ck_assert(nccl_rank_runs_out(stream, 5.0));
    ck_cuda(cudaFree(device));
    ck_cuda(cudaStreamDestroy(stream));
    MPI_Barrier(MPI_COMM_WORLD);
    nccl_data_check(comm = create(), 9);
    hisa_comm_destroy(comm);
}

/* A call that becomes part of a graph is back too late: it gives the communicator up, which its thread then ends. */
START_MPI_TEST(test_captured_too_late) {
    hisa_comm_t *comm = create();
    cudaStream_t stream = nccl_data_stream();
    cudaGraph_t graph = NULL;
    char zeros[RANKS_MAX * 64] = "";
    char *device = nccl_data_up(zeros, sizeof zeros, stream);
    ck_cuda(cudaStreamSynchronize(stream));
    MPI_Barrier(MPI_COMM_WORLD);
    ck_ok(hisa_comm_set_deadline(comm, 1e-9)); /* no call is as fast as that */
    ck_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    const hisa_status_t status = hisa_comm_allgather(comm, device, 64, stream);
    nanosleep(&(struct timespec){.tv_sec = 2}, NULL); /* the thread is through with the graph */
    cudaStreamEndCapture(stream, &graph);
    if (graph != NULL) {
        cudaGraphDestroy(graph);
    }
    ck_assert_int_eq(status, HISA_ERR_TIMEOUT);
    mpi_suite_same_outcome(status);
    check_poisoned(comm, "an all-gather in a graph: not done within");
    ck_cuda(cudaFree(device));
    ck_cuda(cudaStreamDestroy(stream));
    nccl_data_check(comm = create(), 10);
    hisa_comm_destroy(comm);
}

int main(void) {
    if (!nccl_rank_has_device()) {
        return 77;
    }
    Suite *suite = suite_create("making NCCL communicators");
    TCase *ways = tcase_create("ways");
    tcase_add_checked_fixture(ways, setup, teardown);
    tcase_add_test(ways, test_over_mpi);
    tcase_add_test(ways, test_by_id);
    tcase_add_test(ways, test_over_host);
    tcase_add_test(ways, test_borrowed);
    suite_add_tcase(suite, ways);

    TCase *refusals = tcase_create("refusals");
    tcase_add_checked_fixture(refusals, setup, teardown);
    tcase_add_test(refusals, test_arguments);
    tcase_add_test(refusals, test_versions);
    tcase_add_test(refusals, test_borrowed_refused);
    suite_add_tcase(suite, refusals);

    TCase *faults = tcase_create("giving up");
    tcase_add_checked_fixture(faults, setup, teardown);
    tcase_add_test(faults, test_fault_cause);
    tcase_add_loop_test(faults, test_fault_meets_agreement, 0, 2);
    tcase_add_test(faults, test_fault_in_stream);
    tcase_add_test(faults, test_fault_in_group);
    tcase_add_test(faults, test_destroyed_under_way);
    tcase_add_test(faults, test_captured_too_late);
    suite_add_tcase(suite, faults);
    return mpi_suite_main(suite);
}
