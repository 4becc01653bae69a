#include "cli/bench.h"

#include <stdlib.h>

#include "base/checked.h"
#include "base/error.h"
#include "cli/bench_work.h"
#include "cli/staging.h"
#include "index/index.h"

/* What one rank measured in one repeat. */
typedef struct measured {
    double wall; /* seconds */
    hisa_stats_t stats;
    int64_t index_bytes;
} measured_t;

typedef struct series {
    int64_t repeats;
    double *wall;     /* [repeats], as all below */
    double *in_order; /* all steps */
    double *exchange; /* all steps' exchanges */
    double *least;    /* the same, of the rank with the least */
    double *steps[HISA_STEP_COUNT];
    double *exchanges[HISA_STEP_COUNT];
    double *memory;  /* all of the above; owned */
    measured_t *all; /* [ranks]; owned */
} series_t;

static hisa_status_t series_create(int64_t repeats, int ranks, series_t *series) {
    *series = (series_t){.repeats = repeats};
    series->memory = calloc((size_t)repeats * (2 * HISA_STEP_COUNT + 4), sizeof(double));
    series->all = calloc((size_t)ranks, sizeof *series->all);
    if (series->memory == NULL || series->all == NULL) {
        hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the measurements");
        return HISA_ERR_NO_MEMORY; /* by name, for analyzers: success means memory */
    }
    series->wall = series->memory;
    series->in_order = series->memory + repeats;
    series->exchange = series->memory + 2 * repeats;
    series->least = series->memory + 3 * repeats;
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        series->steps[s] = series->memory + (4 + 2 * s) * repeats;
        series->exchanges[s] = series->memory + (5 + 2 * s) * repeats;
    }
    return HISA_OK;
}

static void series_free(series_t *series) {
    free(series->memory);
    free(series->all);
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the values. */
static bench_spread_t spread(double *values, int64_t count) {
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    const double median = (values[(count - 1) / 2] + values[count / 2]) / 2;
    return (bench_spread_t){.median = median, .min = values[0], .max = values[count - 1]};
}

hisa_status_t bench_reduce(cli_session_t *session, double *seconds, int64_t repeats, bench_spread_t *reduced) {
    const size_t ranks = (size_t)session->size;
    double *all = calloc(ranks * (size_t)repeats, sizeof *all);
    hisa_status_t status = HISA_OK;
    if (all == NULL) {
        status = hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the measurements");
    }
    status = cli_session_agree(session, status);
    if (status == HISA_OK) {
        status = cli_session_gather(session, seconds, all, repeats * (int64_t)sizeof *all);
    }
    if (status == HISA_OK && all != NULL) { /* NULL never: for analyzers */
        for (int64_t i = 0; i < repeats; i++) {
            for (size_t r = 0; r < ranks; r++) {
                const double one = all[r * (size_t)repeats + (size_t)i];
                seconds[i] = one > seconds[i] ? one : seconds[i];
            }
        }
        *reduced = spread(seconds, repeats);
    }
    free(all);
    return status;
}

/* One call on this rank, the ranks having met just before. */
static hisa_status_t call_once(cli_session_t *session, cli_selector_t *selector, const hisa_queries_t *queries,
                               measured_t *mine) {
    hisa_status_t status = cli_session_agree(session, hisa_index_stats_reset(selector->index));
    if (status != HISA_OK) {
        return status;
    }
    const double begin = cli_seconds();
    status = cli_selector_call(selector, queries);
    mine->wall = cli_seconds() - begin;
    if (status != HISA_OK) {
        return status;
    }
    mine->stats.struct_size = sizeof mine->stats;
    mine->index_bytes = hisa_index_bytes(selector->index);
    return cli_session_agree(session, hisa_index_stats(selector->index, &mine->stats));
}

static void raise_to(double *most, double value) { *most = value > *most ? value : *most; }

/* Takes one repeat of all ranks into the series, and into the sums of the result. */
static void take(const cli_session_t *session, series_t *series, int64_t repeat, bench_result_t *result) {
    for (int r = 0; r < session->size; r++) {
        const measured_t *one = &series->all[r];
        double in_order = 0;
        double exchange = 0;
        raise_to(&series->wall[repeat], one->wall);
        result->index_bytes = hisa_max(result->index_bytes, one->index_bytes);
        for (int s = 0; s < HISA_STEP_COUNT; s++) {
            const hisa_step_stats_t *step = &one->stats.steps[s];
            in_order += step->seconds;
            exchange += step->exchange_seconds;
            raise_to(&series->steps[s][repeat], step->seconds);
            raise_to(&series->exchanges[s][repeat], step->exchange_seconds);
            result->steps[s].sent += (double)step->bytes_sent;
            result->steps[s].received += (double)step->bytes_received;
            result->steps[s].keys += (double)step->keys_scored;
        }
        raise_to(&series->in_order[repeat], in_order);
        raise_to(&series->exchange[repeat], exchange);
        series->least[repeat] = r == 0 || exchange < series->least[repeat] ? exchange : series->least[repeat];
    }
    result->exchange = series->all[0].stats.exchange;
}

static void finish(const cli_session_t *session, series_t *series, bench_result_t *result) {
    const double calls = (double)series->repeats * (double)hisa_max(1, result->rows);
    result->wall = spread(series->wall, series->repeats);
    result->exchanges.in_order = spread(series->in_order, series->repeats);
    result->exchanges.seconds = spread(series->exchange, series->repeats);
    result->exchanges.least = spread(series->least, series->repeats);
    result->exchanges.hidden = bench_hidden(&result->exchanges, result->wall.median);
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        bench_step_t *step = &result->steps[s];
        step->seconds = spread(series->steps[s], series->repeats);
        step->exchange = spread(series->exchanges[s], series->repeats);
        step->sent /= calls * session->size;
        step->received /= calls * session->size;
        step->keys /= calls;
    }
}

