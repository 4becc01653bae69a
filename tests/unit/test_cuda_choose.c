/* Which scorer the CUDA backend takes, and which devices: answered from numbers, on a machine without a device too. */
#include "backend/cuda/cuda.h"
#include "support/suite.h"

static hisa_index_config_t config;

static void setup(void) {
    hisa_index_config_init(&config);
    config.capacity = 1000;
}

/* Whatever the shape, there is a scorer, the best is available, and none that is listed after it is. */
START_TEST(the_best_is_the_last_available) {
    static const int capability[][2] = {{8, 0}, {8, 6}, {8, 9}, {9, 0}, {10, 0}, {12, 0}};
    static const int32_t shape[][3] = {{16, 1, 16}, {128, 64, 128}, {128, 32, 64}, {128, 64, 256}, {256, 128, 16}};
    for (size_t c = 0; c < sizeof capability / sizeof capability[0]; ++c) {
        for (size_t s = 0; s < sizeof shape / sizeof shape[0]; ++s) {
            const int major = capability[c][0];
            const int minor = capability[c][1];
            config.head_dim = shape[s][0];
            config.num_heads = shape[s][1];
            config.block_size = shape[s][2];
            const hisa_cuda_scorer_t best = hisa_cuda_best_scorer(&config, major, minor);
            ck_assert(hisa_cuda_scorer_available(best, &config, major, minor));
            ck_assert(hisa_cuda_scorer_available(HISA_CUDA_SCORER_F32, &config, major, minor));
            for (int i = (int)best + 1; i < (int)HISA_CUDA_SCORERS; ++i) {
                ck_assert(!hisa_cuda_scorer_available((hisa_cuda_scorer_t)i, &config, major, minor));
            }
            hisa_cuda_scorer_t unset = HISA_CUDA_SCORERS;
            hisa_cuda_scorer_t empty = HISA_CUDA_SCORERS;
            ck_ok(hisa_cuda_choose_scorer(NULL, &config, major, minor, &unset));
            ck_ok(hisa_cuda_choose_scorer("", &config, major, minor, &empty));
            ck_assert_int_eq(unset, best);
            ck_assert_int_eq(empty, best);
        }
    }
}
END_TEST

/* Each name gives its scorer where that is available, and an error that names the shape where it is not. */
START_TEST(by_name) {
    const hisa_cuda_scorer_t scorer = (hisa_cuda_scorer_t)_i;
    const char *name = hisa_cuda_scorer_name(scorer);
    for (int32_t dim = 16; dim <= 256; dim += 16) {
        config.head_dim = dim;
        hisa_cuda_scorer_t got = HISA_CUDA_SCORERS;
        if (hisa_cuda_scorer_available(scorer, &config, 9, 0)) {
            ck_ok(hisa_cuda_choose_scorer(name, &config, 9, 0, &got));
            ck_assert_int_eq(got, scorer);
        } else {
            ck_fails(hisa_cuda_choose_scorer(name, &config, 9, 0, &got), HISA_ERR_UNSUPPORTED, name);
            ck_assert_ptr_nonnull(strstr(hisa_last_error(), "head_dim"));
            ck_assert_int_eq(got, HISA_CUDA_SCORERS);
        }
    }
    /* On the oldest device and the oddest shape all but wgmma compute. */
    hisa_cuda_scorer_t got = HISA_CUDA_SCORERS;
    config.head_dim = 16;
    config.num_heads = 1;
    config.block_size = 16;
    const hisa_status_t status = hisa_cuda_choose_scorer(name, &config, 8, 0, &got);
    ck_assert_int_eq(status, scorer == HISA_CUDA_SCORER_WGMMA ? HISA_ERR_UNSUPPORTED : HISA_OK);
}
END_TEST

START_TEST(unknown_name) {
    static const char *const names[] = {"F32", "wgmma ", "best", "0", "f32,mma"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; ++i) {
        hisa_cuda_scorer_t got = HISA_CUDA_SCORERS;
        ck_fails(hisa_cuda_choose_scorer(names[i], &config, 9, 0, &got), HISA_ERR_INVALID_ARGUMENT, "HISA_CUDA_SCORER");
        ck_assert_int_eq(got, HISA_CUDA_SCORERS);
    }
}
END_TEST

/* The CUDA cores give the CPU's bits, so they may share an index with it; the others may share it with nobody. */
START_TEST(arithmetic) {
    ck_assert_int_eq(hisa_cuda_scorer_arithmetic(HISA_CUDA_SCORER_F32), hisa_backend_cpu.arithmetic(NULL));
    for (int i = 0; i < (int)HISA_CUDA_SCORERS; ++i) {
        for (int j = 0; j < i; ++j) {
            ck_assert_int_ne(hisa_cuda_scorer_arithmetic((hisa_cuda_scorer_t)i),
                             hisa_cuda_scorer_arithmetic((hisa_cuda_scorer_t)j));
        }
    }
}
END_TEST

START_TEST(devices_too_old) {
    ck_fails(hisa_cuda_check_capability(3, 7, 5), HISA_ERR_UNSUPPORTED, "device 3 has compute capability 7.5");
    ck_ok(hisa_cuda_check_capability(0, 8, 0));
    ck_ok(hisa_cuda_check_capability(0, 9, 0));
    ck_ok(hisa_cuda_check_capability(0, 12, 1));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cuda_choose");
    TCase *tests = tcase_create("cuda_choose");
    tcase_add_checked_fixture(tests, setup, NULL);
    tcase_add_test(tests, the_best_is_the_last_available);
    tcase_add_loop_test(tests, by_name, 0, HISA_CUDA_SCORERS);
    tcase_add_test(tests, unknown_name);
    tcase_add_test(tests, arithmetic);
    tcase_add_test(tests, devices_too_old);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
