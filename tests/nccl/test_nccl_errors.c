/* One rank of a group over NCCL goes wrong, alive: another configuration, another version of hisa, fewer queries than
 * announced, an allocation that fails. Every rank returns the same error within the deadline and two seconds, and can
 * destroy what it has; then a selection gives what the reference says, on the same communicator where nothing was under
 * way, else on a new one. The odd rank is the last one.
 *
 * Allocations fail where the library asks the CUDA runtime for memory: the linker puts the functions at the end of this
 * file in between. (The ranks share a GPU: memory that ran out would run out for all.) */
#include <stdatomic.h>
#include <time.h>

#include "gpu/gpu_support.h"
#include "support/host_gather.h"
#include "support/named.h"
#include "support/nccl_suite.h"
#include "support/runs.h"
#include "support/stage.h"

#define DEADLINE 4.0
#define CREATION_DEADLINE 8.0 /* making a communicator takes seconds where ranks share a GPU */

enum { ROWS = 6, LENGTH = 300 };

static hisa_comm_t *control;
static hisa_comm_t *comm; /* of all tests, until one of them loses it */
static test_case_t made;

static bool odd(void) { return mpi_suite_rank() == mpi_suite_size() - 1; }

static hisa_comm_t *create(void) {
    hisa_nccl_config_t config;
    hisa_comm_t *fresh = NULL;
    hisa_nccl_config_init(&config);
    config.control = control;
    ck_ok(hisa_comm_create_nccl(&config, &fresh));
    ck_ok(hisa_comm_set_deadline(fresh, DEADLINE));
    return fresh;
}

static void setup(void) {
    if (comm == NULL) {
        control = mpi_suite_comm();
        ck_ok(hisa_comm_set_deadline(control, 90.0));
        comm = create();
    }
    gpu_use_scorer(HISA_CUDA_SCORER_F32);
    test_case_blank(&made, 16, 2, 16, LENGTH, ROWS);
    made.config.backend = HISA_BACKEND_CUDA;
    test_case_finish(&made);
}

static void teardown(void) { test_case_free(&made); }

/* All ranks had this outcome, alike, since `begin`. */
static void agreed(hisa_status_t got, double begin, double deadline, hisa_status_t status, const char *text) {
    const double took = nccl_rank_now() - begin;
    const bool well = got == status && strstr(hisa_last_error(), text) != NULL && took <= deadline + 2.0;
    int all = well ? 1 : 0;
    if (!well) {
        fprintf(stderr, "rank %d: got %s (%s) after %.1f s, expected %s with \"%s\"\n", mpi_suite_rank(),
                hisa_status_string(got), hisa_last_error(), took, hisa_status_string(status), text);
    }
    MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    ck_assert_int_eq(all, 1);
    mpi_suite_same_outcome(got);
}

/* Selections by either exchange, from the making of the index to its end. */
static void works(void) {
    for (int way = 0; way < 2; ++way) {
        run_t run;
        char why[256] = "";
        run_plain(&run, &made, mpi_suite_size());
        run.exchange = way == 0 ? HISA_EXCHANGE_OWNER : HISA_EXCHANGE_ONESHOT;
        run.tile_rows = way == 0 ? 2 : 0;
        int all = run_check(&run, &made, comm, why, sizeof why) ? 1 : 0;
        MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
        ck_assert_msg(all == 1, "%s", why);
    }
}

/* ---------------------------------------------------------------------------------------------- configurations */

static void refuse_index(const hisa_index_config_t *config, hisa_status_t status, const char *text) {
    hisa_index_t *index = NULL;
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = nccl_rank_now();
    const hisa_status_t got = hisa_index_create(config, comm, &index);
    agreed(got, begin, DEADLINE, status, text);
    ck_assert_ptr_null(index);
}

