#include "cli/bench_ranks.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "cli/batches.h"
#include "cli/bench_work.h"
#include "cli/staging.h"
#include "comm/threads.h"
#include "index/index.h"

#if defined(HISA_HAVE_CUDA)
#include "cli/gpu_ranks.h"
#endif

/* What one rank selected in a mode. */
typedef struct selected {
    int32_t *indices; /* [rows][k]; owned */
    int32_t *counts;  /* [rows]; owned */
} selected_t;

/* What all ranks of a group share. */
typedef struct group {
    const cli_session_t *session;
    const bench_source_t *source;
    const bench_input_t *input;
    const bench_ranks_plan_t *plan;
    cli_options_t options;         /* those of the command, with the backend settled */
    cli_gpu_t *gpu;                /* NULL on the CPU */
    selected_t *of_one;            /* [modes]: filled in by a group of one, compared with by the others */
    bench_ranks_result_t *results; /* [modes] */
    double *seconds;               /* [modes][steps + 2][ranks]: medians, the last two of scoring and of all */
    int ranks;
} group_t;

/* A rank's thread. */
typedef struct ranked {
    group_t *group;
    cli_session_t session;
    hisa_status_t status;
    char message[HISA_ERROR_BYTES];
    /* Its own, while it runs. */
    hisa_index_t *index;
    cli_deal_t deal;
    int64_t rows_per_rank[HISA_THREADS_MAX]; /* calls without the agreement have to say it, if queries are sharded */
    cli_selector_t selector;
    cli_staged_queries_t staged;
    double *repeats;     /* [steps + 2][repeats]; owned */
    hisa_stats_t *stats; /* [modes], summed over the repeats; owned */
    int64_t *received;   /* [modes][2]: bytes of one call, by owner merge and one-shot; owned */
    int64_t *pairs;      /* [modes]: (row, kept block) pairs that this rank scores in a tile, 0: not known; owned */
} ranked_t;

enum { SCORING = HISA_STEP_COUNT, ALL, SERIES };

static void *stream_of(const group_t *group) {
#if defined(HISA_HAVE_CUDA)
    return group->gpu != NULL ? group->gpu->stream : NULL;
#else
    (void)group;
    return NULL;
#endif
}

/* ------------------------------------------------------------------------------------------- results */

/* The first row in which what this rank has selected differs from what one rank has, or -1. */
static int64_t find_difference(const ranked_t *ranked, const selected_t *of_one) {
    const hisa_selection_t *mine = &ranked->selector.selection;
    const int64_t k = ranked->selector.options.top_k;
    for (int64_t r = 0; r < ranked->group->input->rows.count; r++) {
        if (mine->counts[r] != of_one->counts[r] ||
            memcmp(mine->indices + r * k, of_one->indices + r * k, (size_t)k * sizeof(int32_t)) != 0) {
            return r;
        }
    }
    return -1;
}

