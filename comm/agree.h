/* What one rank says in an agreement. */
#ifndef HISA_COMM_AGREE_H
#define HISA_COMM_AGREE_H

#include "comm/comm.h"

typedef struct hisa_agree_record {
    int64_t mine;
    int64_t values[HISA_AGREE_VALUES_MAX];
    int32_t count; /* of values, or HISA_AGREE_FAULT */
    int32_t status;
    char message[HISA_ERROR_BYTES];
} hisa_agree_record_t;

/* Said instead of a count by a rank that gives up. */
#define HISA_AGREE_FAULT (-1)

/* Collective over host memory, for communicators that implement `fault`: every rank that gives up passes its `status`
 * (not HISA_OK) and its cause in this thread's hisa_last_error(). Returns what all such ranks return, and sets its
 * message: the status of the lowest rank that has a cause of its own, rather than waited for a peer in vain
 * (HISA_ERR_TIMEOUT), if there is one. Ranks that are in another agreement meanwhile get it there. A failure of the
 * exchange itself is returned in *sent instead. */
hisa_status_t hisa_agree_fault(hisa_comm_t *comm, hisa_status_t status, hisa_status_t *sent);

#endif