START_MPI_TEST(another_configuration) {
    hisa_index_config_t config = made.config;
    int32_t offset = odd() ? 1 : 0;
#define DIFFERENT(member, value, status, text)                                                                         \
    do {                                                                                                               \
        config = made.config;                                                                                          \
        if (odd()) {                                                                                                   \
            config.member = (value);                                                                                   \
        }                                                                                                              \
        refuse_index(&config, status, text);                                                                           \
    } while (0)
    DIFFERENT(head_dim, 32, HISA_ERR_MISMATCH, "head_dim differs between ranks: 16 on rank 0, 32 on rank");
    DIFFERENT(num_heads, 3, HISA_ERR_MISMATCH, "num_heads");
    DIFFERENT(block_size, 32, HISA_ERR_MISMATCH, "block_size");
    DIFFERENT(num_sequences, 2, HISA_ERR_MISMATCH, "num_sequences");
    DIFFERENT(capacity, 9999, HISA_ERR_MISMATCH, "capacity");
    DIFFERENT(stripe, 5, HISA_ERR_MISMATCH, "stripe");
    DIFFERENT(head_dim, 17, HISA_ERR_INVALID_ARGUMENT, "head_dim");
    DIFFERENT(backend, HISA_BACKEND_CPU, HISA_ERR_UNSUPPORTED, "do not share memory");
#undef DIFFERENT
    config = made.config;
    config.rank_offsets = &offset;
    refuse_index(&config, HISA_ERR_MISMATCH, "rank_offsets");
    works();
}

/* ---------------------------------------------------------------------------------------------- versions */

/* Of hisa: no communicator comes of it that NCCL's could be made over. NCCL's own version: test_nccl_create. */
START_MPI_TEST(another_version) {
    host_gather_t gather = {.false_version_at = odd() ? 1 : 0};
    hisa_comm_t *none = NULL;
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = nccl_rank_now();
    const hisa_status_t got = hisa_comm_create_host(mpi_suite_rank(), mpi_suite_size(), host_gather, &gather, &none);
    agreed(got, begin, DEADLINE, HISA_ERR_MISMATCH, "hisa version differs between ranks");
    ck_assert_ptr_null(none);

    /* The same group with one version goes all the way. */
    hisa_nccl_config_t config;
    hisa_comm_t *kept = comm;
    gather.false_version_at = 0;
    hisa_nccl_config_init(&config);
    ck_ok(hisa_comm_create_host(mpi_suite_rank(), mpi_suite_size(), host_gather, &gather, &config.control));
    ck_ok(hisa_comm_create_nccl(&config, &comm));
    works();
    hisa_comm_destroy(comm);
    hisa_comm_destroy(config.control);
    comm = kept;
}

/* ---------------------------------------------------------------------------------------------- queries */

typedef struct call {
    hisa_index_t *index;
    hisa_queries_t queries;
    hisa_select_options_t options;
    hisa_selection_t selection;
    void *workspace;
    size_t bytes;
    stage_t stage;
    cudaStream_t stream;
} call_t;

static void call_open(call_t *call) {
    enum { CELLS = ROWS * 16 };
    static int32_t zeros[CELLS];
    run_t run;
    *call = (call_t){.options = made.options};
    ck_assert_int_eq(made.options.top_k, 16);
    run_plain(&run, &made, mpi_suite_size());
    ck_ok(run_create_index(&run, &made, comm, &call->index));
    call->stage.index = call->index;
    const hisa_queries_t plain = test_case_queries(&made, 0, ROWS);
    call->queries = stage_queries(&call->stage, &plain);
    hisa_selection_init(&call->selection);
    call->selection.indices = stage_in_out(&call->stage, zeros, sizeof zeros);
    call->selection.counts = stage_in_out(&call->stage, zeros, ROWS * sizeof(int32_t));
    for (int way = 0; way < 4; ++way) {
        hisa_select_options_t any = call->options;
        size_t bytes = 0;
        any.queries_on = way % 2 == 0 ? HISA_QUERIES_REPLICATED : HISA_QUERIES_SHARDED;
        any.exchange = way / 2 == 0 ? HISA_EXCHANGE_OWNER : HISA_EXCHANGE_ONESHOT;
        ck_ok(hisa_select_workspace_size(call->index, &any, ROWS, &bytes));
        call->bytes = bytes > call->bytes ? bytes : call->bytes;
    }
    ck_cuda(cudaMalloc(&call->workspace, call->bytes));
    ck_cuda(cudaStreamCreateWithFlags(&call->stream, cudaStreamNonBlocking));
}

static void call_close(call_t *call) {
    stage_end(&call->stage);
    ck_cuda(cudaFree(call->workspace));
    ck_cuda(cudaStreamDestroy(call->stream));
    hisa_index_destroy(call->index);
}

static hisa_status_t call_now(call_t *call) {
    return hisa_select(call->index, &call->queries, &call->options, &call->selection, call->workspace, call->bytes,
                       call->stream);
}

