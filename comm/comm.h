/* How ranks talk: one table of operations, and the calls that everything above uses. Knows nothing of attention.
 *
 * Data calls move bytes between *different* ranks only: a rank's own part is never copied, it already stands where it
 * belongs (all-gather works in place; an all-to-all leaves the own part to the caller). So a group of one moves
 * nothing, and the self communicator serves any kind of memory.
 *
 * For a communicator with `device_memory` the data calls take device pointers and are enqueued on the stream; otherwise
 * they take host pointers and have completed when they return. Device buffers end at a multiple of 16 bytes or have
 * room up to one: NCCL reads the last word of a part as a whole. Counts and offsets are host arrays of `size` entries,
 * in bytes, and are read before the call returns. */
#ifndef HISA_COMM_H
#define HISA_COMM_H

#include <stdbool.h>

#include "base/error.h"
#include "hisa/hisa.h"

/* What a data call takes, on the path of the slowest rank. Never decides a result, only how it is come by. */
typedef struct hisa_comm_cost {
    double latency;   /* seconds of a call that moves next to nothing */
    double bandwidth; /* bytes a second that a rank receives in a call that moves much */
} hisa_comm_cost_t;

typedef struct hisa_comm_ops {
    const char *name;
    bool device_memory;    /* data calls take device pointers and a stream; means nothing in a group of one */
    bool control_only;     /* moves no data: of the data calls it has those of a group of one */
    hisa_comm_cost_t cost; /* what a new communicator is taken to cost; bandwidth 0: next to nothing */
    /* In place: buffer holds `size` parts of `bytes` bytes, part r at r*bytes; this rank's own part is filled in. */
    hisa_status_t (*allgather)(hisa_comm_t *comm, void *buffer, int64_t bytes, void *stream);
    /* In place: part r has bytes[r] bytes at buffer + offsets[r]; this rank's own part is filled in. */
    hisa_status_t (*allgatherv)(hisa_comm_t *comm, void *buffer, const int64_t *bytes, const int64_t *offsets,
                                void *stream);
    /* send_bytes[r] bytes at send + send_offsets[r] go to rank r, to its recv + recv_offsets[self], which expects as
     * many. The entries of the rank itself are ignored. */
    hisa_status_t (*alltoallv)(hisa_comm_t *comm, const void *send, const int64_t *send_bytes,
                               const int64_t *send_offsets, void *recv, const int64_t *recv_bytes,
                               const int64_t *recv_offsets, void *stream);
    /* Host memory whatever the data calls take; returns when done. In place, as allgather. */
    hisa_status_t (*control_allgather)(hisa_comm_t *comm, void *buffer, int64_t bytes);
    /* Data calls between begin and end are one exchange: enqueued together, none done before the last. May be NULL:
     * then each call stands for itself. */
    hisa_status_t (*begin)(hisa_comm_t *comm);
    hisa_status_t (*end)(hisa_comm_t *comm);
    /* Looks, without waiting, whether what was enqueued has failed since. NULL: a data call has completed, or failed,
     * when it returns. */
    hisa_status_t (*check)(hisa_comm_t *comm);
    /* Ends what is enqueued, so that the streams it is on run out, after the ranks that can still be reached have
     * agreed on one outcome: `status` is this rank's (hisa_last_error() its cause), the agreed one is returned (and is
     * the last error). Takes at most the deadline and a second from the moment `seconds` ago when this rank began to
     * wait. May be NULL: nothing can be under way. */
    hisa_status_t (*fault)(hisa_comm_t *comm, hisa_status_t status, double seconds);
    /* The local half of fault, for a rank that hears from the others, in an agreement, that they have given up. */
    void (*drop)(hisa_comm_t *comm);
    /* Releases `impl` only. */
    void (*destroy)(hisa_comm_t *comm);
} hisa_comm_ops_t;

struct hisa_comm {
    const hisa_comm_ops_t *ops;
    void *impl; /* the implementation's own */
    int rank;
    int size;
    double deadline; /* seconds */
    hisa_comm_cost_t cost;
    bool poisoned;                /* a call failed: peers may be anywhere, nothing may be sent any more */
    int64_t bytes_sent;           /* by data calls, to other ranks, since creation */
    int64_t bytes_received;       /* by data calls, from other ranks, since creation */
    char cause[HISA_ERROR_BYTES]; /* what poisoned it */
    void *scratch;                /* one agreement record a rank (agree.h): agreeing allocates nothing */
    bool scratch_lent;            /* an operation that was given up may still refer to scratch: it is not freed */
};

#define HISA_COMM_DEADLINE 60.0 /* seconds, the default */

/* Allocates a communicator in good health with the default deadline, and with the scratch memory of agreements. For
 * implementations. On failure impl still belongs to the caller. */
hisa_status_t hisa_comm_alloc(const hisa_comm_ops_t *ops, void *impl, int rank, int size, hisa_comm_t **comm);

/* The operations above, with a check for poison before, the bytes counted, and poison set on failure. */
hisa_status_t hisa_comm_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes, void *stream);
hisa_status_t hisa_comm_allgatherv(hisa_comm_t *comm, void *buffer, const int64_t *bytes, const int64_t *offsets,
                                   void *stream);
hisa_status_t hisa_comm_alltoallv(hisa_comm_t *comm, const void *send, const int64_t *send_bytes,
                                  const int64_t *send_offsets, void *recv, const int64_t *recv_bytes,
                                  const int64_t *recv_offsets, void *stream);
hisa_status_t hisa_comm_control_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes);
hisa_status_t hisa_comm_begin(hisa_comm_t *comm);
hisa_status_t hisa_comm_end(hisa_comm_t *comm);

/* Whoever waits for enqueued data calls polls this. Does not poison: hisa_comm_fault does. Local. */
hisa_status_t hisa_comm_check(hisa_comm_t *comm);

/* For a failure outside the data calls (of the waiting for them, or of the computing between them) while peers count on
 * this rank: one outcome for all that can be reached, nothing left under way, the communicator poisoned. Returns the
 * outcome, never HISA_OK. A communicator that is poisoned already, or of one rank, gives `status` back. */
hisa_status_t hisa_comm_fault(hisa_comm_t *comm, hisa_status_t status, double seconds);

/* For an agreement in which another rank said that it has given up: `status` (and this thread's hisa_last_error()) is
 * what all agreed on. Ends what is enqueued and poisons, where a data call can be under way; else does nothing. Local.
 */
void hisa_comm_drop(hisa_comm_t *comm, hisa_status_t status);

/* A value that must be equal on all ranks, with the name it goes by in an error message (static storage). */
typedef struct hisa_agree_value {
    const char *name;
    int64_t value;
} hisa_agree_value_t;

#define HISA_AGREE_VALUES_MAX 32

/* Collective over host memory. First as hisa_comm_agree with `status` and this thread's hisa_last_error(); if all ranks
 * are well, the values (the same `count` <= HISA_AGREE_VALUES_MAX and names on all ranks) are compared, and a
 * difference gives HISA_ERR_MISMATCH with a message that names the first value that differs, two ranks and what they
 * have. `mine` (may differ) is gathered into everyone[size] for whoever needs a number from each rank; everyone may be
 * NULL. */
hisa_status_t hisa_comm_agree_values(hisa_comm_t *comm, hisa_status_t status, const hisa_agree_value_t *values,
                                     int count, int64_t mine, int64_t *everyone);

#endif
