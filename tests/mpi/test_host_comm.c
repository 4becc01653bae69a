/* The control-only communicator over the caller's own all-gather. */
#include "comm/comm.h"
#include "support/host_gather.h"
#include "support/mpi_suite.h"

static hisa_comm_t *make(host_gather_t *gather) {
    hisa_comm_t *made = NULL;
    ck_ok(hisa_comm_create_host(mpi_suite_rank(), mpi_suite_size(), host_gather, gather, &made));
    return made;
}

START_MPI_TEST(test_agreements) {
    host_gather_t gather = {0};
    hisa_comm_t *comm = make(&gather);
    const int last = mpi_suite_size() - 1;
    ck_assert_str_eq(hisa_comm_name(comm), "host");
    ck_assert_int_eq(hisa_comm_rank(comm), mpi_suite_rank());
    ck_assert_int_eq(hisa_comm_size(comm), mpi_suite_size());
    ck_ok(hisa_comm_set_deadline(comm, 7.5));
    ck_ok(hisa_comm_agree(comm, HISA_OK, NULL));
    ck_assert(last == 0 || gather.seconds == 7.5);
    const bool me = mpi_suite_rank() == last;
    hisa_status_t status = hisa_comm_agree(comm, me ? HISA_ERR_IO : HISA_OK, "disk full");
    ck_assert_int_eq(status, HISA_ERR_IO);
    ck_assert_ptr_nonnull(strstr(hisa_last_error(), "disk full"));
    mpi_suite_same_outcome(status);
    const hisa_agree_value_t value = {"m", me ? 65 : 64};
    status = hisa_comm_agree_values(comm, HISA_OK, &value, 1, 0, NULL);
    ck_assert_int_eq(status, last == 0 ? HISA_OK : HISA_ERR_MISMATCH);
    mpi_suite_same_outcome(status);
    ck_ok(hisa_comm_agree(comm, HISA_OK, NULL));
    hisa_comm_destroy(comm);
}

/* It moves no data, says so at once, and is none the worse for it; a group of one moves none anyway. */
START_MPI_TEST(test_no_data) {
    host_gather_t gather = {0};
    hisa_comm_t *comm = make(&gather);
    const int calls = gather.calls;
    char data[64] = "";
    const int64_t sizes[16] = {0};
    if (mpi_suite_size() == 1) {
        ck_ok(hisa_comm_allgather(comm, data, 1, NULL));
        ck_ok(hisa_comm_allgatherv(comm, data, sizes, sizes, NULL));
        ck_ok(hisa_comm_alltoallv(comm, data, sizes, sizes, data, sizes, sizes, NULL));
    } else {
        const hisa_status_t refused = HISA_ERR_UNSUPPORTED;
        ck_fails(hisa_comm_allgather(comm, data, 1, NULL), refused, "host is for control only");
        ck_fails(hisa_comm_allgatherv(comm, data, sizes, sizes, NULL), refused, "host is for control only");
        ck_fails(hisa_comm_alltoallv(comm, data, sizes, sizes, data, sizes, sizes, NULL), refused, "for control only");
    }
    ck_assert_int_eq(gather.calls, calls);
    ck_ok(hisa_comm_agree(comm, HISA_OK, NULL));
    hisa_comm_destroy(comm);
}

START_MPI_TEST(test_index) {
    host_gather_t gather = {0};
    hisa_comm_t *comm = make(&gather);
    hisa_index_config_t config;
    hisa_index_t *index = NULL;
    hisa_index_config_init(&config);
    config.capacity = 1000;
    config.backend = _i == 0 ? HISA_BACKEND_CPU : HISA_BACKEND_AUTO;
    const hisa_status_t status = hisa_index_create(&config, comm, &index);
    if (mpi_suite_size() == 1) {
        ck_ok(status);
        hisa_index_destroy(index);
    } else {
        ck_assert_int_eq(status, HISA_ERR_UNSUPPORTED);
        ck_assert_ptr_nonnull(strstr(hisa_last_error(), "needs one that moves data"));
        mpi_suite_same_outcome(status);
        ck_assert_ptr_null(index);
    }
    hisa_comm_destroy(comm);
}

