/* The NCCL communicator's data calls against MPI's own collectives. One communicator serves all tests: making one takes
 * seconds where ranks share a GPU. */
#include <stdint.h>

#include "hisa/hisa_nccl.h"
#include "nccl_data.h"
#include "support/runs.h"

#define FILL 0x5a /* what no part covers */

static hisa_comm_t *control;
static hisa_comm_t *comm;
static cudaStream_t stream;

static void setup(void) {
    nccl_data_place();
    if (comm == NULL) {
        hisa_nccl_config_t config;
        hisa_nccl_config_init(&config);
        control = mpi_suite_comm();
        ck_ok(hisa_comm_set_deadline(control, 90.0));
        config.control = control;
        ck_ok(hisa_comm_create_nccl(&config, &comm));
        stream = nccl_data_stream();
    }
}

/* How often: where ranks share a GPU, the more ranks the longer each exchange takes. */
static int times(int few_ranks) { return test_part(mpi_suite_size() > 4 ? few_ranks / 5 : few_ranks); }

static uint64_t next(uint64_t *seed) {
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    uint64_t x = *seed ^ (*seed >> 33);
    x *= UINT64_C(0xff51afd7ed558ccd);
    return x ^ (x >> 33);
}

/* Zero often, small mostly, sometimes up to `limit`. */
static int64_t random_size(uint64_t *seed, int64_t limit) {
    const uint64_t kind = next(seed) % 8;
    return kind < 3 ? 0 : (int64_t)(next(seed) % (uint64_t)(kind < 7 ? 300 : limit + 1));
}

/* Places parts one behind the other with gaps, at odd addresses too; returns the room they need. */
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

/* ---------------------------------------------------------------------------------------------- one call each */

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
    char *device = nccl_data_up(got, bytes * ranks, stream);
    ck_ok(hisa_comm_allgather(comm, device, bytes, stream));
    nccl_data_down(comm, got, device, bytes * ranks, stream);
    MPI_Allgather(own, (int)bytes, MPI_BYTE, expected, (int)bytes, MPI_BYTE, MPI_COMM_WORLD);
    ck_assert_mem_eq(got, expected, (size_t)(bytes * ranks) + 1);
    ck_assert_int_eq(comm->bytes_sent - sent, bytes * (ranks - 1));
    ck_assert_int_eq(comm->bytes_received - received, bytes * (ranks - 1));
    free(own);
    free(got);
    free(expected);
}

/* A plan of one exchange, with memory for it and MPI's answer. */
typedef struct plan {
    int64_t send_bytes[RANKS_MAX];
    int64_t recv_bytes[RANKS_MAX];
    int64_t send_offsets[RANKS_MAX];
    int64_t recv_offsets[RANKS_MAX];
    int64_t room; /* of got and expected */
    char *got;
    char *expected;
    char *device; /* becomes got */
    char *from;   /* on the device, sent; NULL in a gather */
} plan_t;

static void to_int(const int64_t *from, int *to) {
    for (int r = 0; r < mpi_suite_size(); ++r) {
        to[r] = (int)from[r];
    }
}

/* All ranks draw the same sizes from `draw`. */
static plan_t plan_gather(uint64_t draw, int64_t limit) {
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    plan_t plan = {.from = NULL};
    uint64_t seed = draw;
    int bytes[RANKS_MAX];
    int offsets[RANKS_MAX];
    for (int r = 0; r < ranks; ++r) {
        plan.recv_bytes[r] = random_size(&seed, limit);
    }
    plan.room = place(&seed, plan.recv_bytes, ranks, plan.recv_offsets);
    plan.got = filled(plan.room);
    plan.expected = filled(plan.room);
    uint64_t content = draw + (uint64_t)rank + 1;
    randomise(&content, plan.got + plan.recv_offsets[rank], plan.recv_bytes[rank]);
    memcpy(plan.expected, plan.got, (size_t)plan.room);
    plan.device = nccl_data_up(plan.got, plan.room, stream);
    to_int(plan.recv_bytes, bytes);
    to_int(plan.recv_offsets, offsets);
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, plan.expected, bytes, offsets, MPI_BYTE, MPI_COMM_WORLD);
    return plan;
}

