#include "support/named.h"

#include <check.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Codes of 0.5, 1, 2, 3, 4 and of -1. */
enum { HALF = 0x30, ONE = 0x38, TWO = 0x40, THREE = 0x44, FOUR = 0x48, MINUS_ONE = 0xb8, NAN_CODE = 0x7f };

enum { BLANK_CHANGES = 8 };

/* ---------------------------------------------------------------------------------------------- construction */

void test_case_blank(test_case_t *made, int32_t head_dim, int32_t num_heads, int32_t block_size, int64_t length,
                     int64_t rows) {
    *made = (test_case_t){.num_rows = rows, .default_sequence = true};
    hisa_index_config_init(&made->config);
    made->config.backend = HISA_BACKEND_CPU;
    made->config.head_dim = head_dim;
    made->config.num_heads = num_heads;
    made->config.block_size = block_size;
    made->config.capacity = length + block_size;
    hisa_select_options_init(&made->options);
    made->options.top_k = 16;
    made->options.top_blocks = 4;
    made->options.sink_blocks = 0;
    made->options.local_blocks = 0;
    made->changes = test_alloc(BLANK_CHANGES, sizeof *made->changes);
    float *scales = test_alloc(length, sizeof *scales);
    for (int64_t s = 0; s < length; ++s) {
        scales[s] = 1.0f;
    }
    made->keys[0] = (hisa_oracle_keys_t){.num_tokens = length,
                                         .head_dim = head_dim,
                                         .num_heads = num_heads,
                                         .block_size = block_size,
                                         .keys = test_alloc(length * head_dim, 1),
                                         .scales = scales};
    made->q = test_alloc(rows * num_heads * head_dim, 1);
    memset(made->q, ONE, (size_t)(rows * num_heads * head_dim));
    made->weights = test_alloc(rows * num_heads, sizeof(float));
    for (int64_t i = 0; i < rows * num_heads; ++i) {
        made->weights[i] = 1.0f;
    }
    made->sequence = test_alloc(rows, sizeof(int32_t));
    made->window_begin = test_alloc(rows, sizeof(int32_t));
    made->window_end = test_alloc(rows, sizeof(int32_t));
    for (int64_t t = 0; t < rows; ++t) {
        made->window_end[t] = (int32_t)length;
    }
}

uint8_t *test_case_key(const test_case_t *made, int64_t position) {
    return (uint8_t *)(uintptr_t)made->keys[0].keys + position * made->config.head_dim;
}

float *test_case_scale(const test_case_t *made, int64_t position) {
    return (float *)(uintptr_t)made->keys[0].scales + position;
}

void test_case_window(test_case_t *made, int64_t row, int64_t begin, int64_t end) {
    made->window_begin[row] = (int32_t)begin;
    made->window_end[row] = (int32_t)end;
}

void test_case_change(test_case_t *made, change_kind_t kind, int64_t position, int64_t tokens) {
    const int64_t dim = made->config.head_dim;
    ck_assert_int_lt(made->num_changes, BLANK_CHANGES);
    change_t *change = &made->changes[made->num_changes];
    ++made->num_changes;
    *change = (change_t){.kind = kind, .position = position, .tokens = tokens};
    if (kind != CHANGE_TRUNCATE) {
        change->keys = test_alloc(tokens * dim, 1);
        change->scales = test_alloc(tokens, sizeof *change->scales);
        memcpy(change->keys, test_case_key(made, position), (size_t)(tokens * dim));
        memcpy(change->scales, test_case_scale(made, position), (size_t)tokens * sizeof *change->scales);
    }
}

void test_case_finish(test_case_t *made) {
    if (made->num_changes == 0) {
        test_case_change(made, CHANGE_APPEND, 0, made->keys[0].num_tokens);
    }
    ck_assert_int_eq(hisa_oracle_pool(&made->keys[0]), HISA_OK);
    test_case_expect(made);
}

void test_case_again(test_case_t *made) {
    free(made->indices);
    free(made->counts);
    free(made->scores);
    test_case_expect(made);
}

/* ---------------------------------------------------------------------------------------------- ties and plateaus */

