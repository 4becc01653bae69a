/* What ranks tell each other about the library they run before they trust any other format. This one is frozen: later
 * versions of hisa may append other exchanges, but the first one between ranks stays these 32 bytes. */
#ifndef HISA_COMM_VERSION_H
#define HISA_COMM_VERSION_H

#include "hisa/hisa.h"

typedef struct hisa_version_record {
    char magic[8]; /* "hisa" and zeros */
    int32_t major;
    int32_t minor;
    int32_t patch;
    int32_t reserved[3]; /* zeros, not looked at */
} hisa_version_record_t;

/* This library's own. */
hisa_version_record_t hisa_version_record(void);

/* Whether all ranks run the same version; HISA_ERR_MISMATCH otherwise, with a message that names rank 0's version, the
 * first rank that differs and its version. records: [size]. The outcome depends on the records alone, so that ranks
 * that hold the same records agree. Local. */
hisa_status_t hisa_version_check(const hisa_version_record_t *records, int size);

#endif
