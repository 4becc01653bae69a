/* One rank of a group that selects over NCCL and whose last rank is lost in the midst of it. `fault_nccl_select CASE
 * DIRECTORY` under mpirun; run_fault.sh is the other half. CASE is HOW-WHAT: HOW is kill or stop (past the deadline),
 * in a stream of calls of WHAT: prefill   owner merge in tiles, sharded queries, arguments agreed on: the others wait
 * for sizes, in an agreement or for their stream decode    one-shot, without the agreement: the others wait for their
 * stream
 *
 * Every survivor must return the same status within the deadline and two seconds, be told so by every later call, see
 * its stream run out, and destroy its index and communicators; the survivors then make new ones, whose selections are
 * those of a single rank, to the bit. */
#include <mpi.h>

#include "fault/fault.h"
#include "hisa/hisa_mpi.h"
#include "hisa/hisa_nccl.h"
#include "support/nccl_rank.h"
#include "support/rng.h"

#define DEADLINE 3.0

enum { TOKENS = 12000, ROWS = 48, DECODE_ROWS = 4, TILE = 6, HEADS = 64, DIM = 128, BLOCK = 128, K = 2048 };

/* Of all rows; on the host or on the device. */
typedef struct results {
    int32_t *indices; /* [ROWS][K] */
    int32_t *counts;  /* [ROWS] */
    float *scores;    /* [ROWS][K] */
} results_t;

typedef struct fault {
    hisa_comm_t *control;
    hisa_comm_t *comm;
    hisa_index_t *index;
    hisa_select_options_t options;
    hisa_queries_t all; /* device */
    uint8_t *keys;      /* device, [TOKENS][DIM] */
    float *scales;
    results_t results;  /* device */
    results_t expected; /* host: a single rank's */
    void *workspace;
    size_t bytes;
    cudaStream_t stream;
    int rank;
    int size;
    bool victim;
    bool prefill;
} fault_t;

static void expect_cuda(const char *what, cudaError_t error) {
    if (error != cudaSuccess) {
        verdict("%s: %s", what, cudaGetErrorString(error));
    }
}

/* ---------------------------------------------------------------------------------------------- data */

static void *on_device(size_t bytes) {
    void *memory = NULL;
    expect_cuda("memory", cudaMalloc(&memory, bytes));
    return memory;
}

static void *on_host(size_t bytes) {
    void *memory = malloc(bytes);
    if (memory == NULL) {
        verdict("no memory");
    }
    return memory;
}

static void *up(void *host, size_t bytes) {
    void *memory = on_device(bytes);
    expect_cuda("copy", cudaMemcpy(memory, host, bytes, cudaMemcpyHostToDevice));
    free(host);
    return memory;
}

/* Random e4m3 codes, none of them a NaN. */
static uint8_t *codes(rng_t *rng, size_t count) {
    uint8_t *made = on_host(count);
    for (size_t i = 0; i < count; ++i) {
        const uint8_t code = (uint8_t)rng_next(rng);
        made[i] = (code & 0x7f) == 0x7f ? 0 : code;
    }
    return made;
}

static float *floats(rng_t *rng, size_t count) {
    float *made = on_host(count * sizeof *made);
    for (size_t i = 0; i < count; ++i) {
        made[i] = rng_unit(rng);
    }
    return made;
}

/* The same on all ranks. */
static void make_data(fault_t *fault) {
    rng_t rng = {20261124};
    int32_t *ends = on_host(ROWS * sizeof *ends);
    for (int r = 0; r < ROWS; ++r) {
        ends[r] = TOKENS - 37 * r;
    }
    fault->keys = up(codes(&rng, (size_t)TOKENS * DIM), (size_t)TOKENS * DIM);
    fault->scales = up(floats(&rng, TOKENS), TOKENS * sizeof(float));
    hisa_queries_init(&fault->all);
    fault->all.num_rows = ROWS;
    fault->all.q = up(codes(&rng, (size_t)ROWS * HEADS * DIM), (size_t)ROWS * HEADS * DIM);
    fault->all.weights = up(floats(&rng, (size_t)ROWS * HEADS), (size_t)ROWS * HEADS * sizeof(float));
    fault->all.window_end = up(ends, ROWS * sizeof *ends);
    fault->results.indices = on_device((size_t)ROWS * K * sizeof(int32_t));
    fault->results.counts = on_device(ROWS * sizeof(int32_t));
    fault->results.scores = on_device((size_t)ROWS * K * sizeof(float));
}

/* ---------------------------------------------------------------------------------------------- selecting */

