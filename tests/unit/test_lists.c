/* The steps of mode flat across ranks by themselves. The seed is in the assertion that fails. */
#include "support/lists.h"
#include "support/sanitized.h"

enum { STEP = HISA_SANITIZED ? 2 : 1 }; /* every other case under sanitizers, which cost ten times as much */

START_TEST(trimming) { lists_check_trimming(&lists_cases[_i * STEP], HISA_BACKEND_CPU, 20261129 + (uint64_t)_i); }
END_TEST

int main(void) {
    Suite *suite = suite_create("lists");
    TCase *tests = tcase_create("lists");
    tcase_set_timeout(tests, 120);
    tcase_add_loop_test(tests, trimming, 0, (lists_cases_count + STEP - 1) / STEP);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
