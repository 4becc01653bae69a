/* The CUDA backend against the reference on random small cases, to the bit: the f32 scorer on any input, the others on
 * exactly representable ones. Also with several ranks, as threads on one device.
 *     HISA_CUDA_SCORER=s                    only this scorer's
 *     HISA_TEST_SEED=s HISA_TEST_CASES=n    runs the n cases of seeds s, s + 1, ... instead of the usual ones
 *     CK_RUN_CASE=small                     leaves out what takes long under compute-sanitizer */
#include <pthread.h>

#include "gpu/gpu_support.h"
#include "gpu/thread_comm.h"
#include "support/cases.h"
#include "support/named.h"
#include "support/runs.h"

enum { CASES = 2000, RANKS = 5 };

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

/* A case by `ranks` ranks (1: in this thread). */
static void check_case(const test_case_t *made, rng_t *rng, int ranks) {
    run_t run;
    run_draw(&run, rng, made, ranks);
    hisa_comm_t *comms[RANKS] = {gpu_comm};
    ranked_t ranked[RANKS] = {0};
    pthread_t thread[RANKS];
    if (ranks > 1) {
        ck_ok(thread_comm_create(ranks, comms));
    }
    for (int r = 0; r < ranks; ++r) {
        ranked[r] = (ranked_t){.made = made, .run = &run, .comm = comms[r]};
        if (ranks > 1) {
            ck_assert_int_eq(pthread_create(&thread[r], NULL, run_rank, &ranked[r]), 0);
        } else {
            run_rank(&ranked[r]);
        }
    }
    for (int r = 0; r < ranks && ranks > 1; ++r) {
        pthread_join(thread[r], NULL);
    }
    char what[320] = "";
    run_describe(&run, made, what, sizeof what);
    for (int r = 0; r < ranks; ++r) {
        ck_assert_msg(ranked[r].well, "HISA_TEST_SEED=%llu HISA_TEST_CASES=1: rank %d of %d: %s; %s",
                      (unsigned long long)made->seed, r, ranks, ranked[r].why, what);
    }
    if (ranks > 1) {
        thread_comm_destroy(ranks, comms);
    }
}

/* Any input, any shape: the f32 scorer. */
static void any_input(int64_t cases, bool several) {
    const uint64_t seed = test_seed(1);
    if (!gpu_wants_scorer(HISA_CUDA_SCORER_F32)) {
        return;
    }
    gpu_use_scorer(HISA_CUDA_SCORER_F32);
    printf("seeds %llu to %llu\n", (unsigned long long)seed, (unsigned long long)seed + (unsigned long long)cases - 1);
    fflush(stdout);
    for (int64_t i = 0; i < cases; ++i) {
        test_case_t made;
        test_case_make(&made, seed + (uint64_t)i);
        made.config.backend = HISA_BACKEND_CUDA;
        rng_t rng = {several ? ~made.seed ^ 0x5bu : ~made.seed};
        check_case(&made, &rng, several ? 2 + (int)rng_range(&rng, 0, RANKS - 2) : 1);
        test_case_free(&made);
    }
}

START_TEST(random_cases) { any_input(test_cases(CASES), false); }
END_TEST

START_TEST(random_cases_of_ranks) { any_input((test_cases(CASES) + 3) / 4, true); }
END_TEST

/* Exact inputs in the usual shapes: every scorer that the device has for them, alone and in ranks. */
START_TEST(random_exact_cases) {
    static const int32_t shapes[][3] = {{128, 64, 128}, {128, 32, 64}, {128, 64, 64}, {128, 32, 256}}; /* D, H, B */
    enum { SHAPES = sizeof shapes / sizeof shapes[0] };
    const hisa_cuda_scorer_t scorer = (hisa_cuda_scorer_t)_i;
    const uint64_t seed = test_seed(1);
    const int64_t cases = (test_cases(CASES) + 99) / 100;
    for (int shape = 0; shape < SHAPES; ++shape) {
        hisa_index_config_t config;
        hisa_index_config_init(&config);
        config.head_dim = shapes[shape][0];
        config.num_heads = shapes[shape][1];
        config.block_size = shapes[shape][2];
        if (!gpu_try_scorer(scorer, config.head_dim, config.num_heads, config.block_size)) {
            continue;
        }
        for (int64_t i = 0; i < cases; ++i) {
            test_case_t made;
            test_case_make_shaped(&made, seed + (uint64_t)(i * SHAPES + shape), &config);
            made.config.backend = HISA_BACKEND_CUDA;
            rng_t rng = {~made.seed};
            check_case(&made, &rng, 1);
            check_case(&made, &rng, 2 + (int)rng_range(&rng, 0, RANKS - 2));
            test_case_free(&made);
        }
    }
}
END_TEST

/* What has gone wrong in some selector before, with any input: the f32 scorer. */
START_TEST(named) {
    if (!gpu_wants_scorer(HISA_CUDA_SCORER_F32)) {
        return;
    }
    test_case_t made;
    named_cases[_i].build(&made);
    made.config.backend = HISA_BACKEND_CUDA;
    gpu_use_scorer(HISA_CUDA_SCORER_F32);
    for (int exchange = HISA_EXCHANGE_OWNER; exchange <= HISA_EXCHANGE_LISTS; ++exchange) {
        run_t run;
        char why[256] = "";
        run_plain(&run, &made, 1);
        run.exchange = (hisa_exchange_t)exchange;
        ck_assert_msg(run_check(&run, &made, gpu_comm, why, sizeof why), "%s: %s", named_cases[_i].name, why);
    }
    test_case_free(&made);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cuda");
    TCase *small = tcase_create("small");
    tcase_add_checked_fixture(small, gpu_make_comm, gpu_drop_comm);
    tcase_add_test(small, random_cases);
    tcase_add_test(small, random_cases_of_ranks);
    tcase_add_loop_test(small, random_exact_cases, 0, HISA_CUDA_SCORERS);
    suite_add_tcase(suite, small);
    TCase *cases = tcase_create("named");
    tcase_add_checked_fixture(cases, gpu_make_comm, gpu_drop_comm);
    tcase_add_loop_test(cases, named, 0, num_named_cases);
    suite_add_tcase(suite, cases);
    return gpu_main(suite);
}
