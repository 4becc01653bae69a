/* Selections under mpirun: whatever the ranks, the stripe, the exchange and the placement, what the reference says. The
 * same tests for each communicator; a suite defines, before it includes this:
 *     select_suite_comm()      a communicator over all ranks, with a deadline
 *     select_suite_done(comm)  the end of a test with it; by default destroys it
 *     SELECT_SUITE_BACKEND     that its indexes are made on
 *     SELECT_SUITE_CASES       random cases; SELECT_SUITE_CALLS calls in a row on one index (or HISA_TEST_CALLS)
 *     HISA_TEST_SEED=s HISA_TEST_CASES=n    runs the n cases of seeds s, s + 1, ... instead of the usual ones */
#ifndef HISA_TESTS_SELECT_SUITE_H
#define HISA_TESTS_SELECT_SUITE_H

#include "support/agreed.h"
#include "support/cases.h"
#include "support/mpi_suite.h"
#include "support/named.h"
#include "support/runs.h"

#ifndef select_suite_done
#define select_suite_done hisa_comm_destroy
#endif

enum { SELECT_SUITE_SEED = 1000001 };

static bool run_agreed(const run_t *run, const test_case_t *made, hisa_comm_t *comm) {
    char why[256] = "";
    const bool well = run_check(run, made, comm, why, sizeof why);
    return agreed(well, run, made, why);
}

START_MPI_TEST(random_cases) {
    const uint64_t seed = test_seed(SELECT_SUITE_SEED);
    const int64_t cases = test_cases(SELECT_SUITE_CASES);
    hisa_comm_t *comm = select_suite_comm();
    if (mpi_suite_rank() == 0) {
        printf("seeds %llu to %llu\n", (unsigned long long)seed, (unsigned long long)seed + (uint64_t)cases - 1);
    }
    for (int64_t i = 0; i < cases; ++i) {
        test_case_t made;
        test_case_make(&made, seed + (uint64_t)i);
        made.config.backend = SELECT_SUITE_BACKEND;
        rng_t rng = {~made.seed};
        run_t run;
        run_draw(&run, &rng, &made, mpi_suite_size());
        const bool well = run_agreed(&run, &made, comm);
        ck_assert_msg(well, "HISA_TEST_SEED=%llu HISA_TEST_CASES=1", (unsigned long long)made.seed);
        test_case_free(&made);
    }
    select_suite_done(comm);
}

/* Each named case in a few ways, drawn anew for each number of ranks. */
START_MPI_TEST(named) {
    hisa_comm_t *comm = select_suite_comm();
    test_case_t made;
    named_cases[_i].build(&made);
    made.config.backend = SELECT_SUITE_BACKEND;
    rng_t rng = {(uint64_t)(1000 * mpi_suite_size() + _i)};
    run_t run;
    for (int i = 0; i < test_part(4); ++i) {
        const int way = _i + i;
        run_draw(&run, &rng, &made, mpi_suite_size());
        run.exchange = (hisa_exchange_t)(HISA_EXCHANGE_OWNER + way % 3);
        const bool well = run_agreed(&run, &made, comm);
        ck_assert_msg(well, "%s", named_cases[_i].name);
    }
    test_case_free(&made);
    select_suite_done(comm);
}

/* Every stripe, exchange, place of queries and placement together, in one mode. */
START_MPI_TEST(all_ways) {
    static const int64_t stripes[] = {1, 2, 7, HISA_STRIPE_CONTIGUOUS};
    hisa_comm_t *comm = select_suite_comm();
    test_case_t made;
    named_cases[10].build(&made);
    made.config.backend = SELECT_SUITE_BACKEND;
    ck_assert_str_eq(named_cases[10].name, "windows_cut_blocks");
    made.options.mode = (hisa_mode_t)_i;
    test_case_again(&made);
    rng_t rng = {77};
    enum { WAYS = 4 * 3 * 2 * 3 };
    for (int i = 0; i < test_part(WAYS); ++i) {
        const int way = (29 * i + 11 * _i) % WAYS; /* a part of them holds some of each */
        run_t run;
        run_draw(&run, &rng, &made, mpi_suite_size());
        run.stripe = stripes[way % 4];
        run.exchange = (hisa_exchange_t)(HISA_EXCHANGE_OWNER + way / 4 % 3);
        run.queries_on = way / 12 % 2 == 0 ? HISA_QUERIES_REPLICATED : HISA_QUERIES_SHARDED;
        run.placement = (hisa_placement_t)(way / 24);
        run.want_counts = true;
        run.pass_rows_per_rank = run.pass_rows_per_rank || (run.flags & HISA_SELECT_UNCHECKED) != 0;
        ck_assert_msg(run_agreed(&run, &made, comm), "way %d", way);
    }
    test_case_free(&made);
    select_suite_done(comm);
}

