/* How many rows make a tile when the library chooses, by what their lists take: of a backend that has room for 4096
 * rows and 256 MiB of lists, as a GPU's. */
#include "index/index.h"
#include "select/plan.h"
#include "support/suite.h"

enum { BLOCK = 128, TOKENS = 131072 };

static int64_t no_scratch(const hisa_device_t *device, int64_t rows, int32_t width, int32_t top_k, int64_t blocks,
                          int32_t ranks, bool flat) {
    (void)device, (void)rows, (void)width, (void)top_k, (void)blocks, (void)ranks, (void)flat;
    return 0;
}

static int64_t no_queries(const hisa_device_t *device, int64_t rows) {
    (void)device, (void)rows;
    return 0;
}

static int64_t tile_of(int32_t ranks, hisa_exchange_t exchange, hisa_queries_on_t queries_on, int32_t top_k) {
    const hisa_backend_ops_t ops = {
        .tile_rows = 4096, .tile_budget = INT64_C(256) << 20, .scratch_bytes = no_scratch, .queries_bytes = no_queries};
    hisa_device_t device = {&ops};
    const hisa_index_t index = {
        .device = &device,
        .shard = {.ranks = ranks, .block_size = BLOCK, .num_heads = 64, .head_dim = 128, .num_sequences = 1},
        .capacity = TOKENS,
        .local_blocks = TOKENS / BLOCK / ranks};
    hisa_select_options_t options;
    hisa_plan_t plan;
    hisa_select_options_init(&options);
    options.mode = HISA_MODE_FLAT;
    options.top_k = top_k;
    options.queries_on = queries_on;
    options.exchange = exchange;
    ck_ok(hisa_plan_make(&index, &options, exchange, 10000, &plan));
    ck_assert_int_eq(plan.list_width, top_k);
    return plan.tile_rows;
}

/* By owner merge a rank has its own list of a row and receives about one more: 2 * 2048 * 8 bytes and 2048 * 8 of
 * results, 48 KiB, of which there is room for 5461. */
START_TEST(owner_merge) {
    for (int32_t ranks = 2; ranks <= 64; ranks *= 2) {
        ck_assert_int_eq(tile_of(ranks, HISA_EXCHANGE_OWNER, HISA_QUERIES_REPLICATED, 2048), 4096);
    }
    /* 96 KiB. */
    ck_assert_int_eq(tile_of(8, HISA_EXCHANGE_OWNER, HISA_QUERIES_REPLICATED, 4096), 2730);
}
END_TEST

/* All rows may be one rank's, which then receives a list of a row from each: 9 * 16 + 16 KiB. */
START_TEST(sharded_queries) { ck_assert_int_eq(tile_of(8, HISA_EXCHANGE_OWNER, HISA_QUERIES_SHARDED, 2048), 1638); }
END_TEST

/* Every rank's list, its own among them: 8 * 16 + 16 KiB. */
START_TEST(one_shot) {
    ck_assert_int_eq(tile_of(8, HISA_EXCHANGE_ONESHOT, HISA_QUERIES_REPLICATED, 2048), 1820);
    ck_assert_int_eq(tile_of(2, HISA_EXCHANGE_ONESHOT, HISA_QUERIES_REPLICATED, 2048), 4096);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("plan");
    TCase *tests = tcase_create("flat");
    tcase_add_test(tests, owner_merge);
    tcase_add_test(tests, sharded_queries);
    tcase_add_test(tests, one_shot);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
