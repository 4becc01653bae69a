/* The choice between the exchanges: a cost model, whose figures may be anything that a communicator can be given. */
#include "select/policy.h"

#include "base/checked.h"
#include "support/suite.h"

/* Eight GPUs of one host, with a context of a million tokens. */
static hisa_policy_t eight(void) {
    return (hisa_policy_t){.ranks = 8,
                           .local_blocks = 1024,
                           .block_size = 128,
                           .num_heads = 64,
                           .head_dim = 128,
                           .comm = {.latency = 6e-6, .bandwidth = 320e9},
                           .flop_rate = 850e12,
                           .candidate_rate = 3e11,
                           .host_wait = 20e-6,
                           .tile_cost = 100e-6,
                           .tile_share = 0.04};
}

static hisa_select_options_t in_mode(int mode) {
    hisa_select_options_t options;
    hisa_select_options_init(&options);
    options.mode = (hisa_mode_t)mode;
    return options;
}

/* Decode goes at once, prefill to the owners, and from the switch on all do. */
START_TEST(test_switch) {
    const hisa_policy_t policy = eight();
    const hisa_select_options_t options = in_mode(_i);
    const int64_t rows = hisa_policy_switch(&policy, &options, INT32_MAX);
    ck_assert_int_gt(rows, 8);
    ck_assert_int_lt(rows, _i == HISA_MODE_BLOCK ? 100000 : 4096); /* mode block has next to nothing to share */
    ck_assert_int_eq(hisa_policy_cheaper(&policy, &options, 1), HISA_EXCHANGE_ONESHOT);
    ck_assert_int_eq(hisa_policy_cheaper(&policy, &options, rows - 1), HISA_EXCHANGE_ONESHOT);
    ck_assert_int_eq(hisa_policy_cheaper(&policy, &options, rows), HISA_EXCHANGE_OWNER);
    ck_assert_int_eq(hisa_policy_cheaper(&policy, &options, INT32_MAX), HISA_EXCHANGE_OWNER);
    ck_assert_int_eq(hisa_policy_switch(&policy, &options, rows - 1), rows);
    ck_assert_int_eq(hisa_policy_switch(&policy, &options, 3), 4);
}
END_TEST

/* A collective that takes longer favours the one that needs one; thinner wires the one that moves less. */
START_TEST(test_costs_move_it) {
    const hisa_policy_t policy = eight();
    const hisa_select_options_t options = in_mode(_i);
    const int64_t rows = hisa_policy_switch(&policy, &options, INT32_MAX);
    hisa_policy_t slower = policy;
    slower.comm.latency *= 10;
    ck_assert_int_gt(hisa_policy_switch(&slower, &options, INT32_MAX), rows);
    hisa_policy_t thinner = policy;
    thinner.comm.bandwidth /= 10;
    ck_assert_int_lt(hisa_policy_switch(&thinner, &options, INT32_MAX), rows);
    hisa_policy_t waiting = policy;
    waiting.host_wait *= 10;
    ck_assert_int_gt(hisa_policy_switch(&waiting, &options, INT32_MAX), rows);
    /* Free collectives: the rest is work, which owners share. */
    hisa_policy_t free_calls = policy;
    free_calls.comm.latency = 0;
    free_calls.host_wait = 0;
    ck_assert_int_eq(hisa_policy_switch(&free_calls, &options, INT32_MAX), 1);
}
END_TEST

/* Seconds of a call, worked out by hand for round figures: 2 ranks, m = 4 blocks of 16 tokens, 1 head of 16. */
START_TEST(test_by_hand) {
    hisa_policy_t policy = {.ranks = 2,
                            .local_blocks = 3,
                            .block_size = 16,
                            .num_heads = 1,
                            .head_dim = 16,
                            .comm = {.latency = 1.0, .bandwidth = 8.0},
                            .flop_rate = 32.0,
                            .candidate_rate = 64.0,
                            .host_wait = 0.5};
    hisa_select_options_t options = in_mode(HISA_MODE_HISA);
    options.top_blocks = 4;
    options.top_k = 32;
    /* One peer's 3 blocks of 8 + 64 bytes; 3 * 16 tokens of 32 operations; 64 candidates. */
    ck_assert_double_eq_tol(hisa_policy_seconds(&policy, &options, HISA_EXCHANGE_ONESHOT, 10),
                            1 + 10 * (216 / 8.0 + 48 + 1), 1e-9);
    /* 4 blocks' lists, (8 + 4)/2 bytes each; 4 * 16 scores / 4 * 4 bytes; a bitmap of 64 bits / 2; half of the work. */
    ck_assert_double_eq_tol(hisa_policy_seconds(&policy, &options, HISA_EXCHANGE_OWNER, 10),
                            5 + 10 * ((24 + 64 + 4) / 8.0 + 32 + 0.5), 1e-9);
    /* One peer's lists of 3 blocks and 32 tokens; the owner merge's bytes once, whatever the tiles. */
    ck_assert_double_eq_tol(hisa_policy_exchange_seconds(&policy, &options, HISA_EXCHANGE_LISTS, 10, 1),
                            2 + 10 * (24 + 256) / 8.0, 1e-9);
    ck_assert_double_eq_tol(hisa_policy_exchange_seconds(&policy, &options, HISA_EXCHANGE_OWNER, 10, 3),
                            3 * 4 + 10 * (24 + 64 + 4) / 8.0, 1e-9);
    options.mode = HISA_MODE_FLAT;
    ck_assert_double_eq_tol(hisa_policy_exchange_seconds(&policy, &options, HISA_EXCHANGE_LISTS, 1, 1), 1 + 256 / 8.0,
                            1e-9);
    /* Half a sixteenth of 32 entries a rank beyond those that win: one peer's 17 and 32 positions, of every second row;
     * 16 quantiles and a count. Of two peers two thirds of a third of 35, then of what is stored if that is less. */
    ck_assert_double_eq_tol(hisa_policy_exchange_seconds(&policy, &options, HISA_EXCHANGE_OWNER, 1, 1),
                            4 + ((17 * 8 + 32 * 4) / 2.0 + 68) / 8.0, 1e-9);
    hisa_policy_t three = policy;
    three.ranks = 3;
    ck_assert_double_eq_tol(hisa_policy_exchange_seconds(&three, &options, HISA_EXCHANGE_OWNER, 1, 1),
                            4 + ((35 * 8 / 3.0 + 32 * 4) * 2 / 3.0 + 136) / 8.0, 1e-9);
    three.block_size = 8;
    three.local_blocks = 1;
    ck_assert_double_eq_tol(hisa_policy_exchange_seconds(&three, &options, HISA_EXCHANGE_OWNER, 1, 1),
                            4 + ((8 * 8 + 32 * 4) * 2 / 3.0 + 136) / 8.0, 1e-9);
    /* One peer's 32 pairs; 2 * 32 candidates. */
    ck_assert_double_eq_tol(hisa_policy_seconds(&policy, &options, HISA_EXCHANGE_ONESHOT, 1), 1 + 256 / 8.0 + 1, 1e-9);
}
END_TEST