/* The own part of what is received must stay as it was; its entries are not looked at. */
static plan_t plan_exchange(uint64_t draw, int64_t limit) {
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    plan_t plan = {.from = NULL};
    uint64_t seed = draw;
    const int idle = (int)(next(&seed) % (uint64_t)(2 * ranks)); /* a rank that takes no part, half of the time */
    for (int from = 0; from < ranks; ++from) {
        for (int to = 0; to < ranks; ++to) {
            const int64_t drawn = random_size(&seed, limit);
            const int64_t size = from == idle || to == idle ? 0 : drawn;
            if (from == rank) {
                plan.send_bytes[to] = size;
            }
            if (to == rank) {
                plan.recv_bytes[from] = size;
            }
        }
    }
    uint64_t own = draw + (uint64_t)rank + 1;
    const int64_t send_room = place(&own, plan.send_bytes, ranks, plan.send_offsets);
    plan.room = place(&own, plan.recv_bytes, ranks, plan.recv_offsets);
    char *send = filled(send_room);
    plan.got = filled(plan.room);
    plan.expected = filled(plan.room);
    randomise(&own, send, send_room);
    int ints[4][RANKS_MAX];
    to_int(plan.send_bytes, ints[0]);
    to_int(plan.send_offsets, ints[1]);
    to_int(plan.recv_bytes, ints[2]);
    to_int(plan.recv_offsets, ints[3]);
    MPI_Alltoallv(send, ints[0], ints[1], MPI_BYTE, plan.expected, ints[2], ints[3], MPI_BYTE, MPI_COMM_WORLD);
    memset(plan.expected + plan.recv_offsets[rank], FILL, (size_t)plan.recv_bytes[rank]);
    plan.send_bytes[rank] = plan.recv_bytes[rank] = -1;
    plan.send_offsets[rank] = plan.recv_offsets[rank] = INT64_MAX;
    plan.from = nccl_data_up(send, send_room, stream);
    plan.device = nccl_data_up(plan.got, plan.room, stream);
    free(send);
    return plan;
}

static void enqueue(const plan_t *plan) {
    if (plan->from == NULL) {
        ck_ok(hisa_comm_allgatherv(comm, plan->device, plan->recv_bytes, plan->recv_offsets, stream));
    } else {
        ck_ok(hisa_comm_alltoallv(comm, plan->from, plan->send_bytes, plan->send_offsets, plan->device,
                                  plan->recv_bytes, plan->recv_offsets, stream));
    }
}

static void finish(plan_t *plan, uint64_t draw) {
    nccl_data_down(comm, plan->got, plan->device, plan->room, stream);
    ck_assert_msg(memcmp(plan->got, plan->expected, (size_t)plan->room + 1) == 0, "%s differs, seed %llu",
                  plan->from == NULL ? "allgatherv" : "alltoallv", (unsigned long long)draw);
    ck_cuda(cudaFree(plan->from));
    free(plan->got);
    free(plan->expected);
}

START_MPI_TEST(test_random) {
    const uint64_t seed = run_seed();
    for (uint64_t i = 0; i < (uint64_t)times(40); ++i) {
        plan_t plan = i % 2 == 0 ? plan_gather(seed + i, i % 20 == 0 ? 3000000 : 100000)
                                 : plan_exchange(seed + i, i % 20 == 1 ? 1500000 : 50000);
        enqueue(&plan);
        finish(&plan, seed + i);
    }
}

