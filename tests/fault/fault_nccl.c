/* One rank of a group over NCCL whose last rank is lost. `fault_nccl CASE DIRECTORY` under mpirun; run_fault.sh is the
 * other half, and fault_comm.c says what the files are. CASE is HOW-WHERE: HOW is kill or stop (past the deadline),
 * WHERE is before (the first exchange), inside (the others have enqueued an exchange and wait in their streams),
 * between (exchanges) or during (wherever a timer finds the victim in a stream of exchanges).
 *
 * Every survivor must return the same status within the deadline and two seconds, see its stream run out, be told so by
 * every later call, destroy its communicators, and make a new one with the other survivors that moves the right bytes.
 */
#include <mpi.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "hisa/hisa_mpi.h"
#include "hisa/hisa_nccl.h"
#include "support/nccl_rank.h"

#define DEADLINE 4.0
#define PART 1024
#define RANKS_MAX 8

typedef struct fault {
    const char *directory;
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

static void write_file(const fault_t *fault, const char *name, const char *text) {
    char path[4096];
    char done[4096];
    snprintf(path, sizeof path, "%s/.%s.%d", fault->directory, name, fault->rank);
    snprintf(done, sizeof done, "%s/%s.%d", fault->directory, name, fault->rank);
    FILE *file = fopen(path, "w");
    if (file == NULL || fputs(text, file) < 0 || fclose(file) != 0 || rename(path, done) != 0) {
        perror(path);
        exit(EXIT_FAILURE);
    }
}

/* Ends this rank with its verdict: a printf text of what was wrong, or "ok". Without MPI_Finalize, which may wait for
 * the lost rank for ever. */
__attribute__((format(printf, 2, 3), noreturn)) static void verdict(const fault_t *fault, const char *format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    write_file(fault, "result", text);
    exit(EXIT_SUCCESS);
}

static void expect(const fault_t *fault, const char *what, hisa_status_t got, hisa_status_t wanted, const char *text) {
    if (got != wanted) {
        verdict(fault, "%s: got '%s' (%s), not '%s'", what, hisa_status_string(got), hisa_last_error(),
                hisa_status_string(wanted));
    }
    if (text != NULL && strstr(hisa_last_error(), text) == NULL) {
        verdict(fault, "%s: \"%s\" lacks \"%s\"", what, hisa_last_error(), text);
    }
}

static void expect_cuda(const fault_t *fault, const char *what, cudaError_t error) {
    if (error != cudaSuccess) {
        verdict(fault, "%s: %s", what, cudaGetErrorString(error));
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
    expect_cuda(fault, "copy", cudaMemcpy(gathered, fault->gathered, sizeof gathered, cudaMemcpyDeviceToHost));
    expect_cuda(fault, "copy", cudaMemcpy(received, fault->received, sizeof received, cudaMemcpyDeviceToHost));
    for (int i = 0; i < PART * ranks; ++i) {
        const int from = i / PART;
        if (gathered[i] != (uint8_t)(salt + from)) {
            verdict(fault, "byte %d gathered is %d", i, gathered[i]);
        }
        if (received[i] != (from == rank ? 255 : (uint8_t)(salt + 16 * from + rank))) {
            verdict(fault, "byte %d received is %d", i, received[i]);
        }
    }
}

static void create(fault_t *fault, MPI_Comm over) {
    hisa_nccl_config_t config;
    hisa_nccl_config_init(&config);
    expect(fault, "control", hisa_comm_create_mpi(over, &fault->control), HISA_OK, NULL);
    config.control = fault->control;
    expect(fault, "creation", hisa_comm_create_nccl(&config, &fault->comm), HISA_OK, NULL);
}

/* ---------------------------------------------------------------------------------------------- the loss */

static void stop_now(int signal) {
    (void)signal;
    raise(SIGSTOP);
}

static void kill_now(int signal) {
    (void)signal;
    raise(SIGKILL);
}

/* Runs the case up to the failure that each survivor must see, and returns it with the seconds that it took to come: of
 * the last exchange alone, which is the only one that waits for the lost rank. */
static hisa_status_t lose(fault_t *fault, const char *how, const char *where, double *seconds) {
    void (*end)(int) = strcmp(how, "stop") == 0 ? stop_now : kill_now;
    hisa_comm_set_deadline(fault->comm, DEADLINE);
    if (strcmp(where, "during") == 0 && fault->victim) {
        const struct sigaction action = {.sa_handler = end};
        const struct itimerval timer = {.it_value = {.tv_usec = 700000}};
        sigaction(SIGALRM, &action, NULL);
        setitimer(ITIMER_REAL, &timer, NULL);
    }
    const int well = strcmp(where, "between") == 0 ? 10 : 0;
    for (int i = 0; i < well; ++i) {
        expect(fault, "healthy", exchange(fault, i), HISA_OK, NULL);
        check_bytes(fault, i);
    }
    if (fault->victim && strcmp(where, "during") != 0) {
        if (strcmp(where, "inside") == 0) {
            sleep(1); /* the others have enqueued by then */
        }
        end(0);
        usleep(1000);
        verdict(fault, "still there");
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
        verdict(fault, "the stream does not run out");
    }
    expect(fault, "allgather", hisa_comm_allgather(fault->comm, fault->sent, PART, fault->stream), poisoned, cause);
    expect(fault, "alltoallv",
           hisa_comm_alltoallv(fault->comm, fault->sent, zeros, zeros, fault->received, zeros, zeros, fault->stream),
           poisoned, cause);
    expect(fault, "check", hisa_comm_check(fault->comm), poisoned, cause);
    expect(fault, "agree", hisa_comm_agree(fault->comm, HISA_OK, NULL), poisoned, cause);
    const double begin = nccl_rank_now();
    hisa_comm_destroy(fault->comm);
    hisa_comm_destroy(fault->control);
    if (nccl_rank_now() - begin > 5.0) {
        verdict(fault, "destroying took %.1f s", nccl_rank_now() - begin);
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
        verdict(fault, "no MPI communicator of the survivors");
    }
    create(fault, over);
    for (int i = 0; i < 5; ++i) {
        expect(fault, "survivors", exchange(fault, 40 + i), HISA_OK, NULL);
        check_bytes(fault, 40 + i);
    }
    hisa_comm_destroy(fault->comm);
    expect(fault, "control of the survivors", hisa_comm_agree(fault->control, HISA_OK, NULL), HISA_OK, NULL);
    hisa_comm_destroy(fault->control);
}

static void run(fault_t *fault, const char *name) {
    char how[8] = "";
    const char *where = strchr(name, '-');
    if (where == NULL) {
        verdict(fault, "no case of the name %s", name);
    }
    snprintf(how, sizeof how, "%.*s", (int)(where - name), name);
    double seconds = 0.0;
    const hisa_status_t status = lose(fault, how, where + 1, &seconds);
    /* All survivors look for the same, so they return the same. */
    expect(fault, "the loss", status, HISA_ERR_TIMEOUT, "a peer did not answer");
    if (seconds > DEADLINE + 2.0) {
        verdict(fault, "the failure took %.1f s, more than the deadline of %.1f s and 2 s", seconds, DEADLINE);
    }
    printf("%s: rank %d: after %.1f s: %s\n", name, fault->rank, seconds, hisa_last_error());
    fflush(stdout);
    leave(fault);
    go_on(fault);
    verdict(fault, "ok");
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: fault_nccl CASE DIRECTORY\n");
        return EXIT_FAILURE;
    }
    fault_t fault = {.directory = argv[2]};
    char pid[32];
    void *memory[3] = {NULL};
    MPI_Init(&argc, &argv);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &fault.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &fault.size);
    fault.victim = fault.rank == fault.size - 1;
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    write_file(&fault, "pid", pid);
    if (!nccl_rank_has_device()) {
        MPI_Finalize();
        verdict(&fault, "skipped");
    }
    expect_cuda(&fault, "device", nccl_rank_place(fault.rank, fault.size));
    expect_cuda(&fault, "stream", cudaStreamCreateWithFlags(&fault.stream, cudaStreamNonBlocking));
    for (int i = 0; i < 3; ++i) {
        expect_cuda(&fault, "memory", cudaMalloc(&memory[i], (size_t)PART * RANKS_MAX));
    }
    fault.gathered = memory[0];
    fault.sent = memory[1];
    fault.received = memory[2];
    create(&fault, MPI_COMM_WORLD);
    MPI_Barrier(MPI_COMM_WORLD);
    run(&fault, argv[1]);
    return EXIT_FAILURE;
}
