/* One rank of a group over NCCL whose last rank is lost. `fault_nccl CASE DIRECTORY` under mpirun; run_fault.sh is the
 * other half. CASE is HOW-WHERE: HOW is kill or stop (past the deadline),
 * WHERE is before (the first exchange), inside (the others have enqueued an exchange and wait in their streams),
 * between (exchanges) or during (wherever a timer finds the victim in a stream of exchanges).
 *
 * Every survivor must return the same status within the deadline and two seconds, see its stream run out, be told so by
 * every later call, destroy its communicators, and make a new one with the other survivors that moves the right bytes.
 */
#include "fault/fault_nccl.h"

#define DEADLINE 4.0
#define PART 1024
#define RANKS_MAX 8

typedef struct fault {
    group_t group;
    uint8_t *gathered; /* device, [RANKS_MAX][PART] */
    uint8_t *sent;
    uint8_t *received;
} fault_t;

/* ---------------------------------------------------------------------------------------------- exchanges */

/* Enqueues an all-gather and an all-to-all whose bytes say where they are from. */
static hisa_status_t enqueue(fault_t *fault, int salt) {
    const int rank = hisa_comm_rank(fault->group.comm);
    const int ranks = hisa_comm_size(fault->group.comm);
    int64_t bytes[RANKS_MAX];
    int64_t offsets[RANKS_MAX];
    for (int r = 0; r < ranks; ++r) {
        bytes[r] = PART;
        offsets[r] = INT64_C(1) * PART * r;
        cudaMemsetAsync(fault->sent + offsets[r], (salt + 16 * rank + r) & 255, PART, fault->group.stream);
    }
    cudaMemsetAsync(fault->gathered, (salt + rank) & 255, (size_t)PART * RANKS_MAX, fault->group.stream);
    cudaMemsetAsync(fault->received, 255, (size_t)PART * RANKS_MAX, fault->group.stream);
    const hisa_status_t status = hisa_comm_allgather(fault->group.comm, fault->gathered, PART, fault->group.stream);
    return status != HISA_OK ? status
                             : hisa_comm_alltoallv(fault->group.comm, fault->sent, bytes, offsets, fault->received,
                                                   bytes, offsets, fault->group.stream);
}

static hisa_status_t exchange(fault_t *fault, int salt) {
    const hisa_status_t status = enqueue(fault, salt);
    return status != HISA_OK ? status : nccl_rank_wait(fault->group.comm, fault->group.stream);
}

/* What the exchange with this salt must have brought. */
static void check_bytes(fault_t *fault, int salt) {
    const int rank = hisa_comm_rank(fault->group.comm);
    const int ranks = hisa_comm_size(fault->group.comm);
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

/* ---------------------------------------------------------------------------------------------- the loss */

/* Runs the case up to the failure that each survivor must see, and returns it with the seconds that it took to come: of
 * the last exchange alone, which is the only one that waits for the lost rank. */
static hisa_status_t lose(fault_t *fault, const char *how, const char *where, double *seconds) {
    void (*end)(int) = end_of(how);
    hisa_comm_set_deadline(fault->group.comm, DEADLINE);
    if (strcmp(where, "during") == 0 && fault->group.victim) {
        end_soon(end, 700);
    }
    const int well = strcmp(where, "between") == 0 ? 10 : 0;
    for (int i = 0; i < well; ++i) {
        expect("healthy", exchange(fault, i), HISA_OK, NULL);
        check_bytes(fault, i);
    }
    if (fault->group.victim && strcmp(where, "during") != 0) {
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
    group_expect_run_out(&fault->group);
    expect("allgather", hisa_comm_allgather(fault->group.comm, fault->sent, PART, fault->group.stream), poisoned,
           cause);
    expect("alltoallv",
           hisa_comm_alltoallv(fault->group.comm, fault->sent, zeros, zeros, fault->received, zeros, zeros,
                               fault->group.stream),
           poisoned, cause);
    expect("check", hisa_comm_check(fault->group.comm), poisoned, cause);
    expect("agree", hisa_comm_agree(fault->group.comm, HISA_OK, NULL), poisoned, cause);
    group_destroy_lost(&fault->group, nccl_rank_now());
}

static void go_on(fault_t *fault) {
    group_create_again(&fault->group);
    for (int i = 0; i < 5; ++i) {
        expect("survivors", exchange(fault, 40 + i), HISA_OK, NULL);
        check_bytes(fault, 40 + i);
    }
    group_destroy(&fault->group);
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
    group_expect_loss(&fault->group, name, status, seconds, DEADLINE);
    leave(fault);
    go_on(fault);
    verdict("ok");
}

int main(int argc, char **argv) {
    fault_t fault = {.group = group_begin(argc, argv)};
    void *memory[3] = {NULL};
    for (int i = 0; i < 3; ++i) {
        expect_cuda("memory", cudaMalloc(&memory[i], (size_t)PART * RANKS_MAX));
    }
    fault.gathered = memory[0];
    fault.sent = memory[1];
    fault.received = memory[2];
    group_create(&fault.group, MPI_COMM_WORLD);
    MPI_Barrier(MPI_COMM_WORLD);
    run(&fault, argv[1]);
    return EXIT_FAILURE;
}
