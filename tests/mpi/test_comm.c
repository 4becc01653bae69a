/* The MPI communicator against MPI's own collectives. */
#include <stdint.h>

#include "comm/comm.h"
#include "comm/mpi_piece.h"
#include "support/exchange_plan.h"
#include "support/mpi_suite.h"

#define RANKS_MAX PLAN_RANKS_MAX

static hisa_comm_t *comm;

static void setup(void) {
    ck_assert_int_le(mpi_suite_size(), RANKS_MAX);
    comm = mpi_suite_comm();
}

static void teardown(void) {
    hisa_comm_destroy(comm);
    comm = NULL;
}

/* ---------------------------------------------------------------------------------------------- data calls */

START_MPI_TEST(test_names) {
    ck_assert_int_eq(hisa_comm_rank(comm), mpi_suite_rank());
    ck_assert_int_eq(hisa_comm_size(comm), mpi_suite_size());
    ck_assert_str_eq(hisa_comm_name(comm), "mpi");
}

START_MPI_TEST(test_allgather) {
    static const int64_t sizes[] = {0, 1, 7, 4096, 70000, 2000003};
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    const int64_t bytes = sizes[_i];
    rng_t seed = {UINT64_C(977) + (uint64_t)(100 * rank + _i)};
    char *own = plan_filled(bytes);
    char *got = plan_filled(bytes * ranks);
    char *expected = plan_filled(bytes * ranks);
    plan_randomise(&seed, own, bytes);
    memcpy(got + bytes * rank, own, (size_t)bytes);
    const int64_t sent = comm->bytes_sent;
    const int64_t received = comm->bytes_received;
    ck_ok(hisa_comm_allgather(comm, got, bytes, NULL));
    MPI_Allgather(own, (int)bytes, MPI_BYTE, expected, (int)bytes, MPI_BYTE, MPI_COMM_WORLD);
    ck_assert_mem_eq(got, expected, (size_t)(bytes * ranks) + 1);
    ck_assert_int_eq(comm->bytes_sent - sent, bytes * (ranks - 1));
    ck_assert_int_eq(comm->bytes_received - received, bytes * (ranks - 1));
    free(own);
    free(got);
    free(expected);
}

/* The call that a plan is for, with the bytes it counts. */
static void check(exchange_plan_t plan, uint64_t seed) {
    const int64_t sent = comm->bytes_sent;
    const int64_t received = comm->bytes_received;
    if (plan.send == NULL) {
        ck_ok(hisa_comm_allgatherv(comm, plan.got, plan.recv_bytes, plan.recv_offsets, NULL));
    } else {
        ck_ok(hisa_comm_alltoallv(comm, plan.send, plan.send_bytes, plan.send_offsets, plan.got, plan.recv_bytes,
                                  plan.recv_offsets, NULL));
    }
    ck_assert_int_eq(comm->bytes_sent - sent, plan.sent);
    ck_assert_int_eq(comm->bytes_received - received, plan.received);
    plan_finish(&plan, seed);
}

START_MPI_TEST(test_random_allgatherv) {
    const uint64_t seed = plan_run_seed();
    for (uint64_t i = 0; i < 60; ++i) {
        check(plan_gather(seed + i, i % 30 == 0 ? 3000000 : 100000), seed + i);
    }
}

START_MPI_TEST(test_random_alltoallv) {
    const uint64_t seed = plan_run_seed();
    for (uint64_t i = 0; i < 60; ++i) {
        check(plan_alltoall(seed + i, i % 30 == 0 ? 1500000 : 50000), seed + i);
    }
}

/* Parts longer than one message, cut at odd and at even places, some exactly one or two pieces long. */
START_MPI_TEST(test_pieces) {
    const uint64_t seed = plan_run_seed();
    static const int64_t pieces[] = {31, 64, 500, 1000};
    for (uint64_t i = 0; i < 20; ++i) {
        hisa_comm_mpi_set_piece(comm, pieces[i % 4]);
        check(plan_gather(seed + i, 3000), seed + i);
        check(plan_alltoall(seed + i, 3000), seed + i);
    }
    hisa_comm_mpi_set_piece(comm, 32);
    const int ranks = mpi_suite_size();
    for (int64_t bytes = 31; bytes <= 97; bytes += bytes % 32 == 1 ? 30 : 1) {
        char got[RANKS_MAX * 97];
        char expected[RANKS_MAX * 97];
        memset(got, mpi_suite_rank() + 1, sizeof got);
        for (int r = 0; r < ranks; ++r) {
            memset(expected + bytes * r, r + 1, (size_t)bytes);
        }
        ck_ok(hisa_comm_allgather(comm, got, bytes, NULL));
        ck_assert_mem_eq(got, expected, (size_t)(bytes * ranks));
    }
}

