/* hisa bench --as-ranks: what one rank of P costs, measured on a single machine or device. The ranks are threads that
 * take turns (comm/threads.h), each with its own shard of one and the same context: each computes alone, on all cores
 * or the whole GPU, and what they exchange is real but for the way it takes. So times are those of a rank's own work,
 * and exchanges are told by their bytes. */
#ifndef HISA_CLI_BENCH_RANKS_H
#define HISA_CLI_BENCH_RANKS_H

#include "cli/bench_input.h"
#include "cli/bench_report.h"

/* Seconds that ranks compute, without exchanges; of each rank the median over the repeats. */
typedef struct bench_ranks_time {
    double slowest; /* rank */
    double median;  /* rank */
    double mean;    /* over ranks: above a P-th of one rank's, it is what does not shrink, however uneven they are */
} bench_ranks_time_t;

typedef struct bench_ranks_step {
    bench_ranks_time_t seconds;
    double sent;     /* bytes a query and rank */
    double received; /* bytes a query and rank */
    double keys;     /* keys scored a query, over all ranks */
    double busiest;  /* the same of the rank with the most; 0 where the backend does not know */
} bench_ranks_step_t;

/* One mode on one number of ranks. */
typedef struct bench_ranks_result {
    int ranks;
    hisa_mode_t mode;
    hisa_exchange_t exchange; /* the one that was timed */
    hisa_backend_t backend;
    int64_t tokens;
    int64_t rows;
    bench_ranks_step_t steps[HISA_STEP_COUNT];
    bench_ranks_time_t scoring; /* of blocks and tokens together */
    bench_ranks_time_t all;     /* steps together */
    double by_owner;            /* bytes received a query and rank in all steps, by owner merge; 0 on one rank */
    double by_oneshot;          /* likewise */
    double uneven;              /* (row, kept block) pairs of the rank with the most over the mean; 0: not known */
    int64_t index_bytes;        /* of the rank with the most */
} bench_ranks_result_t;

typedef struct bench_ranks_plan {
    const int64_t
        *ranks; /* numbers of ranks; one rank is measured first in any case, for all others are held up to it */
    int64_t num_ranks;
    const int *modes; /* hisa_mode_t each */
    int num_modes;
    int64_t warmup;
    int64_t repeats;
} bench_ranks_plan_t;

/* A step shrinks if its time on P ranks is at most this many times a P-th of one rank's. */
#define BENCH_RANKS_SLACK 1.15

/* Time on P ranks over a P-th of one rank's: 1 is ideal; 0 if one rank spends no time. */
static inline double bench_ranks_over_ideal(double seconds, double of_one, int ranks) {
    return of_one > 0 ? seconds * ranks / of_one : 0;
}

/* Whether a step is part of what does not shrink. */
static inline bool bench_ranks_stays(double seconds, double of_one, int ranks) {
    return ranks > 1 && seconds * ranks > BENCH_RANKS_SLACK * of_one;
}

/* All that is asked for on one input: measured, printed and written. Fails if any number of ranks, by any exchange,
 * selects other tokens than one rank. Local: a session of one rank. */
hisa_status_t bench_ranks_run(cli_session_t *session, const bench_setting_t *setting, cli_gpu_t *gpu,
                              const bench_source_t *source, const bench_input_t *input, const bench_ranks_plan_t *plan,
                              cli_report_t *json);

/* results: of one mode, one rank first. */
void bench_ranks_print(const bench_setting_t *setting, const bench_ranks_result_t *results, int64_t count);
cJSON *bench_ranks_json(const bench_setting_t *setting, const bench_ranks_result_t *result,
                        const bench_ranks_result_t *of_one);

#endif