/* By hand, mode hisa: a tile costs 100 us and four collectives of 6. A row brings 5152 bytes, so at 32 GB/s the bytes
 * of 770.19 rows take as long, and 4096 * 770.19 is the square of 1776.15. At ten times that all rows are one tile. */
START_TEST(test_tile_by_hand) {
    hisa_policy_t policy = eight();
    const hisa_select_options_t options = in_mode(HISA_MODE_HISA);
    ck_assert_int_eq(hisa_policy_tile(&policy, &options, 4096), 4096);
    ck_assert_int_eq(hisa_policy_tile(&policy, &options, 7701), 7701);
    ck_assert_int_lt(hisa_policy_tile(&policy, &options, 7703), 7703);
    policy.comm.bandwidth = 32e9;
    ck_assert_int_eq(hisa_policy_tile(&policy, &options, 4096), 1776);
}
END_TEST

/* By hand, mode flat: of seven peers in eight 8 bytes of 320 entries and 4 of 2048 positions, and 476: 9884 a row; a
 * row's 131072 keys take 2.5264 us, of which a tile more costs 4%, 0.10106. At 320 GB/s the bytes take less, 0.03089:
 * one tile, however many rows. At 64 they take 0.15444, and of 16384 rows one tile would leave 2.5303 ms of bytes in
 * the open for a tile's 1.7797: 1.19238 of them. */
START_TEST(test_flat_tile_by_hand) {
    hisa_policy_t policy = eight();
    const hisa_select_options_t options = in_mode(HISA_MODE_FLAT);
    ck_assert_int_eq(hisa_policy_tile(&policy, &options, 4096), 4096);
    ck_assert_int_eq(hisa_policy_tile(&policy, &options, 1 << 24), 1 << 24);
    policy.comm.bandwidth = 64e9;
    ck_assert_int_eq(hisa_policy_tile(&policy, &options, 2000), 2000);
    ck_assert_int_eq(hisa_policy_tile(&policy, &options, 16384), 13740);
    policy.tile_share = 0;
    ck_assert_int_lt(hisa_policy_tile(&policy, &options, 2000), 2000);
}
END_TEST

/* A workspace for the most rows must do for fewer. */
START_TEST(test_tile_grows) {
    hisa_policy_t policy = eight();
    const hisa_select_options_t options = in_mode(_i);
    policy.comm.bandwidth = 1;
    for (int step = 0; step < 18; ++step) { /* up to 1.6e15 */
        policy.comm.bandwidth *= 7;
        int64_t before = 0;
        for (int64_t rows = 1; rows < 100000; rows += 1 + rows / 5) {
            const int64_t tile = hisa_policy_tile(&policy, &options, rows);
            ck_assert_int_ge(tile, hisa_max(1, before));
            ck_assert_int_le(tile, rows);
            before = tile;
        }
    }
}
END_TEST

START_TEST(test_one_rank) {
    hisa_policy_t policy = eight();
    policy.ranks = 1;
    const hisa_select_options_t options = in_mode(HISA_MODE_HISA);
    ck_assert_int_eq(hisa_policy_switch(&policy, &options, 100), 101);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("policy");
    TCase *model = tcase_create("model");
    tcase_add_loop_test(model, test_switch, HISA_MODE_HISA, HISA_MODE_BLOCK + 1);
    tcase_add_loop_test(model, test_costs_move_it, HISA_MODE_HISA, HISA_MODE_BLOCK + 1);
    tcase_add_test(model, test_by_hand);
    tcase_add_test(model, test_tile_by_hand);
    tcase_add_test(model, test_flat_tile_by_hand);
    tcase_add_loop_test(model, test_tile_grows, HISA_MODE_HISA, HISA_MODE_BLOCK + 1);
    tcase_add_test(model, test_one_rank);
    suite_add_tcase(suite, model);
    return suite_main(suite);
}
