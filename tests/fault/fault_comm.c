/* One rank of a group in which the last one misbehaves. `fault_comm CASE DIRECTORY` under mpirun; run_fault.sh is the
 * other half. Each other rank checks what it sees and writes "ok" or what was wrong to DIRECTORY/result.RANK; each rank
 * writes its process id to DIRECTORY/pid.RANK.
 *
 * Ranks leave without MPI_Finalize where a peer was lost: MPI itself may wait for that peer for ever. */
#include <mpi.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "comm/comm.h"
#include "hisa/hisa_mpi.h"

#define DEADLINE 2.0
#define SMALL 64
#define LARGE (1 << 20) /* not sent eagerly by any transport */
#define RANKS_MAX 8

typedef struct fault {
    const char *directory;
    hisa_comm_t *comm;
    char *buffer; /* [RANKS_MAX][LARGE] */
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

/* Ends this rank with its verdict: a printf text of what was wrong, or "ok". */
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

/* After a fault: each call says so at once, and the communicator can be destroyed. */
static void expect_poisoned(fault_t *fault) {
    char cause[240];
    snprintf(cause, sizeof cause, "%.150s", hisa_last_error());
    const int64_t zeros[RANKS_MAX] = {0};
    const hisa_status_t poisoned = HISA_ERR_POISONED;
    /* A second of these would add up to hours. */
    hisa_comm_set_deadline(fault->comm, 3600.0);
    expect(fault, "allgather", hisa_comm_allgather(fault->comm, fault->buffer, SMALL, NULL), poisoned, cause);
    expect(fault, "allgatherv", hisa_comm_allgatherv(fault->comm, fault->buffer, zeros, zeros, NULL), poisoned, cause);
    expect(fault, "alltoallv",
           hisa_comm_alltoallv(fault->comm, fault->buffer, zeros, zeros, fault->buffer, zeros, zeros, NULL), poisoned,
           cause);
    expect(fault, "control", hisa_comm_control_allgather(fault->comm, fault->buffer, SMALL), poisoned, cause);
    expect(fault, "agree", hisa_comm_agree(fault->comm, HISA_ERR_IO, "own failure"), poisoned, cause);
    expect(fault, "agree_values", hisa_comm_agree_values(fault->comm, HISA_OK, NULL, 0, 0, NULL), poisoned, cause);
    hisa_comm_destroy(fault->comm);
    free(fault->buffer);
    verdict(fault, "ok");
}

/* ---------------------------------------------------------------------------------------------- a lost peer */

static void stop_now(int signal) {
    (void)signal;
    raise(SIGSTOP);
}

static void kill_now(int signal) {
    (void)signal;
    raise(SIGKILL);
}

static void exit_now(int signal) {
    (void)signal;
    _exit(EXIT_SUCCESS);
}

static void (*end_of(const char *how))(int) {
    return strcmp(how, "stop") == 0 ? stop_now : strcmp(how, "kill") == 0 ? kill_now : exit_now;
}

/* Has the victim ended by `end` somewhere in what it does next. */
static void end_soon(void (*end)(int)) {
    const struct sigaction action = {.sa_handler = end};
    const struct itimerval timer = {.it_value = {.tv_usec = 150000}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
}

/* One operation of each kind; the first failure. */
static hisa_status_t one_of_each(fault_t *fault, int64_t bytes) {
    int64_t sizes[RANKS_MAX];
    int64_t offsets[RANKS_MAX];
    for (int r = 0; r < fault->size; ++r) {
        sizes[r] = bytes;
        offsets[r] = bytes * r;
    }
    hisa_status_t status = hisa_comm_allgather(fault->comm, fault->buffer, bytes, NULL);
    if (status == HISA_OK) {
        status = hisa_comm_agree(fault->comm, HISA_OK, NULL);
    }
    if (status == HISA_OK) {
        char *received = fault->buffer + RANKS_MAX * bytes;
        status = hisa_comm_alltoallv(fault->comm, fault->buffer, sizes, offsets, received, sizes, offsets, NULL);
    }
    return status;
}

/* Others see that the victim is gone: while they wait for it, or soon after. */
static void expect_lost(fault_t *fault, hisa_status_t status, const char *text) {
    if (status != HISA_ERR_TIMEOUT && status != HISA_ERR_COMM) {
        verdict(fault, "got '%s' (%s)", hisa_status_string(status), hisa_last_error());
    }
    if (status == HISA_ERR_TIMEOUT && strstr(hisa_last_error(), text) == NULL) {
        verdict(fault, "\"%s\" lacks \"%s\"", hisa_last_error(), text);
    }
    expect_poisoned(fault);
}

/* Gone before the first operation after creation. */
static void before(fault_t *fault, const char *how, int64_t bytes) {
    if (fault->victim) {
        end_of(how)(0);
    }
    char text[64];
    snprintf(text, sizeof text, "no answer from rank %d within %.1f s", fault->size - 1, DEADLINE);
    hisa_comm_set_deadline(fault->comm, DEADLINE);
    expect_lost(fault, hisa_comm_allgather(fault->comm, fault->buffer, bytes, NULL), text);
}

/* Gone after some operations that went well. */
static void between(fault_t *fault, const char *how) {
    for (int i = 0; i < 10; ++i) {
        expect(fault, "healthy", one_of_each(fault, SMALL), HISA_OK, NULL);
    }
    if (fault->victim) {
        end_of(how)(0);
    }
    char text[64];
    snprintf(text, sizeof text, "no answer from rank %d within %.1f s", fault->size - 1, DEADLINE);
    hisa_comm_set_deadline(fault->comm, DEADLINE);
    expect_lost(fault, hisa_comm_agree(fault->comm, HISA_OK, NULL), text);
}

/* Gone wherever a signal finds it in a stream of operations. One survivor may get through the operation that another
 * one is stuck in, and then wait for that one too. */
static void inside(fault_t *fault, const char *how, int64_t bytes) {
    if (fault->victim) {
        end_soon(end_of(how));
    } else {
        hisa_comm_set_deadline(fault->comm, DEADLINE);
    }
    hisa_status_t status = HISA_OK;
    while (status == HISA_OK) {
        status = one_of_each(fault, bytes);
    }
    expect_lost(fault, status, "no answer from rank");
}

/* ---------------------------------------------------------------------------------------------- a wrong peer */

/* The victim sends `sent` bytes to each where `expected` are expected of it. */
static hisa_status_t uneven(fault_t *fault, int64_t sent, int64_t expected) {
    int64_t sizes[RANKS_MAX];
    int64_t offsets[RANKS_MAX];
    for (int r = 0; r < fault->size; ++r) {
        sizes[r] = SMALL;
        offsets[r] = (int64_t)LARGE / 2 * r;
    }
    sizes[fault->size - 1] = fault->victim ? sent : expected;
    return hisa_comm_allgatherv(fault->comm, fault->buffer, sizes, offsets, NULL);
}

static void wrong_size(fault_t *fault, int64_t sent, int64_t expected) {
    const hisa_status_t status = uneven(fault, sent, expected);
    if (fault->victim) {
        verdict(fault, "ok"); /* what it sees depends on how far its messages got */
    }
    char text[32];
    snprintf(text, sizeof text, "rank %d sent ", fault->size - 1);
    expect(fault, "uneven", status, HISA_ERR_COMM, text);
    expect_poisoned(fault);
}

/* A message that nobody expects is found after the next operation that all take part in. */
static void unexpected(fault_t *fault) {
    expect(fault, "uneven", uneven(fault, SMALL, 0), HISA_OK, NULL);
    const hisa_status_t status = hisa_comm_allgather(fault->comm, fault->buffer, SMALL, NULL);
    if (fault->victim) {
        verdict(fault, "ok");
    }
    char text[64];
    snprintf(text, sizeof text, "rank %d sent more than was expected of it", fault->size - 1);
    expect(fault, "next", status, HISA_ERR_COMM, text);
    expect_poisoned(fault);
}

static void silent(fault_t *fault) {
    hisa_comm_set_deadline(fault->comm, DEADLINE);
    const hisa_status_t status = uneven(fault, 0, SMALL);
    if (fault->victim) {
        verdict(fault, "ok");
    }
    char text[64];
    snprintf(text, sizeof text, "no answer from rank %d within", fault->size - 1);
    expect(fault, "silent", status, HISA_ERR_TIMEOUT, text);
    expect_poisoned(fault);
}

/* The victim makes another call than the others. */
static void other_call(fault_t *fault) {
    hisa_comm_set_deadline(fault->comm, DEADLINE);
    const hisa_status_t status = fault->victim ? hisa_comm_control_allgather(fault->comm, fault->buffer, SMALL)
                                               : hisa_comm_allgather(fault->comm, fault->buffer, SMALL, NULL);
    expect(fault, "other call", status, HISA_ERR_TIMEOUT, "no answer from rank");
    expect_poisoned(fault);
}

/* A different configuration is an error on all ranks, and no fault of the communicator. */
static void other_value(fault_t *fault) {
    const hisa_agree_value_t values[] = {{"block_size", 128}, {"top_k", fault->victim ? 512 : 2048}};
    char text[96];
    snprintf(text, sizeof text, "top_k differs between ranks: 2048 on rank 0, 512 on rank %d", fault->size - 1);
    expect(fault, "values", hisa_comm_agree_values(fault->comm, HISA_OK, values, 2, 0, NULL), HISA_ERR_MISMATCH, text);
    expect(fault, "afterwards", one_of_each(fault, LARGE), HISA_OK, NULL);
    hisa_comm_destroy(fault->comm);
    free(fault->buffer);
    MPI_Finalize();
    verdict(fault, "ok");
}

/* The victim never comes to create its communicator. Waits for the default deadline. */
static void absent(fault_t *fault) {
    if (fault->victim) {
        raise(SIGSTOP);
    }
    hisa_comm_t *none = NULL;
    expect(fault, "creation", hisa_comm_create_mpi(MPI_COMM_WORLD, &none), HISA_ERR_TIMEOUT, "no answer from");
    if (none != NULL) {
        verdict(fault, "an output on failure");
    }
    verdict(fault, "ok");
}

/* Communicators may outlive MPI: destroying them is then local. */
static void finalized(fault_t *fault) {
    MPI_Finalize();
    hisa_comm_destroy(fault->comm);
    free(fault->buffer);
    hisa_comm_t *none = NULL;
    expect(fault, "creation", hisa_comm_create_mpi(MPI_COMM_WORLD, &none), HISA_ERR_INVALID_ARGUMENT, "finalised");
    verdict(fault, "ok");
}

/* Names are HOW-WHERE for a lost peer, else those of the functions above. */
static void run(fault_t *fault, const char *name) {
    char how[8] = "";
    const char *where = strchr(name, '-');
    if (where != NULL) {
        snprintf(how, sizeof how, "%.*s", (int)(where - name), name);
        where = where + 1;
    } else {
        where = name;
    }
    if (strcmp(where, "before") == 0) {
        before(fault, how, SMALL);
    } else if (strcmp(where, "before-large") == 0) {
        before(fault, how, LARGE);
    } else if (strcmp(where, "between") == 0) {
        between(fault, how);
    } else if (strcmp(where, "inside") == 0) {
        inside(fault, how, SMALL);
    } else if (strcmp(where, "inside-large") == 0) {
        inside(fault, how, LARGE);
    } else if (strcmp(name, "fewer") == 0) {
        wrong_size(fault, SMALL - 1, SMALL);
    } else if (strcmp(name, "fewerlarge") == 0) {
        wrong_size(fault, LARGE / 4, LARGE / 2);
    } else if (strcmp(name, "more") == 0) {
        wrong_size(fault, SMALL + 1, SMALL);
    } else if (strcmp(name, "morelarge") == 0) {
        wrong_size(fault, LARGE / 2, LARGE / 4);
    } else if (strcmp(name, "unexpected") == 0) {
        unexpected(fault);
    } else if (strcmp(name, "silent") == 0) {
        silent(fault);
    } else if (strcmp(name, "othercall") == 0) {
        other_call(fault);
    } else if (strcmp(name, "othervalue") == 0) {
        other_value(fault);
    } else if (strcmp(name, "finalized") == 0) {
        finalized(fault);
    }
    verdict(fault, "no case of the name %s", name);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: fault_comm CASE DIRECTORY\n");
        return EXIT_FAILURE;
    }
    fault_t fault = {.directory = argv[2]};
    char pid[32];
    hisa_comm_t *none = NULL;
    const hisa_status_t early = hisa_comm_create_mpi(MPI_COMM_WORLD, &none);
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &fault.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &fault.size);
    fault.victim = fault.rank == fault.size - 1;
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    write_file(&fault, "pid", pid);
    expect(&fault, "before MPI_Init", early, HISA_ERR_INVALID_ARGUMENT, "MPI is not initialised");
    MPI_Barrier(MPI_COMM_WORLD);
    if (strcmp(argv[1], "absent") == 0) {
        absent(&fault);
    }
    fault.buffer = calloc((size_t)2 * RANKS_MAX, LARGE);
    expect(&fault, "creation", hisa_comm_create_mpi(MPI_COMM_WORLD, &fault.comm), HISA_OK, NULL);
    if (fault.buffer == NULL || fault.size > RANKS_MAX) {
        verdict(&fault, "no memory, or more than %d ranks", RANKS_MAX);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    run(&fault, argv[1]);
    return EXIT_FAILURE;
}
