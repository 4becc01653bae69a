/* Ranks that talk through NCCL, device to device, and agree through another communicator. Every NCCL communicator made
 * here is non-blocking, every wait has a deadline, and a fault ends in one outcome on all ranks and one abort. */
#include "hisa/hisa_nccl.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "comm/agree.h"
#include "comm/clock.h"
#include "comm/same_gpu.h"

#define OLDEST 21900         /* 2.19.0 as ncclGetVersion says it; ncclCommSplit has its final form there */
#define MULTI_RANK_GPU 23000 /* knows NCCL_MULTI_RANK_GPU_ENABLE */
_Static_assert(NCCL_VERSION_CODE >= OLDEST, "hisa needs NCCL 2.19 or newer");

typedef struct nccl_state {
    ncclComm_t nccl; /* NULL: not made yet, or aborted */
    bool own;        /* made here: to be destroyed, or aborted */
    hisa_comm_t *control;
    int device;
    int version; /* of the library that runs */
    int depth;   /* of begin */
    bool lost;   /* NCCL has it still, half made, and cannot give it back: neither destroyed nor aborted */
} nccl_state_t;

/* ---------------------------------------------------------------------------------------------- errors */

static hisa_status_t fail_nccl(ncclComm_t nccl, ncclResult_t result, const char *what) {
    const char *detail = ncclGetLastError(nccl);
    const bool empty = detail == NULL || detail[0] == '\0';
    return hisa_fail(HISA_ERR_COMM, "%s: NCCL: %s%s%s", what, ncclGetErrorString(result), empty ? "" : ": ",
                     empty ? "" : detail);
}

static hisa_status_t fail_cuda(cudaError_t error, const char *what) {
    const hisa_status_t status = error == cudaErrorMemoryAllocation ? HISA_ERR_NO_MEMORY : HISA_ERR_DEVICE;
    return hisa_fail(status, "%s: CUDA: %s", what, cudaGetErrorString(error));
}

/* ---------------------------------------------------------------------------------------------- waiting */

/* Polls until NCCL has done, on its own threads, what `result` may say is in progress. *spent: the seconds it took. */
static hisa_status_t settle(ncclComm_t nccl, ncclResult_t result, const char *what, double deadline, double *spent) {
    const double begin = hisa_now();
    *spent = 0.0;
    for (int64_t polls = 0; result == ncclInProgress; ++polls) {
        /* Read before the poll: a process that was itself held up sees what came meanwhile. */
        *spent = hisa_now() - begin;
        const ncclResult_t asked = ncclCommGetAsyncError(nccl, &result);
        if (asked != ncclSuccess) {
            result = asked;
        } else if (result == ncclInProgress) {
            if (*spent > deadline) {
                return hisa_fail(HISA_ERR_TIMEOUT, "%s: no answer from the other ranks within %.1f s", what, deadline);
            }
            hisa_relax(polls, *spent);
        }
    }
    return result == ncclSuccess ? HISA_OK : fail_nccl(nccl, result, what);
}

/* Whether anything enqueued has failed by now. */
static hisa_status_t look(ncclComm_t nccl) {
    ncclResult_t result = ncclSuccess;
    const ncclResult_t asked = ncclCommGetAsyncError(nccl, &result);
    if (asked != ncclSuccess) {
        return fail_nccl(nccl, asked, "looking for errors");
    }
    return result == ncclSuccess || result == ncclInProgress ? HISA_OK : fail_nccl(nccl, result, "what was enqueued");
}

static hisa_status_t wait_stream(ncclComm_t nccl, cudaStream_t stream, const char *what, double deadline) {
    const double begin = hisa_now();
    for (int64_t polls = 0;; ++polls) {
        const double waited = hisa_now() - begin;
        const cudaError_t error = cudaStreamQuery(stream);
        if (error == cudaSuccess) {
            return HISA_OK;
        }
        if (error != cudaErrorNotReady) {
            return fail_cuda(error, what);
        }
        const hisa_status_t status = look(nccl);
        if (status != HISA_OK) {
            return status;
        }
        if (waited > deadline) {
            return hisa_fail(HISA_ERR_TIMEOUT, "%s: no answer from the other ranks within %.1f s", what, deadline);
        }
        hisa_relax(polls, waited);
    }
}

