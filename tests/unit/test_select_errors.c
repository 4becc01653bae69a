/* What hisa_select refuses, with which status and words; and that it then writes nothing. */
#include "support/cases.h"
#include "support/named.h"
#include "support/runs.h"
#include "support/suite.h"

enum { ROWS = 4, K = 16, OUTPUT_BYTE = 0x5b };
static const hisa_status_t BAD = HISA_ERR_INVALID_ARGUMENT;

/* A call that is right; each test makes one thing wrong. */
typedef struct call {
    test_case_t made;
    hisa_comm_t *comm;
    hisa_index_t *index;
    hisa_queries_t queries;
    hisa_select_options_t options;
    guarded_t indices;
    guarded_t counts;
    guarded_t scores;
    hisa_selection_t selection;
    guarded_t workspace;
    size_t bytes;
} call_t;

static call_t call;

static void setup(void) {
    test_case_blank(&call.made, 16, 2, 16, 100, ROWS);
    call.made.default_sequence = false;
    test_case_finish(&call.made);
    ck_ok(hisa_comm_create_self(&call.comm));
    run_t run;
    run_plain(&run, &call.made, 1);
    ck_ok(run_create_index(&run, &call.made, call.comm, &call.index));
    call.queries = test_case_queries(&call.made, 0, ROWS);
    call.options = call.made.options;
    ck_assert_int_eq(call.options.top_k, K);
    ck_ok(hisa_select_workspace_size(call.index, &call.options, ROWS, &call.bytes));
    call.workspace = guarded_make(call.bytes + 256, 0xff);
    call.indices = guarded_make(ROWS * K * sizeof(int32_t), OUTPUT_BYTE);
    call.counts = guarded_make(ROWS * sizeof(int32_t), OUTPUT_BYTE);
    call.scores = guarded_make(ROWS * K * sizeof(float), OUTPUT_BYTE);
    hisa_selection_init(&call.selection);
    call.selection.indices = (int32_t *)(void *)call.indices.data;
    call.selection.counts = (int32_t *)(void *)call.counts.data;
    call.selection.scores = (float *)(void *)call.scores.data;
}

static void teardown(void) {
    guarded_free(&call.workspace);
    guarded_free(&call.indices);
    guarded_free(&call.counts);
    guarded_free(&call.scores);
    hisa_index_destroy(call.index);
    hisa_comm_destroy(call.comm);
    test_case_free(&call.made);
}

static hisa_status_t select_now(void) {
    return hisa_select(call.index, &call.queries, &call.options, &call.selection, call.workspace.data, call.bytes,
                       NULL);
}

static void untouched(void) {
    ck_assert(guarded_untouched(&call.indices, OUTPUT_BYTE));
    ck_assert(guarded_untouched(&call.counts, OUTPUT_BYTE));
    ck_assert(guarded_untouched(&call.scores, OUTPUT_BYTE));
}

#define refused(status, text)                                                                                          \
    do {                                                                                                               \
        ck_fails(select_now(), (status), (text));                                                                      \
        untouched();                                                                                                   \
    } while (0)

START_TEST(the_call_is_right) {
    ck_ok(select_now());
    ck_assert_mem_eq(call.selection.indices, call.made.indices, ROWS * K * sizeof(int32_t));
    ck_assert_mem_eq(call.selection.scores, call.made.scores, ROWS * K * sizeof(float));
}
END_TEST

START_TEST(null_pointers) {
    const hisa_queries_t queries = call.queries;
    const hisa_selection_t selection = call.selection;
    void *workspace = call.workspace.data;
    ck_fails(hisa_select(NULL, &queries, &call.options, &selection, workspace, call.bytes, NULL), BAD, "NULL");
    ck_fails(hisa_select(call.index, NULL, &call.options, &selection, workspace, call.bytes, NULL), BAD, "NULL");
    ck_fails(hisa_select(call.index, &queries, NULL, &selection, workspace, call.bytes, NULL), BAD, "NULL");
    ck_fails(hisa_select(call.index, &queries, &call.options, NULL, workspace, call.bytes, NULL), BAD, "NULL");
    call.queries.q = NULL;
    refused(BAD, "NULL");
    call.queries = queries;
    call.queries.weights = NULL;
    refused(BAD, "NULL");
    call.queries = queries;
    call.selection.indices = NULL;
    refused(BAD, "NULL");
    call.selection = selection;
    call.selection.counts = NULL;
    call.options.placement = HISA_PLACE_LOCAL;
    refused(BAD, "counts");
}
END_TEST