static void ties_at_token_threshold(test_case_t *made) {
    static const uint8_t codes[] = {ONE, TWO, THREE};
    test_case_blank(made, 16, 1, 16, 203, 4);
    for (int64_t s = 0; s < 203; ++s) {
        test_case_key(made, s)[s % 16] = codes[s * 7 % 3];
    }
    test_case_window(made, 1, 5, 190);
    test_case_window(made, 2, 100, 131);
    test_case_window(made, 3, 63, 64);
    made->options.top_blocks = 20;
    made->options.top_k = 90; /* the threes and some of the twos */
    test_case_finish(made);
}

static void ties_at_block_threshold(test_case_t *made) {
    test_case_blank(made, 16, 2, 16, 12 * 16, 3);
    for (int64_t s = 0; s < 12 * 16; ++s) {
        memset(test_case_key(made, s), s / 16 == 7 ? TWO : ONE, 16);
        *test_case_scale(made, s) = s % 16 < 8 ? 0.5f : 2.0f;
    }
    test_case_window(made, 1, 33, 190);
    made->weights[4] = -1.0f; /* row 2: all block scores negative, block 7 the worst */
    made->weights[5] = -1.0f;
    made->options.top_blocks = 3;
    made->options.top_k = 24;
    test_case_finish(made);
}

static void zero_plateaus(test_case_t *made) {
    test_case_blank(made, 16, 3, 16, 500, 4);
    for (int64_t s = 0; s < 500; ++s) {
        memset(test_case_key(made, s), s % 50 == 49 ? ONE : MINUS_ONE, 16);
    }
    for (int h = 0; h < 3; ++h) {
        made->weights[3 + h] = h == 1 ? -0.0f : 0.0f; /* row 1: weights 0 */
        made->weights[6 + h] = -1.0f;                 /* row 2: 0 is the best score */
        made->weights[9 + h] = h == 0 ? 1.0f : -0.5f; /* row 3: the sum is 0 where it is not 0 before */
    }
    made->options.top_blocks = 8;
    made->options.top_k = 100;
    test_case_finish(made);
}

static void all_equal(test_case_t *made) {
    test_case_blank(made, 16, 1, 16, 1000, 2);
    for (int64_t s = 0; s < 1000; ++s) {
        memset(test_case_key(made, s), TWO, 16);
    }
    made->weights[1] = -3.0f;
    made->options.mode = HISA_MODE_FLAT;
    made->options.top_k = 333;
    test_case_finish(made);
}

static void clusters_an_ulp_apart(test_case_t *made) {
    test_case_blank(made, 16, 1, 16, 900, 3);
    for (int64_t s = 0; s < 900; ++s) {
        memset(test_case_key(made, s), ONE, 16);
        *test_case_scale(made, s) = s * 5 % 7 < 3 ? 1.0f : nextafterf(1.0f, 2.0f);
    }
    made->weights[1] = -1.0f;
    test_case_window(made, 2, 17, 800);
    made->options.top_blocks = 40;
    made->options.top_k = 600; /* all of the upper cluster and some of the lower */
    test_case_finish(made);
}

static void low_bits_only(test_case_t *made) {
    test_case_blank(made, 16, 1, 16, 1024, 2);
    for (int64_t s = 0; s < 1024; ++s) {
        test_case_key(made, s)[0] = ONE;
        *test_case_scale(made, s) = 1.0f + (float)(s * 389 % 1024) * FLT_EPSILON;
    }
    made->weights[1] = -1.0f;
    made->options.mode = HISA_MODE_FLAT;
    made->options.top_k = 100;
    test_case_finish(made);
}

/* ---------------------------------------------------------------------------------------------- special values */

static void both_zeros(test_case_t *made) {
    test_case_blank(made, 16, 1, 16, 64, 1);
    for (int64_t s = 0; s < 64; s += 3) {
        test_case_key(made, s)[0] = HALF;
        *test_case_scale(made, s) = FLT_TRUE_MIN; /* times -0.5: -0 */
    }
    made->weights[0] = -1.0f;
    made->options.top_k = 30;
    test_case_finish(made);
}

