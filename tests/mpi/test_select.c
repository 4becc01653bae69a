/* Selections on the CPU over MPI (support/select_suite.h says what is tested). */
#include "support/sanitized.h"

/* The watchdog leaves four minutes for all tests together. */
#define SELECT_SUITE_CASES (HISA_SANITIZED ? 100 : 300)
#define SELECT_SUITE_CALLS 60
#define SELECT_SUITE_BACKEND HISA_BACKEND_CPU
#define select_suite_comm mpi_suite_comm

#include "support/select_suite.h"

int main(void) {
    Suite *suite = suite_create("select");
    TCase *tests = tcase_create("select");
    select_suite_add(tests);
    suite_add_tcase(suite, tests);
    return mpi_suite_main(suite);
}
