/* The CUDA backend against the reference and against the CPU backend: to the bit, on any input. One process: CUDA does
 * not survive a fork. Skips where there is no device.
 *     HISA_TEST_SEED=s HISA_TEST_CASES=n    runs the n cases of seeds s, s + 1, ... instead of the usual ones */
#include <pthread.h>
#include <stdio.h>

#include "backend/backend.h"
#include "gpu/thread_comm.h"
#include "support/cases.h"
#include "support/runs.h"
#include "support/stage.h"
#include "support/suite.h"
#include "support/synth_trace.h"

enum { CASES = 2000, SKIPPED = 77, RANKS = 5 };

static hisa_comm_t *comm;

static void make_comm(void) { ck_ok(hisa_comm_create_self(&comm)); }
static void drop_comm(void) { hisa_comm_destroy(comm); }

START_TEST(random_cases) {
    const uint64_t seed = test_seed(1);
    const int64_t cases = test_cases(CASES);
    printf("seeds %llu to %llu\n", (unsigned long long)seed, (unsigned long long)seed + (unsigned long long)cases - 1);
    fflush(stdout);
    for (int64_t i = 0; i < cases; ++i) {
        test_case_t made;
        test_case_make(&made, seed + (uint64_t)i);
        made.config.backend = HISA_BACKEND_CUDA;
        rng_t rng = {~made.seed};
        run_t run;
        run_draw(&run, &rng, &made, 1);
        char why[256] = "";
        char what[320] = "";
        const bool well = run_check(&run, &made, comm, why, sizeof why);
        run_describe(&run, &made, what, sizeof what);
        ck_assert_msg(well, "HISA_TEST_SEED=%llu HISA_TEST_CASES=1: %s; %s", (unsigned long long)made.seed, why, what);
        test_case_free(&made);
    }
}
END_TEST

/* Several ranks as threads on one device: what the operations do for exchanges. */
typedef struct ranked {
    const test_case_t *made;
    const run_t *run;
    hisa_comm_t *comm;
    bool well;
    char why[256];
} ranked_t;

static void *run_rank(void *argument) {
    ranked_t *ranked = argument;
    ranked->well = run_check(ranked->run, ranked->made, ranked->comm, ranked->why, sizeof ranked->why);
    return NULL;
}

START_TEST(random_cases_of_ranks) {
    const uint64_t seed = test_seed(1);
    const int64_t cases = test_cases(CASES) / 4;
    for (int64_t i = 0; i < cases; ++i) {
        test_case_t made;
        test_case_make(&made, seed + (uint64_t)i);
        made.config.backend = HISA_BACKEND_CUDA;
        rng_t rng = {~made.seed ^ 0x5bu};
        const int ranks = 2 + (int)rng_range(&rng, 0, RANKS - 2);
        run_t run;
        run_draw(&run, &rng, &made, ranks);
        hisa_comm_t *comms[RANKS] = {NULL};
        ck_ok(thread_comm_create(ranks, comms));
        ranked_t ranked[RANKS] = {0};
        pthread_t thread[RANKS];
        for (int r = 0; r < ranks; ++r) {
            ranked[r] = (ranked_t){.made = &made, .run = &run, .comm = comms[r]};
            ck_assert_int_eq(pthread_create(&thread[r], NULL, run_rank, &ranked[r]), 0);
        }
        for (int r = 0; r < ranks; ++r) {
            pthread_join(thread[r], NULL);
        }
        char what[320] = "";
        run_describe(&run, &made, what, sizeof what);
        for (int r = 0; r < ranks; ++r) {
            ck_assert_msg(ranked[r].well, "HISA_TEST_SEED=%llu HISA_TEST_CASES=4: rank %d of %d: %s; %s",
                          (unsigned long long)made.seed, r, ranks, ranked[r].why, what);
        }
        thread_comm_destroy(ranks, comms);
        test_case_free(&made);
    }
}
END_TEST

/* ---------------------------------------------------------------------------------------------- traces */

typedef struct results {
    int32_t *indices;
    int32_t *counts;
    float *scores; /* NULL in mode block */
} results_t;