START_MPI_TEST(test_groups) {
    const uint64_t seed = run_seed();
    for (uint64_t i = 0; i < (uint64_t)times(20); ++i) {
        plan_t gather = plan_gather(seed + i, 100000);
        plan_t exchange = plan_exchange(seed + i, 50000);
        plan_t second = plan_exchange(seed + 1000 + i, 5000);
        ck_ok(hisa_comm_begin(comm));
        enqueue(&gather);
        enqueue(&exchange);
        ck_ok(hisa_comm_begin(comm)); /* they nest */
        enqueue(&second);
        ck_ok(hisa_comm_end(comm));
        ck_ok(hisa_comm_end(comm));
        ck_ok(hisa_comm_check(comm));
        finish(&gather, seed + i);
        finish(&exchange, seed + i);
        finish(&second, seed + 1000 + i);
    }
    ck_ok(hisa_comm_begin(comm)); /* and may hold nothing */
    ck_ok(hisa_comm_end(comm));
}

START_MPI_TEST(test_control) {
    const int last = mpi_suite_size() - 1;
    const int64_t sent = comm->bytes_sent;
    int64_t everyone[RANKS_MAX];
    ck_ok(hisa_comm_agree_values(comm, HISA_OK, NULL, 0, 5 * mpi_suite_rank(), everyone));
    ck_assert_int_eq(everyone[last], INT64_C(5) * last);
    const hisa_status_t status = hisa_comm_agree(comm, mpi_suite_rank() == last ? HISA_ERR_IO : HISA_OK, "no disk");
    ck_assert_int_eq(status, HISA_ERR_IO);
    mpi_suite_same_outcome(status);
    ck_ok(hisa_comm_agree(comm, HISA_OK, NULL));
    ck_assert_int_eq(comm->bytes_sent, sent);
}

/* ---------------------------------------------------------------------------------------------- many calls */

/* Calls of changing kind and size in a row on the same memory, with nothing between them but the stream's order: what
 * each brought is kept, and compared in the end. */
START_MPI_TEST(test_back_to_back) {
    enum { PART = 64 };
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    const int calls = times(1000);
    const int64_t row = INT64_C(1) * PART * ranks;
    uint8_t *all = malloc((size_t)(row * calls));
    int64_t *sizes = malloc((size_t)calls * sizeof *sizes);
    ck_assert(all != NULL && sizes != NULL);
    char *send = nccl_data_up(all, row, stream);
    char *got = nccl_data_up(all, row, stream);
    char *kept = nccl_data_up(all, row * calls, stream);
    uint64_t plan = UINT64_C(20261124);
    for (int i = 0; i < calls; ++i) {
        int64_t parts[RANKS_MAX];
        int64_t offsets[RANKS_MAX];
        const int64_t bytes = (int64_t)(next(&plan) % (PART + 1));
        const uint64_t kind = next(&plan) % 3;
        for (int r = 0; r < ranks; ++r) {
            parts[r] = bytes;
            offsets[r] = bytes * r;
        }
        sizes[i] = bytes;
        ck_cuda(cudaMemsetAsync(send, (i + 31 * rank) & 255, (size_t)row, stream));
        ck_cuda(cudaMemsetAsync(got, (i + 31 * rank) & 255, (size_t)row, stream));
        if (kind == 0) {
            ck_ok(hisa_comm_allgather(comm, got, bytes, stream));
        } else if (kind == 1) {
            ck_ok(hisa_comm_allgatherv(comm, got, parts, offsets, stream));
        } else {
            ck_ok(hisa_comm_alltoallv(comm, send, parts, offsets, got, parts, offsets, stream));
        }
        ck_cuda(cudaMemcpyAsync(kept + row * i, got, (size_t)row, cudaMemcpyDeviceToDevice, stream));
    }
    nccl_data_down(comm, all, kept, row * calls, stream);
    for (int i = 0; i < calls; ++i) {
        for (int64_t at = 0; at < sizes[i] * ranks; ++at) {
            ck_assert_msg(all[row * i + at] == (uint8_t)(i + 31 * (at / sizes[i])), "call %d, byte %lld", i,
                          (long long)at);
        }
    }
    ck_cuda(cudaFree(send));
    ck_cuda(cudaFree(got));
    free(all);
    free(sizes);
}

