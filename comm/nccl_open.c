/* How the NCCL communicator is made. */
#include "comm/nccl_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "comm/agree.h"
#include "comm/clock.h"
#include "comm/same_gpu.h"
#include "comm/within.h"

#define OLDEST 21900         /* 2.19.0 as ncclGetVersion says it; ncclCommSplit has its final form there */
#define MULTI_RANK_GPU 23000 /* knows NCCL_MULTI_RANK_GPU_ENABLE */
_Static_assert(NCCL_VERSION_CODE >= OLDEST, "hisa needs NCCL 2.19 or newer");

void hisa_nccl_config_init(hisa_nccl_config_t *config) {
    if (config != NULL) {
        *config = (hisa_nccl_config_t){.struct_size = sizeof *config, .device = -1};
    }
}

/* The borrowed communicator is control's in other clothes. */
static hisa_status_t check_borrowed(const hisa_nccl_config_t *config, hisa_nccl_state_t *state) {
    int rank = -1;
    int size = -1;
    int device = -1;
    ncclResult_t result = ncclCommUserRank(config->nccl, &rank);
    result = result == ncclSuccess ? ncclCommCount(config->nccl, &size) : result;
    result = result == ncclSuccess ? ncclCommCuDevice(config->nccl, &device) : result;
    if (result != ncclSuccess) {
        return hisa_nccl_fail(config->nccl, result, "the borrowed NCCL communicator");
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
    return hisa_nccl_look(config->nccl);
}

static hisa_status_t choose_device(const hisa_nccl_config_t *config, hisa_nccl_state_t *state) {
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
    return error == cudaSuccess ? HISA_OK : hisa_nccl_fail_cuda(error, "the current device");
}

/* What this rank can tell without the others. */
static hisa_status_t check_locally(const hisa_nccl_config_t *config, bool wanted, hisa_nccl_state_t *state) {
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
        return hisa_nccl_fail(NULL, result, "the version of NCCL");
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
static hisa_status_t find_place(const hisa_nccl_state_t *state, int rank, int64_t *place) {
    char bus[32] = "";
    if (state->version >= MULTI_RANK_GPU && hisa_gpu_may_be_shared()) {
        *place = rank;
        return HISA_OK;
    }
    const cudaError_t error = cudaDeviceGetPCIBusId(bus, (int)sizeof bus, state->device);
    *place = hisa_gpu_place(bus);
    return error == cudaSuccess ? HISA_OK : hisa_nccl_fail_cuda(error, "the address of the device");
}

/* places[size] is overwritten; NULL only where status is not HISA_OK. */
static hisa_status_t agree_on_plan(const hisa_nccl_config_t *config, const hisa_nccl_state_t *state,
                                   hisa_status_t status, int64_t *places) {
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
    const hisa_nccl_state_t *state = comm->impl;
    hisa_status_t status = HISA_OK;
    if (given != NULL) {
        *id = *given;
        return HISA_OK;
    }
    if (comm->rank == 0) {
        const ncclResult_t result = ncclGetUniqueId(id);
        status = result == ncclSuccess ? HISA_OK : hisa_nccl_fail(NULL, result, "an id for the communicator");
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
 * from `begin`, on a thread that can be left behind: NCCL does not say for how long it may block. */

typedef struct opening {
    ncclUniqueId id;
    ncclComm_t engine; /* config's */
    bool split;
    int rank;
    int size;
    int device;
    double begin;
    double deadline;
    ncclComm_t nccl; /* what came of it */
} opening_t;

static double left(const opening_t *opening) {
    const double seconds = opening->deadline - (hisa_now() - opening->begin);
    return seconds > 0.0 ? seconds : 0.0;
}

static bool is_own(const opening_t *opening) { return opening->engine == NULL || opening->split; }

static hisa_status_t open_own(opening_t *opening) {
    static const char what[] = "initialisation";
    ncclConfig_t options = NCCL_CONFIG_INITIALIZER;
    double spent = 0.0;
    options.blocking = 1;
    const ncclResult_t result =
        ncclCommInitRankConfig(&opening->nccl, opening->size, opening->id, opening->rank, &options);
    const hisa_status_t status = opening->nccl == NULL
                                     ? hisa_nccl_fail(NULL, result == ncclSuccess ? ncclInternalError : result, what)
                                     : hisa_nccl_settle(opening->nccl, result, what, left(opening), &spent);
    if (status != HISA_OK && strstr(hisa_last_error(), "Duplicate GPU") != NULL) {
        char why[HISA_ERROR_BYTES];
        snprintf(why, sizeof why, "%.150s", hisa_last_error());
        return hisa_fail(status, "%s (ranks that share a GPU need a different NCCL_HOSTID each)", why);
    }
    return status;
}

/* A child like its parent: NCCL makes none that blocks of a parent that does not. A parent that does not block hands
 * the child over when it has done with it, so the parent is asked first; what has no end then is left to NCCL, with the
 * place where it puts the child. */
static hisa_status_t open_split(opening_t *opening) {
    static const char what[] = "splitting the engine's communicator";
    double spent = 0.0;
    ncclComm_t *child = calloc(1, sizeof(ncclComm_t));
    if (child == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "%s: no memory", what);
    }
    const ncclResult_t result = ncclCommSplit(opening->engine, 0, opening->rank, child, NULL);
    hisa_status_t status = hisa_nccl_settle(opening->engine, result, what, left(opening), &spent);
    if (status == HISA_ERR_TIMEOUT) {
        return status; /* NOLINT(clang-analyzer-unix.Malloc): NCCL may yet write there */
    }
    opening->nccl = *child;
    free(child);
    if (status == HISA_OK && opening->nccl == NULL) {
        return hisa_nccl_fail(opening->engine, ncclInternalError, what);
    }
    return status == HISA_OK ? hisa_nccl_settle(opening->nccl, ncclInProgress, what, left(opening), &spent) : status;
}

/* One exchange of each kind between all pairs. */
static hisa_status_t exchange(const opening_t *opening, char *buffer, int64_t part, cudaStream_t stream) {
    const char *own = buffer + part * opening->rank;
    double spent = 0.0;
    ncclResult_t result = ncclAllGather(own, buffer, (size_t)part, ncclUint8, opening->nccl, stream);
    hisa_status_t status = hisa_nccl_settle(opening->nccl, result, "warm-up: all-gather", left(opening), &spent);
    if (status != HISA_OK) {
        return status;
    }
    result = ncclGroupStart();
    if (result != ncclSuccess) {
        return hisa_nccl_fail(opening->nccl, result, "warm-up: all-to-all");
    }
    for (int i = 1; i < opening->size && (result == ncclSuccess || result == ncclInProgress); ++i) {
        const int to = (opening->rank + i) % opening->size;
        const int from = (opening->rank - i + opening->size) % opening->size;
        const hisa_nccl_part_t both = {
            .send = own, .recv = buffer + part * from, .send_bytes = part, .recv_bytes = part};
        result = hisa_nccl_post(opening->nccl, &both, to, from, stream);
    }
    result = hisa_nccl_end_group(result);
    status = hisa_nccl_settle(opening->nccl, result, "warm-up: all-to-all", left(opening), &spent);
    return status == HISA_OK ? hisa_nccl_wait_stream(opening->nccl, stream, "warm-up", left(opening)) : status;
}

static void abort_own(opening_t *opening) {
    if (is_own(opening) && opening->nccl != NULL) {
        ncclCommAbort(opening->nccl);
        opening->nccl = NULL;
    }
}

/* Exchanges of a size for each way that NCCL may go: what it connects on first use is connected then. */
static hisa_status_t warm_up(opening_t *opening) {
    static const int64_t parts[] = {256, INT64_C(1) << 14, INT64_C(1) << 20};
    enum { PARTS = sizeof parts / sizeof parts[0] };
    const size_t bytes = (size_t)(parts[PARTS - 1] * opening->size);
    cudaStream_t stream = NULL;
    void *buffer = NULL;
    hisa_status_t status = HISA_OK;
    if (opening->size == 1) {
        return HISA_OK;
    }
    cudaError_t error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    error = error == cudaSuccess ? cudaMalloc(&buffer, bytes) : error;
    error = error == cudaSuccess ? cudaMemsetAsync(buffer, 0, bytes, stream) : error;
    if (error != cudaSuccess) {
        status = hisa_nccl_fail_cuda(error, "warm-up");
    }
    for (int i = 0; i < PARTS && status == HISA_OK; ++i) {
        status = exchange(opening, buffer, parts[i], stream);
    }
    if (status != HISA_OK && buffer != NULL) {
        /* Freeing waits for the device, on which an exchange may be stuck: end it first, or, where it is not ours to
         * end, leave both. */
        if (!is_own(opening)) {
            return status;
        }
        abort_own(opening);
    }
    cudaFree(buffer);
    if (stream != NULL) {
        cudaStreamDestroy(stream);
    }
    return status;
}

static hisa_status_t open_now(void *arguments) {
    opening_t *opening = arguments;
    const cudaError_t error = cudaSetDevice(opening->device);
    hisa_status_t status = error == cudaSuccess ? HISA_OK : hisa_nccl_fail_cuda(error, "choosing the device");
    if (status == HISA_OK && opening->engine == NULL) {
        status = open_own(opening);
    } else if (status == HISA_OK && opening->split) {
        status = open_split(opening);
    } else {
        opening->nccl = opening->engine;
    }
    status = status == HISA_OK ? warm_up(opening) : status;
    if (status != HISA_OK) {
        abort_own(opening);
    }
    return status;
}

static void abort_late_opening(void *arguments) { abort_own(arguments); }

/* One outcome of how each rank fared. */
static hisa_status_t agree_on_opening(hisa_comm_t *comm, hisa_status_t status, double spent) {
    const hisa_nccl_state_t *state = comm->impl;
    const double kept = state->control->deadline;
    hisa_status_t sent = HISA_OK;
    hisa_status_t agreed;
    state->control->deadline = hisa_nccl_rest(comm, spent);
    if (status == HISA_OK) {
        agreed = hisa_comm_agree(state->control, HISA_OK, NULL);
        sent = state->control->poisoned ? agreed : HISA_OK;
    } else {
        agreed = hisa_agree_fault(state->control, status, &sent);
    }
    state->control->deadline = kept;
    return sent != HISA_OK ? hisa_nccl_unanswered() : agreed;
}

static hisa_status_t open_all(const hisa_nccl_config_t *config, hisa_comm_t *comm) {
    static const hisa_within_job_t job = {
        .what = "making the NCCL communicator", .call = open_now, .late = abort_late_opening};
    hisa_nccl_state_t *state = comm->impl;
    opening_t opening = {.engine = config->nccl,
                         .split = config->split != 0,
                         .rank = comm->rank,
                         .size = comm->size,
                         .device = state->device,
                         .deadline = comm->deadline};
    hisa_status_t status = config->nccl == NULL ? share_id(comm, config->id, &opening.id) : HISA_OK;
    if (status != HISA_OK) {
        return status;
    }
    opening.begin = hisa_now();
    /* What waits in NCCL's own sight gives up first, and tells more. */
    status = hisa_within(comm->deadline + 0.2, &job, &opening, sizeof opening);
    state->own = is_own(&opening);
    state->nccl = opening.nccl;
    status = agree_on_opening(comm, status, hisa_now() - opening.begin);
    if (status != HISA_OK) {
        comm->poisoned = true; /* destroying it aborts */
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
    hisa_nccl_state_t *state = calloc(1, sizeof *state);
    hisa_status_t status = check_locally(config, comm != NULL, state);
    if (status == HISA_OK) {
        state->control = control;
        status = hisa_comm_alloc(&hisa_nccl_ops, state, control->rank, control->size, &made);
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
