/* Ranks that talk through MPI: point-to-point messages that do not block, and one loop that waits for them with a
 * deadline. MPI's own collectives cannot be given up half-way, so they are not used after creation. */
#include "hisa/hisa_mpi.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/clock.h"
#include "comm/comm.h"
#include "comm/mpi_piece.h"
#include "comm/version.h"

/* Well below INT_MAX, which is as much as an MPI-3 count can say. */
#define PIECE_BYTES ((int64_t)1 << 30)

/* Kinds of operations: part of the tag, so that ranks which make different calls do not take each other's messages. */
enum { KIND_GATHER, KIND_ALLTOALL, KIND_CONTROL, KIND_COUNT };

/* A message under way. */
typedef struct message {
    int peer;     /* -1: all of them */
    int expected; /* bytes to receive, -1: a send */
} message_t;

/* The messages of one round. */
typedef struct round {
    MPI_Request *requests;
    MPI_Status *statuses;
    int *done; /* indices of requests, as MPI_Testsome gives them */
    message_t *messages;
    int count;
} round_t;

typedef struct mpi_state {
    MPI_Comm comm;
    int64_t piece;
    int sequence;  /* number of the next operation, below sequences */
    int sequences; /* as many as the tags allow */
    int last_tag;  /* of the operation before, -1: none */
    bool lent;     /* MPI may still refer to this struct: it is not freed */
    /* Of creation: */
    MPI_Request request;
    int mine;
    int lowest;
    round_t round; /* room for 2*size messages */
} mpi_state_t;

/* ---------------------------------------------------------------------------------------------- errors */

static hisa_status_t fail_mpi(int code, const char *what) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) {
        return hisa_fail(HISA_ERR_COMM, "%s: MPI error %d", what, code);
    }
    return hisa_fail(HISA_ERR_COMM, "%s: %s", what, text);
}

/* The peers of the messages that are not done, in a message such as "no answer from ranks 1, 3 within 2.0 s". */
static hisa_status_t fail_timeout(const round_t *round, int size, double seconds) {
    char names[120] = "";
    int used = 0;
    int named = 0;
    int more = 0;
    for (int r = 0; r < size; ++r) {
        bool pending = false;
        for (int i = 0; i < round->count; ++i) {
            pending = pending || (round->requests[i] != MPI_REQUEST_NULL && round->messages[i].peer == r);
        }
        if (pending && named == 8) {
            ++more;
        } else if (pending) {
            used += snprintf(names + used, sizeof names - (size_t)used, "%s%d", named == 0 ? "" : ", ", r);
            ++named;
        }
    }
    if (named == 0) {
        return hisa_fail(HISA_ERR_TIMEOUT, "no answer from the other ranks within %.1f s", seconds);
    }
    if (more > 0) {
        return hisa_fail(HISA_ERR_TIMEOUT, "no answer from ranks %s and %d more within %.1f s", names, more, seconds);
    }
    return hisa_fail(HISA_ERR_TIMEOUT, "no answer from rank%s %s within %.1f s", named > 1 ? "s" : "", names, seconds);
}

/* A message that ended, well or badly. */
static hisa_status_t check_message(const message_t *message, const MPI_Status *status, bool errors_set) {
    if (errors_set && status->MPI_ERROR != MPI_SUCCESS && status->MPI_ERROR != MPI_ERR_PENDING) {
        int class = MPI_SUCCESS;
        MPI_Error_class(status->MPI_ERROR, &class);
        if (class == MPI_ERR_TRUNCATE) {
            return hisa_fail(HISA_ERR_COMM, "rank %d sent more than the %d bytes expected", message->peer,
                             message->expected);
        }
        char what[64];
        snprintf(what, sizeof what, "%s rank %d", message->expected < 0 ? "sending to" : "receiving from",
                 message->peer);
        return fail_mpi(status->MPI_ERROR, what);
    }
    if (message->expected >= 0) {
        int bytes = 0;
        MPI_Get_count(status, MPI_BYTE, &bytes);
        if (bytes != message->expected) {
            return hisa_fail(HISA_ERR_COMM, "rank %d sent %d bytes where %d were expected", message->peer, bytes,
                             message->expected);
        }
    }
    return HISA_OK;
}

/* ---------------------------------------------------------------------------------------------- waiting */

/* Waits until each message of the round is done, or one fails, or `seconds` have passed. Requests that are done are
 * MPI_REQUEST_NULL. */
