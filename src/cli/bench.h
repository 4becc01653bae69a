/* Measuring: repeated selections on an index, reduced over ranks and repeats. */
#ifndef HISA_CLI_BENCH_H
#define HISA_CLI_BENCH_H

#include "cli/batches.h"

/* Over the repeats. */
typedef struct bench_spread {
    double median;
    double min;
    double max;
} bench_spread_t;

typedef struct bench_step {
    bench_spread_t seconds; /* of the slowest rank of each repeat */
    double sent;            /* bytes a query and rank */
    double received;        /* bytes a query and rank */
    double keys;            /* keys scored a query, over all ranks */
} bench_step_t;

typedef struct bench_result {
    int64_t tokens;
    int64_t rows;
    hisa_mode_t mode;
    hisa_exchange_t exchange; /* the one that ran */
    hisa_backend_t backend;
    bench_step_t steps[HISA_STEP_COUNT];
    bench_spread_t wall;     /* seconds of a call, of the slowest rank of each repeat */
    int64_t workspace_bytes; /* of a rank */
    int64_t index_bytes;     /* of the rank with the most */
} bench_result_t;

/* Collective; agreed. `queries` are this rank's; `rows` those over all ranks, in one call. */
hisa_status_t bench_measure(cli_session_t *session, hisa_index_t *index, const hisa_select_options_t *options,
                            const hisa_queries_t *queries, int64_t rows, int64_t warmup, int64_t repeats,
                            bench_result_t *result);

#endif
