/* Named cases on one rank, and what holds between several calls. */
#include "support/cases.h"
#include "support/named.h"
#include "support/runs.h"
#include "support/suite.h"

static hisa_comm_t *comm;

static void setup(void) { ck_ok(hisa_comm_create_self(&comm)); }

static void teardown(void) { hisa_comm_destroy(comm); }

static void check_run(const run_t *run, const test_case_t *made, const char *name) {
    char why[256] = "";
    char what[320] = "";
    const bool well = run_check(run, made, comm, why, sizeof why);
    run_describe(run, made, what, sizeof what);
    ck_assert_msg(well, "%s: %s; %s", name, why, what);
}

/* Each exchange, placement, tile and way of appending. */
START_TEST(named) {
    static const int32_t tiles[] = {0, 1, 3};
    test_case_t made;
    named_cases[_i].build(&made);
    run_t run;
    for (int way = 0; way < 3; ++way) {
        run_plain(&run, &made, 1);
        run.exchange = (hisa_exchange_t)way;
        run.placement = (hisa_placement_t)((way + _i) % 3);
        run.tile_rows = tiles[way];
        run.keys_on = (hisa_keys_on_t)(way % 2);
        run.threads = 1 + way % 2;
        check_run(&run, &made, named_cases[_i].name);
    }
    test_case_free(&made);
}
END_TEST

/* The three modes on the keys and windows of every named case. */
START_TEST(modes) {
    test_case_t made;
    named_cases[_i].build(&made);
    run_t run;
    for (int mode = HISA_MODE_HISA; mode <= HISA_MODE_BLOCK; ++mode) {
        made.options.mode = (hisa_mode_t)mode;
        made.options.top_blocks = 1 + (made.options.top_k - 1) / made.config.block_size;
        if (made.options.top_blocks < made.options.sink_blocks + made.options.local_blocks) {
            made.options.top_blocks = made.options.sink_blocks + made.options.local_blocks;
        }
        test_case_again(&made);
        run_plain(&run, &made, 1);
        check_run(&run, &made, named_cases[_i].name);
    }
    test_case_free(&made);
}
END_TEST

/* Calls of changing size share one workspace, which nobody cleans: nothing of the last call may be read again. */
START_TEST(same_workspace) {
    enum { CALLS = 40 };
    test_case_t made;
    named_cases[10].build(&made);
    ck_assert_str_eq(named_cases[10].name, "windows_cut_blocks");
    run_t run;
    run_plain(&run, &made, 1);
    hisa_index_t *index = NULL;
    ck_ok(run_create_index(&run, &made, comm, &index));
    size_t bytes = 0;
    for (int mode = HISA_MODE_HISA; mode <= HISA_MODE_BLOCK; ++mode) {
        size_t needed = 0;
        made.options.mode = (hisa_mode_t)mode;
        made.options.top_k = 64;
        made.options.top_blocks = 4;
        ck_ok(hisa_select_workspace_size(index, &made.options, made.num_rows, &needed));
        bytes = needed > bytes ? needed : bytes;
    }
    guarded_t workspace = guarded_make(bytes, 0xff);
    rng_t rng = {7};
    for (int call = 0; call < CALLS; ++call) {
        made.options.mode = (hisa_mode_t)rng_range(&rng, HISA_MODE_HISA, HISA_MODE_BLOCK);
        made.options.top_k = (int32_t)rng_range(&rng, 1, 64);
        made.options.exchange = (hisa_exchange_t)rng_range(&rng, HISA_EXCHANGE_AUTO, HISA_EXCHANGE_LISTS);
        test_case_again(&made);
        const int64_t first = rng_range(&rng, 0, made.num_rows);
        const int64_t count = rng_range(&rng, 0, made.num_rows - first);
        const int64_t k = made.options.top_k;
        const hisa_queries_t queries = test_case_queries(&made, first, count);
        hisa_selection_t selection;
        hisa_selection_init(&selection);
        selection.indices = test_alloc(count * k, sizeof(int32_t));
        selection.counts = test_alloc(count, sizeof(int32_t));
        ck_ok(hisa_select(index, &queries, &made.options, &selection, workspace.data, bytes, NULL));
        if (count > 0) {
            ck_assert_mem_eq(selection.indices, made.indices + first * k, (size_t)(count * k) * sizeof(int32_t));
            ck_assert_mem_eq(selection.counts, made.counts + first, (size_t)count * sizeof(int32_t));
        }
        free(selection.indices);
        free(selection.counts);
    }
    ck_assert(guarded_intact(&workspace));
    guarded_free(&workspace);
    hisa_index_destroy(index);
    test_case_free(&made);
}
END_TEST

