/* An engine's own all-gather, as hisa_comm_create_host takes it, over MPI_Allgather: with a way of falsifying what this
 * rank says in one of the calls, and of failing. */
#ifndef HISA_TESTS_HOST_GATHER_H
#define HISA_TESTS_HOST_GATHER_H

#include <mpi.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "comm/agree.h"
#include "comm/version.h"

typedef struct host_gather {
    int calls;            /* so far */
    int false_version_at; /* number of the call in which this rank speaks of another version of hisa; 0: none */
    int false_value_at;   /* number of the call in which value `false_value` of an agreement is another; 0: none */
    int false_value;
    int fail_at; /* number of the call that returns `code` instead; 0: none */
    int code;
    double seconds; /* the last deadline given */
} host_gather_t;

static inline int host_gather(void *context, void *buffer, int64_t bytes, double seconds) {
    host_gather_t *gather = context;
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    ++gather->calls;
    gather->seconds = seconds;
    if (gather->calls == gather->fail_at) {
        return gather->code;
    }
    char *own = (char *)buffer + bytes * rank;
    if (gather->calls == gather->false_version_at) {
        hisa_version_record_t record;
        memcpy(&record, own, sizeof record);
        record.minor += 1;
        memcpy(own, &record, sizeof record);
    }
    if (gather->calls == gather->false_value_at) {
        hisa_agree_record_t record;
        memcpy(&record, own, sizeof record);
        record.values[gather->false_value] += 1;
        memcpy(own, &record, sizeof record);
    }
    return MPI_Allgather(MPI_IN_PLACE, 0, MPI_BYTE, buffer, (int)bytes, MPI_BYTE, MPI_COMM_WORLD) == MPI_SUCCESS ? 0
                                                                                                                 : -1;
}

#endif
