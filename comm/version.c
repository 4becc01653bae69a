#include "comm/version.h"

#include <string.h>

#include "base/error.h"

static const char magic[8] = "hisa";

hisa_version_record_t hisa_version_record(void) {
    hisa_version_record_t record = {
        .major = HISA_VERSION_MAJOR, .minor = HISA_VERSION_MINOR, .patch = HISA_VERSION_PATCH};
    memcpy(record.magic, magic, sizeof magic);
    return record;
}

hisa_status_t hisa_version_check(const hisa_version_record_t *records, int size) {
    for (int r = 0; r < size; ++r) {
        if (memcmp(records[r].magic, magic, sizeof magic) != 0) {
            return hisa_fail(HISA_ERR_MISMATCH, "rank %d does not speak as hisa does", r);
        }
    }
    const hisa_version_record_t *first = &records[0];
    for (int r = 1; r < size; ++r) {
        const hisa_version_record_t *other = &records[r];
        if (other->major != first->major || other->minor != first->minor || other->patch != first->patch) {
            return hisa_fail(HISA_ERR_MISMATCH,
                             "hisa version differs between ranks: %d.%d.%d on rank 0, %d.%d.%d on rank %d",
                             first->major, first->minor, first->patch, other->major, other->minor, other->patch, r);
        }
    }
    return HISA_OK;
}