static results_t results_make(int64_t rows, int64_t k, hisa_mode_t mode) {
    return (results_t){.indices = allocate(rows * k, sizeof(int32_t)),
                       .counts = allocate(rows, sizeof(int32_t)),
                       .scores = mode == HISA_MODE_BLOCK ? NULL : allocate(rows * k, sizeof(float))};
}

static void results_free(results_t *results) {
    free(results->indices);
    free(results->counts);
    free(results->scores);
}

static void results_same(const results_t *a, const results_t *b, int64_t rows, int64_t k) {
    ck_assert_mem_eq(a->counts, b->counts, (size_t)rows * sizeof(int32_t));
    for (int64_t r = 0; r < rows; ++r) {
        ck_assert_msg(memcmp(a->indices + r * k, b->indices + r * k, (size_t)k * sizeof(int32_t)) == 0,
                      "row %lld: other tokens", (long long)r);
        ck_assert_msg(a->scores == NULL || memcmp(a->scores + r * k, b->scores + r * k, (size_t)k * sizeof(float)) == 0,
                      "row %lld: other scores", (long long)r);
    }
}

static hisa_index_t *index_of(const trace_t *trace, hisa_backend_t backend) {
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    config.backend = backend;
    config.head_dim = trace->config.head_dim;
    config.num_heads = trace->config.num_heads;
    config.capacity = trace->config.num_tokens + 1000; /* blocks without tokens at the end */
    hisa_index_t *index = NULL;
    ck_ok(hisa_index_create(&config, comm, &index));
    const int64_t n = trace->config.num_tokens;
    const change_t all = {.kind = CHANGE_APPEND, .tokens = n, .keys = trace->keys, .scales = trace->scales};
    ck_ok(test_change_play(index, &all, config.head_dim, config.block_size, 0, HISA_KEYS_REPLICATED));
    return index;
}

/* `times` calls in a row on one index, results of each into `results`; all calls after the first must repeat it. */
static void select_trace(hisa_index_t *index, const trace_t *trace, const hisa_select_options_t *options, int times,
                         results_t *results) {
    const int64_t rows = trace->config.num_rows;
    const size_t cells = (size_t)(rows * options->top_k);
    hisa_queries_t queries;
    hisa_queries_init(&queries);
    queries.num_rows = rows;
    queries.q = trace->q;
    queries.weights = trace->weights;
    queries.window_begin = trace->begins;
    queries.window_end = trace->ends;
    size_t bytes = 0;
    ck_ok(hisa_select_workspace_size(index, options, rows, &bytes));
    guarded_t workspace = guarded_make(bytes, 0xff);
    stage_t stage = {.index = index};
    const hisa_queries_t staged = stage_queries(&stage, &queries);
    void *place = stage_in_out(&stage, workspace.data, bytes);
    results_t first = results_make(rows, options->top_k, options->mode);
    stage_t out = {.index = index};
    hisa_selection_t selection;
    hisa_selection_init(&selection);
    selection.indices = stage_in_out(&out, results->indices, cells * sizeof(int32_t));
    selection.counts = stage_in_out(&out, results->counts, (size_t)rows * sizeof(int32_t));
    selection.scores = stage_in_out(&out, results->scores, cells * sizeof(float));
    for (int i = 0; i < times; ++i) {
        ck_ok(hisa_select(index, &staged, options, &selection, place, bytes, NULL));
        stage_back(&out);
        if (i == 0) {
            memcpy(first.indices, results->indices, cells * sizeof(int32_t));
            memcpy(first.counts, results->counts, (size_t)rows * sizeof(int32_t));
            if (first.scores != NULL) {
                memcpy(first.scores, results->scores, cells * sizeof(float));
            }
        }
        results_same(&first, results, rows, options->top_k);
    }
    stage_end(&out);
    stage_end(&stage);
    results_free(&first);
    guarded_free(&workspace);
}

static hisa_select_options_t options_of(hisa_mode_t mode) {
    hisa_select_options_t options;
    hisa_select_options_init(&options);
    options.mode = mode;
    return options;
}