/* A thousand operations of changing kind and size, without anything between them that would bring ranks together. */
START_MPI_TEST(test_back_to_back) {
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    rng_t rng = {20261123};
    uint8_t send[RANKS_MAX * 64];
    uint8_t got[RANKS_MAX * 64];
    for (int i = 0; i < 1000; ++i) {
        const int64_t bytes = rng_range(&rng, 0, 64);
        const int64_t kind = rng_range(&rng, 0, 2);
        int64_t sizes[RANKS_MAX];
        int64_t offsets[RANKS_MAX];
        for (int r = 0; r < ranks; ++r) {
            sizes[r] = bytes;
            offsets[r] = bytes * r;
        }
        memset(send, i + 31 * rank, sizeof send);
        memset(got, i + 31 * rank, sizeof got);
        if (kind == 0) {
            ck_ok(hisa_comm_allgather(comm, got, bytes, NULL));
        } else if (kind == 1) {
            ck_ok(hisa_comm_control_allgather(comm, got, bytes));
        } else {
            ck_ok(hisa_comm_alltoallv(comm, send, sizes, offsets, got, sizes, offsets, NULL));
        }
        for (int64_t at = 0; at < bytes * ranks; ++at) {
            ck_assert_msg(got[at] == (uint8_t)(i + 31 * (at / bytes)), "operation %d, byte %lld", i, (long long)at);
        }
    }
}

/* Only rank 0 waits for something: the others go ahead by as much as they like, and must not be taken for each other.
 */
START_MPI_TEST(test_to_one) {
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    for (int i = 0; i < 300; ++i) {
        int64_t send_bytes[RANKS_MAX] = {0};
        int64_t recv_bytes[RANKS_MAX] = {0};
        int64_t offsets[RANKS_MAX] = {0};
        int32_t got[RANKS_MAX] = {0};
        const int32_t say = 1000 * i + rank;
        for (int r = 0; r < ranks; ++r) {
            recv_bytes[r] = rank == 0 ? 4 : 0;
            offsets[r] = INT64_C(4) * r;
        }
        const int64_t none[RANKS_MAX] = {0};
        send_bytes[0] = 4;
        ck_ok(hisa_comm_alltoallv(comm, &say, send_bytes, none, got, recv_bytes, offsets, NULL));
        for (int r = 1; rank == 0 && r < ranks; ++r) {
            ck_assert_int_eq(got[r], 1000 * i + r);
        }
    }
}

/* Two communicators over the same ranks do not mix, in whatever order a rank's peers get to them. */
START_MPI_TEST(test_two_communicators) {
    const int ranks = mpi_suite_size();
    hisa_comm_t *second = mpi_suite_comm();
    for (int i = 0; i < 20; ++i) {
        int32_t first_got[RANKS_MAX];
        int32_t second_got[RANKS_MAX];
        first_got[mpi_suite_rank()] = i;
        second_got[mpi_suite_rank()] = -i;
        ck_ok(hisa_comm_allgather(comm, first_got, 4, NULL));
        ck_ok(hisa_comm_allgather(second, second_got, 4, NULL));
        for (int r = 0; r < ranks; ++r) {
            ck_assert_int_eq(first_got[r], i);
            ck_assert_int_eq(second_got[r], -i);
        }
    }
    hisa_comm_destroy(second);
}

/* ---------------------------------------------------------------------------------------------- agreement */

START_MPI_TEST(test_agree_well) {
    ck_ok(hisa_comm_agree(comm, HISA_OK, NULL));
    ck_ok(hisa_comm_agree(comm, HISA_OK, "not looked at"));
    const hisa_agree_value_t values[] = {{"m", 64}, {"k", INT64_MIN}};
    int64_t everyone[RANKS_MAX];
    ck_ok(hisa_comm_agree_values(comm, HISA_OK, values, 2, 7 - 3 * mpi_suite_rank(), everyone));
    for (int r = 0; r < mpi_suite_size(); ++r) {
        ck_assert_int_eq(everyone[r], 7 - 3 * r);
    }
    ck_ok(hisa_comm_agree_values(comm, HISA_OK, values, 2, 0, NULL));
    ck_ok(hisa_comm_agree_values(comm, HISA_OK, NULL, 0, 0, NULL));
    ck_assert_int_eq(comm->bytes_sent, 0); /* only data calls are counted */
}

