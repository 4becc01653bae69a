/* What the parts of the NCCL communicator share: nccl.c is what it does and how it ends, nccl_open.c how it is made.
 * The one file that includes nccl.h. */
#ifndef HISA_NCCL_STATE_H
#define HISA_NCCL_STATE_H

#include <cuda_runtime_api.h>

#include "comm/comm.h"
#include "hisa/hisa_nccl.h"

typedef struct hisa_nccl_state {
    ncclComm_t nccl; /* NULL: not made yet, aborted, or left to a thread that NCCL keeps */
    bool own;        /* made here: to be destroyed, or aborted */
    hisa_comm_t *control;
    int device;
    int version; /* of the library that runs */
    int depth;   /* of begin */
} hisa_nccl_state_t;

extern const hisa_comm_ops_t hisa_nccl_ops;

/* HISA_ERR_COMM with NCCL's own words; HISA_ERR_NO_MEMORY or HISA_ERR_DEVICE with CUDA's. */
hisa_status_t hisa_nccl_fail(ncclComm_t nccl, ncclResult_t result, const char *what);
hisa_status_t hisa_nccl_fail_cuda(cudaError_t error, const char *what);

/* Polls until NCCL has done, on its own threads, what `result` may say is in progress. *spent: the seconds it took. */
hisa_status_t hisa_nccl_settle(ncclComm_t nccl, ncclResult_t result, const char *what, double deadline, double *spent);

/* Whether anything enqueued has failed by now. */
hisa_status_t hisa_nccl_look(ncclComm_t nccl);

hisa_status_t hisa_nccl_wait_stream(ncclComm_t nccl, cudaStream_t stream, const char *what, double deadline);

/* The seconds that a rank which began to wait `spent` seconds ago gives the agreement: peers began within a second of
 * it and wait as long. */
double hisa_nccl_rest(const hisa_comm_t *comm, double spent);

/* What this rank returns when an agreement itself has failed, whatever it saw of it: the other survivors know no more
 * than this, so they all return the same. */
hisa_status_t hisa_nccl_unanswered(void);

/* Ends what is enqueued. Local, and takes the communicator away: once. */
void hisa_nccl_drop(hisa_comm_t *comm);

/* What a rank sends to and receives from peer number `peer`. */
typedef struct hisa_nccl_part {
    const char *send;
    char *recv;
    int64_t send_bytes;
    int64_t recv_bytes;
} hisa_nccl_part_t;

/* Within a group. First failure of the two; nothing for nothing. */
ncclResult_t hisa_nccl_post(ncclComm_t nccl, const hisa_nccl_part_t *part, int to, int from, cudaStream_t stream);

/* Ends the group, and gives the first failure: what came of posting, or of the end. */
ncclResult_t hisa_nccl_end_group(ncclResult_t posted);

#endif