START_TEST(struct_sizes) {
    call.queries.struct_size = 0;
    refused(BAD, "struct_size");
    call.queries.struct_size = sizeof call.queries;
    call.options.struct_size = 4;
    refused(BAD, "struct_size");
    size_t bytes = 77;
    ck_fails(hisa_select_workspace_size(call.index, &call.options, ROWS, &bytes), BAD, "struct_size");
    ck_assert_uint_eq(bytes, 77);
    call.options.struct_size = sizeof call.options;
    call.selection.struct_size = 400;
    refused(BAD, "struct_size");
}
END_TEST

START_TEST(bad_options) {
    const hisa_select_options_t options = call.options;
#define WRONG(member, value, text)                                                                                     \
    do {                                                                                                               \
        call.options = options;                                                                                        \
        call.options.member = (value);                                                                                 \
        refused(BAD, text);                                                                                            \
        size_t wrong_bytes = 77;                                                                                       \
        ck_fails(hisa_select_workspace_size(call.index, &call.options, ROWS, &wrong_bytes), BAD, text);                \
        ck_assert_uint_eq(wrong_bytes, 77);                                                                            \
    } while (0)
    WRONG(top_k, 0, "top_k");
    WRONG(top_k, -1, "top_k");
    WRONG(top_k, 4 * 16 + 1, "top_k"); /* m*B is 64 */
    WRONG(top_blocks, 0, "top_blocks");
    WRONG(top_blocks, -3, "top_blocks");
    WRONG(sink_blocks, -1, "sink_blocks");
    WRONG(local_blocks, -1, "local_blocks");
    WRONG(sink_blocks, 5, "sink_blocks"); /* m is 4 */
    WRONG(local_blocks, 5, "local_blocks");
    WRONG(sink_blocks, INT32_MAX, "sink_blocks");
    WRONG(tile_rows, -1, "tile_rows");
    WRONG(mode, (hisa_mode_t)3, "mode");
    WRONG(exchange, (hisa_exchange_t)4, "exchange");
    WRONG(queries_on, (hisa_queries_on_t)2, "queries_on");
    WRONG(placement, (hisa_placement_t)3, "placement");
    WRONG(flags, 1u << 20, "flags");
#undef WRONG
}
END_TEST

START_TEST(unused_options_do_not_matter) {
    call.options.mode = HISA_MODE_FLAT;
    call.options.top_blocks = -5;
    call.options.top_k = K;
    call.options.sink_blocks = 900;
    size_t bytes = 0;
    ck_ok(hisa_select_workspace_size(call.index, &call.options, ROWS, &bytes));
    guarded_t workspace = guarded_make(bytes, 0xff);
    ck_ok(hisa_select(call.index, &call.queries, &call.options, &call.selection, workspace.data, bytes, NULL));
    guarded_free(&workspace);
}
END_TEST

START_TEST(scores_of_whole_blocks) {
    call.options.mode = HISA_MODE_BLOCK;
    size_t bytes = 0;
    ck_ok(hisa_select_workspace_size(call.index, &call.options, ROWS, &bytes));
    guarded_t workspace = guarded_make(bytes, 0xff);
    ck_fails(hisa_select(call.index, &call.queries, &call.options, &call.selection, workspace.data, bytes, NULL), BAD,
             "scores");
    untouched();
    guarded_free(&workspace);
}
END_TEST

START_TEST(bad_rows) {
    call.queries.num_rows = -1;
    refused(BAD, "num_rows");
    call.queries.num_rows = ROWS;
    call.made.window_begin[2] = -1;
    refused(BAD, "row 2");
    call.made.window_begin[2] = 51;
    call.made.window_end[2] = 50;
    refused(BAD, "row 2");
    call.made.window_begin[2] = 0;
    call.made.window_end[2] = 101;
    refused(BAD, "row 2");
    call.made.window_end[2] = INT32_MIN;
    refused(BAD, "row 2");
    call.made.window_end[2] = 100;
    call.made.sequence[3] = 1;
    refused(BAD, "row 3");
    call.made.sequence[3] = -1;
    refused(BAD, "row 3");
    call.made.sequence[3] = 0;
    ck_ok(select_now());
}
END_TEST