static void infinite_weights(test_case_t *made) {
    test_case_blank(made, 16, 2, 16, 300, 4);
    for (int64_t s = 0; s < 300; ++s) {
        test_case_key(made, s)[0] = s % 5 < 2 ? ONE : MINUS_ONE;
        test_case_key(made, s)[1] = s / 16 % 2 == 0 ? ONE : 0;
    }
    made->weights[0] = INFINITY; /* inf - inf, and inf * 0 */
    made->weights[1] = -INFINITY;
    made->weights[2] = INFINITY;
    made->weights[5] = -INFINITY;
    made->weights[6] = NAN;
    made->options.top_blocks = 9;
    made->options.top_k = 120;
    test_case_finish(made);
}

static void overflowing_scores(test_case_t *made) {
    test_case_blank(made, 32, 1, 16, 150, 2);
    for (int64_t s = 0; s < 150; ++s) {
        memset(test_case_key(made, s), s % 3 == 0 ? 0x7e : ONE, 32);
        *test_case_scale(made, s) = s % 4 == 0 ? 1e38f : 1e-38f;
    }
    made->weights[1] = -1.0f;
    made->options.top_blocks = 5;
    made->options.top_k = 40;
    test_case_finish(made);
}

static void nan_key(test_case_t *made) {
    test_case_blank(made, 16, 1, 16, 100, 2);
    for (int64_t s = 0; s < 100; ++s) {
        memset(test_case_key(made, s), ONE, 16);
    }
    test_case_key(made, 40)[3] = NAN_CODE;
    test_case_key(made, 41)[15] = NAN_CODE | 0x80;
    made->weights[1] = -1.0f; /* a NaN dot product counts as 0: the best score here */
    made->options.top_blocks = 2;
    made->options.top_k = 20;
    test_case_finish(made);
}

/* ---------------------------------------------------------------------------------------------- windows and lengths */

/* A few different scores in any place. */
static void fill_mixed(test_case_t *made) {
    for (int64_t s = 0; s < made->keys[0].num_tokens; ++s) {
        uint8_t *key = test_case_key(made, s);
        for (int32_t d = 0; d < made->config.head_dim; ++d) {
            key[d] = (uint8_t)(0x20 + (s * 31 + d * 17 + s * s % 13) % 0x30);
        }
        *test_case_scale(made, s) = 0.25f + (float)(s * 101 % 64) / 64.0f;
    }
}

static void windows_cut_blocks(test_case_t *made) {
    static const int32_t windows[][2] = {{0, 1},     {15, 16},   {15, 17},   {16, 32},  {1, 31},
                                         {17, 200},  {31, 33},   {100, 150}, {47, 145}, {299, 300},
                                         {287, 300}, {288, 300}, {0, 300},   {5, 299}};
    enum { ROWS = sizeof windows / sizeof windows[0] };
    test_case_blank(made, 16, 2, 16, 300, ROWS);
    fill_mixed(made);
    for (int t = 0; t < ROWS; ++t) {
        test_case_window(made, t, windows[t][0], windows[t][1]);
    }
    made->options.sink_blocks = 1;
    made->options.local_blocks = 1;
    made->options.top_k = 40;
    test_case_finish(made);
}

static void empty_windows(test_case_t *made) {
    test_case_blank(made, 16, 1, 16, 100, 6);
    fill_mixed(made);
    for (int64_t t = 0; t < 6; t += 2) {
        test_case_window(made, t, t * 20, t * 20);
    }
    test_case_window(made, 5, 100, 100);
    made->options.sink_blocks = 1;
    made->options.local_blocks = 1;
    test_case_finish(made);
}

static void ragged_tail(test_case_t *made) {
    test_case_blank(made, 32, 3, 32, 32 * 9 + 1, 3);
    fill_mixed(made);
    memset(test_case_key(made, 32 * 9), 0x7e, 32); /* the block of one token is the best */
    test_case_window(made, 1, 0, 32 * 9);
    test_case_window(made, 2, 40, 32 * 9 + 1);
    made->options.top_blocks = 2;
    made->options.top_k = 33;
    test_case_finish(made);
}

static void fewer_candidates_than_k(test_case_t *made) {
    test_case_blank(made, 16, 2, 16, 70, 3);
    fill_mixed(made);
    test_case_window(made, 1, 60, 70);
    test_case_window(made, 2, 69, 70);
    made->options.top_blocks = 64;
    made->options.top_k = 1000;
    made->options.mode = HISA_MODE_HISA;
    test_case_finish(made);
}