/* The seconds that a rank which began to wait `spent` seconds ago gives the agreement: peers began within a second of
 * it and wait as long. */
static double rest(const hisa_comm_t *comm, double spent) {
    const double left = comm->deadline + 1.0 - spent;
    return left > 0.5 ? left : 0.5;
}

/* ---------------------------------------------------------------------------------------------- faults */

/* What this rank returns when an agreement itself has failed, whatever it saw of it: the other survivors know no more
 * than this, so they all return the same. */
static hisa_status_t unanswered(void) {
    char why[HISA_ERROR_BYTES];
    snprintf(why, sizeof why, "%.150s", hisa_last_error());
    return hisa_fail(HISA_ERR_TIMEOUT, "a peer did not answer: %s", why);
}

/* Ends what is enqueued. Local, and takes the communicator away: once. */
static void nccl_drop(hisa_comm_t *comm) {
    nccl_state_t *state = comm->impl;
    while (state->depth > 0) {
        ncclGroupEnd(); /* the group is the thread's, not the communicator's: it must not stay open */
        --state->depth;
    }
    if (state->own && state->nccl != NULL && !state->lost) {
        ncclComm_t nccl = state->nccl;
        state->nccl = NULL;
        ncclCommAbort(nccl);
    }
}

/* nccl_drop on the way out with `outcome`, whose message is this thread's last. */
static hisa_status_t give_up(hisa_comm_t *comm, hisa_status_t outcome) {
    const nccl_state_t *state = comm->impl;
    nccl_drop(comm);
    if (state->own) {
        return outcome;
    }
    char why[HISA_ERROR_BYTES];
    snprintf(why, sizeof why, "%.140s", hisa_last_error());
    return hisa_fail(outcome, "%s (the engine must abort its NCCL communicator, which hisa borrowed)", why);
}

static hisa_status_t nccl_fault(hisa_comm_t *comm, hisa_status_t status, double seconds) {
    nccl_state_t *state = comm->impl;
    hisa_comm_t *control = state->control;
    const double kept = control->deadline;
    hisa_status_t sent = HISA_OK;
    control->deadline = rest(comm, seconds);
    const hisa_status_t agreed = hisa_agree_fault(control, status, &sent);
    control->deadline = kept;
    return give_up(comm, sent != HISA_OK ? unanswered() : agreed);
}

/* ---------------------------------------------------------------------------------------------- operations */

/* Last thing of each data call. `result` is what NCCL said to it; inside a group nothing is under way yet. A rank that
 * fails here tells its peers, which may already wait for it in their streams. */
static hisa_status_t finish(hisa_comm_t *comm, ncclResult_t result, const char *what) {
    const nccl_state_t *state = comm->impl;
    if (result == ncclSuccess || (result == ncclInProgress && state->depth > 0)) {
        return HISA_OK;
    }
    double spent = 0.0;
    const hisa_status_t status = settle(state->nccl, result, what, comm->deadline, &spent);
    return status == HISA_OK ? HISA_OK : nccl_fault(comm, status, spent);
}

static hisa_status_t nccl_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes, void *stream) {
    const nccl_state_t *state = comm->impl;
    if (bytes == 0 || comm->size == 1) {
        return HISA_OK;
    }
    const char *own = (const char *)buffer + bytes * comm->rank;
    return finish(comm, ncclAllGather(own, buffer, (size_t)bytes, ncclUint8, state->nccl, stream), "all-gather");
}

/* What a rank sends to and receives from peer number `peer`. */
typedef struct part {
    const char *send;
    char *recv;
    int64_t send_bytes;
    int64_t recv_bytes;
} part_t;

/* First failure of the two; nothing for nothing. */
static ncclResult_t post(const nccl_state_t *state, const part_t *part, int to, int from, void *stream) {
    ncclResult_t result = ncclSuccess;
    if (part->send_bytes > 0) {
        result = ncclSend(part->send, (size_t)part->send_bytes, ncclUint8, to, state->nccl, stream);
    }
    if (part->recv_bytes > 0 && (result == ncclSuccess || result == ncclInProgress)) {
        result = ncclRecv(part->recv, (size_t)part->recv_bytes, ncclUint8, from, state->nccl, stream);
    }
    return result;
}