static hisa_status_t wait_round(const round_t *round, int size, double seconds) {
    const double start = hisa_now();
    int left = round->count;
    for (int64_t polls = 0; left > 0; ++polls) {
        /* Read before the poll: a process that was itself held up finds the answers that came meanwhile. */
        const double waited = hisa_now() - start;
        int ended = 0;
        const int code = MPI_Testsome(round->count, round->requests, &ended, round->done, round->statuses);
        int class = MPI_SUCCESS;
        MPI_Error_class(code, &class);
        if (code != MPI_SUCCESS && class != MPI_ERR_IN_STATUS) {
            return fail_mpi(code, "waiting for messages");
        }
        if (ended == MPI_UNDEFINED) {
            return HISA_OK;
        }
        for (int i = 0; i < ended; ++i) {
            const hisa_status_t status =
                check_message(&round->messages[round->done[i]], &round->statuses[i], class == MPI_ERR_IN_STATUS);
            if (status != HISA_OK) {
                return status;
            }
        }
        left -= ended;
        if (left > 0 && ended == 0) {
            if (waited > seconds) {
                return fail_timeout(round, size, seconds);
            }
            hisa_relax(polls, waited);
        }
    }
    return HISA_OK;
}

/* Lets go of the messages that are not done. True if MPI may still touch their memory. */
static bool abandon_round(const round_t *round) {
    bool lent = false;
    for (int i = 0; i < round->count; ++i) {
        MPI_Request *request = &round->requests[i];
        if (*request == MPI_REQUEST_NULL) {
            continue;
        }
        if (round->messages[i].expected >= 0) {
            /* A receive that no message has met yet ends here; one that is half done does not. */
            int done = 0;
            MPI_Cancel(request);
            if (MPI_Test(request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && done) {
                continue;
            }
        }
        lent = true;
        if (*request != MPI_REQUEST_NULL) {
            MPI_Request_free(request);
        }
    }
    return lent;
}

/* ---------------------------------------------------------------------------------------------- operations */

static void round_begin(round_t *round) { round->count = 0; }

static int round_receive(round_t *round, MPI_Comm comm, void *buffer, int bytes, int peer, int tag) {
    MPI_Request *request = &round->requests[round->count];
    *request = MPI_REQUEST_NULL;
    round->messages[round->count] = (message_t){.peer = peer, .expected = bytes};
    ++round->count;
    return MPI_Irecv(buffer, bytes, MPI_BYTE, peer, tag, comm, request);
}

static int round_send(round_t *round, MPI_Comm comm, const void *buffer, int bytes, int peer, int tag) {
    MPI_Request *request = &round->requests[round->count];
    *request = MPI_REQUEST_NULL;
    round->messages[round->count] = (message_t){.peer = peer, .expected = -1};
    ++round->count;
    return MPI_Isend(buffer, bytes, MPI_BYTE, peer, tag, comm, request);
}

static int next_tag(mpi_state_t *state, int kind) {
    const int tag = state->sequence * KIND_COUNT + kind;
    state->sequence = (state->sequence + 1) % state->sequences;
    return tag;
}

/* A message of the operation before that nobody has received was more than its receiver expected. It has come by now if
 * its sender took part in this operation too: messages of a pair keep their order. */
static hisa_status_t check_leftover(mpi_state_t *state, int tag) {
    int found = 0;
    MPI_Status status;
    if (state->last_tag >= 0) {
        const int code = MPI_Iprobe(MPI_ANY_SOURCE, state->last_tag, state->comm, &found, &status);
        if (code != MPI_SUCCESS) {
            return fail_mpi(code, "looking for messages");
        }
    }
    state->last_tag = tag;
    if (found) {
        return hisa_fail(HISA_ERR_COMM, "rank %d sent more than was expected of it", status.MPI_SOURCE);
    }
    return HISA_OK;
}

/* What a pair of ranks exchanges. Own entries are not read. */
typedef struct parts {
    const char *send;
    char *recv;
    /* One of the two: arrays of size entries, or, if NULL, `bytes` for each rank at rank * bytes. */
    const int64_t *send_bytes;
    const int64_t *send_offsets;
    const int64_t *recv_bytes;
    const int64_t *recv_offsets;
    int64_t bytes;
    bool gather; /* send this rank's own part of the array to each */
} parts_t;

static int64_t send_size(const parts_t *parts, int rank, int peer) {
    return parts->send_bytes == NULL ? parts->bytes : parts->send_bytes[parts->gather ? rank : peer];
}

static int64_t send_offset(const parts_t *parts, int rank, int peer) {
    const int part = parts->gather ? rank : peer;
    return parts->send_offsets == NULL ? parts->bytes * part : parts->send_offsets[part];
}

static int64_t recv_size(const parts_t *parts, int peer) {
    return parts->recv_bytes == NULL ? parts->bytes : parts->recv_bytes[peer];
}

static int64_t recv_offset(const parts_t *parts, int peer) {
    return parts->recv_offsets == NULL ? parts->bytes * peer : parts->recv_offsets[peer];
}

/* Posts what lies in [done, done + piece) of each part. Ranks start with different peers, so that not all send to rank
 * 0 first. Sets *more if some part reaches further. */
static hisa_status_t post_round(hisa_comm_t *comm, const parts_t *parts, int tag, int64_t done, bool *more) {
    mpi_state_t *state = comm->impl;
    round_t *round = &state->round;
    int code = MPI_SUCCESS;
    *more = false;
    round_begin(round);
    for (int i = 1; i < comm->size && code == MPI_SUCCESS; ++i) {
        const int peer = (comm->rank - i + comm->size) % comm->size;
        const int64_t left = recv_size(parts, peer) - done;
        if (left > 0) {
            char *place = parts->recv + recv_offset(parts, peer) + done;
            code =
                round_receive(round, state->comm, place, (int)(left < state->piece ? left : state->piece), peer, tag);
            *more = *more || left > state->piece;
        }
    }
    for (int i = 1; i < comm->size && code == MPI_SUCCESS; ++i) {
        const int peer = (comm->rank + i) % comm->size;
        const int64_t left = send_size(parts, comm->rank, peer) - done;
        if (left > 0) {
            const char *place = parts->send + send_offset(parts, comm->rank, peer) + done;
            code = round_send(round, state->comm, place, (int)(left < state->piece ? left : state->piece), peer, tag);
            *more = *more || left > state->piece;
        }
    }
    return code == MPI_SUCCESS ? HISA_OK : fail_mpi(code, "posting messages");
}

/* Rounds of at most one message each way between two ranks. Both ends of a pair cut its part in the same pieces, and no
 * rank waits in round n for one that must first leave a later round: no deadlock. The deadline counts from each round's
 * start. */
static hisa_status_t exchange(hisa_comm_t *comm, const parts_t *parts, int kind) {
    if (comm->size == 1) {
        return HISA_OK;
    }
    mpi_state_t *state = comm->impl;
    const int tag = next_tag(state, kind);
    hisa_status_t status = HISA_OK;
    bool more = true;
    for (int64_t done = 0; more && status == HISA_OK; done += state->piece) {
        status = post_round(comm, parts, tag, done, &more);
        if (status == HISA_OK) {
            status = wait_round(&state->round, comm->size, comm->deadline);
        }
    }
    if (status != HISA_OK) {
        const bool lent = abandon_round(&state->round);
        comm->scratch_lent = lent && parts->send == comm->scratch;
        return status;
    }
    return check_leftover(state, tag);
}

static hisa_status_t gather_equal(hisa_comm_t *comm, void *buffer, int64_t bytes, int kind) {
    const parts_t parts = {.send = buffer, .recv = buffer, .bytes = bytes, .gather = true};
    return exchange(comm, &parts, kind);
}

static hisa_status_t mpi_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes, void *stream) {
    (void)stream;
    return gather_equal(comm, buffer, bytes, KIND_GATHER);
}

