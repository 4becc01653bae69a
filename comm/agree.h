/* What one rank says in an agreement. */
#ifndef HISA_COMM_AGREE_H
#define HISA_COMM_AGREE_H

#include "comm/comm.h"

typedef struct hisa_agree_record {
    int64_t mine;
    int64_t values[HISA_AGREE_VALUES_MAX];
    int32_t count; /* of values */
    int32_t status;
    char message[HISA_ERROR_BYTES];
} hisa_agree_record_t;

#endif
