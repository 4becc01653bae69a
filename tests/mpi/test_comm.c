/* The MPI communicator against MPI's own collectives. */
#include <stdint.h>

#include "comm/comm.h"
#include "comm/mpi_piece.h"
#include "support/mpi_suite.h"

#define RANKS_MAX 16
#define FILL 0x5a /* what no part covers */

static hisa_comm_t *comm;

static void setup(void) {
    ck_assert_int_le(mpi_suite_size(), RANKS_MAX);
    comm = mpi_suite_comm();
}

static void teardown(void) {
    hisa_comm_destroy(comm);
    comm = NULL;
}

/* ---------------------------------------------------------------------------------------------- random plans */

static uint64_t next(uint64_t *seed) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    uint64_t x = *seed ^ (*seed >> 33);
    x *= UINT64_C(0xff51afd7ed558ccd);
    return x ^ (x >> 33);
}

/* Zero often, small mostly, sometimes up to `limit`. */
static int64_t random_size(uint64_t *seed, int64_t limit) {
    const uint64_t kind = next(seed) % 8;
    if (kind < 3) {
        return 0;
    }
    return (int64_t)(next(seed) % (uint64_t)(kind < 7 ? 300 : limit + 1));
}

/* Places parts one behind the other with gaps, some of them out of order; returns the room they need. */
static int64_t place(uint64_t *seed, const int64_t *sizes, int ranks, int64_t *offsets) {
    int64_t end = (int64_t)(next(seed) % 16);
    const bool backwards = next(seed) % 2 == 1;
    for (int i = 0; i < ranks; ++i) {
        const int r = backwards ? ranks - 1 - i : i;
        offsets[r] = end;
        end += sizes[r] + (int64_t)(next(seed) % 5);
    }
    return end + 8;
}

static void to_int(const int64_t *from, int *to, int ranks) {
    for (int r = 0; r < ranks; ++r) {
        to[r] = (int)from[r];
    }
}

static char *filled(int64_t bytes) {
    char *buffer = malloc((size_t)bytes + 1);
    ck_assert_ptr_nonnull(buffer);
    memset(buffer, FILL, (size_t)bytes + 1);
    return buffer;
}

static void randomise(uint64_t *seed, char *buffer, int64_t bytes) {
    for (int64_t i = 0; i < bytes; ++i) {
        buffer[i] = (char)next(seed);
    }
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
    uint64_t seed = UINT64_C(977) + (uint64_t)(100 * rank + _i);
    char *own = filled(bytes);
    char *got = filled(bytes * ranks);
    char *expected = filled(bytes * ranks);
    randomise(&seed, own, bytes);
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

/* One random case of allgatherv. All ranks draw the same plan from `plan`. */
static void check_allgatherv(uint64_t plan, int64_t limit) {
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    uint64_t seed = plan;
    int64_t bytes[RANKS_MAX];
    int64_t offsets[RANKS_MAX];
    int int_bytes[RANKS_MAX];
    int int_offsets[RANKS_MAX];
    int64_t others = 0;
    for (int r = 0; r < ranks; ++r) {
        bytes[r] = random_size(&seed, limit);
        others += r == rank ? 0 : bytes[r];
    }
    const int64_t room = place(&seed, bytes, ranks, offsets);
    char *got = filled(room);
    char *expected = filled(room);
    uint64_t content = plan + (uint64_t)rank + 1;
    randomise(&content, got + offsets[rank], bytes[rank]);
    memcpy(expected, got, (size_t)room);
    const int64_t sent = comm->bytes_sent;
    const int64_t received = comm->bytes_received;
    ck_ok(hisa_comm_allgatherv(comm, got, bytes, offsets, NULL));
    to_int(bytes, int_bytes, ranks);
    to_int(offsets, int_offsets, ranks);
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, expected, int_bytes, int_offsets, MPI_BYTE, MPI_COMM_WORLD);
    ck_assert_msg(memcmp(got, expected, (size_t)room + 1) == 0, "allgatherv differs, seed %llu",
                  (unsigned long long)plan);
    ck_assert_int_eq(comm->bytes_sent - sent, bytes[rank] * (ranks - 1));
    ck_assert_int_eq(comm->bytes_received - received, others);
    free(got);
    free(expected);
}

