/* What must not change a byte of the CUDA backend's results, scores included, on inputs where rounding shows: tiling,
 * how many rows a call has (prefill and decode run other kernels), how appends are cut, ranks, repetition. */
#include <pthread.h>

#include "gpu/gpu_support.h"
#include "gpu/thread_comm.h"
#include "support/narrow.h"
#include "support/rng.h"
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
    for (int exchange = HISA_EXCHANGE_OWNER; exchange <= HISA_EXCHANGE_LISTS; ++exchange) {
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

/* How the ranks are made to come to the same result. */
typedef struct way {
    int count;
    hisa_select_options_t options;
    int64_t stripe;
    int64_t rows[RANKS]; /* sharded queries: each rank's */
    int64_t first[RANKS];
} way_t;

typedef struct rank_run {
    hisa_comm_t *comm;
    const way_t *way;
    results_t results;
    hisa_status_t status;
    char message[256];
} rank_run_t;

static hisa_status_t fill_and_select(rank_run_t *run, hisa_index_t *index, stage_t *stage, cudaStream_t stream) {
    const way_t *way = run->way;
    const int rank = hisa_comm_rank(run->comm);
    const bool sharded = way->options.queries_on == HISA_QUERIES_SHARDED;
    const int64_t first = sharded ? way->first[rank] : 0;
    hisa_queries_t queries;
    hisa_selection_t selection;
    size_t bytes = 0;
    hisa_queries_init(&queries);
    hisa_selection_init(&selection);
    queries.num_rows = sharded ? way->rows[rank] : ROWS;
    queries.q = drift.q + first * HEADS * 128;
    queries.weights = drift.weights + first * HEADS;
    queries.window_begin = drift.begins + first;
    queries.window_end = drift.ends + first;
    hisa_queries_t staged = stage_queries(stage, &queries);
    staged.rows_per_rank = sharded && way->count % 2 == 0 ? way->rows : NULL;
    const size_t cells = (size_t)ROWS * (size_t)way->options.top_k;
    selection.indices = stage_in_out(stage, run->results.indices, cells * sizeof(int32_t));
    selection.counts = stage_in_out(stage, run->results.counts, ROWS * sizeof(int32_t));
    selection.scores = stage_in_out(stage, run->results.scores, cells * sizeof(float));
    const uint8_t *keys = stage_in(stage, drift.keys, (size_t)TOKENS * 128);
    const float *scales = stage_in(stage, drift.scales, TOKENS * sizeof(float));
    hisa_status_t status = hisa_index_append(index, 0, TOKENS, keys, scales, HISA_KEYS_REPLICATED, stream);
    if (status == HISA_OK) {
        status = hisa_select_workspace_size(index, &way->options, ROWS, &bytes);
    }
    void *workspace = NULL;
    if (status == HISA_OK) {
        status = hisa_index_ops(index)->alloc(index->device, (int64_t)bytes, &workspace);
    }
    for (int call = 0; call < 2 && status == HISA_OK; ++call) { /* the second right behind the first */
        status = hisa_select(index, &staged, &way->options, &selection, workspace, bytes, stream);
    }
    if (status == HISA_OK) {
        status = hisa_index_synchronize(index, stream);
    }
    stage_back(stage);
    hisa_index_ops(index)->release(index->device, workspace);
    return status;
}

static void *run_rank(void *argument) {
    rank_run_t *run = argument;
    hisa_index_config_t config = gpu_config(&drift, HISA_BACKEND_CUDA, BLOCK);
    hisa_index_t *index = NULL;
    cudaStream_t stream = NULL; /* rank 0: the default one */
    config.stripe = run->way->stripe;
    run->status = hisa_index_create(&config, run->comm, &index);
    if (run->status == HISA_OK && hisa_comm_rank(run->comm) > 0) {
        ck_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    }
    if (run->status == HISA_OK) {
        stage_t stage = {.index = index};
        run->status = fill_and_select(run, index, &stage, stream);
        stage_end(&stage);
    }
    snprintf(run->message, sizeof run->message, "%s", hisa_last_error());
    hisa_index_destroy(index);
    if (stream != NULL) {
        cudaStreamDestroy(stream);
    }
    return NULL;
}

/* Gathers what each rank has of row r, a rank's results as its placement gives them, back into one row of all. */
static void merge_local(const way_t *way, const rank_run_t *run, int64_t r, results_t *got) {
    const hisa_layout_t layout = {
        .stripe = way->stripe == HISA_STRIPE_CONTIGUOUS
                      ? hisa_layout_contiguous_stripe(gpu_config(&drift, HISA_BACKEND_CUDA, BLOCK).capacity, way->count,
                                                      BLOCK)
                      : way->stripe,
        .ranks = way->count,
        .block_size = BLOCK};
    const int64_t k = got->k;
    int32_t at[RANKS] = {0};
    int32_t n = 0;
    for (;; ++n) {
        int64_t best = INT64_MAX;
        int from = -1;
        for (int p = 0; p < way->count; ++p) {
            const int32_t slot = at[p] < run[p].results.counts[r] ? run[p].results.indices[r * k + at[p]] : -1;
            const int64_t position =
                slot < 0 ? INT64_MAX : hisa_layout_global(&layout, p, slot / BLOCK) * BLOCK + slot % BLOCK;
            from = position < best ? p : from;
            best = position < best ? position : best;
        }
        if (from < 0) {
            break;
        }
        got->indices[r * k + n] = (int32_t)best;
        if (got->scores != NULL) {
            got->scores[r * k + n] = run[from].results.scores[r * k + at[from]];
        }
        ++at[from];
    }
    got->counts[r] = n;
    for (int64_t i = n; i < k; ++i) {
        got->indices[r * k + i] = -1;
        if (got->scores != NULL) {
            got->scores[r * k + i] = 0;
        }
    }
}

static void compare(const way_t *way, const rank_run_t *run, const results_t *all, const char *what) {
    if (way->options.placement == HISA_PLACE_LOCAL) {
        results_t got = results_make(ROWS, &way->options);
        for (int64_t r = 0; r < ROWS; ++r) {
            merge_local(way, run, r, &got);
        }
        results_same(all, 0, &got, what);
        results_free(&got);
        return;
    }
    for (int p = 0; p < way->count; ++p) {
        results_t own = run[p].results;
        int64_t first = 0;
        if (way->options.placement == HISA_PLACE_OWNER) {
            const bool sharded = way->options.queries_on == HISA_QUERIES_SHARDED;
            first = sharded ? way->first[p] : ROWS * (int64_t)p / way->count;
            own.rows = sharded ? way->rows[p] : ROWS * (p + INT64_C(1)) / way->count - first;
        }
        results_same(all, first, &own, what);
    }
}

static void run_way(const way_t *way, const results_t *all, const char *scorer) {
    hisa_comm_t *comms[RANKS] = {NULL};
    rank_run_t run[RANKS];
    pthread_t thread[RANKS];
    char what[256];
    snprintf(what, sizeof what, "%s, %d ranks, exchange %d, tiles of %d, queries %d, results %d, flags %u", scorer,
             way->count, way->options.exchange, way->options.tile_rows, way->options.queries_on, way->options.placement,
             way->options.flags);
    ck_ok(thread_comm_create(way->count, comms));
    thread_comm_delay(way->options.tile_rows == 9 ? 300 : 0);
    for (int r = 0; r < way->count; ++r) {
        run[r] = (rank_run_t){.comm = comms[r], .way = way, .results = results_make(ROWS, &way->options)};
        ck_assert_int_eq(pthread_create(&thread[r], NULL, run_rank, &run[r]), 0);
    }
    for (int r = 0; r < way->count; ++r) {
        pthread_join(thread[r], NULL);
    }
    for (int r = 0; r < way->count; ++r) {
        ck_assert_msg(run[r].status == HISA_OK, "%s, rank %d: %s", what, r, run[r].message);
    }
    compare(way, run, all, what);
    for (int r = 0; r < way->count; ++r) {
        results_free(&run[r].results);
    }
    thread_comm_destroy(way->count, comms);
}

/* Rows of each rank, uneven, the last but one without any; or all of them the last one's. */
static void deal_queries(way_t *way, bool all_on_one) {
    int64_t next = 0;
    for (int r = 0; r < way->count; ++r) {
        const bool last = r == way->count - 1;
        way->first[r] = next;
        way->rows[r] = last ? ROWS - next : (all_on_one || r == way->count - 2 ? 0 : (ROWS - next) / (2 + r));
        next += way->rows[r];
    }
}

START_TEST(ranks) {
    static const int counts[] = {2, 3, RANKS};
    static const int32_t tiles[] = {0, 9, 50}; /* one tile; many, with slow exchanges; three */
    hisa_select_options_t options;
    char scorer[64];
    if (!begin(_i, &options, scorer, sizeof scorer)) {
        return;
    }
    hisa_index_t *index = gpu_index(&drift, HISA_BACKEND_CUDA, BLOCK, 0);
    results_t all = results_make(ROWS, &options);
    gpu_select(index, &drift, &options, 0, 1, &all);
    hisa_index_destroy(index);
    for (int c = 0; c < 3; ++c) {
        for (int placement = HISA_PLACE_REPLICATED; placement <= HISA_PLACE_LOCAL; ++placement) {
            /* Tiles, queries and stripe in turn, so that each meets each placement and number of ranks. */
            for (int t = 0; t < 3; ++t) {
                const int turn = c + placement + t;
                way_t way = {.count = counts[c], .options = options, .stripe = turn % 2 ? 1 : HISA_STRIPE_CONTIGUOUS};
                way.options.exchange = t == 0 && placement == c ? HISA_EXCHANGE_ONESHOT : HISA_EXCHANGE_OWNER;
                way.options.placement = (hisa_placement_t)placement;
                way.options.tile_rows = tiles[t];
                way.options.queries_on = turn % 3 != 0 ? HISA_QUERIES_SHARDED : HISA_QUERIES_REPLICATED;
                deal_queries(&way, turn % 3 == 1);
                run_way(&way, &all, scorer);
                if (t == 2) {
                    way.options.flags |= HISA_SELECT_TIMED;
                    run_way(&way, &all, scorer);
                }
            }
        }
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

/* Few rows at a time, over and over, against all of them at once: other kernels, the same bits each time. A thread
 * block has a new block of keys for each query here, and they come from all over a million tokens: a kernel that gives
 * their room away too soon is seen within some ten calls. */
START_TEST(few_rows_over_and_over) {
    enum { MANY_ROWS = 256, CALLS = 60 };
    hisa_select_options_t options = gpu_options(HISA_MODE_HISA);
    if (!gpu_try_scorer(HISA_CUDA_SCORER_WGMMA, 128, HEADS, BLOCK)) {
        return;
    }
    trace_t trace = gpu_drift(1 << 20, MANY_ROWS, HEADS, 5);
    hisa_index_t *index = gpu_index(&trace, HISA_BACKEND_CUDA, BLOCK, 0);
    results_t all = results_make(MANY_ROWS, &options);
    results_t few = results_make(MANY_ROWS, &options);
    gpu_select(index, &trace, &options, 0, 1, &all);
    for (int32_t rows = 16; rows <= 64; rows *= 4) {
        options.tile_rows = rows;
        gpu_select(index, &trace, &options, 0, CALLS, &few);
        results_same(&all, 0, &few, "tiles of few rows");
    }
    results_free(&few);
    results_free(&all);
    hisa_index_destroy(index);
    trace_free(&trace);
}
END_TEST

/* Rows that see much, little or nothing, in no order, as requests of a batch do: thread blocks take work as they come,
 * more and more finely cut towards the end, and none must be left out. Batches of eight rows: fewer than there are
 * multiprocessors, and more; five tiles of blocks, the last of them not full. */
START_TEST(uneven_rows) {
    enum { MANY_TOKENS = 75000, MANY_ROWS = 2101 };
    static const int64_t calls[] = {MANY_ROWS, 1056, 500, 93};
    hisa_select_options_t options = gpu_options((hisa_mode_t)_i);
    if (!gpu_try_scorer(HISA_CUDA_SCORER_WGMMA, 128, HEADS, BLOCK)) {
        return;
    }
    rng_t rng = {20261127};
    trace_t trace = gpu_drift(MANY_TOKENS, MANY_ROWS, HEADS, 7);
    for (int64_t r = 0; r < MANY_ROWS; ++r) {
        trace.ends[r] = (int32_t)rng_range(&rng, 0, MANY_TOKENS);
        trace.begins[r] = rng_range(&rng, 0, 3) == 0 ? (int32_t)rng_range(&rng, 0, trace.ends[r]) : 0;
    }
    hisa_index_t *index = gpu_index(&trace, HISA_BACKEND_CUDA, BLOCK, 0);
    results_t few = results_make(MANY_ROWS, &options);
    options.tile_rows = 8;
    gpu_select(index, &trace, &options, 0, 1, &few);
    options.tile_rows = 0;
    for (size_t c = 0; c < sizeof calls / sizeof calls[0]; ++c) {
        results_t many = results_make(calls[c], &options);
        gpu_select(index, &trace, &options, MANY_ROWS - calls[c], 3, &many);
        results_same(&few, MANY_ROWS - calls[c], &many, gpu_mode_name(options.mode));
        results_free(&many);
    }
    results_free(&few);
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
    tcase_add_test(tests, few_rows_over_and_over);
    tcase_add_loop_test(tests, uneven_rows, 0, MODES);
    tcase_add_test(tests, arithmetic_is_agreed);
    tcase_add_test(tests, best_by_default);
    suite_add_tcase(suite, tests);
    return gpu_main(suite);
}