static void refuse_call(call_t *call, hisa_status_t status, const char *text) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = nccl_rank_now();
    const hisa_status_t got = call_now(call);
    agreed(got, begin, DEADLINE, status, text);
    ck_ok(hisa_index_synchronize(call->index, call->stream));
}

/* One row of each rank, as announced; the odd rank has none. */
static void announce(call_t *call, int64_t *rows) {
    for (int r = 0; r < mpi_suite_size(); ++r) {
        rows[r] = 1;
    }
    call->options.queries_on = HISA_QUERIES_SHARDED;
    call->queries.rows_per_rank = rows;
    call->queries.num_rows = odd() ? 0 : 1;
}

START_MPI_TEST(fewer_queries) {
    int64_t rows[RUN_RANKS_MAX] = {0};
    call_t call;
    call_open(&call);
    call.queries.num_rows = odd() ? ROWS - 1 : ROWS;
    refuse_call(&call, HISA_ERR_MISMATCH, "rows differs between ranks");
    announce(&call, rows);
    refuse_call(&call, HISA_ERR_INVALID_ARGUMENT, "is 1 but num_rows is 0");
    rows[mpi_suite_size() - 1] = odd() ? 0 : 1; /* it does not know what it announced */
    refuse_call(&call, HISA_ERR_MISMATCH, "rows_per_rank");
    call.bytes = odd() ? 16 : call.bytes;
    call.queries.rows_per_rank = NULL;
    call.queries.num_rows = 1;
    refuse_call(&call, HISA_ERR_WORKSPACE, "the workspace has 16 bytes");
    call_close(&call);
    works();
}

/* Nobody asks, so the others wait for the odd rank in their streams. It says in an agreement what it was refused for,
 * and all hear that, when they give up. */
START_MPI_TEST(fewer_queries_unchecked) {
    int64_t rows[RUN_RANKS_MAX] = {0};
    call_t call;
    call_open(&call);
    announce(&call, rows);
    call.options.flags = HISA_SELECT_UNCHECKED;
    call.options.exchange = _i == 0 ? HISA_EXCHANGE_OWNER : HISA_EXCHANGE_ONESHOT;
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = nccl_rank_now();
    hisa_status_t got = call_now(&call);
    if (odd()) {
        ck_assert_int_eq(got, HISA_ERR_INVALID_ARGUMENT);
        ck_ok(hisa_comm_set_deadline(comm, DEADLINE + 2.0)); /* it waits for those that wait for it */
        got = hisa_comm_agree(comm, got, hisa_last_error());
    } else if (got == HISA_OK) {
        got = hisa_index_synchronize(call.index, call.stream);
    }
    agreed(got, begin, DEADLINE, HISA_ERR_INVALID_ARGUMENT, "is 1 but num_rows is 0");
    ck_fails(call_now(&call), odd() ? HISA_ERR_INVALID_ARGUMENT : HISA_ERR_POISONED, "num_rows");
    ck_fails(hisa_comm_check(comm), HISA_ERR_POISONED, "num_rows");
    ck_assert(nccl_rank_runs_out(call.stream, 5.0));
    call_close(&call);
    hisa_comm_destroy(comm);
    ck_ok(hisa_comm_agree(control, HISA_OK, NULL));
    comm = create();
    works();
}

/* ---------------------------------------------------------------------------------------------- allocations */

static int allocations_left = -1;   /* that go well; -1: all of them do */
static atomic_int allocation_pause; /* seconds that one takes longer */

static bool allocation_fails(void) {
    if (allocations_left < 0) {
        return false;
    }
    return allocations_left-- == 0; /* the one, and none after it */
}

/* Each of the odd rank's allocations in turn, until there is none left to fail. */
START_MPI_TEST(no_memory_for_an_index) {
    hisa_index_t *index = NULL;
    int failures = 0;
    while (index == NULL) {
        MPI_Barrier(MPI_COMM_WORLD);
        const double begin = nccl_rank_now();
        allocations_left = odd() ? failures : -1;
        const hisa_status_t got = hisa_index_create(&made.config, comm, &index);
        allocations_left = -1;
        if (got != HISA_OK) {
            agreed(got, begin, DEADLINE, HISA_ERR_NO_MEMORY, "");
            ck_assert_ptr_null(index);
            ck_assert_int_lt(++failures, 100);
        }
    }
    ck_assert_int_ge(failures, 8); /* keys, scales, pooled ones, tables, sizes: all were found */
    hisa_index_destroy(index);
    works();
}

