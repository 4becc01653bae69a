/* What must not change a byte of the CUDA backend's results, scores included, on inputs where rounding shows: tiling,
 * how many rows a call has (prefill and decode run other kernels), how appends are cut, ranks, repetition. */
#include <pthread.h>

#include "gpu/gpu_support.h"
#include "gpu/thread_comm.h"
#include "support/narrow.h"
#include "support/stage.h"

enum { TOKENS = 40003, ROWS = 130, MODES = 3, RANKS = 5, BLOCK = 128, HEADS = 64 };

/* Once for the suite: making it takes longer than most tests. */
static trace_t drift;

static void make_drift(void) {
    drift = gpu_drift(TOKENS, ROWS, HEADS, 3);
    for (int64_t r = 0; r < ROWS; r += 5) { /* windows that cut blocks, and empty ones */
        drift.begins[r] = r % 2 == 0 ? (int32_t)(r * 37) : drift.ends[r];
    }
}

static void drop_drift(void) { trace_free(&drift); }

/* Test index i: scorer i / MODES, mode i % MODES. */
static bool begin(int i, hisa_select_options_t *options, char *what, size_t size) {
    *options = gpu_options((hisa_mode_t)(i % MODES));
    const hisa_cuda_scorer_t scorer = (hisa_cuda_scorer_t)(i / MODES);
    snprintf(what, size, "mode %s, scorer %s", gpu_mode_name(options->mode), hisa_cuda_scorer_name(scorer));
    return gpu_try_scorer(scorer, 128, HEADS, BLOCK);
}

START_TEST(tiling_and_rows) {
    static const int32_t tiles[] = {1, 7, 64, 1000};
    static const int64_t batches[] = {1, 2, 3, 8, 16, 31, 32, 33, 64, 65};
    hisa_select_options_t options;
    char scorer[64];
    char what[128];
    if (!begin(_i, &options, scorer, sizeof scorer)) {
        return;
    }
    hisa_index_t *index = gpu_index(&drift, HISA_BACKEND_CUDA, BLOCK, 0);
    results_t all = results_make(ROWS, &options);
    gpu_select(index, &drift, &options, 0, 2, &all);
    for (int exchange = HISA_EXCHANGE_OWNER; exchange <= HISA_EXCHANGE_ONESHOT; ++exchange) {
        for (size_t t = 0; t < sizeof tiles / sizeof tiles[0]; ++t) {
            results_t got = results_make(ROWS, &options);
            hisa_select_options_t tiled = options;
            tiled.exchange = (hisa_exchange_t)exchange;
            tiled.tile_rows = tiles[t];
            snprintf(what, sizeof what, "%s, exchange %d, tiles of %d", scorer, exchange, tiles[t]);
            gpu_select(index, &drift, &tiled, 0, 1, &got);
            results_same(&all, 0, &got, what);
            results_free(&got);
        }
    }
    for (size_t b = 0; b < sizeof batches / sizeof batches[0]; ++b) {
        for (int64_t first = 0; first < ROWS; first += batches[b]) {
            results_t got = results_make(ROWS - first < batches[b] ? ROWS - first : batches[b], &options);
            snprintf(what, sizeof what, "%s, %d rows at a time", scorer, (int)batches[b]);
            gpu_select(index, &drift, &options, first, 1, &got);
            results_same(&all, first, &got, what);
            results_free(&got);
        }
    }
    results_free(&all);
    hisa_index_destroy(index);
}
END_TEST