/* Each rank in turn is the one that fails. */
START_MPI_TEST(test_agree_one_fails) {
    const int ranks = mpi_suite_size();
    for (int bad = 0; bad < ranks; ++bad) {
        const bool me = mpi_suite_rank() == bad;
        const hisa_status_t status =
            hisa_comm_agree(comm, me ? HISA_ERR_FORMAT : HISA_OK, me ? "ks > ke at row 5" : NULL);
        char text[64] = "ks > ke at row 5";
        if (ranks > 1) {
            snprintf(text, sizeof text, "rank %d: ks > ke at row 5", bad);
        }
        ck_assert_int_eq(status, HISA_ERR_FORMAT);
        ck_assert_str_eq(hisa_last_error(), text);
        mpi_suite_same_outcome(status);
    }
    ck_ok(hisa_comm_agree(comm, HISA_OK, NULL)); /* a local failure is no fault of the communicator */
}

START_MPI_TEST(test_agree_two_fail) {
    mpi_suite_needs(3);
    const int rank = mpi_suite_rank();
    const int ranks = mpi_suite_size();
    const hisa_status_t own = rank == 1 ? HISA_ERR_IO : rank == ranks - 1 ? HISA_ERR_CAPACITY : HISA_OK;
    const hisa_status_t status = hisa_comm_agree(comm, own, NULL);
    ck_assert_int_eq(status, HISA_ERR_IO);
    ck_assert_str_eq(hisa_last_error(), "rank 1: input or output failed");
    mpi_suite_same_outcome(status);
}

/* agree_values takes the thread's last message, cuts what is too long, and puts failures before differences. */
START_MPI_TEST(test_agree_values_failure) {
    const int rank = mpi_suite_rank();
    const int last = mpi_suite_size() - 1;
    const hisa_agree_value_t values[] = {{"m", rank}};
    int64_t everyone[RANKS_MAX] = {-1};
    hisa_status_t own = HISA_OK;
    if (rank == last) {
        own = hisa_fail(HISA_ERR_CAPACITY, "%0400d", 7);
    }
    const hisa_status_t status = hisa_comm_agree_values(comm, own, values, 1, 5, everyone);
    ck_assert_int_eq(status, HISA_ERR_CAPACITY);
    ck_assert_ptr_nonnull(strstr(hisa_last_error(), "00000000"));
    ck_assert_int_eq(everyone[0], -1);
    mpi_suite_same_outcome(status);
}

START_MPI_TEST(test_agree_values_differ) {
    mpi_suite_needs(2);
    const int rank = mpi_suite_rank();
    const int last = mpi_suite_size() - 1;
    int64_t everyone[RANKS_MAX] = {-1};
    const hisa_agree_value_t values[] = {{"top_blocks", 64}, {"top_k", rank == last ? 512 : 2048}, {"rows", rank}};
    const hisa_status_t status = hisa_comm_agree_values(comm, HISA_OK, values, 3, 5, everyone);
    char text[100];
    snprintf(text, sizeof text, "top_k differs between ranks: 2048 on rank 0, 512 on rank %d", last);
    ck_assert_int_eq(status, HISA_ERR_MISMATCH);
    ck_assert_str_eq(hisa_last_error(), text);
    ck_assert_int_eq(everyone[0], -1);
    mpi_suite_same_outcome(status);
}

START_MPI_TEST(test_agree_values_counts) {
    mpi_suite_needs(2);
    hisa_agree_value_t values[HISA_AGREE_VALUES_MAX + 1];
    for (int i = 0; i <= HISA_AGREE_VALUES_MAX; ++i) {
        values[i] = (hisa_agree_value_t){"value", i};
    }
    ck_ok(hisa_comm_agree_values(comm, HISA_OK, values, HISA_AGREE_VALUES_MAX, 0, NULL));
    hisa_status_t status = hisa_comm_agree_values(comm, HISA_OK, values, mpi_suite_rank() == 1 ? 3 : 4, 0, NULL);
    ck_assert_int_eq(status, HISA_ERR_MISMATCH);
    ck_assert_str_eq(hisa_last_error(), "ranks make different calls: 4 values to agree on rank 0, 3 on rank 1");
    mpi_suite_same_outcome(status);
    /* Too many on one rank: all hear of it, none waits. */
    status =
        hisa_comm_agree_values(comm, HISA_OK, values, mpi_suite_rank() == 1 ? HISA_AGREE_VALUES_MAX + 1 : 4, 0, NULL);
    ck_assert_int_eq(status, HISA_ERR_INTERNAL);
    mpi_suite_same_outcome(status);
}

