#include "comm/threads.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What a rank shows the others during a call. */
typedef struct shown {
    const uint8_t *data;
    const int64_t *bytes;
    const int64_t *offsets;
} shown_t;

typedef struct group {
    int ranks;
    bool turns;
    hisa_threads_memory_t memory;
    atomic_int control_calls;
    pthread_mutex_t mutex; /* of all below but shown, which a meeting separates from its readers */
    pthread_cond_t changed;
    int arrived;          /* at the meeting under way */
    int64_t meetings;     /* over */
    int turn;             /* whose it is; ranks: all have handed on */
    bool broken;          /* a rank failed: nobody is waited for any more */
    bool has_mutex;       /* made, for destroy */
    bool has_changed;     /* likewise */
    hisa_status_t status; /* of the others' calls then */
    char cause[HISA_ERROR_BYTES];
    shown_t shown[HISA_THREADS_MAX];
} group_t;

/* ------------------------------------------------------------------------------------------- waiting */

/* With the mutex. */
static void break_group(group_t *group, int rank, hisa_status_t status, const char *cause) {
    if (!group->broken) {
        group->broken = true;
        group->status = status;
        snprintf(group->cause, sizeof group->cause, "rank %d: %.200s", rank, cause);
    }
    pthread_cond_broadcast(&group->changed);
}

static hisa_status_t broken(const group_t *group) { return hisa_fail(group->status, "%s", group->cause); }

static struct timespec moment_in(double seconds) {
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    const double whole = floor(fmin(seconds, 1e9));
    moment.tv_sec += (time_t)whole;
    moment.tv_nsec += (long)(1e9 * (fmin(seconds, 1e9) - whole));
    if (moment.tv_nsec >= 1000000000) {
        moment.tv_nsec -= 1000000000;
        ++moment.tv_sec;
    }
    return moment;
}

/* With the mutex: one wait for a change. Breaks the group when the moment is over. */
static void wait_until(const hisa_comm_t *comm, const struct timespec *moment) {
    group_t *group = comm->impl;
    if (pthread_cond_timedwait(&group->changed, &group->mutex, moment) == ETIMEDOUT && !group->broken) {
        char cause[64];
        snprintf(cause, sizeof cause, "a rank did not come within %.3g s", comm->deadline);
        break_group(group, comm->rank, HISA_ERR_TIMEOUT, cause);
    }
}

/* Returns when all ranks are here. The last to come begins the next round of turns, if one is due. */
static hisa_status_t meet(const hisa_comm_t *comm, bool next_round) {
    group_t *group = comm->impl;
    const struct timespec moment = moment_in(comm->deadline);
    hisa_status_t status = HISA_OK;
    pthread_mutex_lock(&group->mutex);
    const int64_t meeting = group->meetings;
    if (++group->arrived == group->ranks && !group->broken) {
        group->arrived = 0;
        ++group->meetings;
        group->turn = next_round ? 0 : group->turn;
        pthread_cond_broadcast(&group->changed);
    }
    while (group->meetings == meeting && !group->broken) {
        wait_until(comm, &moment);
    }
    if (group->meetings == meeting) {
        status = broken(group);
    }
    pthread_mutex_unlock(&group->mutex);
    return status;
}

static hisa_status_t await_turn(const hisa_comm_t *comm) {
    group_t *group = comm->impl;
    const struct timespec moment = moment_in(comm->deadline);
    hisa_status_t status = HISA_OK;
    pthread_mutex_lock(&group->mutex);
    while (group->turn != comm->rank && !group->broken) {
        wait_until(comm, &moment);
    }
    if (group->turn != comm->rank) {
        status = broken(group);
    }
    pthread_mutex_unlock(&group->mutex);
    return status;
}

static void hand_on(const hisa_comm_t *comm) {
    group_t *group = comm->impl;
    pthread_mutex_lock(&group->mutex);
    group->turn = comm->rank + 1;
    pthread_cond_broadcast(&group->changed);
    pthread_mutex_unlock(&group->mutex);
}

static hisa_status_t synchronize(const group_t *group) {
    return group->turns && group->memory.synchronize != NULL ? group->memory.synchronize(group->memory.context)
                                                             : HISA_OK;
}

/* ------------------------------------------------------------------------------------------- calls */

/* First thing of a call: shows this rank's part, and returns when all ranks show theirs. A rank comes here even if its
 * device has failed, so that the others may go on to where they learn of it. */
static hisa_status_t enter(hisa_comm_t *comm, const void *data, const int64_t *bytes, const int64_t *offsets) {
    group_t *group = comm->impl;
    const hisa_status_t status = synchronize(group);
    group->shown[comm->rank] = (shown_t){.data = data, .bytes = bytes, .offsets = offsets};
    if (group->turns) {
        hand_on(comm);
    }
    const hisa_status_t met = meet(comm, false);
    return status == HISA_OK ? met : status;
}