/* One index, many calls of every kind: nothing of one call may be read by the next. */
START_MPI_TEST(calls_in_a_row) {
    hisa_comm_t *comm = select_suite_comm();
    test_case_t made;
    named_cases[10].build(&made);
    made.config.backend = SELECT_SUITE_BACKEND;
    rng_t rng = {78};
    run_t run;
    run_plain(&run, &made, mpi_suite_size());
    run.stripe = 2;
    hisa_index_t *index = NULL;
    ck_ok(run_create_index(&run, &made, comm, &index));
    const int64_t all_rows = made.num_rows;
    for (int call = 0; call < test_calls(SELECT_SUITE_CALLS); ++call) {
        made.num_rows = rng_range(&rng, 0, all_rows);
        made.options.mode = (hisa_mode_t)rng_range(&rng, HISA_MODE_HISA, HISA_MODE_BLOCK);
        made.options.top_blocks = (int32_t)rng_range(&rng, 2, 9);
        made.options.top_k = (int32_t)rng_range(&rng, 1, made.options.top_blocks * 16);
        test_case_again(&made);
        run_draw(&run, &rng, &made, mpi_suite_size()); /* the index stays as it is */
        char why[256] = "";
        const bool well = run_check_index(&run, &made, comm, index, why, sizeof why);
        ck_assert_msg(agreed(well, &run, &made, why), "call %d", call);
    }
    hisa_index_destroy(index);
    test_case_free(&made);
    select_suite_done(comm);
}

/* The owners that locate names are those of the law, slots are dense, and local lengths add up. */
START_MPI_TEST(ownership) {
    enum { BLOCK = 16, TOKENS = 16 * 23 + 5 };
    static const int64_t stripes[] = {1, 2, 7};
    const int ranks = mpi_suite_size();
    hisa_comm_t *comm = select_suite_comm();
    test_case_t made;
    test_case_blank(&made, 16, 1, BLOCK, TOKENS, 1);
    made.config.backend = SELECT_SUITE_BACKEND;
    test_case_finish(&made);
    for (int i = 0; i < 3; ++i) {
        run_t run;
        run_plain(&run, &made, ranks);
        run.stripe = stripes[i];
        run.default_offsets = false;
        run.rank_offsets[0] = ranks - 1;
        hisa_index_t *index = NULL;
        ck_ok(run_create_index(&run, &made, comm, &index));
        int64_t stored[RUN_RANKS_MAX] = {0};
        for (int64_t s = 0; s < TOKENS; ++s) {
            int owner = -1;
            int64_t slot = -1;
            ck_ok(hisa_index_locate(index, 0, s, &owner, &slot));
            ck_assert_int_eq(owner, (s / BLOCK / stripes[i] + ranks - 1) % ranks);
            ck_assert_int_eq(slot, stored[owner]);
            ++stored[owner];
        }
        int64_t length = 0;
        ck_ok(hisa_index_local_length(index, 0, &length));
        ck_assert_int_eq(length, stored[mpi_suite_rank()]);
        ck_ok(hisa_index_length(index, 0, &length));
        ck_assert_int_eq(length, TOKENS);
        hisa_index_destroy(index);
    }
    test_case_free(&made);
    select_suite_done(comm);
}

/* The statistics of one call, whose results are checked. The index is the caller's to destroy. */
static inline hisa_index_t *select_suite_measure(const run_t *run, const test_case_t *made, hisa_comm_t *comm,
                                                 hisa_stats_t *stats) {
    hisa_index_t *index = NULL;
    ck_ok(run_create_index(run, made, comm, &index));
    char why[256] = "";
    const bool well = run_check_index(run, made, comm, index, why, sizeof why);
    ck_assert(agreed(well, run, made, why));
    ck_ok(hisa_index_stats(index, stats));
    return index;
}