static void k_not_reached_in_kept_blocks(test_case_t *made) {
    /* m*B = k, but a kept block is cut by the window and another is the ragged tail. */
    test_case_blank(made, 16, 2, 16, 16 * 10 + 3, 2);
    fill_mixed(made);
    test_case_window(made, 0, 5, 16 * 10 + 3);
    made->options.sink_blocks = 1;
    made->options.local_blocks = 1;
    made->options.top_blocks = 3;
    made->options.top_k = 48;
    test_case_finish(made);
    ck_assert_int_lt(made->counts[0], 48);
}

static void more_blocks_than_there_are(test_case_t *made) {
    test_case_blank(made, 16, 2, 16, 300, 3);
    fill_mixed(made);
    test_case_window(made, 1, 77, 212);
    made->options.mode = HISA_MODE_FLAT;
    made->options.top_k = 64;
    made->options.top_blocks = 19;
    made->options.sink_blocks = 2;
    made->options.local_blocks = 3;
    test_case_finish(made);
    int32_t *flat = made->indices;
    made->indices = NULL;
    made->options.mode = HISA_MODE_HISA;
    test_case_again(made);
    ck_assert_mem_eq(made->indices, flat, 3 * 64 * sizeof *flat);
    free(flat);
}

static void ranks_without_keys(test_case_t *made) {
    test_case_blank(made, 16, 2, 16, 20, 3);
    fill_mixed(made);
    test_case_window(made, 1, 18, 20);
    made->options.sink_blocks = 1;
    made->options.local_blocks = 1;
    test_case_finish(made);
}

static void no_keys_at_all(test_case_t *made) {
    test_case_blank(made, 16, 2, 16, 0, 3);
    test_case_finish(made);
}

static void forced_blocks_only(test_case_t *made) {
    test_case_blank(made, 16, 1, 16, 400, 3);
    fill_mixed(made);
    test_case_window(made, 1, 30, 333);
    test_case_window(made, 2, 30, 60);
    made->options.sink_blocks = 2;
    made->options.local_blocks = 2;
    made->options.top_blocks = 4;
    made->options.top_k = 50;
    test_case_finish(made);
}

static void block_mode(test_case_t *made) {
    test_case_blank(made, 16, 2, 16, 400, 4);
    fill_mixed(made);
    test_case_window(made, 1, 30, 333);
    test_case_window(made, 2, 30, 60);
    made->options.mode = HISA_MODE_BLOCK;
    made->options.sink_blocks = 1;
    made->options.local_blocks = 2;
    made->options.top_blocks = 0;
    made->options.top_k = 75;
    test_case_finish(made);
}

/* ---------------------------------------------------------------------------------------------- needles, history */

static void needles(test_case_t *made) {
    static const int32_t planted[] = {3, 510, 511, 512, 1203, 1777, 1999};
    enum { NEEDLES = sizeof planted / sizeof planted[0], TOKENS = 2000 };
    test_case_blank(made, 64, 4, 16, TOKENS, 2);
    fill_mixed(made);
    for (int64_t s = 0; s < TOKENS; ++s) { /* the haystack stands across the query */
        memset(test_case_key(made, s), 0, 32);
    }
    memset(made->q, 0, (size_t)(2 * 4 * 64));
    for (int64_t i = 0; i < 2 * 4; ++i) {
        memset(made->q + i * 64, FOUR, 32);
    }
    for (int i = 0; i < NEEDLES; ++i) {
        memset(test_case_key(made, planted[i]), FOUR, 32);
        *test_case_scale(made, planted[i]) = 1.0f;
    }
    made->options.top_blocks = 8;
    made->options.top_k = NEEDLES;
    test_case_finish(made);
    for (int t = 0; t < 2; ++t) {
        ck_assert_mem_eq(made->indices + t * NEEDLES, planted, sizeof planted);
    }
}

