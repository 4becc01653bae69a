#include "comm/agree.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Fills this rank's record and gathers all. *records points to scratch memory of the communicator. */
static hisa_status_t gather(hisa_comm_t *comm, const hisa_agree_record_t *own, const hisa_agree_record_t **records) {
    hisa_agree_record_t *all = comm->scratch;
    all[comm->rank] = *own;
    *records = all;
    return hisa_comm_control_allgather(comm, all, (int64_t)sizeof *all);
}

static void set_message(hisa_agree_record_t *record, hisa_status_t status, const char *message) {
    record->status = (int32_t)status;
    if (status != HISA_OK) {
        const char *text = message != NULL && message[0] != '\0' ? message : hisa_status_string(status);
        snprintf(record->message, sizeof record->message, "%s", text);
    }
}

/* What rank r failed with, as every rank's own outcome. */
static hisa_status_t fail_as(const hisa_comm_t *comm, const hisa_agree_record_t *records, int r) {
    const hisa_status_t status = (hisa_status_t)records[r].status;
    const int length = (int)strnlen(records[r].message, sizeof records[r].message - 1);
    if (comm->size == 1) {
        return hisa_fail(status, "%.*s", length, records[r].message);
    }
    return hisa_fail(status, "rank %d: %.*s", r, length, records[r].message);
}

/* The lowest rank that failed decides for all; among ranks that give up, one that knows why. */
static hisa_status_t decide(const hisa_comm_t *comm, const hisa_agree_record_t *records) {
    int lowest = -1;
    int knowing = -1;
    bool fault = false;
    for (int r = comm->size - 1; r >= 0; --r) {
        fault = fault || records[r].count == HISA_AGREE_FAULT;
        if (records[r].status != HISA_OK) {
            lowest = r;
            knowing = records[r].status != HISA_ERR_TIMEOUT ? r : knowing;
        }
    }
    if (lowest < 0) {
        return HISA_OK;
    }
    return fail_as(comm, records, fault && knowing >= 0 ? knowing : lowest);
}

/* decide, in an agreement of ranks that are well as far as they know. */
static hisa_status_t conclude(hisa_comm_t *comm, const hisa_agree_record_t *records) {
    const hisa_status_t decided = decide(comm, records);
    for (int r = 0; r < comm->size; ++r) {
        if (records[r].count == HISA_AGREE_FAULT) {
            hisa_comm_drop(comm, decided);
            break;
        }
    }
    return decided;
}

/* Value by value, each rank against rank 0. */
static hisa_status_t compare(const hisa_comm_t *comm, const hisa_agree_record_t *records,
                             const hisa_agree_value_t *values) {
    for (int r = 1; r < comm->size; ++r) {
        if (records[r].count != records[0].count) {
            return hisa_fail(HISA_ERR_MISMATCH,
                             "ranks make different calls: %d values to agree on rank 0, %d on rank %d",
                             records[0].count, records[r].count, r);
        }
    }
    for (int i = 0; i < records[0].count; ++i) {
        for (int r = 1; r < comm->size; ++r) {
            if (records[r].values[i] != records[0].values[i]) {
                return hisa_fail(HISA_ERR_MISMATCH,
                                 "%s differs between ranks: %" PRId64 " on rank 0, %" PRId64 " on rank %d",
                                 values[i].name, records[0].values[i], records[r].values[i], r);
            }
        }
    }
    return HISA_OK;
}

hisa_status_t hisa_comm_agree(hisa_comm_t *comm, hisa_status_t status, const char *message) {
    if (comm == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    }
    hisa_agree_record_t own = {0};
    set_message(&own, status, message);
    const hisa_agree_record_t *records = NULL;
    const hisa_status_t sent = gather(comm, &own, &records);
    if (sent != HISA_OK) {
        return sent;
    }
    const hisa_status_t decided = conclude(comm, records);
    return decided != HISA_OK ? decided : compare(comm, records, NULL);
}

hisa_status_t hisa_comm_agree_values(hisa_comm_t *comm, hisa_status_t status, const hisa_agree_value_t *values,
                                     int count, int64_t mine, int64_t *everyone) {
    if (comm == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    }
    hisa_agree_record_t own = {.mine = mine};
    if (count < 0 || count > HISA_AGREE_VALUES_MAX) {
        /* Said in the agreement, not returned from here: the other ranks wait for this one. */
        status = hisa_fail(HISA_ERR_INTERNAL, "%d values to agree on, at most %d fit", count, HISA_AGREE_VALUES_MAX);
        count = 0;
    }
    set_message(&own, status, hisa_last_error());
    own.count = count;
    for (int i = 0; i < count; ++i) {
        own.values[i] = values[i].value;
    }
    const hisa_agree_record_t *records = NULL;
    hisa_status_t decided = gather(comm, &own, &records);
    if (decided == HISA_OK) {
        decided = conclude(comm, records);
    }
    if (decided == HISA_OK) {
        decided = compare(comm, records, values);
    }
    if (decided == HISA_OK && everyone != NULL) {
        for (int r = 0; r < comm->size; ++r) {
            everyone[r] = records[r].mine;
        }
    }
    return decided;
}

hisa_status_t hisa_agree_fault(hisa_comm_t *comm, hisa_status_t status, hisa_status_t *sent) {
    hisa_agree_record_t own = {.count = HISA_AGREE_FAULT};
    set_message(&own, status, hisa_last_error());
    const hisa_agree_record_t *records = NULL;
    *sent = gather(comm, &own, &records);
    return *sent != HISA_OK ? *sent : decide(comm, records);
}
