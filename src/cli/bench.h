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
    bench_spread_t seconds;  /* of the slowest rank of each repeat */
    bench_spread_t exchange; /* of those, exchanges and the waiting for peers in them; of the rank with the most */
    double sent;             /* bytes a query and rank */
    double received;         /* bytes a query and rank */
    double keys;             /* keys scored a query, over all ranks */
} bench_step_t;

/* What only a device has. Seconds are of a call, by events. */
typedef struct bench_on_device {
    const char *scorer;  /* what scores; static storage */
    bench_spread_t cold; /* L2 emptied before each call */
    bool graph;          /* whether the three below were measured */
    bool no_graph;       /* they were asked for, and the call cannot be captured */
    bench_spread_t replay;
    bench_spread_t replay_cold;
    bench_spread_t batch; /* a replay's part of batch_calls of them back to back */
    int64_t batch_calls;
    int64_t sets;      /* of queries, taken in turn */
    int64_t set_bytes; /* of one */
    bool keys_exact;   /* keys of the steps are what the windows make of them, and not a bound */
} bench_on_device_t;

/* The exchanges of a call. Where several tiles are under way they run beside the computing. Calls that time their steps
 * take one after the other, so they show what was hidden:
 *
 *     hidden = (in_order - the call) / exchange, no less than 0 and no more than 1,
 *
 * by medians of the slowest rank. Waiting for a peer that still computes counts as exchange, and nothing hides it. */
typedef struct bench_exchange {
    int64_t tiles;           /* that the call is cut into */
    int64_t lanes;           /* of them under way at a time; 1: nothing is hidden */
    bench_spread_t in_order; /* seconds of all steps, one after the other */
    bench_spread_t seconds;  /* of all steps' exchanges */
    bench_spread_t least; /* the same of the rank that waits least for others: what is to be held against predicted */
    double hidden;        /* share of them, 0 to 1 */
    double predicted;     /* seconds of them by the policy's cost model; one rank: 0 */
} bench_exchange_t;

/* How much of its selection a row shares with the row before it; means over pairs of rows of one sequence. */
typedef struct bench_overlap {
    int64_t pairs; /* 0: not measured */
    double tokens; /* share of the larger selection */
    double blocks; /* the same of the blocks that hold them */
} bench_overlap_t;

typedef struct bench_result {
    int64_t tokens;
    int64_t rows;
    hisa_mode_t mode;
    hisa_exchange_t asked;
    hisa_exchange_t exchange; /* the one that ran */
    int64_t stripe;
    bench_exchange_t exchanges;
    hisa_backend_t backend;
    bench_step_t steps[HISA_STEP_COUNT];
    bench_spread_t wall;     /* seconds of a call, of the slowest rank of each repeat; on a device by events */
    int64_t workspace_bytes; /* of a rank */
    int64_t index_bytes;     /* of the rank with the most */
    bench_overlap_t overlap;
    bench_on_device_t device; /* backend cuda */
} bench_result_t;

/* How often, and how. */
typedef struct bench_plan {
    int64_t warmup;
    int64_t repeats;
    bool graph;   /* a device: replay a captured call as well */
    bool overlap; /* compare neighbouring rows, of which so many follow each other in a sequence: */
    int64_t rows_per_sequence;
} bench_plan_t;

/* Collective; agreed. `queries` are this rank's; `rows` those over all ranks, in one call. By the clock of the host,
 * for backends that have finished when a call returns. */
hisa_status_t bench_measure(cli_session_t *session, hisa_index_t *index, const hisa_select_options_t *options,
                            const hisa_queries_t *queries, int64_t rows, const bench_plan_t *plan,
                            bench_result_t *result);

/* Collective; agreed. Of each repeat the slowest rank, and of those the spread. seconds [repeats]: this rank's;
 * overwritten. */
hisa_status_t bench_reduce(cli_session_t *session, double *seconds, int64_t repeats, bench_spread_t *reduced);

#endif
