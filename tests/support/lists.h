/* Lists of mode flat that no scan of a few thousand tokens would give: many ranks, rows and entries, equal scores, NaN,
 * lists that are empty. For backend operations by themselves (backend/backend.h). */
#ifndef HISA_TESTS_LISTS_H
#define HISA_TESTS_LISTS_H

#include "index/index.h"
#include "support/rng.h"
#include "support/suite.h"

/* Ranks' lists have up to `most` entries a row, of `keys` different keys (0: any float's). */
typedef struct lists_case {
    const char *what;
    int64_t rows;
    int32_t ranks;
    int32_t top_k;
    int32_t most; /* at most top_k */
    uint32_t keys;
} lists_case_t;

extern const lists_case_t lists_cases[];
extern const int lists_cases_count;

typedef struct lists {
    const lists_case_t *of;
    uint64_t *entry; /* [ranks][rows][top_k], by ascending position, HISA_RANK_NONE at the end; owned */
    int32_t *count;  /* [ranks][rows]; owned */
} lists_t;

lists_t lists_make(const lists_case_t *of, uint64_t seed);
void lists_drop(lists_t *lists);
uint64_t *lists_at(const lists_t *lists, int32_t rank, int64_t row);

/* Copies rank's entries of rows [begin, end), one row behind the other, and returns how many there are. */
int64_t lists_pack(const lists_t *lists, int32_t rank, int64_t begin, int64_t end, uint64_t *packed);

/* A backend's device, as one of several ranks. */
typedef struct lists_side {
    hisa_comm_t *comm;
    hisa_index_t *index;
    const hisa_backend_ops_t *ops;
    hisa_device_t *device;
    hisa_shard_t shard;
    hisa_tile_t tile;
} lists_side_t;

lists_side_t lists_side_make(hisa_backend_t backend, const lists_case_t *of);
void lists_side_drop(lists_side_t *side);

/* Backend memory with these bytes; and what such memory has, which is released. */
void *lists_to(const lists_side_t *side, const void *host, int64_t bytes);
void lists_from(const lists_side_t *side, void *memory, void *host, int64_t bytes);

/* Zeroed host memory. */
void *lists_zeroed(int64_t count, size_t size);

/* Asserts that flat_quantiles says what is true of each list, and nearly as much as it could: too little by 1/1000 of
 * the range of scores at the most. Then, with all ranks' quantiles, that flat_trim keeps all that is among a row's
 * best, in order, and of the rest, if keys are continuous, no more than quantiles cannot tell. */
void lists_check_trimming(const lists_case_t *of, hisa_backend_t backend, uint64_t seed);

#endif