/* Last thing of a call: returns when all ranks have taken what they wanted, and it is this one's turn. A rank that has
 * failed comes to the meeting as well, as others may be copying from it. */
static hisa_status_t leave(hisa_comm_t *comm, hisa_status_t status) {
    group_t *group = comm->impl;
    const hisa_status_t done = synchronize(group);
    status = status == HISA_OK ? done : status;
    char cause[HISA_ERROR_BYTES];
    snprintf(cause, sizeof cause, "%s", hisa_last_error());
    const hisa_status_t met = meet(comm, group->turns);
    if (status != HISA_OK) {
        hisa_fail(status, "%s", cause); /* not what the meeting said */
        hisa_threads_end(comm, status);
        return status;
    }
    return met == HISA_OK && group->turns ? await_turn(comm) : met;
}

/* Makes the stream wait for the others' points, of those from `first` on. */
static hisa_status_t await_others(const hisa_comm_t *comm, int first, void *stream) {
    const group_t *group = comm->impl;
    hisa_status_t status = HISA_OK;
    for (int r = 0; r < comm->size && status == HISA_OK && group->memory.await != NULL; ++r) {
        status = r == comm->rank ? HISA_OK : group->memory.await(group->memory.context, first + r, stream);
    }
    return status;
}

static hisa_status_t record(const hisa_comm_t *comm, int first, void *stream) {
    const group_t *group = comm->impl;
    return group->memory.record == NULL ? HISA_OK
                                        : group->memory.record(group->memory.context, first + comm->rank, stream);
}

/* Nothing here waits for a stream but turns: who orders its streams wrongly gets wrong bytes. */
static hisa_status_t show(hisa_comm_t *comm, const void *data, const int64_t *bytes, const int64_t *offsets,
                          void *stream) {
    const hisa_status_t recorded = record(comm, 0, stream);
    hisa_status_t status = enter(comm, data, bytes, offsets);
    status = recorded == HISA_OK ? status : recorded;
    return status == HISA_OK ? await_others(comm, 0, stream) : status;
}

/* A point is recorded again, and the parts shown change, only when all have been here. */
static hisa_status_t hide(hisa_comm_t *comm, hisa_status_t status, void *stream) {
    const group_t *group = comm->impl;
    if (status == HISA_OK) {
        status = record(comm, comm->size, stream);
    }
    status = leave(comm, status);
    if (status == HISA_OK) {
        status = await_others(comm, comm->size, stream);
    }
    if (status == HISA_OK && group->turns && group->memory.resume != NULL) {
        status = group->memory.resume(group->memory.context, stream);
    }
    return status;
}

static hisa_status_t take(const group_t *group, void *to, const void *from, int64_t bytes, void *stream) {
    if (bytes == 0) {
        return HISA_OK;
    }
    if (group->memory.copy != NULL) {
        return group->memory.copy(group->memory.context, to, from, bytes, stream);
    }
    memcpy(to, from, (size_t)bytes);
    return HISA_OK;
}

static hisa_status_t allgatherv(hisa_comm_t *comm, void *buffer, const int64_t *bytes, const int64_t *offsets,
                                void *stream) {
    const group_t *group = comm->impl;
    hisa_status_t status = show(comm, buffer, bytes, offsets, stream);
    for (int r = 0; r < comm->size && status == HISA_OK; ++r) {
        if (r != comm->rank) {
            const shown_t *them = &group->shown[r];
            status = them->bytes[r] == bytes[r]
                         ? take(group, (uint8_t *)buffer + offsets[r], them->data + them->offsets[r], bytes[r], stream)
                         : hisa_fail(HISA_ERR_COMM, "all-gather: sizes differ");
        }
    }
    return hide(comm, status, stream);
}

static hisa_status_t allgather(hisa_comm_t *comm, void *buffer, int64_t bytes, void *stream) {
    int64_t size[HISA_THREADS_MAX] = {0};
    int64_t offset[HISA_THREADS_MAX] = {0};
    for (int r = 0; r < comm->size; ++r) {
        size[r] = bytes;
        offset[r] = r * bytes;
    }
    return allgatherv(comm, buffer, size, offset, stream);
}

static hisa_status_t alltoallv(hisa_comm_t *comm, const void *send, const int64_t *send_bytes,
                               const int64_t *send_offsets, void *recv, const int64_t *recv_bytes,
                               const int64_t *recv_offsets, void *stream) {
    const group_t *group = comm->impl;
    hisa_status_t status = show(comm, send, send_bytes, send_offsets, stream);
    for (int r = 0; r < comm->size && status == HISA_OK; ++r) {
        if (r != comm->rank) {
            const shown_t *them = &group->shown[r];
            status = them->bytes[comm->rank] == recv_bytes[r]
                         ? take(group, (uint8_t *)recv + recv_offsets[r], them->data + them->offsets[comm->rank],
                                recv_bytes[r], stream)
                         : hisa_fail(HISA_ERR_COMM, "all-to-all: sizes differ");
        }
    }
    return hide(comm, status, stream);
}