static hisa_status_t mpi_control_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes) {
    return gather_equal(comm, buffer, bytes, KIND_CONTROL);
}

static hisa_status_t mpi_allgatherv(hisa_comm_t *comm, void *buffer, const int64_t *bytes, const int64_t *offsets,
                                    void *stream) {
    (void)stream;
    const parts_t parts = {.send = buffer,
                           .recv = buffer,
                           .send_bytes = bytes,
                           .send_offsets = offsets,
                           .recv_bytes = bytes,
                           .recv_offsets = offsets,
                           .gather = true};
    return exchange(comm, &parts, KIND_GATHER);
}

static hisa_status_t mpi_alltoallv(hisa_comm_t *comm, const void *send, const int64_t *send_bytes,
                                   const int64_t *send_offsets, void *recv, const int64_t *recv_bytes,
                                   const int64_t *recv_offsets, void *stream) {
    (void)stream;
    const parts_t parts = {.send = send,
                           .recv = recv,
                           .send_bytes = send_bytes,
                           .send_offsets = send_offsets,
                           .recv_bytes = recv_bytes,
                           .recv_offsets = recv_offsets};
    return exchange(comm, &parts, KIND_ALLTOALL);
}

/* ---------------------------------------------------------------------------------------------- life */

static void state_free(mpi_state_t *state) {
    if (state != NULL && !state->lent) {
        free(state->round.requests);
        free(state->round.statuses);
        free(state->round.done);
        free(state->round.messages);
        free(state);
    }
}