START_MPI_TEST(test_bad_arguments) {
    host_gather_t gather = {0};
    hisa_comm_t *none = NULL;
    const hisa_status_t bad = HISA_ERR_INVALID_ARGUMENT;
    ck_fails(hisa_comm_create_host(0, 1, NULL, NULL, &none), bad, "allgather is NULL");
    ck_fails(hisa_comm_create_host(0, 0, host_gather, &gather, &none), bad, "rank 0 of 0");
    ck_fails(hisa_comm_create_host(2, 2, host_gather, &gather, &none), bad, "rank 2 of 2");
    ck_fails(hisa_comm_create_host(-1, 2, host_gather, &gather, &none), bad, "rank -1 of 2");
    ck_assert_int_eq(gather.calls, 0);
    /* One rank gives nowhere to put the result: all hear of it. */
    const int last = mpi_suite_size() - 1;
    const bool me = mpi_suite_rank() == last;
    const hisa_status_t status =
        hisa_comm_create_host(mpi_suite_rank(), mpi_suite_size(), host_gather, &gather, me ? NULL : &none);
    ck_assert_int_eq(status, bad);
    mpi_suite_same_outcome(status);
    ck_assert_ptr_null(none);
}

/* Another version of the library, another number of ranks: said on all ranks. Ranks whose numbers are not those of the
 * all-gather: too. */
START_MPI_TEST(test_mismatches) {
    mpi_suite_needs(2);
    const int ranks = mpi_suite_size();
    const bool me = mpi_suite_rank() == ranks - 1;
    hisa_comm_t *none = NULL;
    host_gather_t gather = {.false_version_at = me ? 1 : 0};
    hisa_status_t status = hisa_comm_create_host(mpi_suite_rank(), ranks, host_gather, &gather, &none);
    ck_assert_int_eq(status, HISA_ERR_MISMATCH);
    ck_assert_ptr_nonnull(strstr(hisa_last_error(), "hisa version differs between ranks"));
    mpi_suite_same_outcome(status);
    gather = (host_gather_t){.false_value_at = me ? 2 : 0};
    status = hisa_comm_create_host(mpi_suite_rank(), ranks, host_gather, &gather, &none);
    ck_assert_int_eq(status, HISA_ERR_MISMATCH);
    ck_assert_ptr_nonnull(strstr(hisa_last_error(), "number of ranks differs between ranks"));
    mpi_suite_same_outcome(status);
    ck_assert_ptr_null(none);
}

/* A failure of the all-gather poisons, and its kind is told apart. All ranks fail here, so that none waits in MPI. */
START_MPI_TEST(test_failures) {
    mpi_suite_needs(2);
    const int codes[] = {-1, (int)HISA_ERR_TIMEOUT};
    const hisa_status_t expected[] = {HISA_ERR_COMM, HISA_ERR_TIMEOUT};
    host_gather_t gather = {.fail_at = 3, .code = codes[_i]};
    hisa_comm_t *comm = make(&gather);
    ck_fails(hisa_comm_agree(comm, HISA_OK, NULL), expected[_i], _i == 0 ? "failed: -1" : "no answer");
    ck_fails(hisa_comm_agree(comm, HISA_OK, NULL), HISA_ERR_POISONED, "all-gather");
    ck_assert_int_eq(gather.calls, 3);
    hisa_comm_destroy(comm);
    hisa_comm_t *none = NULL;
    gather = (host_gather_t){.fail_at = 1, .code = codes[_i]};
    ck_fails(hisa_comm_create_host(mpi_suite_rank(), mpi_suite_size(), host_gather, &gather, &none), expected[_i],
             "all-gather");
    ck_assert_ptr_null(none);
}

int main(void) {
    Suite *suite = suite_create("comm over the caller's all-gather");
    TCase *tests = tcase_create("host");
    tcase_add_test(tests, test_agreements);
    tcase_add_test(tests, test_no_data);
    tcase_add_loop_test(tests, test_index, 0, 2);
    tcase_add_test(tests, test_bad_arguments);
    tcase_add_test(tests, test_mismatches);
    tcase_add_loop_test(tests, test_failures, 0, 2);
    suite_add_tcase(suite, tests);
    return mpi_suite_main(suite);
}