static ncclResult_t end_group(ncclResult_t posted) {
    const ncclResult_t ended = ncclGroupEnd(); /* also after a failure: the group must not stay open */
    return posted == ncclSuccess || posted == ncclInProgress ? ended : posted;
}

static hisa_status_t nccl_allgatherv(hisa_comm_t *comm, void *buffer, const int64_t *bytes, const int64_t *offsets,
                                     void *stream) {
    const nccl_state_t *state = comm->impl;
    char *base = buffer;
    if (comm->size == 1) {
        return HISA_OK;
    }
    ncclResult_t result = ncclGroupStart();
    if (result != ncclSuccess) {
        return finish(comm, result, "all-gather");
    }
    for (int i = 1; i < comm->size && (result == ncclSuccess || result == ncclInProgress); ++i) {
        const int to = (comm->rank + i) % comm->size;
        const int from = (comm->rank - i + comm->size) % comm->size;
        const part_t part = {.send = base + offsets[comm->rank],
                             .recv = base + offsets[from],
                             .send_bytes = bytes[comm->rank],
                             .recv_bytes = bytes[from]};
        result = post(state, &part, to, from, stream);
    }
    return finish(comm, end_group(result), "all-gather of uneven parts");
}

static hisa_status_t nccl_alltoallv(hisa_comm_t *comm, const void *send, const int64_t *send_bytes,
                                    const int64_t *send_offsets, void *recv, const int64_t *recv_bytes,
                                    const int64_t *recv_offsets, void *stream) {
    const nccl_state_t *state = comm->impl;
    if (comm->size == 1) {
        return HISA_OK;
    }
    ncclResult_t result = ncclGroupStart();
    if (result != ncclSuccess) {
        return finish(comm, result, "all-to-all");
    }
    for (int i = 1; i < comm->size && (result == ncclSuccess || result == ncclInProgress); ++i) {
        const int to = (comm->rank + i) % comm->size;
        const int from = (comm->rank - i + comm->size) % comm->size;
        const part_t part = {.send = (const char *)send + send_offsets[to],
                             .recv = (char *)recv + recv_offsets[from],
                             .send_bytes = send_bytes[to],
                             .recv_bytes = recv_bytes[from]};
        result = post(state, &part, to, from, stream);
    }
    return finish(comm, end_group(result), "all-to-all");
}

static hisa_status_t nccl_begin(hisa_comm_t *comm) {
    nccl_state_t *state = comm->impl;
    const ncclResult_t result = ncclGroupStart();
    state->depth += result == ncclSuccess;
    return finish(comm, result, "beginning a group");
}

static hisa_status_t nccl_end(hisa_comm_t *comm) {
    nccl_state_t *state = comm->impl;
    if (state->depth == 0) {
        return nccl_fault(comm, hisa_fail(HISA_ERR_INTERNAL, "the end of a group that was not begun"), 0.0);
    }
    const ncclResult_t result = ncclGroupEnd();
    --state->depth;
    return finish(comm, result, "a group of exchanges");
}

/* A peer that is lost may be missed here while other ranks miss it in their streams: the outcome is the same, and so is
 * the end of what this rank has enqueued, which waits for that peer too. */
static hisa_status_t nccl_control_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes) {
    const nccl_state_t *state = comm->impl;
    const double kept = state->control->deadline;
    state->control->deadline = comm->deadline;
    const hisa_status_t status = hisa_comm_control_allgather(state->control, buffer, bytes);
    state->control->deadline = kept;
    return status == HISA_OK || status == HISA_ERR_POISONED ? status : give_up(comm, unanswered());
}

static hisa_status_t nccl_check(hisa_comm_t *comm) {
    const nccl_state_t *state = comm->impl;
    return look(state->nccl);
}

/* ---------------------------------------------------------------------------------------------- life */