hisa_status_t bench_measure(cli_session_t *session, hisa_index_t *index, const hisa_select_options_t *options,
                            const hisa_queries_t *queries, int64_t rows, const bench_plan_t *plan,
                            bench_result_t *result) {
    const int64_t warmup = plan->warmup;
    const int64_t repeats = plan->repeats;
    hisa_select_options_t timed = *options;
    timed.flags |= HISA_SELECT_TIMED;
    *result = (bench_result_t){.rows = rows, .mode = options->mode, .backend = hisa_index_backend(index)};
    cli_selector_t selector = {0};
    series_t series = {0};
    hisa_status_t status = series_create(repeats, session->size, &series);
    if (status == HISA_OK) {
        status = cli_selector_create(index, &timed, hisa_max(1, rows), false, &selector);
    }
    if (status == HISA_OK) {
        status = bench_plan_exchange(index, &timed, rows, &result->exchanges);
    }
    cli_staged_queries_t staged = {0};
    if (status == HISA_OK) {
        status = cli_staged_queries_create(index, queries, &staged);
    }
    status = cli_session_agree(session, status);
    result->workspace_bytes = (int64_t)selector.workspace_bytes;
    cli_progress_t progress;
    cli_progress_begin(&progress, session, cli_mode_names[options->mode], warmup + repeats);
    for (int64_t i = -warmup; i < repeats && status == HISA_OK; i++) {
        measured_t mine = {0};
        status = call_once(session, &selector, &staged.queries, &mine);
        if (status == HISA_OK) {
            status = cli_session_gather(session, &mine, series.all, sizeof mine);
        }
        if (status == HISA_OK && i >= 0) {
            take(session, &series, i, result);
        }
        cli_progress_update(&progress, warmup + i + 1);
    }
    cli_progress_end(&progress);
    if (status == HISA_OK) {
        finish(session, &series, result);
    }
    if (status == HISA_OK && plan->overlap) {
        status = cli_session_agree(session, bench_compare_rows(&selector, rows, plan->rows_per_sequence,
                                                               index->shard.block_size, &result->overlap));
    }
    cli_staged_queries_free(&staged);
    cli_selector_free(&selector);
    series_free(&series);
    return status;
}