/* The exchange to compare with gathers what is said of it, from every rank: a row's list of blocks, then its list of k
 * tokens, 8 bytes an entry. */
START_MPI_TEST(bytes_of_lists) {
    const int ranks = mpi_suite_size();
    hisa_comm_t *comm = select_suite_comm();
    test_case_t made;
    named_cases[10].build(&made);
    made.config.backend = SELECT_SUITE_BACKEND;
    made.options.mode = HISA_MODE_HISA;
    made.options.top_blocks = 2;
    made.options.top_k = 20;
    test_case_again(&made);
    run_t run;
    run_plain(&run, &made, ranks);
    run.exchange = HISA_EXCHANGE_LISTS;
    hisa_stats_t stats = {.struct_size = sizeof stats};
    hisa_index_t *index = select_suite_measure(&run, &made, comm, &stats);
    ck_assert_int_eq(stats.exchange, HISA_EXCHANGE_LISTS);
    const int64_t lists = 8 * (ranks - 1) * made.num_rows;
    ck_assert_int_eq(stats.steps[HISA_STEP_MERGE_BLOCKS].bytes_received, lists * made.options.top_blocks);
    ck_assert_int_eq(stats.steps[HISA_STEP_MERGE_TOKENS].bytes_received, lists * made.options.top_k);
    hisa_index_destroy(index);
    test_case_free(&made);
    select_suite_done(comm);
}

/* What all ranks send in a step, all ranks receive; keys are scored once each in mode flat. */
START_MPI_TEST(statistics) {
    const int ranks = mpi_suite_size();
    hisa_comm_t *comm = select_suite_comm();
    test_case_t made;
    named_cases[_i == 0 ? 10 : 0].build(&made);
    made.config.backend = SELECT_SUITE_BACKEND;
    made.options.mode = _i == 0 ? HISA_MODE_FLAT : HISA_MODE_HISA;
    test_case_again(&made);
    run_t run;
    run_plain(&run, &made, ranks);
    run.exchange = HISA_EXCHANGE_OWNER;
    run.placement = HISA_PLACE_OWNER;
    hisa_stats_t stats = {.struct_size = sizeof stats};
    hisa_index_t *index = select_suite_measure(&run, &made, comm, &stats);
    ck_assert_int_eq(stats.calls, 1);
    ck_assert_int_eq(stats.rows, made.num_rows);
    int64_t sums[HISA_STEP_COUNT][3];
    for (int step = 0; step < HISA_STEP_COUNT; ++step) {
        sums[step][0] = stats.steps[step].bytes_sent;
        sums[step][1] = stats.steps[step].bytes_received;
        sums[step][2] = stats.steps[step].keys_scored;
    }
    MPI_Allreduce(MPI_IN_PLACE, sums, HISA_STEP_COUNT * 3, MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
    int64_t moved = 0;
    for (int step = 0; step < HISA_STEP_COUNT; ++step) {
        ck_assert_int_eq(sums[step][0], sums[step][1]);
        moved += sums[step][0];
    }
    ck_assert(ranks == 1 ? moved == 0 : moved > 0);
    if (made.options.mode == HISA_MODE_FLAT) {
        int64_t pairs = 0;
        for (int64_t t = 0; t < made.num_rows; ++t) {
            pairs += made.window_end[t] - made.window_begin[t];
        }
        /* Of windows that it cannot see a backend counts a bound. */
        if (made.config.backend == HISA_BACKEND_CPU) {
            ck_assert_int_eq(sums[HISA_STEP_SCORE_TOKENS][2], pairs);
        } else {
            ck_assert_int_ge(sums[HISA_STEP_SCORE_TOKENS][2], pairs);
        }
        ck_assert_int_eq(sums[HISA_STEP_SCORE_BLOCKS][2], 0);
    }
    hisa_index_destroy(index);
    test_case_free(&made);
    select_suite_done(comm);
}

static inline void select_suite_add(TCase *tests) {
    tcase_add_loop_test(tests, named, 0, num_named_cases);
    tcase_add_loop_test(tests, all_ways, HISA_MODE_HISA, HISA_MODE_BLOCK + 1);
    tcase_add_test(tests, calls_in_a_row);
    tcase_add_test(tests, ownership);
    tcase_add_loop_test(tests, statistics, 0, 2);
    tcase_add_test(tests, bytes_of_lists);
    tcase_add_test(tests, random_cases);
}

#endif