/* An all-gather and an exchange in a graph, replayed with new contents in place, between eager calls. */
START_MPI_TEST(test_graph) {
    enum { PART = 1000 };
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    const int64_t row = INT64_C(1) * PART * ranks;
    uint8_t *host = malloc((size_t)row);
    ck_assert_ptr_nonnull(host);
    int64_t parts[RANKS_MAX];
    int64_t offsets[RANKS_MAX];
    for (int r = 0; r < ranks; ++r) {
        parts[r] = PART;
        offsets[r] = INT64_C(1) * PART * r;
    }
    char *gathered = nccl_data_up(host, row, stream);
    char *sent = nccl_data_up(host, row, stream);
    char *received = nccl_data_up(host, row, stream);
    ck_ok(nccl_rank_wait(comm, stream));
    cudaGraph_t graph = NULL;
    cudaGraphExec_t replay = NULL;
    ck_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    ck_ok(hisa_comm_allgather(comm, gathered, PART, stream));
    ck_ok(hisa_comm_alltoallv(comm, sent, parts, offsets, received, parts, offsets, stream));
    ck_cuda(cudaStreamEndCapture(stream, &graph));
    ck_cuda(cudaGraphInstantiate(&replay, graph, 0));
    for (int i = 0; i < times(50); ++i) {
        for (int r = 0; r < ranks; ++r) {
            ck_cuda(cudaMemsetAsync(sent + PART * r, (3 * i + 16 * rank + r) & 255, PART, stream));
        }
        ck_cuda(cudaMemsetAsync(gathered, (i + 50 * rank) & 255, (size_t)row, stream));
        ck_cuda(cudaGraphLaunch(replay, stream));
        if (i % 10 == 5) {
            ck_ok(hisa_comm_allgather(comm, gathered, 10, stream)); /* both ways to call may alternate */
            ck_cuda(cudaMemsetAsync(gathered, (i + 50 * rank) & 255, (size_t)row, stream));
            ck_cuda(cudaGraphLaunch(replay, stream));
        }
        ck_ok(nccl_rank_wait(comm, stream));
        ck_cuda(cudaMemcpy(host, gathered, (size_t)row, cudaMemcpyDeviceToHost));
        for (int64_t at = 0; at < row; ++at) {
            ck_assert_int_eq(host[at], (uint8_t)(i + 50 * (at / PART)));
        }
        ck_cuda(cudaMemcpy(host, received, (size_t)row, cudaMemcpyDeviceToHost));
        for (int64_t at = 0; at < row; ++at) {
            ck_assert(at / PART == rank || host[at] == (uint8_t)(3 * i + 16 * (at / PART) + rank));
        }
    }
    ck_cuda(cudaGraphExecDestroy(replay)); /* before the communicator */
    ck_cuda(cudaGraphDestroy(graph));
    ck_cuda(cudaFree(gathered));
    ck_cuda(cudaFree(sent));
    ck_cuda(cudaFree(received));
    free(host);
}

/* The last test. */
START_MPI_TEST(test_destroy) {
    ck_ok(nccl_rank_wait(comm, stream));
    ck_cuda(cudaStreamDestroy(stream));
    hisa_comm_destroy(comm);
    ck_ok(hisa_comm_agree(control, HISA_OK, NULL));
    hisa_comm_destroy(control);
}

int main(void) {
    if (!nccl_rank_has_device()) {
        return 77;
    }
    Suite *suite = suite_create("comm over NCCL");
    TCase *data = tcase_create("data");
    tcase_add_checked_fixture(data, setup, NULL);
    tcase_add_loop_test(data, test_allgather, 0, 6);
    tcase_add_test(data, test_random);
    tcase_add_test(data, test_groups);
    tcase_add_test(data, test_control);
    tcase_add_test(data, test_back_to_back);
    tcase_add_test(data, test_graph);
    tcase_add_test(data, test_destroy);
    suite_add_tcase(suite, data);
    return mpi_suite_main(suite);
}