static void open_index(fault_t *fault) {
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    config.backend = HISA_BACKEND_CUDA;
    config.head_dim = DIM;
    config.num_heads = HEADS;
    config.block_size = BLOCK;
    config.capacity = TOKENS;
    hisa_select_options_init(&fault->options);
    fault->options.top_k = K;
    fault->options.tile_rows = fault->prefill ? TILE : 0;
    fault->options.exchange = fault->prefill ? HISA_EXCHANGE_OWNER : HISA_EXCHANGE_ONESHOT;
    fault->options.queries_on = fault->prefill ? HISA_QUERIES_SHARDED : HISA_QUERIES_REPLICATED;
    fault->options.flags = fault->prefill ? 0 : HISA_SELECT_UNCHECKED;
    expect("index", hisa_index_create(&config, fault->comm, &fault->index), HISA_OK, NULL);
    expect("append",
           hisa_index_append(fault->index, 0, TOKENS, fault->keys, fault->scales, HISA_KEYS_REPLICATED, fault->stream),
           HISA_OK, NULL);
    expect("workspace size", hisa_select_workspace_size(fault->index, &fault->options, ROWS, &fault->bytes), HISA_OK,
           NULL);
    fault->workspace = on_device(fault->bytes);
}

static void close_index(fault_t *fault) {
    hisa_index_destroy(fault->index);
    expect_cuda("workspace", cudaFree(fault->workspace));
}

static int rows_of_call(const fault_t *fault) { return fault->prefill ? ROWS : DECODE_ROWS; }

static hisa_status_t select_now(fault_t *fault) {
    hisa_queries_t queries = fault->all;
    hisa_selection_t selection;
    queries.num_rows = rows_of_call(fault);
    if (fault->prefill) {
        const int ranks = hisa_comm_size(fault->comm);
        const int64_t first = (int64_t)ROWS * hisa_comm_rank(fault->comm) / ranks;
        queries.num_rows = (int64_t)ROWS * (hisa_comm_rank(fault->comm) + 1) / ranks - first;
        queries.q = (const uint8_t *)queries.q + first * HEADS * DIM;
        queries.weights += first * HEADS;
        queries.window_end += first;
    }
    hisa_selection_init(&selection);
    selection.indices = fault->results.indices;
    selection.counts = fault->results.counts;
    selection.scores = fault->results.scores;
    return hisa_select(fault->index, &queries, &fault->options, &selection, fault->workspace, fault->bytes,
                       fault->stream);
}

/* Selects, and takes the results to the host. */
static void select_into(fault_t *fault, const char *who, results_t *to) {
    const size_t rows = (size_t)rows_of_call(fault);
    expect_cuda("clear", cudaMemsetAsync(fault->results.indices, 0x77, rows * K * sizeof(int32_t), fault->stream));
    expect_cuda("clear", cudaMemsetAsync(fault->results.counts, 0x77, rows * sizeof(int32_t), fault->stream));
    expect_cuda("clear", cudaMemsetAsync(fault->results.scores, 0x77, rows * K * sizeof(float), fault->stream));
    expect(who, select_now(fault), HISA_OK, NULL);
    expect(who, hisa_index_synchronize(fault->index, fault->stream), HISA_OK, NULL);
    to->indices = on_host(rows * K * sizeof(int32_t));
    to->counts = on_host(rows * sizeof(int32_t));
    to->scores = on_host(rows * K * sizeof(float));
    const enum cudaMemcpyKind back = cudaMemcpyDeviceToHost;
    expect_cuda("copy", cudaMemcpy(to->indices, fault->results.indices, rows * K * sizeof(int32_t), back));
    expect_cuda("copy", cudaMemcpy(to->counts, fault->results.counts, rows * sizeof(int32_t), back));
    expect_cuda("copy", cudaMemcpy(to->scores, fault->results.scores, rows * K * sizeof(float), back));
}

static void expect_selection(fault_t *fault, const char *who) {
    const results_t *want = &fault->expected;
    results_t got;
    select_into(fault, who, &got);
    for (size_t r = 0; r < (size_t)rows_of_call(fault); ++r) {
        if (got.counts[r] != want->counts[r] ||
            memcmp(got.indices + r * K, want->indices + r * K, K * sizeof(int32_t)) != 0 ||
            memcmp(got.scores + r * K, want->scores + r * K, K * sizeof(float)) != 0) {
            verdict("%s: row %d is not what a single rank selects", who, (int)r);
        }
    }
    free(got.indices);
    free(got.counts);
    free(got.scores);
}

/* What a single rank selects: all that it is asked for. */
static void select_alone(fault_t *fault) {
    expect("self", hisa_comm_create_self(&fault->comm), HISA_OK, NULL);
    open_index(fault);
    select_into(fault, "a single rank", &fault->expected);
    close_index(fault);
    hisa_comm_destroy(fault->comm);
    for (int r = 0; r < rows_of_call(fault); ++r) {
        if (fault->expected.counts[r] != K) {
            verdict("row %d: %d tokens are selected", r, fault->expected.counts[r]);
        }
    }
}