/* Keeps what the last call has selected if this is the only rank, else compares it. */
static hisa_status_t check_results(ranked_t *ranked, int mode, bool first) {
    const group_t *group = ranked->group;
    const int64_t rows = group->input->rows.count;
    const hisa_select_options_t *options = &ranked->selector.options;
    selected_t *of_one = &group->of_one[mode];
    const hisa_status_t status = cli_selector_fetch(&ranked->selector, rows);
    if (status == HISA_OK && group->ranks == 1 && first) {
        const hisa_selection_t *mine = &ranked->selector.selection;
        memcpy(of_one->indices, mine->indices, (size_t)(rows * options->top_k) * sizeof(int32_t));
        memcpy(of_one->counts, mine->counts, (size_t)rows * sizeof(int32_t));
        return HISA_OK;
    }
    const int64_t row = status == HISA_OK ? find_difference(ranked, of_one) : -1;
    if (row >= 0) {
        return hisa_fail(HISA_ERR_INTERNAL,
                         "mode %s, exchange %s: row %" PRId64 " of %d ranks differs from what one rank selects",
                         cli_mode_names[options->mode], cli_exchange_names[options->exchange], row, group->ranks);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------- calls */

static hisa_status_t call(ranked_t *ranked, uint32_t flags) {
    cli_selector_t *selector = &ranked->selector;
    hisa_select_options_t options = selector->options;
    options.flags |= flags;
    const hisa_status_t status = hisa_select(ranked->index, &ranked->staged.queries, &options, &selector->results,
                                             selector->workspace, selector->workspace_bytes, stream_of(ranked->group));
    return status == HISA_OK ? hisa_index_synchronize(ranked->index, stream_of(ranked->group)) : status;
}

/* Of the call before, by owner merge in mode hisa: (row, kept block) pairs of the first lane's last tile that this rank
 * scores. The sizes of its exchange say so: what is sent, and what stays here. */
static int64_t count_pairs(const ranked_t *ranked) {
    const int ranks = ranked->group->ranks;
    const int64_t *sizes = ranked->index->sizes;
    int64_t pairs = sizes[ranks + ranked->session.rank];
    for (int p = 0; p < ranks; p++) {
        pairs += sizes[p];
    }
    return pairs;
}

/* Bytes that this rank receives in one call by an exchange, and that it selects the same. */
static hisa_status_t try_exchange(ranked_t *ranked, int mode, hisa_exchange_t exchange) {
    hisa_stats_t stats = {.struct_size = sizeof stats};
    const hisa_exchange_t asked = ranked->selector.options.exchange;
    ranked->selector.options.exchange = exchange;
    hisa_status_t status = hisa_index_stats_reset(ranked->index);
    if (status == HISA_OK) {
        status = call(ranked, 0);
    }
    if (status == HISA_OK) {
        status = hisa_index_stats(ranked->index, &stats);
    }
    if (status == HISA_OK) {
        status = check_results(ranked, mode, true);
    }
    if (status == HISA_OK && ranked->group->ranks > 1 && exchange == HISA_EXCHANGE_OWNER &&
        ranked->selector.options.mode == HISA_MODE_HISA) {
        ranked->pairs[mode] = count_pairs(ranked);
    }
    for (int s = 0; s < HISA_STEP_COUNT && status == HISA_OK; s++) {
        ranked->received[2 * mode + (exchange == HISA_EXCHANGE_ONESHOT)] += stats.steps[s].bytes_received;
    }
    ranked->selector.options.exchange = asked;
    return status;
}

/* L2 is emptied: other ranks have had the device since this one's last step, and one rank alone shall find no more. */
static hisa_status_t prepare_call(const group_t *group) {
#if defined(HISA_HAVE_CUDA)
    if (group->gpu != NULL) {
        const hisa_status_t status = cli_gpu_flush(group->gpu);
        return status == HISA_OK ? cli_gpu_lead(group->gpu->stream) : status;
    }
#endif
    (void)group;
    return HISA_OK;
}

/* The agreement is left out: after it the device would have nothing to do until the first launch. All agree: the calls
 * before were checked. */
static hisa_status_t timed_call(ranked_t *ranked, hisa_stats_t *stats) {
    *stats = (hisa_stats_t){.struct_size = sizeof *stats};
    hisa_status_t status = hisa_index_stats_reset(ranked->index);
    if (status == HISA_OK) {
        status = prepare_call(ranked->group);
    }
    if (status == HISA_OK) {
        status = call(ranked, HISA_SELECT_UNCHECKED | HISA_SELECT_TIMED);
    }
    return status == HISA_OK ? hisa_index_stats(ranked->index, stats) : status;
}

/* Takes one repeat into the series, and into the sums. */
static void take(ranked_t *ranked, int mode, int64_t repeat, const hisa_stats_t *stats) {
    const int64_t repeats = ranked->group->plan->repeats;
    double *at = ranked->repeats + repeat;
    hisa_stats_t *sum = &ranked->stats[mode];
    at[SCORING * repeats] = 0;
    at[ALL * repeats] = 0;
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        const hisa_step_stats_t *step = &stats->steps[s];
        const double seconds = step->seconds - step->exchange_seconds;
        const bool scores = s == HISA_STEP_SCORE_BLOCKS || s == HISA_STEP_SCORE_TOKENS;
        at[s * repeats] = seconds;
        at[SCORING * repeats] += scores ? seconds : 0;
        at[ALL * repeats] += seconds;
        sum->steps[s].bytes_sent += step->bytes_sent;
        sum->steps[s].bytes_received += step->bytes_received;
        sum->steps[s].keys_scored += step->keys_scored;
    }
    sum->exchange = stats->exchange;
}

static int compare_doubles(const void *a, const void *b) {
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the values. */
static double median_of(double *values, int64_t count) {
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

static hisa_status_t measure_mode(ranked_t *ranked, int mode) {
    const group_t *group = ranked->group;
    const bench_ranks_plan_t *plan = group->plan;
    hisa_stats_t stats;
    ranked->selector.options.mode = (hisa_mode_t)plan->modes[mode];
    ranked->selector.options.exchange = group->options.select.exchange;
    hisa_status_t status = try_exchange(ranked, mode, HISA_EXCHANGE_OWNER);
    if (status == HISA_OK) {
        status = try_exchange(ranked, mode, HISA_EXCHANGE_ONESHOT);
    }
    for (int64_t i = -plan->warmup; i < plan->repeats && status == HISA_OK; i++) {
        status = timed_call(ranked, &stats);
        if (status == HISA_OK && i >= 0) {
            take(ranked, mode, i, &stats);
        }
    }
    if (status == HISA_OK) {
        status = check_results(ranked, mode, false);
    }
    for (int s = 0; s < SERIES && status == HISA_OK; s++) {
        group->seconds[((int64_t)mode * SERIES + s) * group->ranks + ranked->session.rank] =
            median_of(ranked->repeats + s * plan->repeats, plan->repeats);
    }
    return status;
}

/* ------------------------------------------------------------------------------------------- a rank */

/* Of its own memory: nothing here is collective. */
static hisa_status_t prepare_rank(ranked_t *ranked) {
    const group_t *group = ranked->group;
    const bench_input_t *input = group->input;
    const cli_options_t *options = &group->options;
    const size_t modes = (size_t)group->plan->num_modes;
    ranked->repeats = calloc((size_t)group->plan->repeats * SERIES, sizeof *ranked->repeats);
    ranked->stats = calloc(modes, sizeof *ranked->stats);
    ranked->received = calloc(modes * 2, sizeof *ranked->received);
    ranked->pairs = calloc(modes, sizeof *ranked->pairs);
    if (ranked->repeats == NULL || ranked->stats == NULL || ranked->received == NULL || ranked->pairs == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the measurements");
    }
    return cli_deal_create(&ranked->session, options, input->rows.count, &ranked->deal);
}

/* The largest workspace of any mode and exchange. */
static hisa_status_t make_selector(ranked_t *ranked) {
    const group_t *group = ranked->group;
    const int64_t rows = hisa_max(1, group->input->rows.count);
    hisa_select_options_t options = group->options.select;
    const hisa_exchange_t exchanges[] = {options.exchange, HISA_EXCHANGE_OWNER, HISA_EXCHANGE_ONESHOT};
    hisa_select_options_t largest = options;
    size_t most = 0;
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < 3 * group->plan->num_modes && status == HISA_OK; i++) {
        size_t bytes = 0;
        options.mode = (hisa_mode_t)group->plan->modes[i / 3];
        options.exchange = exchanges[i % 3];
        status = hisa_select_workspace_size(ranked->index, &options, rows, &bytes);
        if (bytes > most) {
            most = bytes;
            largest = options;
        }
    }
    if (status == HISA_OK) {
        status = cli_selector_create(ranked->index, &largest, rows, false, &ranked->selector);
    }
    ranked->selector.options.exchange = group->options.select.exchange;
    return status;
}

static hisa_status_t stage_queries(ranked_t *ranked) {
    const group_t *group = ranked->group;
    const cli_deal_t *deal = &ranked->deal;
    const int64_t begin = deal->begin[deal->mine];
    hisa_queries_t queries = cli_rows_slice(&group->input->rows, begin, deal->begin[deal->mine + 1] - begin);
    for (int r = 0; r < deal->runs; r++) {
        ranked->rows_per_rank[r] = deal->begin[r + 1] - deal->begin[r];
    }
    queries.rows_per_rank = ranked->rows_per_rank;
    return cli_staged_queries_create(ranked->index, &queries, &ranked->staged);
}

static hisa_status_t work(ranked_t *ranked) {
    const group_t *group = ranked->group;
    const bench_input_t *input = group->input;
    hisa_status_t status = prepare_rank(ranked);
    if (status == HISA_OK) {
        status = cli_index_create(&ranked->session, &group->options, ranked->session.comm, input->rows.head_dim,
                                  input->rows.num_heads, input->tokens, &ranked->index);
    }
    if (status == HISA_OK) {
        status = bench_input_fill(&ranked->session, group->source, input, ranked->index);
    }
    if (status == HISA_OK) {
        status = make_selector(ranked);
    }
    if (status == HISA_OK) {
        status = stage_queries(ranked);
    }
    for (int m = 0; m < group->plan->num_modes && status == HISA_OK; m++) {
        status = measure_mode(ranked, m);
    }
    return status;
}

static void free_rank(ranked_t *ranked) {
    cli_staged_queries_free(&ranked->staged);
    if (ranked->selector.index != NULL) {
        cli_selector_free(&ranked->selector);
    }
    hisa_index_destroy(ranked->index);
    cli_deal_free(&ranked->deal);
    free(ranked->repeats);
    free(ranked->stats);
    free(ranked->received);
    free(ranked->pairs);
}

/* Memory is freed when all ranks are done: others may be copying from it when a rank gives up. */
static void *run_rank(void *argument) {
    ranked_t *ranked = argument;
    hisa_comm_t *comm = ranked->session.comm;
    ranked->status = hisa_comm_set_deadline(comm, ranked->group->options.deadline);
#if defined(HISA_HAVE_CUDA)
    if (ranked->status == HISA_OK && ranked->group->gpu != NULL) {
        ranked->status = cli_gpu_adopt(ranked->group->gpu);
    }
#endif
    if (ranked->status == HISA_OK) {
        ranked->status = hisa_threads_begin(comm);
    }
    if (ranked->status == HISA_OK) {
        ranked->status = work(ranked);
    }
    if (ranked->status != HISA_OK) {
        snprintf(ranked->message, sizeof ranked->message, "%s", hisa_last_error());
    }
    hisa_threads_end(comm, ranked->status);
    return NULL;
}

/* ------------------------------------------------------------------------------------------- a group */

static bench_ranks_time_t over_ranks(double *seconds, int ranks) {
    const double median = median_of(seconds, ranks);
    double sum = 0;
    for (int r = 0; r < ranks; r++) {
        sum += seconds[r];
    }
    return (bench_ranks_time_t){.slowest = seconds[ranks - 1], .median = median, .mean = sum / ranks};
}

static void add_rank(const group_t *group, const ranked_t *ranked, int mode, bench_ranks_result_t *result) {
    const double queries = (double)hisa_max(1, group->input->rows.count);
    const double calls = queries * (double)group->plan->repeats;
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        const hisa_step_stats_t *from = &ranked->stats[mode].steps[s];
        bench_ranks_step_t *step = &result->steps[s];
        const double keys = (double)from->keys_scored / calls;
        step->sent += (double)from->bytes_sent / calls / group->ranks;
        step->received += (double)from->bytes_received / calls / group->ranks;
        step->keys += keys;
        step->busiest = keys > step->busiest ? keys : step->busiest;
    }
    const int64_t *received = ranked->received + INT64_C(2) * mode;
    result->by_owner += (double)received[0] / queries / group->ranks;
    result->by_oneshot += (double)received[1] / queries / group->ranks;
    result->exchange = ranked->stats[mode].exchange;
    result->backend = hisa_index_backend(ranked->index);
    result->index_bytes = hisa_max(result->index_bytes, hisa_index_bytes(ranked->index));
}

/* The most pairs that a rank has over the mean. */
static double unevenness(const ranked_t *ranked, int ranks, int mode) {
    int64_t most = 0;
    int64_t all = 0;
    for (int r = 0; r < ranks; r++) {
        most = hisa_max(most, ranked[r].pairs[mode]);
        all += ranked[r].pairs[mode];
    }
    return all > 0 ? (double)most * ranks / (double)all : 0;
}

/* Keys by the windows where the backend only has a bound. */
static void count_by_windows(const group_t *group, bench_ranks_result_t *result) {
    hisa_select_options_t options = group->options.select;
    options.mode = result->mode;
    const bench_keys_t keys =
        bench_count_keys(&options, group->options.block_size, &group->input->rows, group->input->tokens);
    result->steps[HISA_STEP_SCORE_BLOCKS].keys = keys.blocks;
    result->steps[HISA_STEP_SCORE_TOKENS].keys = keys.tokens;
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        result->steps[s].busiest = 0;
    }
}