START_TEST(windows_beyond_a_default) {
    /* A window that begins past the length, with the end left to its default. */
    call.made.window_begin[1] = 101;
    call.queries.window_end = NULL;
    refused(BAD, "row 1");
    call.made.window_begin[1] = 100;
    ck_ok(select_now());
}
END_TEST

START_TEST(bad_workspace) {
    /* By name: else there is room for whichever exchange takes more, and the call need not take that one. */
    call.options.exchange = HISA_EXCHANGE_ONESHOT;
    ck_ok(hisa_select_workspace_size(call.index, &call.options, ROWS, &call.bytes));
    const size_t bytes = call.bytes;
    call.bytes = bytes - 1;
    refused(HISA_ERR_WORKSPACE, "workspace");
    call.bytes = 0;
    refused(HISA_ERR_WORKSPACE, "workspace");
    call.bytes = bytes;
    ck_fails(hisa_select(call.index, &call.queries, &call.options, &call.selection, NULL, bytes, NULL),
             HISA_ERR_WORKSPACE, "workspace");
    ck_fails(
        hisa_select(call.index, &call.queries, &call.options, &call.selection, call.workspace.data + 64, bytes, NULL),
        HISA_ERR_WORKSPACE, "256");
    untouched();
    ck_fails(hisa_select_workspace_size(call.index, &call.options, -1, &call.bytes), BAD, "max_rows");
    ck_fails(hisa_select_workspace_size(call.index, &call.options, ROWS, NULL), BAD, "NULL");
    ck_fails(hisa_select_workspace_size(NULL, &call.options, ROWS, &call.bytes), BAD, "NULL");
    ck_fails(hisa_select_workspace_size(call.index, NULL, ROWS, &call.bytes), BAD, "NULL");
    ck_assert_uint_eq(call.bytes, bytes);
}
END_TEST

START_TEST(too_many_rows_for_the_workspace) {
    call.options.tile_rows = 1000;
    size_t one = 0;
    size_t many = 0;
    ck_ok(hisa_select_workspace_size(call.index, &call.options, 1, &one));
    ck_ok(hisa_select_workspace_size(call.index, &call.options, 1000, &many));
    ck_assert_uint_ge(many, one);
    if (many > one) {
        ck_ok(hisa_select_workspace_size(call.index, &call.options, ROWS, &call.bytes));
        if (one < call.bytes) {
            call.bytes = one;
            refused(HISA_ERR_WORKSPACE, "workspace");
        }
    }
}
END_TEST

START_TEST(unchecked_sharded_rows_must_be_said) {
    call.options.flags = HISA_SELECT_UNCHECKED;
    call.options.queries_on = HISA_QUERIES_SHARDED;
    guarded_free(&call.workspace);
    ck_ok(hisa_select_workspace_size(call.index, &call.options, ROWS, &call.bytes));
    call.workspace = guarded_make(call.bytes, 0xff);
    refused(BAD, "rows_per_rank");
    int64_t rows = ROWS + 1;
    call.queries.rows_per_rank = &rows;
    refused(BAD, "rows_per_rank");
    rows = ROWS;
    ck_ok(select_now());
}
END_TEST

/* An error is no end: the next call is as good as the first. */
START_TEST(right_after_wrong) {
    call.options.top_k = 0;
    refused(BAD, "top_k");
    call.options.top_k = K;
    ck_ok(select_now());
    ck_assert_mem_eq(call.selection.indices, call.made.indices, ROWS * K * sizeof(int32_t));
}
END_TEST

int main(void) {
    Suite *suite = suite_create("select_errors");
    TCase *tests = tcase_create("errors");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, the_call_is_right);
    tcase_add_test(tests, null_pointers);
    tcase_add_test(tests, struct_sizes);
    tcase_add_test(tests, bad_options);
    tcase_add_test(tests, unused_options_do_not_matter);
    tcase_add_test(tests, scores_of_whole_blocks);
    tcase_add_test(tests, bad_rows);
    tcase_add_test(tests, windows_beyond_a_default);
    tcase_add_test(tests, bad_workspace);
    tcase_add_test(tests, too_many_rows_for_the_workspace);
    tcase_add_test(tests, unchecked_sharded_rows_must_be_said);
    tcase_add_test(tests, right_after_wrong);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
