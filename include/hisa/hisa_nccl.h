/* A hisa communicator over NCCL, for device memory. Part of the library only where it was built with HISA_NCCL. */
#ifndef HISA_NCCL_H
#define HISA_NCCL_H

#include <nccl.h>

#include "hisa/hisa.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hisa_nccl_config {
    size_t struct_size;     /* set by hisa_nccl_config_init */
    hisa_comm_t *control;   /* how the ranks agree over host memory: hisa_comm_create_mpi or hisa_comm_create_host.
                               Rank, size and the first deadline are its. Borrowed: it must outlive what is made, and
                               serve nothing else at the same time. No default: must be set */
    ncclComm_t nccl;        /* the engine's, whose ranks must be control's, or NULL (default): hisa makes one. Borrowed:
                               it must outlive what is made, and hisa never destroys nor aborts it. All ranks or none */
    const ncclUniqueId *id; /* for a communicator that hisa makes: the same on all ranks, which the caller got by
                               ncclGetUniqueId on one; NULL (default): hisa gets one and hands it out over control. All
                               ranks or none. Read during create only */
    int device;             /* CUDA device ordinal, -1 (default): that of nccl, or the calling thread's current one.
                               May differ */
    int split;              /* not 0: take not the engine's communicator itself but a child by ncclCommSplit, which hisa
                               may abort without a touch on its parent. Default 0 */
} hisa_nccl_config_t;

/* Sets every field to its default. Local; NULL is allowed. */
HISA_API void hisa_nccl_config_init(hisa_nccl_config_t *config);

/* A communicator for the CUDA backend: data calls are enqueued on the caller's stream. Collective over control; all
 * ranks succeed or all return the same error (but for a rank whose config or control is NULL, which cannot tell the
 * others). Waits for peers up to control's deadline. Connects all ranks and exchanges something, so that later calls
 * allocate nothing; for this it uses a stream of its own and waits for it.
 *
 * The device that was current on the calling thread is current again on return. What is made belongs to the caller
 * (hisa_comm_destroy; before control, and before the engine's communicator), and it, control and a borrowed
 * communicator may be used by one thread at a time. *comm is written on success only. Errors: HISA_ERR_INVALID_ARGUMENT
 * (the config), HISA_ERR_MISMATCH (nccl is not of control's ranks; versions of NCCL, or configs, differ),
 * HISA_ERR_UNSUPPORTED (NCCL is too old), HISA_ERR_DEVICE (no device), HISA_ERR_NO_MEMORY, HISA_ERR_TIMEOUT or
 * HISA_ERR_COMM (a peer is late or lost, or NCCL failed).
 *
 * NCCL must be 2.19 or newer. Several ranks on one GPU need what NCCL asks for: a different NCCL_HOSTID in each
 * process's environment before its first NCCL call (before 2.30, for tests only). Without it all ranks are refused at
 * once, also those that share with nobody.
 *
 * What hisa makes is a blocking communicator in NCCL's sense, whose calls only enqueue: on a non-blocking one NCCL
 * starts a thread for each call, 60 to 80 us of the host's time. A child by `split` is as its parent is, so an engine
 * that lends a non-blocking communicator pays that. Where NCCL may wait for peers on the host (here, in
 * hisa_comm_destroy, and in a one-shot selection while it is captured), hisa lets a thread of its own do it and waits
 * up to the deadline; a thread that NCCL does not let go is left behind with its communicator, and aborts that if it
 * ever comes back.
 *
 * Once a peer is lost, hisa ends what is enqueued by ncclCommAbort, after the ranks that can be reached have agreed on
 * one status. With `split` the engine's communicator must not have been made with splitShare, by which NCCL aborts
 * parent and child together. Data calls are not to be made inside a group (ncclGroupStart) of the engine's own: NCCL
 * mixes no blocking and non-blocking communicators in one. hisa does not abort a borrowed communicator without `split`:
 * there the engine must, or its streams wait for ever; and where that communicator is a blocking one that is not
 * connected yet, hisa's calls may block in NCCL beyond any deadline.
 *
 * Destroying what is made waits for the device, up to the deadline, and ends what has not ended by then. Graphs in
 * which calls over the communicator were captured must be destroyed before it: NCCL waits for them. */
HISA_API hisa_status_t hisa_comm_create_nccl(const hisa_nccl_config_t *config, hisa_comm_t **comm);

#ifdef __cplusplus
}
#endif
#endif