static void reduce(const group_t *group, const ranked_t *ranked) {
    for (int m = 0; m < group->plan->num_modes; m++) {
        bench_ranks_result_t *result = &group->results[m];
        double *seconds = group->seconds + (int64_t)m * SERIES * group->ranks;
        *result = (bench_ranks_result_t){.ranks = group->ranks,
                                         .mode = (hisa_mode_t)group->plan->modes[m],
                                         .tokens = group->input->tokens,
                                         .rows = group->input->rows.count};
        for (int r = 0; r < group->ranks; r++) {
            add_rank(group, &ranked[r], m, result);
        }
        for (int s = 0; s < HISA_STEP_COUNT; s++) {
            result->steps[s].seconds = over_ranks(seconds + (int64_t)s * group->ranks, group->ranks);
        }
        result->scoring = over_ranks(seconds + (int64_t)SCORING * group->ranks, group->ranks);
        result->all = over_ranks(seconds + (int64_t)ALL * group->ranks, group->ranks);
        result->uneven = unevenness(ranked, group->ranks, m);
        if (group->gpu != NULL) {
            count_by_windows(group, result);
        }
    }
}

/* The outcome of all ranks: the cause, not what others heard of it. */
static hisa_status_t outcome(const ranked_t *ranked, int ranks) {
    const ranked_t *first = NULL;
    for (int r = 0; r < ranks; r++) {
        const bool heard = ranked[r].status == HISA_ERR_COMM || ranked[r].status == HISA_ERR_POISONED;
        if (ranked[r].status != HISA_OK && (first == NULL || (!heard && first->status == HISA_ERR_COMM))) {
            first = &ranked[r];
        }
    }
    return first == NULL ? HISA_OK : hisa_fail(first->status, "%s", first->message);
}