/* The end of a communicator in good health, with the peers; one that does not answer makes it an abort. */
static void close_well(hisa_comm_t *comm) {
    nccl_state_t *state = comm->impl;
    double spent = 0.0;
    const ncclResult_t result = ncclCommFinalize(state->nccl);
    if (settle(state->nccl, result, "finalising", comm->deadline, &spent) != HISA_OK) {
        nccl_drop(comm);
        return;
    }
    ncclComm_t nccl = state->nccl;
    state->nccl = NULL;
    ncclCommDestroy(nccl);
}

static void nccl_destroy(hisa_comm_t *comm) {
    nccl_state_t *state = comm->impl;
    if (!comm->poisoned && state->own && state->nccl != NULL) {
        close_well(comm);
    } else {
        nccl_drop(comm);
    }
    free(state);
}

static const hisa_comm_ops_t ops = {
    .name = "nccl",
    .device_memory = true,
    /* NVLink on one host, fitted to exchanges of 4096 rows on 2 and 4 H200 (launch/results): all-gathers alone take 40
     * us and 307 GB/s, owner merges 74 us a collective. An all-gather of 16 KB takes 9 us on the device; the rest is
     * the host's, which starts a thread in NCCL for each call on a non-blocking communicator. */
    .cost = {.latency = 60e-6, .bandwidth = 300e9},
    .allgather = nccl_allgather,
    .allgatherv = nccl_allgatherv,
    .alltoallv = nccl_alltoallv,
    .control_allgather = nccl_control_allgather,
    .begin = nccl_begin,
    .end = nccl_end,
    .check = nccl_check,
    .fault = nccl_fault,
    .drop = nccl_drop,
    .destroy = nccl_destroy,
};

/* ---------------------------------------------------------------------------------------------- creation */

void hisa_nccl_config_init(hisa_nccl_config_t *config) {
    if (config != NULL) {
        *config = (hisa_nccl_config_t){.struct_size = sizeof *config, .device = -1};
    }
}

/* The borrowed communicator is control's in other clothes. */
static hisa_status_t check_borrowed(const hisa_nccl_config_t *config, nccl_state_t *state) {
    int rank = -1;
    int size = -1;
    int device = -1;
    ncclResult_t result = ncclCommUserRank(config->nccl, &rank);
    result = result == ncclSuccess ? ncclCommCount(config->nccl, &size) : result;
    result = result == ncclSuccess ? ncclCommCuDevice(config->nccl, &device) : result;
    if (result != ncclSuccess) {
        return fail_nccl(config->nccl, result, "the borrowed NCCL communicator");
    }
    if (rank != config->control->rank || size != config->control->size) {
        return hisa_fail(HISA_ERR_MISMATCH, "the borrowed NCCL communicator has rank %d of %d, control rank %d of %d",
                         rank, size, config->control->rank, config->control->size);
    }
    if (config->device >= 0 && config->device != device) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "device %d, but the borrowed NCCL communicator is on device %d",
                         config->device, device);
    }
    state->device = device;
    return look(config->nccl);
}

static hisa_status_t choose_device(const hisa_nccl_config_t *config, nccl_state_t *state) {
    int count = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
        return hisa_fail(HISA_ERR_DEVICE, "no CUDA device for NCCL: %s",
                         error != cudaSuccess ? cudaGetErrorString(error) : "none is visible");
    }
    if (config->device < -1 || config->device >= count) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "device %d: there are %d", config->device, count);
    }
    state->device = config->device;
    if (config->device == -1) {
        error = cudaGetDevice(&state->device);
    }
    return error == cudaSuccess ? HISA_OK : fail_cuda(error, "the current device");
}

