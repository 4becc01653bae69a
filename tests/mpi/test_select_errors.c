/* Arguments that are wrong on one rank, or that differ between ranks: the same error on all, and nothing written. The
 * odd rank is the last one; with one rank there is no other to differ from. */
#include <stdio.h>

#include "support/cases.h"
#include "support/mpi_suite.h"
#include "support/named.h"
#include "support/runs.h"

enum { ROWS = 6, K = 16, OUTPUT_BYTE = 0x5b };

typedef struct call {
    test_case_t made;
    hisa_comm_t *comm;
    hisa_index_t *index;
    hisa_queries_t queries;
    hisa_select_options_t options;
    hisa_selection_t selection;
    guarded_t indices;
    guarded_t counts;
    guarded_t workspace;
    size_t bytes;
} call_t;

static call_t call;

static bool odd(void) { return mpi_suite_rank() == mpi_suite_size() - 1; }

static void setup(void) {
    call.comm = mpi_suite_comm();
    test_case_blank(&call.made, 16, 2, 16, 300, ROWS);
    test_case_finish(&call.made);
    run_t run;
    run_plain(&run, &call.made, mpi_suite_size());
    call.index = NULL;
    ck_ok(run_create_index(&run, &call.made, call.comm, &call.index));
    call.queries = test_case_queries(&call.made, 0, ROWS);
    call.options = call.made.options;
    /* Room for whatever a test asks for. */
    hisa_select_options_t largest = call.options;
    call.bytes = 0;
    for (int way = 0; way < 12; ++way) {
        size_t bytes = 0;
        largest.mode = (hisa_mode_t)(way % 3);
        largest.queries_on = (hisa_queries_on_t)(way / 3 % 2);
        largest.exchange = way / 6 == 0 ? HISA_EXCHANGE_OWNER : HISA_EXCHANGE_ONESHOT;
        ck_ok(hisa_select_workspace_size(call.index, &largest, 2 * ROWS * mpi_suite_size(), &bytes));
        call.bytes = bytes > call.bytes ? bytes : call.bytes;
    }
    call.workspace = guarded_make(call.bytes, 0xff);
    call.indices = guarded_make((size_t)(2 * ROWS * mpi_suite_size() * K) * sizeof(int32_t), OUTPUT_BYTE);
    call.counts = guarded_make((size_t)(2 * ROWS * mpi_suite_size()) * sizeof(int32_t), OUTPUT_BYTE);
    hisa_selection_init(&call.selection);
    call.selection.indices = (int32_t *)(void *)call.indices.data;
    call.selection.counts = (int32_t *)(void *)call.counts.data;
}

static void teardown(void) {
    guarded_free(&call.indices);
    guarded_free(&call.counts);
    guarded_free(&call.workspace);
    hisa_index_destroy(call.index);
    hisa_comm_destroy(call.comm);
    test_case_free(&call.made);
}

static hisa_status_t select_now(void) {
    return hisa_select(call.index, &call.queries, &call.options, &call.selection, call.workspace.data, call.bytes,
                       NULL);
}

/* Asserts this on all ranks, after all of them have come through the call. */
static void check_refused(hisa_status_t got, hisa_status_t status, const char *text) {
    const char *message = hisa_last_error();
    const bool untouched =
        guarded_untouched(&call.indices, OUTPUT_BYTE) && guarded_untouched(&call.counts, OUTPUT_BYTE);
    int all = got == status && strstr(message, text) != NULL && untouched;
    if (!all) {
        fprintf(stderr, "rank %d: got %s (%s), expected %s with \"%s\"%s\n", mpi_suite_rank(), hisa_status_string(got),
                message, hisa_status_string(status), text, untouched ? "" : "; results were written");
    }
    MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    ck_assert_int_eq(all, 1);
}

static void refused(hisa_status_t status, const char *text) { check_refused(select_now(), status, text); }

/* And the group is as good as before. */
static void works_again(void) {
    call.queries = test_case_queries(&call.made, 0, ROWS);
    call.options = call.made.options;
    int all = select_now() == HISA_OK;
    all = all != 0 && memcmp(call.selection.indices, call.made.indices, ROWS * K * sizeof(int32_t)) == 0;
    MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    ck_assert_msg(all == 1, "%s", hisa_last_error());
}

START_MPI_TEST(the_call_is_right) { works_again(); }

