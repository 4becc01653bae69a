/* Between host memory, which files and reports are in, and the memory of an index's backend, which the library takes.
 * Where the two are one (the CPU backend), nothing is copied. */
#ifndef HISA_CLI_STAGING_H
#define HISA_CLI_STAGING_H

#include "hisa/hisa.h"

/* Appends tokens of host memory, and waits for the copy: keys [tokens][D], scales [tokens], on each rank all of them.
 */
hisa_status_t cli_staged_append(hisa_index_t *index, int32_t sequence, int64_t tokens, const uint8_t *keys,
                                const float *scales);

/* Queries in the backend's memory. */
typedef struct cli_staged_queries {
    hisa_index_t *index;    /* not owned */
    hisa_queries_t queries; /* what to pass on */
    void *memory[5];        /* owned: q, weights, sequence, windows' begins and ends; NULL where nothing was copied */
} cli_staged_queries_t;

/* Copies queries of host memory, and waits. On failure there is nothing to free. */
hisa_status_t cli_staged_queries_create(hisa_index_t *index, const hisa_queries_t *queries,
                                        cli_staged_queries_t *staged);
void cli_staged_queries_free(cli_staged_queries_t *staged);

/* Backend memory of at least one byte, zeroed, and its release. */
hisa_status_t cli_staged_alloc(hisa_index_t *index, int64_t bytes, void **memory);
void cli_staged_release(hisa_index_t *index, void *memory);

/* Fresh backend memory with a copy of `bytes` bytes of the host's, after it has waited for the copy. On failure there
 * is nothing to release. */
hisa_status_t cli_staged_put(hisa_index_t *index, const void *host, int64_t bytes, void **memory);

/* Whether the index's backend works on host memory. */
int cli_staged_on_host(const hisa_index_t *index);

/* Copies backend memory to the host, and waits. */
hisa_status_t cli_staged_fetch(hisa_index_t *index, void *host, const void *memory, int64_t bytes);

/* Waits for what the calls so far have enqueued. */
hisa_status_t cli_staged_wait(hisa_index_t *index);

#endif