/* What this rank can tell without the others. */
static hisa_status_t check_locally(const hisa_nccl_config_t *config, bool wanted, nccl_state_t *state) {
    if (config->struct_size != sizeof *config) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "config.struct_size is %zu: hisa_nccl_config_init sets it",
                         config->struct_size);
    }
    if (!wanted) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    }
    if (config->nccl != NULL && config->id != NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "both nccl and id are given");
    }
    if (config->nccl == NULL && config->split != 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "split without a communicator to split");
    }
    if (state == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "no memory for a communicator");
    }
    const ncclResult_t result = ncclGetVersion(&state->version);
    if (result != ncclSuccess) {
        return fail_nccl(NULL, result, "the version of NCCL");
    }
    if (state->version < OLDEST) {
        return hisa_fail(HISA_ERR_UNSUPPORTED, "NCCL %d is too old: hisa needs 2.19 (%d) or newer", state->version,
                         OLDEST);
    }
    const hisa_status_t status = choose_device(config, state);
    return status == HISA_OK && config->nccl != NULL ? check_borrowed(config, state) : status;
}

static int64_t hash_bytes(const void *data, size_t bytes) {
    const unsigned char *byte = data;
    uint64_t hash = 0;
    for (size_t i = 0; i < bytes; ++i) {
        hash = hisa_hash(hash, byte[i]);
    }
    return (int64_t)hash;
}

/* NCCL has two ranks on one GPU only where it takes them for ranks of different hosts, or from 2.30 on where it is told
 * to. It would tell only those that share, while the others wait for them. The same on all ranks. */
static hisa_status_t check_shared(const hisa_nccl_config_t *config, const int64_t *places) {
    int first = 0;
    int second = 0;
    if (config->nccl == NULL && hisa_gpu_shared(places, config->control->size, &first, &second)) {
        return hisa_fail(HISA_ERR_COMM,
                         "ranks %d and %d have the same GPU: ranks that share one need a different NCCL_HOSTID each",
                         first, second);
    }
    return HISA_OK;
}

/* Of this rank's GPU; where NCCL allows that it is shared, of this rank alone. */
static hisa_status_t find_place(const nccl_state_t *state, int rank, int64_t *place) {
    char bus[32] = "";
    if (state->version >= MULTI_RANK_GPU && hisa_gpu_may_be_shared()) {
        *place = rank;
        return HISA_OK;
    }
    const cudaError_t error = cudaDeviceGetPCIBusId(bus, (int)sizeof bus, state->device);
    *place = hisa_gpu_place(bus);
    return error == cudaSuccess ? HISA_OK : fail_cuda(error, "the address of the device");
}

/* places[size] is overwritten; NULL only where status is not HISA_OK. */
static hisa_status_t agree_on_plan(const hisa_nccl_config_t *config, const nccl_state_t *state, hisa_status_t status,
                                   int64_t *places) {
    int64_t place = 0;
    if (status == HISA_OK) {
        status = find_place(state, config->control->rank, &place);
    }
    const bool well = status == HISA_OK;
    const hisa_agree_value_t values[] = {
        {"version of NCCL", well ? state->version : 0},
        {"hisa_nccl_config.nccl (given or not)", well && config->nccl != NULL},
        {"hisa_nccl_config.split", well && config->split != 0},
        {"hisa_nccl_config.id (given or not)", well && config->id != NULL},
        {"hisa_nccl_config.id (its hash)", well && config->id != NULL ? hash_bytes(config->id, sizeof *config->id) : 0},
    };
    status = hisa_comm_agree_values(config->control, status, values, sizeof values / sizeof values[0], place, places);
    return status == HISA_OK && places != NULL ? check_shared(config, places) : status;
}

/* Fails for all ranks or for none. */
static hisa_status_t share_id(hisa_comm_t *comm, const ncclUniqueId *given, ncclUniqueId *id) {
    const nccl_state_t *state = comm->impl;
    hisa_status_t status = HISA_OK;
    if (given != NULL) {
        *id = *given;
        return HISA_OK;
    }
    if (comm->rank == 0) {
        const ncclResult_t result = ncclGetUniqueId(id);
        status = result == ncclSuccess ? HISA_OK : fail_nccl(NULL, result, "an id for the communicator");
    }
    status = hisa_comm_agree(state->control, status, hisa_last_error());
    if (status != HISA_OK) {
        return status;
    }
    ncclUniqueId *ids = comm->scratch; /* one agreement record a rank is more than this */
    _Static_assert(sizeof(hisa_agree_record_t) >= sizeof *ids, "scratch memory holds ids");
    ids[comm->rank] = *id;
    status = hisa_comm_control_allgather(state->control, ids, (int64_t)sizeof *ids);
    *id = ids[0];
    return status;
}