static mpi_state_t *state_alloc(int size) {
    mpi_state_t *state = calloc(1, sizeof *state);
    if (state == NULL) {
        return NULL;
    }
    const size_t room = 2 * (size_t)size;
    state->comm = MPI_COMM_NULL;
    state->piece = PIECE_BYTES;
    state->last_tag = -1;
    state->round.requests = calloc(room, sizeof(MPI_Request));
    state->round.statuses = calloc(room, sizeof *state->round.statuses);
    state->round.done = calloc(room, sizeof *state->round.done);
    state->round.messages = calloc(room, sizeof *state->round.messages);
    if (state->round.requests == NULL || state->round.statuses == NULL || state->round.done == NULL ||
        state->round.messages == NULL) {
        state_free(state);
        return NULL;
    }
    return state;
}

static bool mpi_is_running(void) {
    int started = 0;
    int finished = 0;
    return MPI_Initialized(&started) == MPI_SUCCESS && started && MPI_Finalized(&finished) == MPI_SUCCESS && !finished;
}

/* A poisoned communicator's duplicate stays with MPI: freeing it is collective, and its messages may be half done. */
static void mpi_destroy(hisa_comm_t *comm) {
    mpi_state_t *state = comm->impl;
    if (!comm->poisoned && !state->lent && mpi_is_running()) {
        MPI_Comm_free(&state->comm);
    }
    state_free(state);
}

static const hisa_comm_ops_t ops = {
    .name = "mpi",
    .device_memory = false,
    /* Over shared memory on one host: hisa bench on 2 cores of an EPYC 9004. */
    .cost = {.latency = 30e-6, .bandwidth = 4e9},
    .allgather = mpi_allgather,
    .allgatherv = mpi_allgatherv,
    .alltoallv = mpi_alltoallv,
    .control_allgather = mpi_control_allgather,
    .destroy = mpi_destroy,
};

/* Waits for one request of MPI's own collectives, which cannot be cancelled: on failure the memory it was given stays.
 */
static hisa_status_t wait_request(mpi_state_t *state) {
    MPI_Status status;
    int done = 0;
    message_t message = {.peer = -1, .expected = -1};
    const round_t round = {
        .requests = &state->request, .statuses = &status, .done = &done, .messages = &message, .count = 1};
    const hisa_status_t waited = wait_round(&round, 0, HISA_COMM_DEADLINE);
    state->lent = waited != HISA_OK;
    return waited;
}

/* Duplicates without blocking; *dup is a field of state. Errors must come back rather than end the program, so the
 * caller's error handler is set aside meanwhile. */
static hisa_status_t duplicate(mpi_state_t *state, MPI_Comm mpi_comm) {
    MPI_Errhandler handler = MPI_ERRHANDLER_NULL;
    if (MPI_Comm_get_errhandler(mpi_comm, &handler) != MPI_SUCCESS) {
        return hisa_fail(HISA_ERR_COMM, "the MPI communicator has no error handler");
    }
    MPI_Comm_set_errhandler(mpi_comm, MPI_ERRORS_RETURN);
    const int code = MPI_Comm_idup(mpi_comm, &state->comm, &state->request);
    hisa_status_t status =
        code == MPI_SUCCESS ? wait_request(state) : fail_mpi(code, "duplicating the MPI communicator");
    MPI_Comm_set_errhandler(mpi_comm, handler);
    if (handler != MPI_ERRORS_ARE_FATAL && handler != MPI_ERRORS_RETURN) {
        MPI_Errhandler_free(&handler);
    }
    if (status == HISA_OK) {
        MPI_Comm_set_errhandler(state->comm, MPI_ERRORS_RETURN);
    }
    return status;
}

/* Makes one outcome of the ranks' own ones before anything else may be relied upon: the lowest rank that failed
 * decides. Needs no memory but state. */