/* What NCCL is warmed up with, while the others wait for this rank in the warm-up. */
START_MPI_TEST(no_memory_for_a_communicator) {
    hisa_nccl_config_t config;
    hisa_comm_t *fresh = NULL;
    int failures = 0;
    hisa_nccl_config_init(&config);
    config.control = control;
    ck_ok(hisa_comm_set_deadline(control, CREATION_DEADLINE));
    while (fresh == NULL) {
        MPI_Barrier(MPI_COMM_WORLD);
        const double begin = nccl_rank_now();
        allocations_left = odd() ? failures : -1;
        const hisa_status_t got = hisa_comm_create_nccl(&config, &fresh);
        allocations_left = -1;
        if (got != HISA_OK) {
            agreed(got, begin, CREATION_DEADLINE, HISA_ERR_NO_MEMORY, "");
            ck_assert_ptr_null(fresh);
            ck_assert_int_lt(++failures, 20);
        }
    }
    ck_assert_int_ge(failures, 1);
    ck_ok(hisa_comm_set_deadline(control, 90.0));
    ck_ok(hisa_comm_set_deadline(fresh, DEADLINE));
    hisa_comm_destroy(comm);
    comm = fresh;
    works();
}

/* NCCL keeps a rank's thread past the deadline, or so it looks from outside: nobody waits for it. It comes back while
 * the ranks already have another communicator, and cleans up behind itself. */
START_MPI_TEST(late_in_the_making) {
    hisa_nccl_config_t config;
    hisa_comm_t *fresh = NULL;
    hisa_nccl_config_init(&config);
    config.control = control;
    ck_ok(hisa_comm_set_deadline(control, CREATION_DEADLINE));
    MPI_Barrier(MPI_COMM_WORLD);
    const double begin = nccl_rank_now();
    atomic_store(&allocation_pause, odd() ? (int)CREATION_DEADLINE + 3 : 0);
    const hisa_status_t got = hisa_comm_create_nccl(&config, &fresh);
    atomic_store(&allocation_pause, 0);
    agreed(got, begin, CREATION_DEADLINE, HISA_ERR_TIMEOUT, "");
    ck_assert_ptr_null(fresh);
    ck_ok(hisa_comm_set_deadline(control, 90.0));
    hisa_comm_destroy(comm);
    comm = create();
    works();
}

static void at_end(void) {
    if (comm != NULL) {
        hisa_comm_destroy(comm);
        hisa_comm_destroy(control);
    }
}

int main(void) {
    Suite *suite = suite_create("nccl_errors");
    TCase *tests = tcase_create("errors");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, another_configuration);
    tcase_add_test(tests, another_version);
    tcase_add_test(tests, fewer_queries);
    tcase_add_loop_test(tests, fewer_queries_unchecked, 0, 2);
    tcase_add_test(tests, no_memory_for_an_index);
    tcase_add_test(tests, no_memory_for_a_communicator);
    tcase_add_test(tests, late_in_the_making);
    suite_add_tcase(suite, tests);
    mpi_suite_at_end = at_end;
    return nccl_suite_main(suite);
}

/* ---------------------------------------------------------------------------------------------- in between */

/* The linker's names for what is wrapped. NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */
cudaError_t __real_cudaMalloc(void **memory, size_t size);
cudaError_t __wrap_cudaMalloc(void **memory, size_t size);
cudaError_t __real_cudaHostAlloc(void **memory, size_t size, unsigned int flags);
cudaError_t __wrap_cudaHostAlloc(void **memory, size_t size, unsigned int flags);

cudaError_t __wrap_cudaMalloc(void **memory, size_t size) {
    const struct timespec pause = {.tv_sec = atomic_load(&allocation_pause)};
    nanosleep(&pause, NULL);
    return allocation_fails() ? cudaErrorMemoryAllocation : __real_cudaMalloc(memory, size);
}

cudaError_t __wrap_cudaHostAlloc(void **memory, size_t size, unsigned int flags) {
    return allocation_fails() ? cudaErrorMemoryAllocation : __real_cudaHostAlloc(memory, size, flags);
}
/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */
