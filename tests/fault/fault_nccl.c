/* One rank of a group over NCCL whose last rank is lost. `fault_nccl CASE DIRECTORY` under mpirun; run_fault.sh is the
 * other half. CASE is HOW-WHERE: HOW is kill or stop (past the deadline),
 * WHERE is before (the first exchange), inside (the others have enqueued an exchange and wait in their streams),
 * between (exchanges) or during (wherever a timer finds the victim in a stream of exchanges).
 *
 * Every survivor must return the same status within the deadline and two seconds, see its stream run out, be told so by
 * every later call, destroy its communicators, and make a new one with the other survivors that moves the right bytes.
 */
#include <mpi.h>

#include "fault/fault.h"
#include "hisa/hisa_mpi.h"
#include "hisa/hisa_nccl.h"
#include "support/nccl_rank.h"

#define DEADLINE 4.0
#define PART 1024
#define RANKS_MAX 8

typedef struct fault {
    hisa_comm_t *control;
    hisa_comm_t *comm;
    cudaStream_t stream;
    uint8_t *gathered; /* device, [RANKS_MAX][PART] */
    uint8_t *sent;
    uint8_t *received;
    int rank;
    int size;
    bool victim;
} fault_t;

static void expect_cuda(const char *what, cudaError_t error) {
    if (error != cudaSuccess) {
        verdict("%s: %s", what, cudaGetErrorString(error));
    }
}

/* ---------------------------------------------------------------------------------------------- exchanges */

/* Enqueues an all-gather and an all-to-all whose bytes say where they are from. */
static hisa_status_t enqueue(fault_t *fault, int salt) {
    const int rank = hisa_comm_rank(fault->comm);
    const int ranks = hisa_comm_size(fault->comm);
    int64_t bytes[RANKS_MAX];
    int64_t offsets[RANKS_MAX];
    for (int r = 0; r < ranks; ++r) {
        bytes[r] = PART;
        offsets[r] = INT64_C(1) * PART * r;
        cudaMemsetAsync(fault->sent + offsets[r], (salt + 16 * rank + r) & 255, PART, fault->stream);
    }
    cudaMemsetAsync(fault->gathered, (salt + rank) & 255, (size_t)PART * RANKS_MAX, fault->stream);
    cudaMemsetAsync(fault->received, 255, (size_t)PART * RANKS_MAX, fault->stream);
    const hisa_status_t status = hisa_comm_allgather(fault->comm, fault->gathered, PART, fault->stream);
    return status != HISA_OK ? status
                             : hisa_comm_alltoallv(fault->comm, fault->sent, bytes, offsets, fault->received, bytes,
                                                   offsets, fault->stream);
}

static hisa_status_t exchange(fault_t *fault, int salt) {
    const hisa_status_t status = enqueue(fault, salt);
    return status != HISA_OK ? status : nccl_rank_wait(fault->comm, fault->stream);
}

/* What the exchange with this salt must have brought. */
static void check_bytes(fault_t *fault, int salt) {
    const int rank = hisa_comm_rank(fault->comm);
    const int ranks = hisa_comm_size(fault->comm);
    uint8_t gathered[PART * RANKS_MAX];
    uint8_t received[PART * RANKS_MAX];
    expect_cuda("copy", cudaMemcpy(gathered, fault->gathered, sizeof gathered, cudaMemcpyDeviceToHost));
    expect_cuda("copy", cudaMemcpy(received, fault->received, sizeof received, cudaMemcpyDeviceToHost));
    for (int i = 0; i < PART * ranks; ++i) {
        const int from = i / PART;
        if (gathered[i] != (uint8_t)(salt + from)) {
            verdict("byte %d gathered is %d", i, gathered[i]);
        }
        if (received[i] != (from == rank ? 255 : (uint8_t)(salt + 16 * from + rank))) {
            verdict("byte %d received is %d", i, received[i]);
        }
    }
}

static void create(fault_t *fault, MPI_Comm over) {
    hisa_nccl_config_t config;
    hisa_nccl_config_init(&config);
    expect("control", hisa_comm_create_mpi(over, &fault->control), HISA_OK, NULL);
    config.control = fault->control;
    expect("creation", hisa_comm_create_nccl(&config, &fault->comm), HISA_OK, NULL);
}

/* ---------------------------------------------------------------------------------------------- the loss */

/* Runs the case up to the failure that each survivor must see, and returns it with the seconds that it took to come: of
 * the last exchange alone, which is the only one that waits for the lost rank. */
static hisa_status_t lose(fault_t *fault, const char *how, const char *where, double *seconds) {
    void (*end)(int) = end_of(how);
    hisa_comm_set_deadline(fault->comm, DEADLINE);
    if (strcmp(where, "during") == 0 && fault->victim) {
        end_soon(end, 700);
    }
    const int well = strcmp(where, "between") == 0 ? 10 : 0;
    for (int i = 0; i < well; ++i) {
        expect("healthy", exchange(fault, i), HISA_OK, NULL);
        check_bytes(fault, i);
    }
    if (fault->victim && strcmp(where, "during") != 0) {
        if (strcmp(where, "inside") == 0) {
            sleep(1); /* the others have enqueued by then */
        }
        end(0);
        usleep(1000);
        verdict("still there");
    }
    if (strcmp(where, "before") == 0) {
        usleep(500000); /* it is gone by now */
    }
    hisa_status_t status = HISA_OK;
    for (int i = 0; status == HISA_OK; ++i) {
        const double begin = nccl_rank_now();
        status = exchange(fault, i);
        *seconds = nccl_rank_now() - begin;
    }
    return status;
}

/* After the fault: each call says so at once, and the communicator can be destroyed. */
static void leave(fault_t *fault) {
    const int64_t zeros[RANKS_MAX] = {0};
    const char *cause = "a peer did not answer";
    const hisa_status_t poisoned = HISA_ERR_POISONED;
    if (!nccl_rank_runs_out(fault->stream, 5.0)) {
        verdict("the stream does not run out");
    }
    expect("allgather", hisa_comm_allgather(fault->comm, fault->sent, PART, fault->stream), poisoned, cause);
    expect("alltoallv",
           hisa_comm_alltoallv(fault->comm, fault->sent, zeros, zeros, fault->received, zeros, zeros, fault->stream),
           poisoned, cause);
    expect("check", hisa_comm_check(fault->comm), poisoned, cause);
    expect("agree", hisa_comm_agree(fault->comm, HISA_OK, NULL), poisoned, cause);
    const double begin = nccl_rank_now();
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
    for (int i = 0; i < 5; ++i) {
        expect("survivors", exchange(fault, 40 + i), HISA_OK, NULL);
        check_bytes(fault, 40 + i);
    }
    hisa_comm_destroy(fault->comm);
    expect("control of the survivors", hisa_comm_agree(fault->control, HISA_OK, NULL), HISA_OK, NULL);
    hisa_comm_destroy(fault->control);
}

static void run(fault_t *fault, const char *name) {
    char how[8] = "";
    const char *where = strchr(name, '-');
    if (where == NULL) {
        verdict("no case of the name %s", name);
    }
    snprintf(how, sizeof how, "%.*s", (int)(where - name), name);
    double seconds = 0.0;
    const hisa_status_t status = lose(fault, how, where + 1, &seconds);
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
        fprintf(stderr, "usage: fault_nccl CASE DIRECTORY\n");
        return EXIT_FAILURE;
    }
    fault_t fault = {0};
    void *memory[3] = {NULL};
    MPI_Init(&argc, &argv);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &fault.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &fault.size);
    fault.victim = fault.rank == fault.size - 1;
    fault_begin(argv[2], fault.rank);
    if (!nccl_rank_has_device()) {
        MPI_Finalize();
        verdict("skipped");
    }
    expect_cuda("device", nccl_rank_place(fault.rank, fault.size));
    expect_cuda("stream", cudaStreamCreateWithFlags(&fault.stream, cudaStreamNonBlocking));
    for (int i = 0; i < 3; ++i) {
        expect_cuda("memory", cudaMalloc(&memory[i], (size_t)PART * RANKS_MAX));
    }
    fault.gathered = memory[0];
    fault.sent = memory[1];
    fault.received = memory[2];
    create(&fault, MPI_COMM_WORLD);
    MPI_Barrier(MPI_COMM_WORLD);
    run(&fault, argv[1]);
    return EXIT_FAILURE;
}
