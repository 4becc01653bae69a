/* What each Check program shares. */
#ifndef HISA_TESTS_SUITE_H
#define HISA_TESTS_SUITE_H

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "hisa/hisa.h"

/* Asserts success, with the library's message on failure. */
#define ck_ok(call)                                                                                                    \
    do {                                                                                                               \
        const hisa_status_t ck_ok_status = (call);                                                                     \
        ck_assert_msg(ck_ok_status == HISA_OK, "%s: %s (%s)", #call, hisa_status_string(ck_ok_status),                 \
                      hisa_last_error());                                                                              \
    } while (0)

/* Asserts a failure with this status and a message that contains `text`. */
#define ck_fails(call, status, text)                                                                                   \
    do {                                                                                                               \
        const hisa_status_t ck_fails_status = (call);                                                                  \
        ck_assert_msg(ck_fails_status == (status), "%s: got %s, expected %s (%s)", #call,                              \
                      hisa_status_string(ck_fails_status), hisa_status_string(status), hisa_last_error());             \
        ck_assert_msg(strstr(hisa_last_error(), (text)) != NULL, "%s: \"%s\" lacks \"%s\"", #call, hisa_last_error(),  \
                      (text));                                                                                         \
    } while (0)

/* Runs a suite in the usual way; the exit status of main. A suite without a test is a failure. */
static inline int suite_main(Suite *suite) {
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    const int failed = srunner_ntests_failed(runner);
    const int run = srunner_ntests_run(runner);
    srunner_free(runner);
    return failed == 0 && run > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