static void truncated_and_appended_again(test_case_t *made) {
    /* What was rolled back would have won: a pooled key that remembers it picks block 5 or 6. */
    test_case_blank(made, 16, 1, 16, 200, 2);
    fill_mixed(made);
    uint8_t *tail = test_case_key(made, 90);
    uint8_t kept[110 * 16];
    memset(test_case_key(made, 80), 0x08, 120 * 16); /* weaker than all before it */
    memcpy(kept, tail, sizeof kept);
    memset(tail, 0x7e, sizeof kept);
    test_case_change(made, CHANGE_APPEND, 0, 200);
    test_case_change(made, CHANGE_TRUNCATE, 90, 0);
    memcpy(tail, kept, sizeof kept);
    test_case_change(made, CHANGE_APPEND, 90, 1);
    test_case_change(made, CHANGE_APPEND, 91, 109);
    test_case_window(made, 1, 0, 96);
    made->options.top_blocks = 1;
    test_case_finish(made);
    ck_assert_int_lt(made->indices[0], 80);
    ck_assert_int_lt(made->indices[16], 80);
}

static void truncated_only(test_case_t *made) {
    /* The tail of block 5 is gone, and with it what made the block win. */
    test_case_blank(made, 16, 1, 16, 90, 1);
    fill_mixed(made);
    memset(test_case_key(made, 80), 0x08, 10 * 16); /* what stays of the block is the weakest of all */
    made->config.capacity = 96;
    test_case_change(made, CHANGE_APPEND, 0, 90);
    uint8_t loud[6 * 16];
    memset(loud, 0x7e, sizeof loud);
    change_t *change = &made->changes[made->num_changes];
    ++made->num_changes;
    *change = (change_t){.kind = CHANGE_APPEND, .position = 90, .tokens = 6};
    change->keys = test_alloc(sizeof loud, 1);
    change->scales = test_alloc(6, sizeof *change->scales);
    memcpy(change->keys, loud, sizeof loud);
    for (int i = 0; i < 6; ++i) {
        change->scales[i] = 4.0f;
    }
    test_case_change(made, CHANGE_TRUNCATE, 90, 0);
    made->options.top_blocks = 1;
    test_case_finish(made);
    ck_assert_int_lt(made->indices[0], 80);
}

static void overwritten(test_case_t *made) {
    test_case_blank(made, 16, 1, 16, 200, 1);
    fill_mixed(made);
    uint8_t *blocks = test_case_key(made, 64);
    uint8_t kept[48 * 16];
    memcpy(kept, blocks, sizeof kept);
    memset(blocks, 0x7e, sizeof kept);
    test_case_change(made, CHANGE_APPEND, 0, 200);
    memcpy(blocks, kept, sizeof kept);
    test_case_change(made, CHANGE_OVERWRITE, 64, 48);
    memset(test_case_key(made, 192), 0x70, 8 * 16); /* the ragged tail, which now wins */
    test_case_change(made, CHANGE_OVERWRITE, 192, 8);
    made->options.top_blocks = 1;
    made->options.top_k = 8;
    test_case_finish(made);
    ck_assert_int_eq(made->indices[0], 192);
}

static void usual_shape(test_case_t *made) {
    test_case_blank(made, 128, 32, 128, 20000, 2);
    fill_mixed(made);
    made->weights[3] = -0.5f;
    test_case_window(made, 1, 333, 19001);
    made->options.top_blocks = 64;
    made->options.top_k = 2048;
    made->options.sink_blocks = 1;
    made->options.local_blocks = 1;
    test_case_finish(made);
}

#define NAMED(name)                                                                                                    \
    { #name, name }

const named_case_t named_cases[] = {
    NAMED(ties_at_token_threshold),
    NAMED(ties_at_block_threshold),
    NAMED(zero_plateaus),
    NAMED(all_equal),
    NAMED(clusters_an_ulp_apart),
    NAMED(low_bits_only),
    NAMED(both_zeros),
    NAMED(infinite_weights),
    NAMED(overflowing_scores),
    NAMED(nan_key),
    NAMED(windows_cut_blocks),
    NAMED(empty_windows),
    NAMED(ragged_tail),
    NAMED(fewer_candidates_than_k),
    NAMED(k_not_reached_in_kept_blocks),
    NAMED(more_blocks_than_there_are),
    NAMED(ranks_without_keys),
    NAMED(no_keys_at_all),
    NAMED(forced_blocks_only),
    NAMED(block_mode),
    NAMED(needles),
    NAMED(truncated_and_appended_again),
    NAMED(truncated_only),
    NAMED(overwritten),
    NAMED(usual_shape),
};
const int num_named_cases = (int)(sizeof named_cases / sizeof named_cases[0]);
