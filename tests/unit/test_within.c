/* A call with a deadline: what comes back in time, and what does not. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "comm/clock.h"
#include "comm/within.h"
#include "support/suite.h"

typedef struct arguments {
    int in;
    int out;
    const atomic_bool *held; /* the call stays away for as long */
    atomic_int *late;        /* outlives the call: what the late call had in its arguments */
} arguments_t;

static void stay(const atomic_bool *held) {
    while (held != NULL && atomic_load(held)) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static hisa_status_t square(void *context) {
    arguments_t *arguments = context;
    stay(arguments->held);
    arguments->out = arguments->in * arguments->in;
    return HISA_OK;
}

static hisa_status_t refuse(void *context) {
    const arguments_t *arguments = context;
    stay(arguments->held);
    return hisa_fail(HISA_ERR_CAPACITY, "%d is too many", arguments->in);
}

static void tell(void *context) {
    const arguments_t *arguments = context;
    atomic_store(arguments->late, arguments->out);
}

START_TEST(in_time) {
    const hisa_within_job_t job = {.what = "squaring", .call = square};
    for (int i = 0; i < 1000; ++i) {
        arguments_t arguments = {.in = i};
        ck_assert_int_eq(hisa_within(60.0, &job, &arguments, sizeof arguments), HISA_OK);
        ck_assert_int_eq(arguments.out, i * i);
    }
}
END_TEST

/* The error is one of the other thread's; it must become this one's. */
START_TEST(failed) {
    const hisa_within_job_t job = {.what = "refusing", .call = refuse};
    arguments_t arguments = {.in = 7};
    ck_assert_int_eq(hisa_within(60.0, &job, &arguments, sizeof arguments), HISA_ERR_CAPACITY);
    ck_assert_str_eq(hisa_last_error(), "7 is too many");
}
END_TEST

/* The caller goes on while the call stays away; its arguments are its own, and so is what comes of them. */
START_TEST(out_of_time) {
    const hisa_within_job_t job = {.what = "squaring", .call = square, .late = tell};
    static atomic_bool held = true;
    static atomic_int late = 0;
    arguments_t arguments = {.in = 9, .held = &held, .late = &late};
    const double begin = hisa_now();
    ck_assert_int_eq(hisa_within(0.2, &job, &arguments, sizeof arguments), HISA_ERR_TIMEOUT);
    ck_assert(hisa_now() - begin >= 0.2);
    ck_assert_str_eq(hisa_last_error(), "squaring: not done within 0.2 s");
    ck_assert_int_eq(arguments.out, 0);
    arguments.in = 5;
    atomic_store(&held, false);
    while (atomic_load(&late) == 0) { /* the test's own time is the limit */
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    ck_assert_int_eq(atomic_load(&late), 81);
    ck_assert_int_eq(arguments.out, 0);
}
END_TEST

static hisa_status_t look_at_signals(void *context) {
    arguments_t *arguments = context;
    sigset_t mask;
    pthread_sigmask(SIG_BLOCK, NULL, &mask);
    arguments->out = sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGALRM) == 1 ? 1 : 0;
    return HISA_OK;
}

/* A signal of the process is not to be handled there; the caller goes on taking those it took. */
START_TEST(signals) {
    const hisa_within_job_t job = {.what = "looking", .call = look_at_signals};
    arguments_t arguments = {.in = 0};
    sigset_t one;
    sigset_t mask;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    ck_assert_int_eq(pthread_sigmask(SIG_SETMASK, &one, NULL), 0);
    ck_assert_int_eq(hisa_within(60.0, &job, &arguments, sizeof arguments), HISA_OK);
    ck_assert_int_eq(arguments.out, 1);
    ck_assert_int_eq(pthread_sigmask(SIG_BLOCK, NULL, &mask), 0);
    ck_assert_int_eq(sigismember(&mask, SIGUSR1), 1);
    ck_assert_int_eq(sigismember(&mask, SIGTERM), 0);
}
END_TEST

/* What fails late fails for nobody. */
START_TEST(failed_late) {
    const hisa_within_job_t job = {.what = "refusing", .call = refuse};
    static atomic_bool held = true;
    arguments_t arguments = {.in = 7, .held = &held};
    ck_assert_int_eq(hisa_within(0.1, &job, &arguments, sizeof arguments), HISA_ERR_TIMEOUT);
    atomic_store(&held, false);
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    ck_assert_str_eq(hisa_last_error(), "refusing: not done within 0.1 s");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("calls with a deadline");
    TCase *calls = tcase_create("calls");
    tcase_add_test(calls, in_time);
    tcase_add_test(calls, failed);
    tcase_add_test(calls, out_of_time);
    tcase_add_test(calls, failed_late);
    tcase_add_test(calls, signals);
    suite_add_tcase(suite, calls);
    return suite_main(suite);
}