static hisa_status_t control_allgather(hisa_comm_t *comm, void *buffer, int64_t bytes) {
    group_t *group = comm->impl;
    atomic_fetch_add(&group->control_calls, 1);
    const hisa_status_t status = enter(comm, buffer, NULL, NULL);
    for (int r = 0; r < comm->size && status == HISA_OK; ++r) {
        if (r != comm->rank) {
            memcpy((uint8_t *)buffer + r * bytes, group->shown[r].data + r * bytes, (size_t)bytes);
        }
    }
    return leave(comm, status);
}

/* The others learn of it in their next call, or in the one they are in: nothing is under way that must be ended. */
static hisa_status_t fault(hisa_comm_t *comm, hisa_status_t status, double seconds) {
    (void)seconds;
    hisa_threads_end(comm, status);
    return status;
}

static void destroy(hisa_comm_t *comm) { (void)comm; /* the group is hisa_threads_destroy's */ }

#define OPERATIONS(on_device)                                                                                          \
    {                                                                                                                  \
        .name = "threads", .device_memory = (on_device), .allgather = allgather, .allgatherv = allgatherv,             \
        .alltoallv = alltoallv, .control_allgather = control_allgather, .fault = fault, .destroy = destroy             \
    }

static const hisa_comm_ops_t ops_host = OPERATIONS(false);
static const hisa_comm_ops_t ops_device = OPERATIONS(true);

/* ------------------------------------------------------------------------------------------- the group */

hisa_status_t hisa_threads_begin(hisa_comm_t *comm) {
    const group_t *group = comm->impl;
    return group->turns ? await_turn(comm) : HISA_OK;
}

void hisa_threads_end(hisa_comm_t *comm, hisa_status_t status) {
    group_t *group = comm->impl;
    if (status != HISA_OK) {
        pthread_mutex_lock(&group->mutex);
        break_group(group, comm->rank, HISA_ERR_COMM, hisa_last_error());
        pthread_mutex_unlock(&group->mutex);
    } else if (group->turns) {
        hand_on(comm);
    }
}

int hisa_threads_control_calls(const hisa_comm_t *comm) { return atomic_load(&((group_t *)comm->impl)->control_calls); }

/* Waits are by the clock that only goes forward. */
static bool make_locks(group_t *group) {
    pthread_condattr_t attributes;
    group->has_mutex = pthread_mutex_init(&group->mutex, NULL) == 0;
    if (!group->has_mutex || pthread_condattr_init(&attributes) != 0) {
        return false;
    }
    group->has_changed = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC) == 0 &&
                         pthread_cond_init(&group->changed, &attributes) == 0;
    pthread_condattr_destroy(&attributes);
    return group->has_changed;
}

static void free_group(group_t *group) {
    if (group != NULL && group->has_mutex) {
        pthread_mutex_destroy(&group->mutex);
    }
    if (group != NULL && group->has_changed) {
        pthread_cond_destroy(&group->changed);
    }
    free(group);
}

hisa_status_t hisa_threads_create(int ranks, const hisa_threads_memory_t *memory, bool turns, hisa_comm_t **comms) {
    if (ranks < 1 || ranks > HISA_THREADS_MAX) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%d ranks as threads: 1 to %d", ranks, HISA_THREADS_MAX);
    }
    for (int r = 0; r < ranks; ++r) {
        comms[r] = NULL;
    }
    group_t *group = calloc(1, sizeof *group);
    if (group == NULL || !make_locks(group)) {
        free_group(group);
        return hisa_fail(HISA_ERR_NO_MEMORY, "no memory for a group of %d threads", ranks);
    }
    group->ranks = ranks;
    group->turns = turns;
    group->memory = memory != NULL ? *memory : (hisa_threads_memory_t){0};
    hisa_status_t status = HISA_OK;
    for (int r = 0; r < ranks && status == HISA_OK; ++r) {
        status = hisa_comm_alloc(memory != NULL ? &ops_device : &ops_host, group, r, ranks, &comms[r]);
    }
    if (comms[0] == NULL) {
        free_group(group); /* nobody holds it */
    } else if (status != HISA_OK) {
        hisa_threads_destroy(ranks, comms);
    }
    return status;
}

void hisa_threads_destroy(int ranks, hisa_comm_t **comms) {
    group_t *group = comms[0] != NULL ? comms[0]->impl : NULL;
    for (int r = 0; r < ranks; ++r) {
        hisa_comm_destroy(comms[r]);
        comms[r] = NULL;
    }
    free_group(group);
}
