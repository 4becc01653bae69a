/* The owner merge with several tiles under way, on the CPU backend dressed up as one with streams: whatever the number
 * of tiles, the results are the reference's, and each wait is for what was enqueued before it. What the two streams do
 * side by side is for the GPU suites to see. */
#include <string.h>

#include "index/index.h"
#include "support/agreed.h"
#include "support/cases.h"
#include "support/mpi_suite.h"
#include "support/named.h"
#include "support/runs.h"
#include "support/sanitized.h"

enum { CASES = HISA_SANITIZED ? 60 : 150, LATE = 3, NEVER = INT32_MAX };

/* A stream is its clock: how much has been enqueued on it. seen: how much of the other one it has waited for. */
typedef struct stream {
    int enqueued;
    int seen;
} stream_t;

static stream_t callers;
static stream_t exchange;
static struct {
    stream_t *stream; /* NULL: not recorded */
    int at;
    int looks; /* how often it is yet to be asked for before it has passed */
} events[HISA_EVENTS];
static int awaits;
static int late = LATE;

static stream_t *stream_of(void *stream) { return stream == &exchange ? &exchange : &callers; }

static hisa_status_t record(hisa_device_t *device, int32_t event, void *stream) {
    (void)device;
    ck_assert_int_lt(event, HISA_EVENTS);
    events[event].stream = stream_of(stream);
    events[event].at = ++events[event].stream->enqueued;
    events[event].looks = late;
    return HISA_OK;
}

static hisa_status_t await(hisa_device_t *device, int32_t event, void *stream) {
    (void)device;
    stream_t *here = stream_of(stream);
    ck_assert_ptr_nonnull(events[event].stream);
    ck_assert_ptr_ne(events[event].stream, here); /* one's own is waited for anyway */
    here->seen = events[event].at > here->seen ? events[event].at : here->seen;
    ++awaits;
    return HISA_OK;
}

static hisa_status_t passed(hisa_device_t *device, int32_t event, bool *done) {
    (void)device;
    ck_assert_ptr_nonnull(events[event].stream);
    *done = --events[event].looks <= 0;
    return HISA_OK;
}

static void *exchange_stream(const hisa_device_t *device) {
    (void)device;
    return &exchange;
}

static hisa_backend_ops_t with_streams(void) {
    hisa_backend_ops_t ops = hisa_backend_cpu;
    ops.record = record;
    ops.await = await;
    ops.passed = passed;
    ops.exchange_stream = exchange_stream;
    return ops;
}

/* Collective: the case, made the run's way, on a backend with streams. */
static bool check(const run_t *run, const test_case_t *made, hisa_comm_t *comm, char *why, size_t size) {
    const hisa_backend_ops_t ops = with_streams();
    hisa_index_t *index = NULL;
    ck_ok(run_create_index(run, made, comm, &index));
    index->device->ops = &ops;
    const bool well = run_check_index(run, made, comm, index, why, size);
    hisa_index_destroy(index);
    return well;
}

START_MPI_TEST(random_cases) {
    const uint64_t seed = test_seed(5000001);
    hisa_comm_t *comm = mpi_suite_comm();
    for (int64_t i = 0; i < test_cases(CASES); ++i) {
        test_case_t made;
        test_case_make(&made, seed + (uint64_t)i);
        rng_t rng = {~made.seed};
        run_t run;
        char why[256] = "";
        run_draw(&run, &rng, &made, mpi_suite_size());
        run.exchange = HISA_EXCHANGE_OWNER;
        run.tile_rows = (int32_t)rng_range(&rng, 0, 4);
        run.flags &= ~HISA_SELECT_TIMED; /* the clock is not dressed up */
        const bool well = check(&run, &made, comm, why, sizeof why);
        ck_assert_msg(agreed(well, &run, &made, why), "HISA_TEST_SEED=%llu HISA_TEST_CASES=1",
                      (unsigned long long)made.seed);
        test_case_free(&made);
    }
    hisa_comm_destroy(comm);
}