START_MPI_TEST(different_options) {
    mpi_suite_needs(2);
    const hisa_select_options_t options = call.options;
#define DIFFERENT(member, value, text)                                                                                 \
    do {                                                                                                               \
        call.options = options;                                                                                        \
        if (odd()) {                                                                                                   \
            call.options.member = (value);                                                                             \
        }                                                                                                              \
        refused(HISA_ERR_MISMATCH, text);                                                                              \
    } while (0)
    DIFFERENT(top_k, 15, "top_k");
    DIFFERENT(top_blocks, 5, "top_blocks");
    DIFFERENT(mode, HISA_MODE_FLAT, "mode");
    DIFFERENT(mode, HISA_MODE_BLOCK, "mode");
    DIFFERENT(sink_blocks, 1, "sink_blocks");
    DIFFERENT(local_blocks, 1, "local_blocks");
    DIFFERENT(tile_rows, 2, "tile_rows");
    DIFFERENT(exchange, HISA_EXCHANGE_ONESHOT, "exchange");
    DIFFERENT(queries_on, HISA_QUERIES_SHARDED, "queries_on");
    DIFFERENT(placement, HISA_PLACE_LOCAL, "placement");
#undef DIFFERENT
    works_again();
}

/* Ranks that reckon differently would run different exchanges. */
START_MPI_TEST(different_costs) {
    mpi_suite_needs(2);
    double latency = 0;
    double bandwidth = 0;
    hisa_comm_cost(call.comm, &latency, &bandwidth);
    hisa_index_t *index = NULL;
    ck_ok(hisa_comm_set_cost(call.comm, odd() ? 2 * latency : latency, bandwidth));
    ck_fails(hisa_index_create(&call.made.config, call.comm, &index), HISA_ERR_MISMATCH, "latency");
    ck_ok(hisa_comm_set_cost(call.comm, latency, odd() ? 2 * bandwidth : bandwidth));
    ck_fails(hisa_index_create(&call.made.config, call.comm, &index), HISA_ERR_MISMATCH, "bandwidth");
    ck_assert_ptr_null(index);
    ck_ok(hisa_comm_set_cost(call.comm, latency, bandwidth));
    ck_ok(hisa_index_create(&call.made.config, call.comm, &index));
    hisa_index_destroy(index);
    works_again();
}

START_MPI_TEST(different_rows) {
    mpi_suite_needs(2);
    if (odd()) {
        call.queries.num_rows = ROWS - 1;
    }
    refused(HISA_ERR_MISMATCH, "rows");
    works_again();
}

START_MPI_TEST(different_scores) {
    mpi_suite_needs(2);
    guarded_t scores = guarded_make(ROWS * K * sizeof(float), OUTPUT_BYTE);
    if (odd()) {
        call.selection.scores = (float *)(void *)scores.data;
    }
    refused(HISA_ERR_MISMATCH, "scores");
    ck_assert(guarded_untouched(&scores, OUTPUT_BYTE));
    guarded_free(&scores);
    call.selection.scores = NULL;
    works_again();
}

START_MPI_TEST(a_missing_append) {
    mpi_suite_needs(2);
    const hisa_oracle_keys_t *keys = &call.made.keys[0];
    if (!odd()) {
        ck_ok(hisa_index_append(call.index, 0, 2, keys->keys, keys->scales, HISA_KEYS_REPLICATED, NULL));
    }
    refused(HISA_ERR_MISMATCH, "length");
    if (odd()) {
        ck_ok(hisa_index_append(call.index, 0, 2, keys->keys, keys->scales, HISA_KEYS_REPLICATED, NULL));
    }
    works_again();
}

START_MPI_TEST(a_missing_truncate) {
    mpi_suite_needs(2);
    const hisa_oracle_keys_t *keys = &call.made.keys[0];
    ck_ok(hisa_index_append(call.index, 0, 2, keys->keys, keys->scales, HISA_KEYS_REPLICATED, NULL));
    if (odd()) {
        ck_ok(hisa_index_truncate(call.index, 0, 300, NULL));
    }
    refused(HISA_ERR_MISMATCH, "");
}

START_MPI_TEST(a_bad_window_on_one_rank) {
    char text[64];
    snprintf(text, sizeof text, mpi_suite_size() > 1 ? "rank %d: " : "row 2", mpi_suite_size() - 1);
    if (odd()) {
        call.made.window_end[2] = 301;
    }
    refused(HISA_ERR_INVALID_ARGUMENT, text);
    refused(HISA_ERR_INVALID_ARGUMENT, "row 2");
    call.made.window_end[2] = 300;
    works_again();
}