START_TEST(chunked_appends) {
    static const int64_t chunks[] = {1, 100, 128, 1000};
    hisa_select_options_t options;
    char scorer[64];
    char what[128];
    if (!begin(_i, &options, scorer, sizeof scorer)) {
        return;
    }
    hisa_index_t *index = gpu_index(&drift, HISA_BACKEND_CUDA, BLOCK, 0);
    results_t all = results_make(ROWS, &options);
    gpu_select(index, &drift, &options, 0, 1, &all);
    hisa_index_destroy(index);
    for (size_t c = 0; c < sizeof chunks / sizeof chunks[0]; ++c) {
        results_t got = results_make(ROWS, &options);
        snprintf(what, sizeof what, "%s, %d tokens an append", scorer, (int)chunks[c]);
        index = gpu_index(&drift, HISA_BACKEND_CUDA, BLOCK, chunks[c]);
        gpu_select(index, &drift, &options, 0, 1, &got);
        results_same(&all, 0, &got, what);
        results_free(&got);
        hisa_index_destroy(index);
    }
    results_free(&all);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- ranks */

typedef struct rank_run {
    hisa_comm_t *comm;
    const hisa_select_options_t *options;
    int64_t stripe;
    results_t results;
    hisa_status_t status;
    char message[256];
} rank_run_t;

static hisa_status_t fill_and_select(rank_run_t *run, hisa_index_t *index, stage_t *stage) {
    hisa_queries_t queries;
    hisa_selection_t selection;
    size_t bytes = 0;
    hisa_queries_init(&queries);
    hisa_selection_init(&selection);
    queries.num_rows = ROWS;
    queries.q = drift.q;
    queries.weights = drift.weights;
    queries.window_begin = drift.begins;
    queries.window_end = drift.ends;
    const hisa_queries_t staged = stage_queries(stage, &queries);
    const size_t cells = (size_t)ROWS * (size_t)run->options->top_k;
    selection.indices = stage_in_out(stage, run->results.indices, cells * sizeof(int32_t));
    selection.counts = stage_in_out(stage, run->results.counts, ROWS * sizeof(int32_t));
    selection.scores = stage_in_out(stage, run->results.scores, cells * sizeof(float));
    const uint8_t *keys = stage_in(stage, drift.keys, (size_t)TOKENS * 128);
    const float *scales = stage_in(stage, drift.scales, TOKENS * sizeof(float));
    hisa_status_t status = hisa_index_append(index, 0, TOKENS, keys, scales, HISA_KEYS_REPLICATED, NULL);
    if (status == HISA_OK) {
        status = hisa_select_workspace_size(index, run->options, ROWS, &bytes);
    }
    void *workspace = NULL;
    if (status == HISA_OK) {
        status = hisa_index_ops(index)->alloc(index->device, (int64_t)bytes, &workspace);
    }
    if (status == HISA_OK) {
        status = hisa_select(index, &staged, run->options, &selection, workspace, bytes, NULL);
    }
    stage_back(stage);
    hisa_index_ops(index)->release(index->device, workspace);
    return status;
}

static void *run_rank(void *argument) {
    rank_run_t *run = argument;
    hisa_index_config_t config = gpu_config(&drift, HISA_BACKEND_CUDA, BLOCK);
    hisa_index_t *index = NULL;
    config.stripe = run->stripe;
    run->status = hisa_index_create(&config, run->comm, &index);
    if (run->status == HISA_OK) {
        stage_t stage = {.index = index};
        run->status = fill_and_select(run, index, &stage);
        stage_end(&stage);
    }
    snprintf(run->message, sizeof run->message, "%s", hisa_last_error());
    hisa_index_destroy(index);
    return NULL;
}

START_TEST(ranks) {
    hisa_select_options_t options;
    char scorer[64];
    char what[128];
    if (!begin(_i, &options, scorer, sizeof scorer)) {
        return;
    }
    hisa_index_t *index = gpu_index(&drift, HISA_BACKEND_CUDA, BLOCK, 0);
    results_t all = results_make(ROWS, &options);
    gpu_select(index, &drift, &options, 0, 1, &all);
    hisa_index_destroy(index);
    for (int count = 2; count <= RANKS; ++count) {
        hisa_comm_t *comms[RANKS] = {NULL};
        rank_run_t run[RANKS];
        pthread_t thread[RANKS];
        options.exchange = count % 2 == 0 ? HISA_EXCHANGE_OWNER : HISA_EXCHANGE_ONESHOT;
        ck_ok(thread_comm_create(count, comms));
        for (int r = 0; r < count; ++r) {
            run[r] = (rank_run_t){.comm = comms[r],
                                  .options = &options,
                                  .stripe = count < 4 ? 1 : HISA_STRIPE_CONTIGUOUS,
                                  .results = results_make(ROWS, &options)};
            ck_assert_int_eq(pthread_create(&thread[r], NULL, run_rank, &run[r]), 0);
        }
        for (int r = 0; r < count; ++r) {
            pthread_join(thread[r], NULL);
        }
        for (int r = 0; r < count; ++r) {
            snprintf(what, sizeof what, "%s, rank %d of %d", scorer, r, count);
            ck_assert_msg(run[r].status == HISA_OK, "%s: %s", what, run[r].message);
            results_same(&all, 0, &run[r].results, what);
            results_free(&run[r].results);
        }
        thread_comm_destroy(count, comms);
    }
    results_free(&all);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- arithmetic */

typedef struct creator {
    hisa_comm_t *comm;
    hisa_status_t status;
    char message[256];
} creator_t;

static void *create(void *argument) {
    creator_t *creator = argument;
    const hisa_index_config_t config = gpu_config(&drift, HISA_BACKEND_CUDA, BLOCK);
    hisa_index_t *index = NULL;
    creator->status = hisa_index_create(&config, creator->comm, &index);
    snprintf(creator->message, sizeof creator->message, "%s", hisa_last_error());
    hisa_index_destroy(index);
    return NULL;
}

/* Two ranks with two scorers: refused on both. The second starts, with another choice in the environment, when the
 * first has made its own and waits to agree. */
START_TEST(arithmetic_is_agreed) {
    for (int s = 1; s < (int)HISA_CUDA_SCORERS; ++s) {
        if (!gpu_try_scorer((hisa_cuda_scorer_t)s, 128, HEADS, BLOCK)) {
            continue;
        }
        hisa_comm_t *comms[2] = {NULL};
        creator_t creator[2];
        pthread_t thread[2];
        ck_ok(thread_comm_create(2, comms));
        for (int r = 0; r < 2; ++r) {
            creator[r] = (creator_t){.comm = comms[r]};
            ck_assert_int_eq(pthread_create(&thread[r], NULL, create, &creator[r]), 0);
            if (r == 0) {
                thread_comm_await(comms[0], 1);
                gpu_use_scorer(HISA_CUDA_SCORER_F32);
            }
        }
        for (int r = 0; r < 2; ++r) {
            pthread_join(thread[r], NULL);
            ck_assert_msg(creator[r].status == HISA_ERR_MISMATCH && strstr(creator[r].message, "arithmetic") != NULL,
                          "rank %d: %s: %s", r, hisa_status_string(creator[r].status), creator[r].message);
        }
        thread_comm_destroy(2, comms);
    }
}
END_TEST

/* Unset, the scorer is the best for the shape and the device. */
START_TEST(best_by_default) {
    hisa_index_config_t config = gpu_config(&drift, HISA_BACKEND_CUDA, BLOCK);
    int device = 0;
    int major = 0;
    int minor = 0;
    hisa_index_t *index = NULL;
    ck_cuda(cudaGetDevice(&device));
    ck_cuda(hisa_cuda_capability(device, &major, &minor));
    gpu_use_scorer(HISA_CUDA_SCORERS);
    ck_ok(hisa_index_create(&config, gpu_comm, &index));
    const hisa_cuda_scorer_t scorer = hisa_cuda_of(index->device)->scorer;
    printf("by default: scorer %s\n", hisa_cuda_scorer_name(scorer));
    ck_assert_int_eq(scorer, hisa_cuda_best_scorer(&config, major, minor));
    hisa_index_destroy(index);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- repetition */

/* A thousand calls on ties everywhere: one answer. */
START_TEST(replays) {
    const hisa_synth_config_t config = {.family = HISA_SYNTH_EXACT,
                                        .seed = 11,
                                        .num_tokens = 20000,
                                        .num_rows = 24,
                                        .head_dim = 128,
                                        .num_heads = HEADS,
                                        .neighbours = 1};
    hisa_select_options_t options;
    char scorer[64];
    if (!begin(_i, &options, scorer, sizeof scorer)) {
        return;
    }
    trace_t trace = narrow_trace(&config, BLOCK);
    hisa_index_t *index = gpu_index(&trace, HISA_BACKEND_CUDA, BLOCK, 0);
    results_t first = results_make(24, &options);
    results_t got = results_make(24, &options);
    const int times = options.mode == HISA_MODE_BLOCK ? 50 : 500;
    gpu_select(index, &trace, &options, 0, times, &first);
    options.exchange = HISA_EXCHANGE_OWNER;
    options.tile_rows = 7;
    gpu_select(index, &trace, &options, 0, times, &got);
    results_same(&first, 0, &got, scorer);
    results_free(&first);
    results_free(&got);
    hisa_index_destroy(index);
    trace_free(&trace);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cuda_invariance");
    TCase *tests = tcase_create("invariance");
    tcase_add_unchecked_fixture(tests, make_drift, drop_drift);
    tcase_add_checked_fixture(tests, gpu_make_comm, gpu_drop_comm);
    tcase_add_loop_test(tests, tiling_and_rows, 0, HISA_CUDA_SCORERS * MODES);
    tcase_add_loop_test(tests, chunked_appends, 0, HISA_CUDA_SCORERS * MODES);
    tcase_add_loop_test(tests, ranks, 0, HISA_CUDA_SCORERS * MODES);
    tcase_add_loop_test(tests, replays, 0, HISA_CUDA_SCORERS * MODES);
    tcase_add_test(tests, arithmetic_is_agreed);
    tcase_add_test(tests, best_by_default);
    suite_add_tcase(suite, tests);
    return gpu_main(suite);
}