/* Starts the threads and waits for them. One that cannot be started breaks the group. */
static hisa_status_t run_threads(ranked_t *ranked, int ranks) {
    pthread_t thread[HISA_THREADS_MAX];
    int started = 0;
    hisa_status_t status = HISA_OK;
    while (started < ranks && status == HISA_OK) {
        if (pthread_create(&thread[started], NULL, run_rank, &ranked[started]) == 0) {
            started++;
        } else {
            status = hisa_fail(HISA_ERR_NO_MEMORY, "cannot start a thread for rank %d of %d", started, ranks);
            hisa_threads_end(ranked[started].session.comm, status);
        }
    }
    for (int r = 0; r < started; r++) {
        pthread_join(thread[r], NULL);
    }
    return status == HISA_OK ? outcome(ranked, ranks) : status;
}

static hisa_status_t make_comms(const group_t *group, hisa_comm_t **comms) {
#if defined(HISA_HAVE_CUDA)
    if (group->gpu != NULL) {
        const hisa_threads_memory_t memory = cli_gpu_threads_memory(group->gpu);
        return hisa_threads_create(group->ranks, &memory, true, comms);
    }
#endif
    return hisa_threads_create(group->ranks, NULL, true, comms);
}

static hisa_status_t run_ranks(group_t *group, ranked_t *ranked) {
    const int ranks = group->ranks;
    hisa_comm_t *comms[HISA_THREADS_MAX] = {NULL};
    hisa_status_t status = make_comms(group, comms);
    if (status != HISA_OK) {
        return status;
    }
    for (int r = 0; r < ranks; r++) {
        ranked[r].group = group;
        ranked[r].session = *group->session;
        ranked[r].session.comm = comms[r];
        ranked[r].session.rank = r;
        ranked[r].session.size = ranks;
    }
    status = run_threads(ranked, ranks);
    if (status == HISA_OK) {
        reduce(group, ranked);
    }
    for (int r = 0; r < ranks; r++) {
        free_rank(&ranked[r]);
    }
    hisa_threads_destroy(ranks, comms);
    return status;
}

