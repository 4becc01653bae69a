#include "cli/bench_device.h"

#include <stdlib.h>

#include "backend/cuda/cuda.h"
#include "base/checked.h"
#include "base/error.h"
#include "cli/bench_clock.h"
#include "cli/bench_work.h"
#include "cli/staging.h"
#include "index/index.h"

/* Replays of a batch: many enough that the two events around them weigh nothing. */
#define BATCH_CALLS 50

typedef struct bench {
    cli_session_t *session;
    cli_gpu_t *gpu;
    const bench_plan_t *plan;
    cli_selector_t selector;
    cli_staged_queries_t *staged; /* [sets]; owned */
    int64_t sets;
    void **graphs;   /* [sets] of graphs or NULL; owned */
    double *seconds; /* [SERIES][repeats]; owned */
} bench_t;

/* What a call that times its steps is asked for: all of its steps, all of their exchanges, and each step's. */
enum { IN_ORDER, EXCHANGE, LEAST, STEP_SECONDS, STEP_EXCHANGE = STEP_SECONDS + HISA_STEP_COUNT };
#define SERIES (STEP_EXCHANGE + HISA_STEP_COUNT)

static void bench_free(bench_t *bench) {
    for (int64_t s = 0; s < bench->sets; s++) {
        if (bench->graphs != NULL) {
            cli_gpu_graph_free(bench->graphs[s]);
        }
        if (bench->staged != NULL) {
            cli_staged_queries_free(&bench->staged[s]);
        }
    }
    cli_selector_free(&bench->selector);
    free(bench->staged);
    free((void *)bench->graphs);
    free(bench->seconds);
}

static hisa_status_t bench_create(bench_t *bench, hisa_index_t *index, const hisa_select_options_t *options,
                                  const hisa_queries_t *sets, int64_t num_sets, int64_t rows) {
    bench->staged = calloc((size_t)num_sets, sizeof *bench->staged);
    bench->graphs = (void **)calloc((size_t)num_sets, sizeof *bench->graphs);
    bench->seconds = calloc((size_t)bench->plan->repeats * SERIES, sizeof *bench->seconds);
    if (bench->staged == NULL || bench->graphs == NULL || bench->seconds == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the measurements");
    }
    hisa_status_t status = cli_selector_create(index, options, hisa_max(1, rows), false, &bench->selector);
    for (int64_t s = 0; s < num_sets && status == HISA_OK; s++) {
        status = cli_staged_queries_create(index, &sets[s], &bench->staged[s]);
        bench->sets += status == HISA_OK;
    }
    return status;
}

/* ------------------------------------------------------------------------------------------- what is timed */

static hisa_status_t select_with(bench_t *bench, int64_t turn, uint32_t flags) {
    cli_selector_t *selector = &bench->selector;
    hisa_select_options_t options = selector->options;
    options.flags |= flags;
    return hisa_select(selector->index, &bench->staged[turn % bench->sets].queries, &options, &selector->results,
                       selector->workspace, selector->workspace_bytes, bench->gpu->stream);
}

static hisa_status_t call(void *context, int64_t turn) { return select_with(context, turn, 0); }

/* Without the agreement, which talks to other hosts while a stream is captured. */
static hisa_status_t call_unchecked(void *context, int64_t turn) {
    return select_with(context, turn, HISA_SELECT_UNCHECKED);
}

static hisa_status_t replay(void *context, int64_t turn) {
    bench_t *bench = context;
    return cli_gpu_replay(bench->gpu, bench->graphs[turn % bench->sets]);
}

static hisa_status_t replay_batch(void *context, int64_t turn) {
    hisa_status_t status = HISA_OK;
    for (int64_t i = 0; i < BATCH_CALLS && status == HISA_OK; i++) {
        status = replay(context, turn * BATCH_CALLS + i);
    }
    return status;
}

static hisa_status_t flush(void *context, int64_t turn) {
    (void)turn;
    return cli_gpu_flush(((bench_t *)context)->gpu);
}

/* Gives up on lost peers, as every wait for a stream with collectives on it must. */
static hisa_status_t wait_for(bench_t *bench) {
    return hisa_index_synchronize(bench->selector.index, bench->gpu->stream);
}

/* ------------------------------------------------------------------------------------------- phases */

/* Collective; agreed. */
static hisa_status_t measure(bench_t *bench, bench_call_fn before, bench_call_fn timed, bench_spread_t *spread) {
    const bench_plan_t *plan = bench->plan;
    const bench_clock_t clock =
        bench_clock_of(bench->gpu, bench->selector.index, timed == replay_batch ? BATCH_CALLS : 1);
    const hisa_status_t status = cli_session_agree(
        bench->session, bench_time(&clock, before, timed, bench, plan->warmup, plan->repeats, bench->seconds));
    return status == HISA_OK ? bench_reduce(bench->session, bench->seconds, plan->repeats, spread) : status;
}

