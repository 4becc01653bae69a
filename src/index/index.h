/* The index: this rank's shard of the keys, and what is known of the whole. */
#ifndef HISA_INDEX_H
#define HISA_INDEX_H

#include "backend/backend.h"
#include "comm/comm.h"

enum { HISA_LANES = 3 }; /* most tiles of a call under way at a time */

struct hisa_index {
    hisa_comm_t *comm;     /* borrowed */
    hisa_device_t *device; /* the opened backend */
    hisa_shard_t shard;
    int64_t capacity;     /* tokens of a sequence */
    int64_t local_blocks; /* most blocks of one sequence that any rank stores: equal on all ranks */
    int64_t bytes;        /* backend memory held */
    /* Host copies of what the shard holds in backend memory, [num_sequences]. */
    int64_t *lengths;
    int32_t *offsets;
    int32_t *bases;
    hisa_comm_cost_t cost; /* of comm when the index was made: equal on all ranks */
    uint64_t changes;      /* truncates and overwrites so far, hashed with their arguments: select compares it */
    hisa_stats_t stats;
    /* Host scratch of hisa_select, so that it need not allocate. */
    int64_t *counts;          /* [7][ranks]: 6 for hisa_select (run.h), the last for hisa_audit */
    hisa_segment_t *segments; /* [HISA_LANES][ranks] */
    int64_t *sizes;           /* of alloc_host, [HISA_LANES][2][ranks]: what an exchange moves */
};

static inline const hisa_backend_ops_t *hisa_index_ops(const hisa_index_t *index) { return index->device->ops; }

/* HISA_ERR_INVALID_ARGUMENT unless the index exists and holds the sequence. */
hisa_status_t hisa_index_check(const hisa_index_t *index, int32_t sequence);

/* Events of the device that are not select's own. */
enum { HISA_EVENT_WAIT = HISA_EVENTS - 1 };

/* Waits on the host until the stream has passed the event, recorded before. Peers may be needed for that: with several
 * ranks it gives up when the communicator has failed, or when the deadline is over, and has then settled the outcome
 * with them (hisa_comm_fault). */
hisa_status_t hisa_index_wait(hisa_index_t *index, int32_t event);

#endif