static hisa_status_t run_group(group_t *group) {
    const size_t ranks = (size_t)group->ranks;
    ranked_t *ranked = calloc(ranks, sizeof *ranked);
    group->seconds = calloc((size_t)group->plan->num_modes * SERIES * ranks, sizeof *group->seconds);
    const hisa_status_t status = ranked == NULL || group->seconds == NULL
                                     ? hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for %d ranks", group->ranks)
                                     : run_ranks(group, ranked);
    free(group->seconds);
    free(ranked);
    return status;
}

/* ------------------------------------------------------------------------------------------- all groups */

static hisa_status_t make_room(const group_t *group, selected_t *of_one) {
    const size_t rows = (size_t)group->input->rows.count;
    const size_t k = (size_t)group->options.select.top_k;
    for (int m = 0; m < group->plan->num_modes; m++) {
        of_one[m].indices = calloc(rows * k + 1, sizeof(int32_t));
        of_one[m].counts = calloc(rows + 1, sizeof(int32_t));
        if (of_one[m].indices == NULL || of_one[m].counts == NULL) {
            return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for results of %zu rows", rows);
        }
    }
    return HISA_OK;
}

/* Of one mode, one rank first: as the report has them. */
static hisa_status_t report(const bench_setting_t *setting, const bench_ranks_result_t *results, int64_t count,
                            cli_report_t *json) {
    hisa_status_t status = HISA_OK;
    if (!json->to_stdout) {
        bench_ranks_print(setting, results, count);
        fflush(stdout);
    }
    for (int64_t i = 0; i < count && status == HISA_OK && (json->to_stdout || json->path != NULL); i++) {
        status = cli_report_write(json, bench_ranks_json(setting, &results[i], results), false);
    }
    return status;
}