/* ---------------------------------------------------------------------------------------------- creation */

START_MPI_TEST(test_bad_communicators) {
    hisa_comm_t *none = NULL;
    ck_fails(hisa_comm_create_mpi(MPI_COMM_NULL, &none), HISA_ERR_INVALID_ARGUMENT, "MPI_COMM_NULL");
    ck_assert_ptr_null(none);
    if (mpi_suite_size() > 1) {
        MPI_Comm half = MPI_COMM_NULL;
        MPI_Comm inter = MPI_COMM_NULL;
        const int side = mpi_suite_rank() == 0 ? 0 : 1;
        MPI_Comm_split(MPI_COMM_WORLD, side, 0, &half);
        MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, side == 0 ? 1 : 0, 1, &inter);
        ck_fails(hisa_comm_create_mpi(inter, &none), HISA_ERR_INVALID_ARGUMENT, "intercommunicator");
        MPI_Comm_free(&inter);
        MPI_Comm_free(&half);
    }
    ck_assert_ptr_null(none);
}

/* One rank gives nowhere to put the result: all fail, and the lowest such rank is named. */
START_MPI_TEST(test_no_output_on_one_rank) {
    const int last = mpi_suite_size() - 1;
    hisa_comm_t *made = NULL;
    const hisa_status_t status = hisa_comm_create_mpi(MPI_COMM_WORLD, mpi_suite_rank() == last ? NULL : &made);
    char text[100] = "comm is NULL";
    if (last > 0) {
        snprintf(text, sizeof text, "rank %d could not create its communicator: invalid argument", last);
    }
    ck_assert_int_eq(status, HISA_ERR_INVALID_ARGUMENT);
    ck_assert_str_eq(hisa_last_error(), text);
    ck_assert_ptr_null(made);
    mpi_suite_same_outcome(status);
}

/* The caller keeps its communicator, its error handler and its order of ranks. */
START_MPI_TEST(test_reordered) {
    const int ranks = mpi_suite_size();
    MPI_Comm reversed = MPI_COMM_NULL;
    MPI_Comm_split(MPI_COMM_WORLD, 0, -mpi_suite_rank(), &reversed);
    MPI_Comm_set_errhandler(reversed, MPI_ERRORS_ARE_FATAL);
    hisa_comm_t *made = NULL;
    ck_ok(hisa_comm_create_mpi(reversed, &made));
    MPI_Errhandler handler = MPI_ERRHANDLER_NULL;
    MPI_Comm_get_errhandler(reversed, &handler);
    ck_assert(handler == MPI_ERRORS_ARE_FATAL);
    MPI_Comm_free(&reversed);
    ck_assert_int_eq(hisa_comm_rank(made), ranks - 1 - mpi_suite_rank());
    int32_t got[RANKS_MAX];
    got[hisa_comm_rank(made)] = mpi_suite_rank();
    ck_ok(hisa_comm_allgather(made, got, 4, NULL));
    for (int r = 0; r < ranks; ++r) {
        ck_assert_int_eq(got[r], ranks - 1 - r);
    }
    hisa_comm_destroy(made);
}

int main(void) {
    Suite *suite = suite_create("comm over MPI");
    TCase *data = tcase_create("data");
    tcase_add_checked_fixture(data, setup, teardown);
    tcase_add_test(data, test_names);
    tcase_add_loop_test(data, test_allgather, 0, 6);
    tcase_add_test(data, test_random_allgatherv);
    tcase_add_test(data, test_random_alltoallv);
    tcase_add_test(data, test_pieces);
    tcase_add_test(data, test_back_to_back);
    tcase_add_test(data, test_to_one);
    tcase_add_test(data, test_two_communicators);
    suite_add_tcase(suite, data);

    TCase *agree = tcase_create("agreement");
    tcase_add_checked_fixture(agree, setup, teardown);
    tcase_add_test(agree, test_agree_well);
    tcase_add_test(agree, test_agree_one_fails);
    tcase_add_test(agree, test_agree_two_fail);
    tcase_add_test(agree, test_agree_values_failure);
    tcase_add_test(agree, test_agree_values_differ);
    tcase_add_test(agree, test_agree_values_counts);
    suite_add_tcase(suite, agree);

    TCase *creation = tcase_create("creation");
    tcase_add_test(creation, test_bad_communicators);
    tcase_add_test(creation, test_no_output_on_one_rank);
    tcase_add_test(creation, test_reordered);
    suite_add_tcase(suite, creation);
    return mpi_suite_main(suite);
}