/* From here to agree_on_opening each rank goes its own way, whatever becomes of the others, until the deadline counted
 * from `begin`. */

static double left(const hisa_comm_t *comm, double begin) {
    const double seconds = comm->deadline - (hisa_now() - begin);
    return seconds > 0.0 ? seconds : 0.0;
}

static hisa_status_t open_own(hisa_comm_t *comm, const ncclUniqueId *id, double begin) {
    nccl_state_t *state = comm->impl;
    ncclConfig_t options = NCCL_CONFIG_INITIALIZER;
    double spent = 0.0;
    options.blocking = 0;
    state->own = true;
    const ncclResult_t result = ncclCommInitRankConfig(&state->nccl, comm->size, *id, comm->rank, &options);
    if (result == ncclInProgress && state->nccl == NULL) {
        return fail_nccl(NULL, ncclInternalError, "initialisation");
    }
    const hisa_status_t status = settle(state->nccl, result, "initialisation", left(comm, begin), &spent);
    if (status != HISA_OK && strstr(hisa_last_error(), "Duplicate GPU") != NULL) {
        char why[HISA_ERROR_BYTES];
        snprintf(why, sizeof why, "%.150s", hisa_last_error());
        return hisa_fail(status, "%s (ranks that share a GPU need a different NCCL_HOSTID each)", why);
    }
    return status;
}

/* The child is handed over when the parent has done with it, so it is the parent that is asked first. */
static hisa_status_t open_split(hisa_comm_t *comm, ncclComm_t parent, double begin) {
    nccl_state_t *state = comm->impl;
    ncclConfig_t options = NCCL_CONFIG_INITIALIZER;
    double spent = 0.0;
    options.blocking = 0;
    state->own = true;
    state->lost = true; /* until the parent has done with it */
    const ncclResult_t result = ncclCommSplit(parent, 0, comm->rank, &state->nccl, &options);
    hisa_status_t status = settle(parent, result, "splitting the engine's communicator", left(comm, begin), &spent);
    state->lost = status == HISA_ERR_TIMEOUT;
    if (status == HISA_OK && state->nccl == NULL) {
        status = fail_nccl(parent, ncclInternalError, "splitting the engine's communicator");
    }
    return status == HISA_OK ? settle(state->nccl, ncclInProgress, "initialisation", left(comm, begin), &spent)
                             : status;
}

/* One exchange of each kind between all pairs, short and long ones: what NCCL connects on first use is connected then.
 */
static hisa_status_t exchange(hisa_comm_t *comm, char *buffer, int64_t part, cudaStream_t stream, double begin) {
    const nccl_state_t *state = comm->impl;
    const char *own = buffer + part * comm->rank;
    double spent = 0.0;
    ncclResult_t result = ncclAllGather(own, buffer, (size_t)part, ncclUint8, state->nccl, stream);
    hisa_status_t status = settle(state->nccl, result, "warm-up: all-gather", left(comm, begin), &spent);
    if (status != HISA_OK) {
        return status;
    }
    result = ncclGroupStart();
    if (result != ncclSuccess) {
        return fail_nccl(state->nccl, result, "warm-up: all-to-all");
    }
    for (int i = 1; i < comm->size && (result == ncclSuccess || result == ncclInProgress); ++i) {
        const int to = (comm->rank + i) % comm->size;
        const int from = (comm->rank - i + comm->size) % comm->size;
        const part_t both = {.send = own, .recv = buffer + part * from, .send_bytes = part, .recv_bytes = part};
        result = post(state, &both, to, from, stream);
    }
    return settle(state->nccl, end_group(result), "warm-up: all-to-all", left(comm, begin), &spent);
}

