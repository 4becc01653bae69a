/* Random small cases of everything, on one rank, against the reference: to the bit.
 *     HISA_TEST_SEED=s HISA_TEST_CASES=n    runs the n cases of seeds s, s + 1, ... instead of the usual ones */
#include <stdio.h>

#include "support/cases.h"
#include "support/runs.h"
#include "support/sanitized.h"
#include "support/suite.h"

/* Parts, each a process of its own, so that a crash names its seeds. */
enum { CASES = HISA_SANITIZED ? 2100 : 10500, PARTS = HISA_SANITIZED ? 21 : 105 };

START_TEST(random_cases) {
    const uint64_t seed = test_seed(1);
    const int64_t cases = test_cases(CASES);
    const int64_t first = cases * _i / PARTS;
    const int64_t end = cases * (_i + 1) / PARTS;
    if (first < end) {
        const unsigned long long low = seed + (uint64_t)first;
        const unsigned long long high = seed + (uint64_t)end - 1;
        printf("seeds %llu to %llu\n", low, high);
        fflush(stdout);
    }
    hisa_comm_t *comm = NULL;
    ck_ok(hisa_comm_create_self(&comm));
    for (int64_t i = first; i < end; ++i) {
        test_case_t made;
        test_case_make(&made, seed + (uint64_t)i);
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
    hisa_comm_destroy(comm);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("select_random");
    TCase *tests = tcase_create("random");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, random_cases, 0, PARTS);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