static hisa_status_t agree_on_creation(mpi_state_t *state, int rank, int size, hisa_status_t status) {
    const int codes = 64;
    state->mine = (status == HISA_OK ? size : rank) * codes + (int)status;
    const int code = MPI_Iallreduce(&state->mine, &state->lowest, 1, MPI_INT, MPI_MIN, state->comm, &state->request);
    if (code != MPI_SUCCESS) {
        return fail_mpi(code, "agreeing on the communicator");
    }
    const hisa_status_t waited = wait_request(state);
    if (waited != HISA_OK) {
        return waited;
    }
    const hisa_status_t lowest = (hisa_status_t)(state->lowest % codes);
    if (lowest == HISA_OK || size == 1) {
        return status;
    }
    hisa_fail(lowest, "rank %d could not create its communicator: %s", state->lowest / codes,
              hisa_status_string(lowest));
    return lowest;
}

static void set_tags(mpi_state_t *state) {
    int *upper = NULL;
    int found = 0;
    int tags = 32767; /* what the standard promises */
    if (MPI_Comm_get_attr(state->comm, MPI_TAG_UB, &upper, &found) == MPI_SUCCESS && found && *upper > tags) {
        tags = *upper;
    }
    state->sequences = tags / KIND_COUNT;
}

static hisa_status_t agree_on_version(hisa_comm_t *comm) {
    /* It holds larger records than these. comm was made: a rank that has none failed the agreement before. */
    hisa_version_record_t *records = comm->scratch; /* NOLINT(clang-analyzer-core.NullDereference) */
    records[comm->rank] = hisa_version_record();
    const hisa_status_t status = hisa_comm_control_allgather(comm, records, (int64_t)sizeof *records);
    return status != HISA_OK ? status : hisa_version_check(records, comm->size);
}

static hisa_status_t check_argument(MPI_Comm mpi_comm) {
    int inter = 0;
    if (!mpi_is_running()) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "MPI is not initialised, or finalised already");
    }
    if (mpi_comm == MPI_COMM_NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "mpi_comm is MPI_COMM_NULL");
    }
    if (MPI_Comm_test_inter(mpi_comm, &inter) != MPI_SUCCESS || inter) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "mpi_comm is an intercommunicator");
    }
    return HISA_OK;
}

/* From here on every rank takes each step, whatever went wrong on this one, until all know. */
static hisa_status_t create(MPI_Comm mpi_comm, bool wanted, mpi_state_t *state, hisa_comm_t **comm) {
    int rank = 0;
    int size = 0;
    hisa_status_t status = duplicate(state, mpi_comm);
    if (status != HISA_OK) {
        return status;
    }
    MPI_Comm_rank(state->comm, &rank);
    MPI_Comm_size(state->comm, &size);
    set_tags(state);
    if (!wanted) {
        status = HISA_ERR_INVALID_ARGUMENT;
        hisa_fail(status, "comm is NULL");
    } else if (state->round.requests == NULL) {
        status = HISA_ERR_NO_MEMORY;
        hisa_fail(status, "no memory for the messages of %d ranks", size);
    } else {
        status = hisa_comm_alloc(&ops, state, rank, size, comm);
    }
    status = agree_on_creation(state, rank, size, status);
    return status == HISA_OK ? agree_on_version(*comm) : status;
}

hisa_status_t hisa_comm_create_mpi(MPI_Comm mpi_comm, hisa_comm_t **comm) {
    hisa_status_t status = check_argument(mpi_comm);
    if (status != HISA_OK) {
        return status;
    }
    int size = 0;
    MPI_Comm_size(mpi_comm, &size);
    hisa_comm_t *made = NULL;
    /* A rank without memory still takes part, so that the others need not wait for it in vain. */
    mpi_state_t bare = {.comm = MPI_COMM_NULL};
    mpi_state_t *state = state_alloc(size);
    mpi_state_t *used = state != NULL ? state : &bare;
    status = create(mpi_comm, comm != NULL, used, &made);
    if (status == HISA_OK) {
        *comm = made;
        return HISA_OK;
    }
    if (made != NULL) {
        hisa_comm_destroy(made);
        return status;
    }
    if (used->comm != MPI_COMM_NULL && !used->lent) {
        MPI_Comm_free(&used->comm);
    }
    state_free(state);
    return status;
}

void hisa_comm_mpi_set_piece(hisa_comm_t *comm, int64_t bytes) {
    mpi_state_t *state = comm->impl;
    state->piece = bytes;
}
