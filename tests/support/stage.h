/* Tests keep their data in host memory. Where an index's backend has memory of its own, these copy there and back; for
 * the CPU backend they hand the host's pointers through. Assert on failure. */
#ifndef HISA_TESTS_STAGE_H
#define HISA_TESTS_STAGE_H

#include <stddef.h>

#include "hisa/hisa.h"

enum { STAGE_MOST = 16 };

typedef struct stage {
    hisa_index_t *index;
    void *memory[STAGE_MOST]; /* owned backend memory */
    void *host[STAGE_MOST];   /* where stage_back copies it, or NULL */
    size_t bytes[STAGE_MOST];
    int count;
} stage_t;

/* A copy of `bytes` bytes that calls on the index can read; NULL stays NULL. Lives until stage_end. */
const void *stage_in(stage_t *stage, const void *host, size_t bytes);

/* The same for memory that calls write: stage_back brings it to the host. */
void *stage_in_out(stage_t *stage, void *host, size_t bytes);
void stage_back(stage_t *stage);

/* q, weights, sequence and windows. */
hisa_queries_t stage_queries(stage_t *stage, const hisa_queries_t *queries);

void stage_end(stage_t *stage);

#endif
