/* The NCCL communicator's data calls against MPI's own collectives. One communicator serves all tests: making one takes
 * seconds where ranks share a GPU. */
#include <stdint.h>

#include "hisa/hisa_nccl.h"
#include "nccl_data.h"
#include "support/exchange_plan.h"
#include "support/runs.h"

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

/* ---------------------------------------------------------------------------------------------- one call each */

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

/* A plan with its memory on the device. */
typedef struct on_device {
    exchange_plan_t plan;
    char *got;
    char *sent; /* NULL in a gather */
} on_device_t;

static on_device_t up(exchange_plan_t plan) {
    return (on_device_t){.plan = plan,
                         .got = nccl_data_up(plan.got, plan.room, stream),
                         .sent = plan.send == NULL ? NULL : nccl_data_up(plan.send, plan.send_room, stream)};
}

static void enqueue(const on_device_t *made) {
    const exchange_plan_t *plan = &made->plan;
    if (made->sent == NULL) {
        ck_ok(hisa_comm_allgatherv(comm, made->got, plan->recv_bytes, plan->recv_offsets, stream));
    } else {
        ck_ok(hisa_comm_alltoallv(comm, made->sent, plan->send_bytes, plan->send_offsets, made->got, plan->recv_bytes,
                                  plan->recv_offsets, stream));
    }
}

static void finish(on_device_t *made, uint64_t seed) {
    nccl_data_down(comm, made->plan.got, made->got, made->plan.room, stream);
    ck_cuda(cudaFree(made->sent));
    plan_finish(&made->plan, seed);
}

START_MPI_TEST(test_random) {
    const uint64_t seed = plan_run_seed();
    for (uint64_t i = 0; i < (uint64_t)times(40); ++i) {
        on_device_t made = up(i % 2 == 0 ? plan_gather(seed + i, i % 20 == 0 ? 3000000 : 100000)
                                         : plan_alltoall(seed + i, i % 20 == 1 ? 1500000 : 50000));
        enqueue(&made);
        finish(&made, seed + i);
    }
}

START_MPI_TEST(test_groups) {
    const uint64_t seed = plan_run_seed();
    for (uint64_t i = 0; i < (uint64_t)times(20); ++i) {
        on_device_t gather = up(plan_gather(seed + i, 100000));
        on_device_t exchange = up(plan_alltoall(seed + i, 50000));
        on_device_t second = up(plan_alltoall(seed + 1000 + i, 5000));
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
    rng_t rng = {20261124};
    for (int i = 0; i < calls; ++i) {
        int64_t parts[RANKS_MAX];
        int64_t offsets[RANKS_MAX];
        const int64_t bytes = rng_range(&rng, 0, PART);
        const int64_t kind = rng_range(&rng, 0, 2);
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
