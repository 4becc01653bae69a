/* What each Check program under mpirun shares. Every rank runs every test, in the same order, in one process (no fork).
 *
 * A failing ck_assert leaves the test on its own rank only, so the other ranks may wait for it: give communicators a
 * moderate deadline (mpi_suite_comm does), and assert what is equal on all ranks where that says as much. What still
 * hangs, in MPI's own collectives for one, is ended by the watchdog.
 *
 * Tests written with START_MPI_TEST instead of START_TEST are named by the watchdog and in failures; the others go by
 * their test case. */
#ifndef HISA_TESTS_MPI_SUITE_H
#define HISA_TESTS_MPI_SUITE_H

#include <mpi.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>

#include "hisa/hisa_mpi.h"
#include "support/suite.h"

#ifndef MPI_SUITE_SECONDS
#define MPI_SUITE_SECONDS 240 /* the whole program; below the TIMEOUT of CTest */
#endif
#define MPI_SUITE_DEADLINE 20.0

/* The test that runs now, for the watchdog. */
static const char *volatile mpi_suite_test = "";
static volatile int mpi_suite_skipped = 0;

/* Called on all ranks after the last test, while MPI still works: what several tests share is destroyed here. */
static void (*mpi_suite_at_end)(void) = NULL;

#define START_MPI_TEST(name)                                                                                           \
    static void name##_on_rank(int _i);                                                                                \
    START_TEST(name) {                                                                                                 \
        mpi_suite_test = #name;                                                                                        \
        name##_on_rank(_i);                                                                                            \
    }                                                                                                                  \
    END_TEST                                                                                                           \
    static void name##_on_rank(int _i CK_ATTRIBUTE_UNUSED)

/* Ends a test that needs more ranks than there are. A program whose tests are all skipped fails. */
#define mpi_suite_needs(ranks)                                                                                         \
    do {                                                                                                               \
        if (mpi_suite_size() < (ranks)) {                                                                              \
            ++mpi_suite_skipped;                                                                                       \
            return;                                                                                                    \
        }                                                                                                              \
    } while (0)

static inline int mpi_suite_rank(void) {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

static inline int mpi_suite_size(void) {
    int size = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    return size;
}

/* A communicator over all ranks with a deadline fit for tests. The caller destroys it. */
static inline hisa_comm_t *mpi_suite_comm(void) {
    hisa_comm_t *made = NULL;
    ck_ok(hisa_comm_create_mpi(MPI_COMM_WORLD, &made));
    ck_ok(hisa_comm_set_deadline(made, MPI_SUITE_DEADLINE));
    return made;
}

/* All ranks have the same status and message. */
static inline void mpi_suite_same_outcome(hisa_status_t status) {
    char mine[240] = "";
    char first[240] = "";
    int codes[2] = {(int)status, (int)status};
    snprintf(mine, sizeof mine, "%s", hisa_last_error());
    memcpy(first, mine, sizeof first);
    MPI_Bcast(first, (int)sizeof first, MPI_CHAR, 0, MPI_COMM_WORLD);
    MPI_Bcast(&codes[1], 1, MPI_INT, 0, MPI_COMM_WORLD);
    ck_assert_int_eq(codes[0], codes[1]);
    ck_assert_str_eq(mine, first);
}

/* Reset by the end of the suite, which wakes the watchdog. */
typedef struct mpi_suite_watch {
    pthread_mutex_t mutex;
    pthread_cond_t end;
    bool ended;
    int rank;
} mpi_suite_watch_t;

static inline void *mpi_suite_watchdog(void *argument) {
    mpi_suite_watch_t *watch = argument;
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += MPI_SUITE_SECONDS;
    pthread_mutex_lock(&watch->mutex);
    int waited = 0;
    while (!watch->ended && waited == 0) {
        waited = pthread_cond_timedwait(&watch->end, &watch->mutex, &limit);
    }
    const bool hangs = !watch->ended;
    pthread_mutex_unlock(&watch->mutex);
    if (hangs) {
        fprintf(stderr, "rank %d: still in %s:%s after %d s\n", watch->rank, tcase_name(), mpi_suite_test,
                MPI_SUITE_SECONDS);
        MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE);
    }
    return NULL;
}

/* Each rank prints its own failures. */
static inline void mpi_suite_print_failures(SRunner *runner, int rank) {
    TestResult **failures = srunner_failures(runner);
    for (int i = 0; i < srunner_ntests_failed(runner); ++i) {
        fprintf(stderr, "rank %d: %s:%d: %s: %s\n", rank, tr_lfile(failures[i]), tr_lno(failures[i]),
                tr_tcname(failures[i]), tr_msg(failures[i]));
    }
    free(failures);
}

/* Runs a suite on all ranks; the exit status of main, equal on all of them. */
static inline int mpi_suite_main(Suite *suite) {
    /* The watchdog alone may call MPI beside the main thread, to abort. */
    int level = 0;
    int running = 0;
    MPI_Initialized(&running);
    if (!running) {
        MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
    }
    mpi_suite_watch_t watch = {.ended = false, .rank = mpi_suite_rank()};
    pthread_t watchdog;
    pthread_mutex_init(&watch.mutex, NULL);
    pthread_cond_init(&watch.end, NULL);
    const bool watched = pthread_create(&watchdog, NULL, mpi_suite_watchdog, &watch) == 0;

    SRunner *runner = srunner_create(suite);
    srunner_set_fork_status(runner, CK_NOFORK);
    srunner_run_all(runner, watch.rank == 0 ? CK_MINIMAL : CK_SILENT);
    mpi_suite_test = "the end";
    if (mpi_suite_at_end != NULL) {
        mpi_suite_at_end();
    }
    const int run = srunner_ntests_run(runner);
    mpi_suite_print_failures(runner, watch.rank);
    if (watch.rank == 0 && mpi_suite_skipped >= run) {
        fprintf(stderr, "no test was run: %d skipped\n", mpi_suite_skipped);
    }
    int failed = srunner_ntests_failed(runner) > 0 || run == 0 || mpi_suite_skipped >= run || !watched;
    srunner_free(runner);
    MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    MPI_Finalize();

    pthread_mutex_lock(&watch.mutex);
    watch.ended = true;
    pthread_cond_signal(&watch.end);
    pthread_mutex_unlock(&watch.mutex);
    if (watched) {
        pthread_join(watchdog, NULL);
    }
    pthread_cond_destroy(&watch.end);
    pthread_mutex_destroy(&watch.mutex);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