/* Both families, every mode, at a size where chunks, panels and tiles are many. */
START_TEST(same_as_cpu) {
    const hisa_synth_config_t config = {.family = _i % 2 == 0 ? HISA_SYNTH_DRIFT : HISA_SYNTH_EXACT,
                                        .seed = 7,
                                        .num_tokens = 100003,
                                        .num_rows = 12,
                                        .head_dim = 128,
                                        .num_heads = 64,
                                        .num_needles = _i % 2 == 0 ? 4 : 0,
                                        .neighbours = 1};
    trace_t trace = trace_make(&config, 100003, 12);
    const hisa_select_options_t options = options_of((hisa_mode_t)(_i / 2));
    hisa_index_t *cpu = index_of(&trace, HISA_BACKEND_CPU);
    hisa_index_t *cuda = index_of(&trace, HISA_BACKEND_CUDA);
    results_t expected = results_make(config.num_rows, options.top_k, options.mode);
    results_t got = results_make(config.num_rows, options.top_k, options.mode);
    select_trace(cpu, &trace, &options, 1, &expected);
    select_trace(cuda, &trace, &options, 2, &got);
    results_same(&expected, &got, config.num_rows, options.top_k);
    ck_assert_int_gt(expected.counts[config.num_rows - 1], 0);
    results_free(&expected);
    results_free(&got);
    hisa_index_destroy(cpu);
    hisa_index_destroy(cuda);
    trace_free(&trace);
}
END_TEST