START_MPI_TEST(a_bad_window_of_an_own_row) {
    call.options.queries_on = HISA_QUERIES_SHARDED;
    call.queries.num_rows = odd() ? 1 : 0; /* the only row of all */
    if (odd()) {
        call.made.window_begin[0] = 20;
        call.made.window_end[0] = 10;
    }
    refused(HISA_ERR_INVALID_ARGUMENT, "row 0");
    call.made.window_begin[0] = 0;
    call.made.window_end[0] = 300;
    works_again();
}

START_MPI_TEST(null_on_one_rank) {
    if (odd()) {
        call.queries.q = NULL;
    }
    refused(HISA_ERR_INVALID_ARGUMENT, "NULL");
    works_again();
}

START_MPI_TEST(a_small_workspace_on_one_rank) {
    const size_t bytes = call.bytes;
    if (odd()) {
        call.bytes = 16;
    }
    refused(HISA_ERR_WORKSPACE, "workspace");
    call.bytes = bytes;
    works_again();
}

START_MPI_TEST(wrong_rows_per_rank) {
    mpi_suite_needs(2);
    int64_t rows[RUN_RANKS_MAX] = {0};
    for (int r = 0; r < mpi_suite_size(); ++r) {
        rows[r] = 1;
    }
    call.options.queries_on = HISA_QUERIES_SHARDED;
    call.queries.rows_per_rank = rows;
    call.queries.num_rows = odd() ? 2 : 1;
    refused(HISA_ERR_INVALID_ARGUMENT, "rows_per_rank");
    works_again();
}

static void refuse_index(const hisa_index_config_t *config, hisa_status_t status, const char *text) {
    hisa_index_t *index = NULL;
    const hisa_status_t got = hisa_index_create(config, call.comm, &index);
    check_refused(got, status, text);
    ck_assert_ptr_null(index);
}

START_MPI_TEST(different_configurations) {
    mpi_suite_needs(2);
    int32_t offsets[1] = {0};
    hisa_index_config_t config = call.made.config;
#define DIFFERENT(member, value, text)                                                                                 \
    do {                                                                                                               \
        config = call.made.config;                                                                                     \
        if (odd()) {                                                                                                   \
            config.member = (value);                                                                                   \
        }                                                                                                              \
        refuse_index(&config, HISA_ERR_MISMATCH, text);                                                                \
    } while (0)
    DIFFERENT(head_dim, 32, "head_dim");
    DIFFERENT(num_heads, 3, "num_heads");
    DIFFERENT(block_size, 32, "block_size");
    DIFFERENT(num_sequences, 2, "num_sequences");
    DIFFERENT(capacity, 9999, "capacity");
    DIFFERENT(stripe, 5, "stripe");
#undef DIFFERENT
    config = call.made.config;
    config.rank_offsets = offsets;
    offsets[0] = odd() ? 1 : 0;
    refuse_index(&config, HISA_ERR_MISMATCH, "rank_offsets");
    /* Threads may differ, and NULL offsets are zeros. */
    offsets[0] = 0;
    config.rank_offsets = odd() ? offsets : NULL;
    config.threads = odd() ? 1 : 2;
    hisa_index_t *index = NULL;
    ck_ok(hisa_index_create(&config, call.comm, &index));
    hisa_index_destroy(index);
}

START_MPI_TEST(a_bad_configuration_on_one_rank) {
    hisa_index_config_t config = call.made.config;
    config.head_dim = odd() ? 17 : 16;
    refuse_index(&config, HISA_ERR_INVALID_ARGUMENT, "head_dim");
    int32_t offset = odd() ? mpi_suite_size() : 0;
    config = call.made.config;
    config.rank_offsets = &offset;
    refuse_index(&config, HISA_ERR_INVALID_ARGUMENT, "rank_offsets");
}

int main(void) {
    Suite *suite = suite_create("select_errors");
    TCase *tests = tcase_create("errors");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, the_call_is_right);
    tcase_add_test(tests, different_options);
    tcase_add_test(tests, different_costs);
    tcase_add_test(tests, different_rows);
    tcase_add_test(tests, different_scores);
    tcase_add_test(tests, a_missing_append);
    tcase_add_test(tests, a_missing_truncate);
    tcase_add_test(tests, a_bad_window_on_one_rank);
    tcase_add_test(tests, a_bad_window_of_an_own_row);
    tcase_add_test(tests, null_on_one_rank);
    tcase_add_test(tests, a_small_workspace_on_one_rank);
    tcase_add_test(tests, wrong_rows_per_rank);
    tcase_add_test(tests, different_configurations);
    tcase_add_test(tests, a_bad_configuration_on_one_rank);
    suite_add_tcase(suite, tests);
    return mpi_suite_main(suite);
}