/* One random case of alltoallv; the own part of recv must stay as it was. */
static void check_alltoallv(uint64_t plan, int64_t limit) {
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    uint64_t seed = plan;
    int64_t sizes[RANKS_MAX][RANKS_MAX];                         /* from, to */
    const int idle = (int)(next(&seed) % (uint64_t)(2 * ranks)); /* a rank that takes no part, half of the time */
    for (int from = 0; from < ranks; ++from) {
        for (int to = 0; to < ranks; ++to) {
            const int64_t size = random_size(&seed, limit);
            sizes[from][to] = from == idle || to == idle ? 0 : size;
        }
    }
    int64_t send_bytes[RANKS_MAX];
    int64_t recv_bytes[RANKS_MAX];
    int64_t send_offsets[RANKS_MAX];
    int64_t recv_offsets[RANKS_MAX];
    int64_t sent = -comm->bytes_sent;
    int64_t received = -comm->bytes_received;
    for (int r = 0; r < ranks; ++r) {
        send_bytes[r] = sizes[rank][r];
        recv_bytes[r] = sizes[r][rank];
        sent -= r == rank ? 0 : send_bytes[r];
        received -= r == rank ? 0 : recv_bytes[r];
    }
    uint64_t own = plan + (uint64_t)rank + 1;
    const int64_t send_room = place(&own, send_bytes, ranks, send_offsets);
    const int64_t recv_room = place(&own, recv_bytes, ranks, recv_offsets);
    char *send = filled(send_room);
    char *got = filled(recv_room);
    char *expected = filled(recv_room);
    randomise(&own, send, send_room);

    int counts[4][RANKS_MAX];
    to_int(send_bytes, counts[0], ranks);
    to_int(send_offsets, counts[1], ranks);
    to_int(recv_bytes, counts[2], ranks);
    to_int(recv_offsets, counts[3], ranks);
    MPI_Alltoallv(send, counts[0], counts[1], MPI_BYTE, expected, counts[2], counts[3], MPI_BYTE, MPI_COMM_WORLD);
    memset(expected + recv_offsets[rank], FILL, (size_t)recv_bytes[rank]);
    /* The entries of the rank itself are ignored. */
    send_bytes[rank] = recv_bytes[rank] = -1;
    send_offsets[rank] = recv_offsets[rank] = INT64_MAX;
    ck_ok(hisa_comm_alltoallv(comm, send, send_bytes, send_offsets, got, recv_bytes, recv_offsets, NULL));
    ck_assert_msg(memcmp(got, expected, (size_t)recv_room + 1) == 0, "alltoallv differs, seed %llu",
                  (unsigned long long)plan);
    ck_assert_int_eq(sent + comm->bytes_sent, 0);
    ck_assert_int_eq(received + comm->bytes_received, 0);
    free(send);
    free(got);
    free(expected);
}

/* A seed of this run, equal on all ranks; HISA_TEST_SEED repeats a run. */
static uint64_t run_seed(void) {
    const char *given = getenv("HISA_TEST_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
    MPI_Bcast(&seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    if (mpi_suite_rank() == 0) {
        printf("%s: HISA_TEST_SEED=%llu\n", mpi_suite_test, (unsigned long long)seed);
    }
    return seed * 100000;
}

START_MPI_TEST(test_random_allgatherv) {
    const uint64_t seed = run_seed();
    for (uint64_t i = 0; i < 60; ++i) {
        check_allgatherv(seed + i, i % 30 == 0 ? 3000000 : 100000);
    }
}

START_MPI_TEST(test_random_alltoallv) {
    const uint64_t seed = run_seed();
    for (uint64_t i = 0; i < 60; ++i) {
        check_alltoallv(seed + i, i % 30 == 0 ? 1500000 : 50000);
    }
}

/* Parts longer than one message, cut at odd and at even places, some exactly one or two pieces long. */
START_MPI_TEST(test_pieces) {
    const uint64_t seed = run_seed();
    static const int64_t pieces[] = {31, 64, 500, 1000};
    for (uint64_t i = 0; i < 20; ++i) {
        hisa_comm_mpi_set_piece(comm, pieces[i % 4]);
        check_allgatherv(seed + i, 3000);
        check_alltoallv(seed + i, 3000);
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
    uint64_t plan = UINT64_C(20261123);
    uint8_t send[RANKS_MAX * 64];
    uint8_t got[RANKS_MAX * 64];
    for (int i = 0; i < 1000; ++i) {
        const int64_t bytes = (int64_t)(next(&plan) % 65);
        const uint64_t kind = next(&plan) % 3;
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