/* An index with a past and one filled at once give the same, whatever the past. */
START_TEST(history_leaves_no_trace) {
    for (uint64_t seed = 100; seed < 130; ++seed) {
        test_case_t made;
        test_case_make(&made, seed);
        run_t run;
        run_plain(&run, &made, 1);
        hisa_index_t *index = NULL;
        ck_ok(run_create_index(&run, &made, comm, &index));
        /* Everything goes, and comes back in one piece. */
        for (int32_t i = 0; i < made.config.num_sequences; ++i) {
            const hisa_oracle_keys_t *keys = &made.keys[i];
            ck_ok(hisa_index_truncate(index, i, 0, NULL));
            ck_ok(hisa_index_append(index, i, keys->num_tokens, keys->keys, keys->scales, HISA_KEYS_REPLICATED, NULL));
        }
        char why[256] = "";
        const bool well = run_check_index(&run, &made, comm, index, why, sizeof why);
        ck_assert_msg(well, "seed %llu: %s", (unsigned long long)seed, why);
        hisa_index_destroy(index);
        test_case_free(&made);
    }
}
END_TEST

/* A block whose length grows token by token is pooled anew each time: each length against the reference. */
START_TEST(one_token_at_a_time) {
    test_case_t made;
    test_case_blank(&made, 32, 3, 16, 70, 1);
    for (int64_t s = 0; s < 70; ++s) {
        for (int d = 0; d < 32; ++d) {
            test_case_key(&made, s)[d] = (uint8_t)((s * 37 + d * 11) % 0x7f + (s + d) % 2 * 0x80);
        }
    }
    test_case_finish(&made);
    made.options.top_blocks = 1;
    made.options.top_k = 16;
    run_t run;
    run_plain(&run, &made, 1);
    hisa_index_t *index = NULL;
    ck_ok(run_create_index(&run, &made, comm, &index));
    ck_ok(hisa_index_truncate(index, 0, 0, NULL));
    for (int64_t length = 1; length <= 70; ++length) {
        ck_ok(hisa_index_append(index, 0, 1, test_case_key(&made, length - 1), test_case_scale(&made, length - 1),
                                HISA_KEYS_REPLICATED, NULL));
        hisa_oracle_free(&made.keys[0]);
        made.keys[0].num_tokens = length;
        ck_ok(hisa_oracle_pool(&made.keys[0]));
        test_case_window(&made, 0, 0, length);
        test_case_again(&made);
        char why[256] = "";
        const bool well = run_check_index(&run, &made, comm, index, why, sizeof why);
        ck_assert_msg(well, "length %lld: %s", (long long)length, why);
    }
    hisa_index_destroy(index);
    test_case_free(&made);
}
END_TEST

/* Statistics count calls, rows and the keys that were scored. */
START_TEST(statistics) {
    test_case_t made;
    test_case_blank(&made, 16, 1, 16, 160, 5);
    made.options.mode = HISA_MODE_FLAT;
    test_case_finish(&made);
    run_t run;
    run_plain(&run, &made, 1);
    run.repeats = 3;
    run.exchange = HISA_EXCHANGE_ONESHOT;
    hisa_index_t *index = NULL;
    ck_ok(run_create_index(&run, &made, comm, &index));
    char why[256] = "";
    ck_assert_msg(run_check_index(&run, &made, comm, index, why, sizeof why), "%s", why);
    hisa_stats_t stats = {.struct_size = sizeof stats};
    ck_ok(hisa_index_stats(index, &stats));
    ck_assert_int_eq(stats.calls, 3);
    ck_assert_int_eq(stats.rows, 15);
    ck_assert_int_eq(stats.exchange, HISA_EXCHANGE_ONESHOT);
    ck_assert_int_eq(stats.steps[HISA_STEP_SCORE_TOKENS].keys_scored, 15 * 160);
    ck_assert_int_eq(stats.steps[HISA_STEP_SCORE_BLOCKS].keys_scored, 0);
    for (int step = 0; step < HISA_STEP_COUNT; ++step) {
        ck_assert_int_eq(stats.steps[step].bytes_sent, 0);
        ck_assert_int_eq(stats.steps[step].bytes_received, 0);
        ck_assert(hisa_step_name((hisa_step_t)step)[0] != '\0');
    }
    ck_ok(hisa_index_stats_reset(index));
    ck_ok(hisa_index_stats(index, &stats));
    ck_assert_int_eq(stats.calls, 0);
    ck_assert_int_eq(stats.steps[HISA_STEP_SCORE_TOKENS].keys_scored, 0);
    stats.struct_size = 3;
    ck_fails(hisa_index_stats(index, &stats), HISA_ERR_INVALID_ARGUMENT, "struct_size");
    hisa_index_destroy(index);
    test_case_free(&made);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("select_named");
    TCase *tests = tcase_create("named");
    tcase_set_timeout(tests, 120);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_loop_test(tests, named, 0, num_named_cases);
    tcase_add_loop_test(tests, modes, 0, num_named_cases);
    tcase_add_test(tests, same_workspace);
    tcase_add_test(tests, history_leaves_no_trace);
    tcase_add_test(tests, one_token_at_a_time);
    tcase_add_test(tests, statistics);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