static hisa_status_t measure_all(group_t *group, const bench_setting_t *setting, cli_report_t *json) {
    const bench_ranks_plan_t *plan = group->plan;
    const int64_t modes = plan->num_modes;
    bench_ranks_result_t *results = calloc((size_t)((plan->num_ranks + 1) * modes), sizeof *results);
    bench_ranks_result_t *of_mode = calloc((size_t)plan->num_ranks + 1, sizeof *of_mode);
    hisa_status_t status = HISA_OK;
    int64_t count = 0;
    if (results == NULL || of_mode == NULL) {
        free(results);
        free(of_mode);
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the results");
    }
    for (int64_t i = -1; i < plan->num_ranks && status == HISA_OK; i++) {
        group->ranks = i < 0 ? 1 : (int)plan->ranks[i];
        if (i >= 0 && group->ranks == 1) {
            continue; /* measured already */
        }
        group->results = results + count * modes;
        status = run_group(group);
        count++;
    }
    for (int64_t m = 0; m < modes && status == HISA_OK; m++) {
        for (int64_t i = 0; i < count; i++) {
            of_mode[i] = results[i * modes + m];
        }
        status = report(setting, of_mode, count, json);
    }
    free(results);
    free(of_mode);
    return status;
}

hisa_status_t bench_ranks_run(cli_session_t *session, const bench_setting_t *setting, cli_gpu_t *gpu,
                              const bench_source_t *source, const bench_input_t *input, const bench_ranks_plan_t *plan,
                              cli_report_t *json) {
    selected_t *of_one = calloc((size_t)plan->num_modes, sizeof *of_one);
    if (of_one == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the results");
    }
    group_t group = {.session = session,
                     .source = source,
                     .input = input,
                     .plan = plan,
                     .options = *source->options,
                     .gpu = gpu,
                     .of_one = of_one};
    group.options.backend = gpu != NULL ? HISA_BACKEND_CUDA : HISA_BACKEND_CPU;
    hisa_status_t status = make_room(&group, of_one);
    if (status == HISA_OK) {
        status = measure_all(&group, setting, json);
    }
    for (int m = 0; m < plan->num_modes; m++) {
        free(of_one[m].indices);
        free(of_one[m].counts);
    }
    free(of_one);
    return status;
}
