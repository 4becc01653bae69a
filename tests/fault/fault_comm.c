/* One rank of a group in which the last one misbehaves. `fault_comm CASE DIRECTORY` under mpirun; run_fault.sh is the
 * other half. Each other rank checks what it sees (fault.h).
 *
 * Ranks leave without MPI_Finalize where a peer was lost: MPI itself may wait for that peer for ever. */
#include <mpi.h>

#include "comm/comm.h"
#include "fault/fault.h"
#include "hisa/hisa_mpi.h"

#define DEADLINE 2.0
#define SMALL 64
#define LARGE (1 << 20) /* not sent eagerly by any transport */
#define RANKS_MAX 8

typedef struct fault {
    hisa_comm_t *comm;
    char *buffer; /* [RANKS_MAX][LARGE] */
    int rank;
    int size;
    bool victim;
} fault_t;

/* After a fault: each call says so at once, and the communicator can be destroyed. */
static void expect_poisoned(fault_t *fault) {
    char cause[240];
    snprintf(cause, sizeof cause, "%.150s", hisa_last_error());
    const int64_t zeros[RANKS_MAX] = {0};
    const hisa_status_t poisoned = HISA_ERR_POISONED;
    /* A second of these would add up to hours. */
    hisa_comm_set_deadline(fault->comm, 3600.0);
    expect("allgather", hisa_comm_allgather(fault->comm, fault->buffer, SMALL, NULL), poisoned, cause);
    expect("allgatherv", hisa_comm_allgatherv(fault->comm, fault->buffer, zeros, zeros, NULL), poisoned, cause);
    expect("alltoallv",
           hisa_comm_alltoallv(fault->comm, fault->buffer, zeros, zeros, fault->buffer, zeros, zeros, NULL), poisoned,
           cause);
    expect("control", hisa_comm_control_allgather(fault->comm, fault->buffer, SMALL), poisoned, cause);
    expect("agree", hisa_comm_agree(fault->comm, HISA_ERR_IO, "own failure"), poisoned, cause);
    expect("agree_values", hisa_comm_agree_values(fault->comm, HISA_OK, NULL, 0, 0, NULL), poisoned, cause);
    hisa_comm_destroy(fault->comm);
    free(fault->buffer);
    verdict("ok");
}

/* ---------------------------------------------------------------------------------------------- a lost peer */

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
        verdict("got '%s' (%s)", hisa_status_string(status), hisa_last_error());
    }
    if (status == HISA_ERR_TIMEOUT && strstr(hisa_last_error(), text) == NULL) {
        verdict("\"%s\" lacks \"%s\"", hisa_last_error(), text);
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
        expect("healthy", one_of_each(fault, SMALL), HISA_OK, NULL);
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
        end_soon(end_of(how), 150);
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
        verdict("ok"); /* what it sees depends on how far its messages got */
    }
    char text[32];
    snprintf(text, sizeof text, "rank %d sent ", fault->size - 1);
    expect("uneven", status, HISA_ERR_COMM, text);
    expect_poisoned(fault);
}

/* A message that nobody expects is found after the next operation that all take part in. */
static void unexpected(fault_t *fault) {
    expect("uneven", uneven(fault, SMALL, 0), HISA_OK, NULL);
    const hisa_status_t status = hisa_comm_allgather(fault->comm, fault->buffer, SMALL, NULL);
    if (fault->victim) {
        verdict("ok");
    }
    char text[64];
    snprintf(text, sizeof text, "rank %d sent more than was expected of it", fault->size - 1);
    expect("next", status, HISA_ERR_COMM, text);
    expect_poisoned(fault);
}

static void silent(fault_t *fault) {
    hisa_comm_set_deadline(fault->comm, DEADLINE);
    const hisa_status_t status = uneven(fault, 0, SMALL);
    if (fault->victim) {
        verdict("ok");
    }
    char text[64];
    snprintf(text, sizeof text, "no answer from rank %d within", fault->size - 1);
    expect("silent", status, HISA_ERR_TIMEOUT, text);
    expect_poisoned(fault);
}

/* The victim makes another call than the others. */
static void other_call(fault_t *fault) {
    hisa_comm_set_deadline(fault->comm, DEADLINE);
    const hisa_status_t status = fault->victim ? hisa_comm_control_allgather(fault->comm, fault->buffer, SMALL)
                                               : hisa_comm_allgather(fault->comm, fault->buffer, SMALL, NULL);
    expect("other call", status, HISA_ERR_TIMEOUT, "no answer from rank");
    expect_poisoned(fault);
}

/* A different configuration is an error on all ranks, and no fault of the communicator. */
static void other_value(fault_t *fault) {
    const hisa_agree_value_t values[] = {{"block_size", 128}, {"top_k", fault->victim ? 512 : 2048}};
    char text[96];
    snprintf(text, sizeof text, "top_k differs between ranks: 2048 on rank 0, 512 on rank %d", fault->size - 1);
    expect("values", hisa_comm_agree_values(fault->comm, HISA_OK, values, 2, 0, NULL), HISA_ERR_MISMATCH, text);
    expect("afterwards", one_of_each(fault, LARGE), HISA_OK, NULL);
    hisa_comm_destroy(fault->comm);
    free(fault->buffer);
    MPI_Finalize();
    verdict("ok");
}

/* The victim never comes to create its communicator. Waits for the default deadline. */
static void absent(fault_t *fault) {
    if (fault->victim) {
        raise(SIGSTOP);
    }
    hisa_comm_t *none = NULL;
    expect("creation", hisa_comm_create_mpi(MPI_COMM_WORLD, &none), HISA_ERR_TIMEOUT, "no answer from");
    if (none != NULL) {
        verdict("an output on failure");
    }
    verdict("ok");
}

/* Communicators may outlive MPI: destroying them is then local. */
static void finalized(fault_t *fault) {
    MPI_Finalize();
    hisa_comm_destroy(fault->comm);
    free(fault->buffer);
    hisa_comm_t *none = NULL;
    expect("creation", hisa_comm_create_mpi(MPI_COMM_WORLD, &none), HISA_ERR_INVALID_ARGUMENT, "finalised");
    verdict("ok");
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
    verdict("no case of the name %s", name);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: fault_comm CASE DIRECTORY\n");
        return EXIT_FAILURE;
    }
    fault_t fault = {0};
    hisa_comm_t *none = NULL;
    const hisa_status_t early = hisa_comm_create_mpi(MPI_COMM_WORLD, &none);
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &fault.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &fault.size);
    fault.victim = fault.rank == fault.size - 1;
    fault_begin(argv[2], fault.rank);
    expect("before MPI_Init", early, HISA_ERR_INVALID_ARGUMENT, "MPI is not initialised");
    MPI_Barrier(MPI_COMM_WORLD);
    if (strcmp(argv[1], "absent") == 0) {
        absent(&fault);
    }
    fault.buffer = calloc((size_t)2 * RANKS_MAX, LARGE);
    expect("creation", hisa_comm_create_mpi(MPI_COMM_WORLD, &fault.comm), HISA_OK, NULL);
    if (fault.buffer == NULL || fault.size > RANKS_MAX) {
        verdict("no memory, or more than %d ranks", RANKS_MAX);
    }
    MPI_Barrier(MPI_COMM_WORLD);
    run(&fault, argv[1]);
    return EXIT_FAILURE;
}