/* Ties everywhere, many times over, by both exchanges and several tilings. */
START_TEST(repeats) {
    const hisa_synth_config_t config = {.family = HISA_SYNTH_EXACT,
                                        .seed = 11,
                                        .num_tokens = 20000,
                                        .num_rows = 40,
                                        .head_dim = 64,
                                        .num_heads = 32,
                                        .neighbours = 1};
    trace_t trace = trace_make(&config, 20000, 40);
    hisa_select_options_t options = options_of((hisa_mode_t)_i);
    hisa_index_t *cuda = index_of(&trace, HISA_BACKEND_CUDA);
    results_t first = results_make(config.num_rows, options.top_k, options.mode);
    results_t got = results_make(config.num_rows, options.top_k, options.mode);
    select_trace(cuda, &trace, &options, 100, &first);
    options.exchange = HISA_EXCHANGE_OWNER;
    options.tile_rows = 7;
    select_trace(cuda, &trace, &options, 100, &got);
    results_same(&first, &got, config.num_rows, options.top_k);
    results_free(&first);
    results_free(&got);
    hisa_index_destroy(cuda);
    trace_free(&trace);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- bad input */

START_TEST(refusals) {
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    config.backend = HISA_BACKEND_CUDA;
    config.head_dim = 32;
    config.num_heads = 2;
    config.block_size = 16;
    config.capacity = 100;
    config.device = 1000;
    hisa_index_t *index = NULL;
    ck_fails(hisa_index_create(&config, comm, &index), HISA_ERR_INVALID_ARGUMENT, "device 1000");
    config.device = 0;
    ck_ok(hisa_index_create(&config, comm, &index));
    ck_assert_int_eq(hisa_index_backend(index), HISA_BACKEND_CUDA);
    static uint8_t keys[64 * 32];
    static float scales[64];
    static uint8_t results[1 << 20];
    for (int i = 0; i < 64; ++i) {
        scales[i] = 1.0f;
    }
    ck_fails(hisa_index_append(index, 0, 64, keys, scales, HISA_KEYS_REPLICATED, NULL), HISA_ERR_INVALID_ARGUMENT,
             "keys is host memory");
    stage_t stage = {.index = index};
    const uint8_t *device_keys = stage_in(&stage, keys, sizeof keys);
    const float *device_scales = stage_in(&stage, scales, sizeof scales);
    ck_fails(hisa_index_append(index, 0, 32, device_keys + 1, device_scales, HISA_KEYS_REPLICATED, NULL),
             HISA_ERR_INVALID_ARGUMENT, "16-byte aligned");
    ck_fails(hisa_index_append(index, 0, 64, device_keys, scales, HISA_KEYS_REPLICATED, NULL),
             HISA_ERR_INVALID_ARGUMENT, "key_scales is host memory");
    ck_ok(hisa_index_append(index, 0, 64, device_keys, device_scales, HISA_KEYS_REPLICATED, NULL));
    hisa_select_options_t options = options_of(HISA_MODE_FLAT);
    options.top_k = 8;
    options.exchange = HISA_EXCHANGE_ONESHOT; /* AUTO asks for what either needs */
    hisa_queries_t queries;
    hisa_queries_init(&queries);
    queries.num_rows = 1;
    queries.q = keys;
    queries.weights = device_scales;
    hisa_selection_t selection;
    hisa_selection_init(&selection);
    size_t bytes = 0;
    ck_ok(hisa_select_workspace_size(index, &options, 1, &bytes));
    ck_assert_uint_lt(bytes, sizeof results);
    void *device_results = stage_in_out(&stage, results, sizeof results);
    guarded_t host = guarded_make(bytes, 0);
    guarded_t zeros = guarded_make(bytes, 0);
    void *workspace = stage_in_out(&stage, zeros.data, bytes);
    selection.indices = device_results;
    ck_fails(hisa_select(index, &queries, &options, &selection, workspace, bytes, NULL), HISA_ERR_INVALID_ARGUMENT,
             "queries.q is host memory");
    queries.q = device_keys;
    ck_fails(hisa_select(index, &queries, &options, &selection, host.data, bytes, NULL), HISA_ERR_INVALID_ARGUMENT,
             "workspace is host memory");
    ck_fails(hisa_select(index, &queries, &options, &selection, workspace, bytes - 1, NULL), HISA_ERR_WORKSPACE, "");
    selection.indices = (int32_t *)(void *)results;
    ck_fails(hisa_select(index, &queries, &options, &selection, workspace, bytes, NULL), HISA_ERR_INVALID_ARGUMENT,
             "selection.indices is host memory");
    selection.indices = device_results;
    /* Windows out of range cannot be seen from here: they are cut to the sequence, and touch nothing else. */
    const int32_t window[2] = {-5, 1000000};
    const int32_t *device_window = stage_in(&stage, window, sizeof window);
    queries.window_begin = device_window;
    queries.window_end = device_window + 1;
    ck_ok(hisa_select(index, &queries, &options, &selection, workspace, bytes, NULL));
    stage_back(&stage);
    for (int32_t i = 0; i < 8; ++i) {
        ck_assert_int_eq(((const int32_t *)(const void *)results)[i], i); /* all scores are equal */
    }
    stage_end(&stage);
    guarded_free(&host);
    guarded_free(&zeros);
    hisa_index_destroy(index);
    config.capacity = INT32_MAX - 1000;
    config.num_sequences = 1;
    config.head_dim = 256;
    ck_fails(hisa_index_create(&config, comm, &index), HISA_ERR_NO_MEMORY, "device memory");
}
END_TEST

int main(void) {
    char text[256];
    hisa_cuda_describe(text, sizeof text);
    printf("%s\n", text);
    fflush(stdout);
    if (hisa_cuda_present() != HISA_OK) {
        return SKIPPED;
    }
    setenv("CK_FORK", "no", 1);
    Suite *suite = suite_create("cuda");
    /* CK_RUN_CASE=small leaves out what takes long under compute-sanitizer. */
    TCase *small = tcase_create("small");
    tcase_add_checked_fixture(small, make_comm, drop_comm);
    tcase_add_test(small, refusals);
    tcase_add_test(small, random_cases);
    tcase_add_test(small, random_cases_of_ranks);
    suite_add_tcase(suite, small);
    TCase *large = tcase_create("large");
    tcase_add_checked_fixture(large, make_comm, drop_comm);
    tcase_add_loop_test(large, same_as_cpu, 0, 6);
    tcase_add_loop_test(large, repeats, 0, 3);
    suite_add_tcase(suite, large);
    return suite_main(suite);
}