static hisa_status_t warm_up(hisa_comm_t *comm, double begin) {
    static const int64_t parts[] = {256, INT64_C(1) << 20};
    const nccl_state_t *state = comm->impl;
    cudaStream_t stream = NULL;
    void *buffer = NULL;
    hisa_status_t status = HISA_OK;
    if (comm->size == 1) {
        return HISA_OK;
    }
    cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    error = error == cudaSuccess ? cudaMalloc(&buffer, (size_t)(parts[1] * comm->size)) : error;
    error = error == cudaSuccess ? cudaMemsetAsync(buffer, 0, (size_t)(parts[1] * comm->size), stream) : error;
    if (error != cudaSuccess) {
        status = fail_cuda(error, "warm-up");
    }
    for (int i = 0; i < 2 && status == HISA_OK; ++i) {
        status = exchange(comm, buffer, parts[i], stream, begin);
        status = status == HISA_OK ? wait_stream(state->nccl, stream, "warm-up", left(comm, begin)) : status;
    }
    if (status != HISA_OK && buffer != NULL) {
        /* Freeing waits for the device, on which an exchange may be stuck: end it first, or, where it is not ours to
         * end, leave both. */
        if (!state->own) {
            return status;
        }
        nccl_drop(comm);
    }
    cudaFree(buffer);
    if (stream != NULL) {
        cudaStreamDestroy(stream);
    }
    return status;
}

/* One outcome of how each rank fared. */
static hisa_status_t agree_on_opening(hisa_comm_t *comm, hisa_status_t status, double spent) {
    const nccl_state_t *state = comm->impl;
    const double kept = state->control->deadline;
    hisa_status_t sent = HISA_OK;
    hisa_status_t agreed;
    state->control->deadline = rest(comm, spent);
    if (status == HISA_OK) {
        agreed = hisa_comm_agree(state->control, HISA_OK, NULL);
        sent = state->control->poisoned ? agreed : HISA_OK;
    } else {
        agreed = hisa_agree_fault(state->control, status, &sent);
    }
    state->control->deadline = kept;
    return sent != HISA_OK ? unanswered() : agreed;
}

static hisa_status_t open_all(const hisa_nccl_config_t *config, hisa_comm_t *comm) {
    nccl_state_t *state = comm->impl;
    ncclUniqueId id = {{0}};
    int before = 0;
    hisa_status_t status = config->nccl == NULL ? share_id(comm, config->id, &id) : HISA_OK;
    if (status != HISA_OK) {
        return status;
    }
    const double begin = hisa_now();
    const bool known = cudaGetDevice(&before) == cudaSuccess;
    const cudaError_t error = cudaSetDevice(state->device);
    if (error != cudaSuccess) {
        status = fail_cuda(error, "choosing the device");
    } else if (config->nccl == NULL) {
        status = open_own(comm, &id, begin);
    } else if (config->split != 0) {
        status = open_split(comm, config->nccl, begin);
    } else {
        state->nccl = config->nccl;
    }
    status = status == HISA_OK ? warm_up(comm, begin) : status;
    status = agree_on_opening(comm, status, hisa_now() - begin);
    if (status != HISA_OK) {
        comm->poisoned = true; /* destroying it aborts */
    }
    if (known) {
        cudaSetDevice(before);
    }
    return status;
}

hisa_status_t hisa_comm_create_nccl(const hisa_nccl_config_t *config, hisa_comm_t **comm) {
    if (config == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "config is NULL");
    }
    if (config->control == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "config.control is NULL");
    }
    hisa_comm_t *control = config->control;
    hisa_comm_t *made = NULL;
    nccl_state_t *state = calloc(1, sizeof *state);
    hisa_status_t status = check_locally(config, comm != NULL, state);
    if (status == HISA_OK) {
        state->control = control;
        status = hisa_comm_alloc(&ops, state, control->rank, control->size, &made);
    }
    status = agree_on_plan(config, state, status, made != NULL ? made->scratch : NULL);
    if (made == NULL) {
        free(state);
        return status;
    }
    made->deadline = control->deadline;
    status = status == HISA_OK ? open_all(config, made) : status;
    if (status != HISA_OK || comm == NULL) {
        char why[HISA_ERROR_BYTES];
        snprintf(why, sizeof why, "%s", hisa_last_error());
        made->poisoned = true;
        hisa_comm_destroy(made);
        return hisa_fail(status, "%s", why);
    }
    *comm = made;
    return HISA_OK;
}