/* From one tile to one a row, in each mode; at the end the caller's stream has waited for the last exchange. */
START_MPI_TEST(tiles) {
    hisa_comm_t *comm = mpi_suite_comm();
    test_case_t made;
    named_cases[10].build(&made);
    ck_assert_str_eq(named_cases[10].name, "windows_cut_blocks");
    made.options.mode = (hisa_mode_t)_i;
    test_case_again(&made);
    for (int32_t rows = 1; rows <= made.num_rows; rows += 1 + rows / 3) {
        for (int placement = HISA_PLACE_REPLICATED; placement <= HISA_PLACE_LOCAL; ++placement) {
            for (int sharded = 0; sharded < 2; ++sharded) {
                run_t run;
                char why[256] = "";
                run_plain(&run, &made, mpi_suite_size());
                run.exchange = HISA_EXCHANGE_OWNER;
                run.tile_rows = rows;
                run.placement = (hisa_placement_t)placement;
                run.queries_on = sharded != 0 ? HISA_QUERIES_SHARDED : HISA_QUERIES_REPLICATED;
                run.want_scores = made.options.mode != HISA_MODE_BLOCK;
                awaits = 0;
                exchange.enqueued = 0;
                callers.seen = 0;
                const bool well = check(&run, &made, comm, why, sizeof why);
                ck_assert_msg(agreed(well, &run, &made, why), "tiles of %d rows", rows);
                ck_assert_int_eq(callers.seen, exchange.enqueued);
                ck_assert_msg((awaits > 0) == (mpi_suite_size() > 1 && rows < made.num_rows), "%d waits", awaits);
            }
        }
    }
    test_case_free(&made);
    hisa_comm_destroy(comm);
}

/* Work that never ends, as a lost peer leaves it: given up at the deadline, by the call that meets it. */
START_MPI_TEST(deadline) {
    hisa_comm_t *comm = mpi_suite_comm();
    const hisa_backend_ops_t ops = with_streams();
    hisa_index_t *index = NULL;
    test_case_t made;
    run_t run;
    char why[256] = "";
    if (mpi_suite_size() == 1) { /* nobody to lose: it would wait on */
        hisa_comm_destroy(comm);
        return;
    }
    named_cases[10].build(&made);
    run_plain(&run, &made, mpi_suite_size());
    run.exchange = HISA_EXCHANGE_OWNER;
    run.tile_rows = 2;
    ck_ok(run_create_index(&run, &made, comm, &index));
    index->device->ops = &ops;
    ck_ok(hisa_index_synchronize(index, NULL));
    ck_ok(hisa_comm_set_deadline(comm, 0.3));
    late = NEVER;
    const double begin = MPI_Wtime();
    hisa_status_t status = HISA_ERR_TIMEOUT;
    bool well = false;
    if (_i == 0) {
        status = hisa_index_synchronize(index, NULL);
    } else {
        well = run_check_index(&run, &made, comm, index, why, sizeof why);
    }
    const double seconds = MPI_Wtime() - begin;
    late = LATE; /* before any assertion: one that fails must not leave the next test waiting */
    ck_assert_int_eq(status, HISA_ERR_TIMEOUT);
    ck_assert(!well);
    if (_i == 1) {
        ck_assert_msg(strstr(why, hisa_status_string(HISA_ERR_TIMEOUT)) != NULL || strstr(why, "0.3 s") != NULL, "%s",
                      why);
    }
    ck_assert_msg(seconds >= 0.3 && seconds < 2, "%g s", seconds);
    ck_assert_int_eq(hisa_index_synchronize(index, NULL), HISA_ERR_POISONED);
    hisa_index_destroy(index);
    test_case_free(&made);
    hisa_comm_destroy(comm);
}

int main(void) {
    Suite *suite = suite_create("pipeline");
    TCase *tests = tcase_create("pipeline");
    tcase_add_loop_test(tests, tiles, HISA_MODE_HISA, HISA_MODE_BLOCK + 1);
    tcase_add_test(tests, random_cases);
    tcase_add_loop_test(tests, deadline, 0, 2);
    suite_add_tcase(suite, tests);
    return mpi_suite_main(suite);
}