/* Calls that time their own steps; a series of their own, as the events between steps cost time. */
static hisa_status_t time_steps(bench_t *bench, bench_result_t *result) {
    const int64_t repeats = bench->plan->repeats;
    const double calls = (double)repeats * (double)hisa_max(1, result->rows);
    hisa_status_t status = HISA_OK;
    for (int64_t i = 0; i < repeats && status == HISA_OK; i++) {
        hisa_stats_t stats = {.struct_size = sizeof stats};
        double in_order = 0;
        double exchange = 0;
        status = hisa_index_stats_reset(bench->selector.index);
        if (status == HISA_OK) {
            status = select_with(bench, i, HISA_SELECT_TIMED);
        }
        if (status == HISA_OK) {
            status = hisa_index_stats(bench->selector.index, &stats);
        }
        for (int s = 0; s < HISA_STEP_COUNT && status == HISA_OK; s++) {
            const hisa_step_stats_t *step = &stats.steps[s];
            bench->seconds[(STEP_SECONDS + s) * repeats + i] = step->seconds;
            bench->seconds[(STEP_EXCHANGE + s) * repeats + i] = step->exchange_seconds;
            in_order += step->seconds;
            exchange += step->exchange_seconds;
            result->steps[s].sent += (double)step->bytes_sent / calls;
            result->steps[s].received += (double)step->bytes_received / calls;
            result->steps[s].keys += (double)step->keys_scored / calls;
        }
        bench->seconds[IN_ORDER * repeats + i] = in_order;
        bench->seconds[EXCHANGE * repeats + i] = exchange;
        bench->seconds[LEAST * repeats + i] = -exchange; /* of ranks the most is taken */
        result->exchange = stats.exchange;
    }
    return status;
}

/* Collective; agreed. */
static hisa_status_t measure_steps(bench_t *bench, bench_result_t *result) {
    bench_exchange_t *exchanges = &result->exchanges;
    bench_spread_t *series[SERIES] = {
        [IN_ORDER] = &exchanges->in_order, [EXCHANGE] = &exchanges->seconds, [LEAST] = &exchanges->least};
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        series[STEP_SECONDS + s] = &result->steps[s].seconds;
        series[STEP_EXCHANGE + s] = &result->steps[s].exchange;
    }
    hisa_status_t status = cli_session_agree(bench->session, time_steps(bench, result));
    for (int s = 0; s < SERIES && status == HISA_OK; s++) {
        status =
            bench_reduce(bench->session, bench->seconds + s * bench->plan->repeats, bench->plan->repeats, series[s]);
    }
    const bench_spread_t negative = exchanges->least;
    exchanges->least = (bench_spread_t){.median = -negative.median, .min = -negative.max, .max = -negative.min};
    exchanges->hidden = bench_hidden(exchanges, result->wall.median);
    return status;
}

static hisa_status_t capture(bench_t *bench) {
    hisa_status_t status = HISA_OK;
    for (int64_t s = 0; s < bench->sets && status == HISA_OK; s++) {
        status = cli_gpu_capture(bench->gpu, call_unchecked, bench, s, &bench->graphs[s]);
    }
    return status == HISA_OK ? wait_for(bench) : status;
}

static void divide(bench_spread_t *spread, double by) {
    spread->median /= by;
    spread->min /= by;
    spread->max /= by;
}

/* Collective; agreed. */
static hisa_status_t measure_graph(bench_t *bench, bench_on_device_t *device) {
    hisa_status_t status = cli_session_agree(bench->session, capture(bench));
    if (status == HISA_OK) {
        status = measure(bench, NULL, replay, &device->replay);
    }
    if (status == HISA_OK) {
        status = measure(bench, flush, replay, &device->replay_cold);
    }
    if (status == HISA_OK) {
        status = measure(bench, NULL, replay_batch, &device->batch);
        divide(&device->batch, BATCH_CALLS);
        device->batch_calls = BATCH_CALLS;
        device->graph = true;
    }
    return status;
}

/* An owner merge reads sizes back. */
static bool can_capture(const bench_result_t *result) {
    return result->exchange != HISA_EXCHANGE_OWNER || result->mode == HISA_MODE_BLOCK;
}

/* Collective; agreed. */
static hisa_status_t measure_all(bench_t *bench, bench_result_t *result) {
    hisa_status_t status = measure(bench, NULL, call, &result->wall);
    if (status == HISA_OK) {
        status = measure(bench, flush, call, &result->device.cold);
    }
    if (status == HISA_OK) {
        status = measure_steps(bench, result);
    }
    result->device.no_graph = bench->plan->graph && !can_capture(result);
    if (status == HISA_OK && bench->plan->graph && can_capture(result)) {
        status = measure_graph(bench, &result->device);
    }
    return status == HISA_OK ? cli_session_agree(bench->session, wait_for(bench)) : status;
}

hisa_status_t bench_measure_device(cli_session_t *session, cli_gpu_t *gpu, hisa_index_t *index,
                                   const hisa_select_options_t *options, const hisa_queries_t *sets, int64_t num_sets,
                                   int64_t rows, const bench_plan_t *plan, bench_result_t *result) {
    const int64_t row_bytes = (int64_t)index->shard.num_heads * (index->shard.head_dim + (int64_t)sizeof(float));
    *result = (bench_result_t){.rows = rows, .mode = options->mode, .backend = hisa_index_backend(index)};
    result->index_bytes = hisa_index_bytes(index);
    result->device.scorer = hisa_cuda_scorer_name(hisa_cuda_of(index->device)->scorer);
    result->device.sets = num_sets;
    result->device.set_bytes = sets[0].num_rows * row_bytes;
    bench_t bench = {.session = session, .gpu = gpu, .plan = plan};
    hisa_status_t status = bench_create(&bench, index, options, sets, num_sets, rows);
    if (status == HISA_OK) {
        status = bench_plan_exchange(index, options, rows, &result->exchanges);
    }
    status = cli_session_agree(session, status);
    result->workspace_bytes = (int64_t)bench.selector.workspace_bytes;
    if (status == HISA_OK) {
        status = measure_all(&bench, result);
    }
    if (status == HISA_OK && plan->overlap) {
        status = cli_session_agree(session, bench_compare_rows(&bench.selector, rows, plan->rows_per_sequence,
                                                               index->shard.block_size, &result->overlap));
    }
    bench_free(&bench);
    return status;
}