static void create(fault_t *fault, MPI_Comm over) {
    hisa_nccl_config_t config;
    hisa_nccl_config_init(&config);
    expect("control", hisa_comm_create_mpi(over, &fault->control), HISA_OK, NULL);
    config.control = fault->control;
    expect("creation", hisa_comm_create_nccl(&config, &fault->comm), HISA_OK, NULL);
    open_index(fault);
}

/* ---------------------------------------------------------------------------------------------- the loss */

/* Calls until one fails, and the seconds that this one took: it alone waits for the lost rank. */
static hisa_status_t lose(fault_t *fault, const char *how, double *seconds) {
    const int together = fault->prefill ? 3 : 8; /* calls enqueued before they are waited for */
    for (int i = 0; i < 2; ++i) {
        expect_selection(fault, "all ranks");
    }
    MPI_Barrier(MPI_COMM_WORLD);
    if (fault->victim) {
        end_soon(end_of(how), 600);
    } else {
        hisa_comm_set_deadline(fault->comm, DEADLINE);
    }
    for (int i = 1;; ++i) {
        const double begin = nccl_rank_now();
        const hisa_status_t status =
            i % (together + 1) == 0 ? hisa_index_synchronize(fault->index, fault->stream) : select_now(fault);
        *seconds = nccl_rank_now() - begin;
        if (status != HISA_OK) {
            return status;
        }
    }
}

static void leave(fault_t *fault) {
    const hisa_status_t poisoned = HISA_ERR_POISONED;
    expect("select", select_now(fault), poisoned, "did not answer");
    expect("synchronize", hisa_index_synchronize(fault->index, fault->stream), poisoned, "did not answer");
    expect("agree", hisa_comm_agree(fault->comm, HISA_OK, NULL), poisoned, "did not answer");
    if (!nccl_rank_runs_out(fault->stream, 5.0)) {
        verdict("the stream does not run out");
    }
    const double begin = nccl_rank_now();
    close_index(fault);
    hisa_comm_destroy(fault->comm);
    hisa_comm_destroy(fault->control);
    if (nccl_rank_now() - begin > 5.0) {
        verdict("destroying took %.1f s", nccl_rank_now() - begin);
    }
}

/* All ranks but the lost one, together again. */
static void go_on(fault_t *fault) {
    MPI_Group all = MPI_GROUP_NULL;
    MPI_Group survivors = MPI_GROUP_NULL;
    MPI_Comm over = MPI_COMM_NULL;
    int lost = fault->size - 1;
    MPI_Comm_group(MPI_COMM_WORLD, &all);
    MPI_Group_excl(all, 1, &lost, &survivors);
    if (MPI_Comm_create_group(MPI_COMM_WORLD, survivors, 7, &over) != MPI_SUCCESS || over == MPI_COMM_NULL) {
        verdict("no MPI communicator of the survivors");
    }
    create(fault, over);
    for (int i = 0; i < 3; ++i) {
        expect_selection(fault, "the survivors");
    }
    close_index(fault);
    hisa_comm_destroy(fault->comm);
    expect("control of the survivors", hisa_comm_agree(fault->control, HISA_OK, NULL), HISA_OK, NULL);
    hisa_comm_destroy(fault->control);
}

static void run(fault_t *fault, const char *name) {
    char how[8] = "";
    double seconds = 0.0;
    snprintf(how, sizeof how, "%.*s", (int)strcspn(name, "-"), name);
    select_alone(fault);
    create(fault, MPI_COMM_WORLD);
    const hisa_status_t status = lose(fault, how, &seconds);
    if (fault->victim) {
        verdict("still there: %s", hisa_last_error());
    }
    /* All survivors look for the same, so they return the same. */
    expect("the loss", status, HISA_ERR_TIMEOUT, "a peer did not answer");
    if (seconds > DEADLINE + 2.0) {
        verdict("the failure took %.1f s, more than the deadline of %.1f s and 2 s", seconds, DEADLINE);
    }
    printf("%s: rank %d: after %.1f s: %s\n", name, fault->rank, seconds, hisa_last_error());
    fflush(stdout);
    leave(fault);
    go_on(fault);
    verdict("ok");
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: fault_nccl_select CASE DIRECTORY\n");
        return EXIT_FAILURE;
    }
    fault_t fault = {0};
    MPI_Init(&argc, &argv);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &fault.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &fault.size);
    fault.victim = fault.rank == fault.size - 1;
    fault.prefill = strstr(argv[1], "-prefill") != NULL;
    fault_begin(argv[2], fault.rank);
    if (!fault.prefill && strstr(argv[1], "-decode") == NULL) {
        verdict("no case of the name %s", argv[1]);
    }
    if (!nccl_rank_has_device()) {
        MPI_Finalize();
        verdict("skipped");
    }
    expect_cuda("device", nccl_rank_place(fault.rank, fault.size));
    expect_cuda("stream", cudaStreamCreateWithFlags(&fault.stream, cudaStreamNonBlocking));
    make_data(&fault);
    run(&fault, argv[1]);
    return EXIT_FAILURE;
}
