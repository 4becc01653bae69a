/* How ranks talk: one table of operations, and the calls that everything above uses. Knows nothing of attention.
 *
 * Data calls move bytes between *different* ranks only: a rank's own part is never copied, it already stands where it
 * belongs (all-gather works in place; an all-to-all leaves the own part to the caller). So a group of one moves
 * nothing, and the self communicator serves any kind of memory.
 *
 * For a communicator with `device_memory` the data calls take device pointers and are enqueued on the stream; otherwise
 * they take host pointers and have completed when they return. Counts and offsets are host arrays of `size` entries, in
 * bytes, and are read before the call returns. */
#ifndef HISA_COMM_H
#define HISA_COMM_H

#include <stdbool.h>

#include "base/error.h"
#include "hisa/hisa.h"

typedef struct hisa_comm_ops {
    const char *name;
    bool device_memory; /* data calls take device pointers and a stream; means nothing in a group of one */
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
    /* Releases `impl` only. */
    void (*destroy)(hisa_comm_t *comm);
} hisa_comm_ops_t;

struct hisa_comm {
    const hisa_comm_ops_t *ops;
    void *impl; /* the implementation's own */
    int rank;
    int size;
    double deadline;              /* seconds */
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
