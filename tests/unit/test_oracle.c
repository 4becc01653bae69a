/* The reference against numbers worked out by hand. */
#include <float.h>
#include <math.h>

#include "oracle/oracle.h"
#include "support/suite.h"

/* Codes of small numbers, by the format's table. */
#define P0 0x00
#define HALF 0x30
#define P1 0x38
#define P2 0x40
#define P3 0x44
#define N1 0xb8
#define NAN_CODE 0x7f

#define MAX_K 8

typedef struct result {
    int32_t indices[MAX_K];
    float scores[MAX_K];
    int32_t count;
} result_t;

static hisa_select_options_t options_of(hisa_mode_t mode, int32_t m, int32_t k, int32_t sink, int32_t local) {
    return (hisa_select_options_t){.struct_size = sizeof(hisa_select_options_t),
                                   .mode = mode,
                                   .top_blocks = m,
                                   .top_k = k,
                                   .sink_blocks = sink,
                                   .local_blocks = local};
}

static result_t select_row(const hisa_oracle_keys_t *keys, const hisa_select_options_t *options, const uint8_t *q,
                           const float *w, int64_t ks, int64_t ke) {
    result_t result;
    memset(&result, 0x55, sizeof result);
    float *scores = options->mode == HISA_MODE_BLOCK ? NULL : result.scores;
    ck_ok(hisa_oracle_select(keys, options, q, w, ks, ke, result.indices, scores, &result.count));
    return result;
}

#define ck_row(result, n, ...)                                                                                         \
    do {                                                                                                               \
        const int32_t ck_row_want[] = {__VA_ARGS__};                                                                   \
        ck_assert_int_eq((result).count, (n));                                                                         \
        for (size_t i = 0; i < sizeof ck_row_want / sizeof ck_row_want[0]; ++i) {                                      \
            ck_assert_int_eq((result).indices[i], ck_row_want[i]);                                                     \
        }                                                                                                              \
    } while (0)

/* ---------------------------------------------------------------------------------------------- e4m3 */

/* The value of a code in units of 2^-9, the smallest step of the format. */
static int units_of(int code) {
    const int exponent = code / 8;
    const int mantissa = code % 8;
    return exponent == 0 ? mantissa : (8 + mantissa) << (exponent - 1);
}

START_TEST(e4m3_values) {
    for (int code = 0; code < 0x7f; ++code) {
        const float value = (float)units_of(code) / 512.0f;
        ck_assert(hisa_oracle_e4m3_to_float((uint8_t)code) == value);
        ck_assert(hisa_oracle_e4m3_to_float((uint8_t)(code | 0x80)) == -value);
    }
    ck_assert(isnan(hisa_oracle_e4m3_to_float(0x7f)));
    ck_assert(isnan(hisa_oracle_e4m3_to_float(0xff)));
    ck_assert(signbit(hisa_oracle_e4m3_to_float(0x80)) != 0);
    ck_assert(hisa_oracle_e4m3_to_float(0x01) == 0.001953125f);
    ck_assert(hisa_oracle_e4m3_to_float(0x08) == 0.015625f);
    ck_assert(hisa_oracle_e4m3_to_float(P1) == 1.0f);
    ck_assert(hisa_oracle_e4m3_to_float(0x3c) == 1.5f);
    ck_assert(hisa_oracle_e4m3_to_float(0xc8) == -4.0f);
    ck_assert(hisa_oracle_e4m3_to_float(0x7e) == 448.0f);
}
END_TEST

START_TEST(e4m3_rounding) {
    for (int code = 0; code < 0x7e; ++code) {
        const float value = (float)units_of(code) / 512.0f;
        const float middle = (float)(units_of(code) + units_of(code + 1)) / 1024.0f;
        const int even = code % 2 == 0 ? code : code + 1;
        ck_assert_int_eq(hisa_oracle_e4m3_from_float(value), code);
        ck_assert_int_eq(hisa_oracle_e4m3_from_float(-value), code | 0x80);
        ck_assert_int_eq(hisa_oracle_e4m3_from_float(middle), even);
        ck_assert_int_eq(hisa_oracle_e4m3_from_float(-middle), even | 0x80);
        ck_assert_int_eq(hisa_oracle_e4m3_from_float(nextafterf(middle, 0.0f)), code);
        ck_assert_int_eq(hisa_oracle_e4m3_from_float(nextafterf(middle, 500.0f)), code + 1);
    }
    ck_assert_int_eq(hisa_oracle_e4m3_from_float(-0.0f), 0x80);
    ck_assert_int_eq(hisa_oracle_e4m3_from_float(FLT_MIN), 0);
    ck_assert_int_eq(hisa_oracle_e4m3_from_float(448.0f), 0x7e);
    ck_assert_int_eq(hisa_oracle_e4m3_from_float(464.0f), 0x7e);
    ck_assert_int_eq(hisa_oracle_e4m3_from_float(-1e30f), 0xfe);
    ck_assert_int_eq(hisa_oracle_e4m3_from_float(INFINITY), 0x7e);
    ck_assert_int_eq(hisa_oracle_e4m3_from_float(NAN), 0x7f);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- five tokens by hand */

/* Token  key      scale  dots        sum_h           score    blocks of 2: mean, largest
 * 0      ( 1, 0)  1       1,  1      1 - 0.5 = 0.5   0.5      (0.5, 1), 1
 * 1      ( 0, 1)  2       1, -1      1               2
 * 2      ( 2, 1)  0.5     3,  1      3 - 0.5 = 2.5   1.25     (0, 1.25), 1.25
 * 3      (-1, 2)  1       1, -3      1               1
 * 4      ( 1, 1)  4       2,  0      2               8        (4, 4), 4
 * The pooled keys are (224, 448), (0, 448) and (448, 448), so block scores are about 1.5, 1.25 and 8. */
static const uint8_t five_keys[] = {P1, P0, P0, P1, P2, P1, N1, P2, P1, P1};
static const float five_scales[] = {1.0f, 2.0f, 0.5f, 1.0f, 4.0f};
static const uint8_t five_q[] = {P1, P1, P1, N1};
static const float five_w[] = {1.0f, -0.5f};

static hisa_oracle_keys_t five(void) {
    hisa_oracle_keys_t keys = {
        .num_tokens = 5, .head_dim = 2, .num_heads = 2, .block_size = 2, .keys = five_keys, .scales = five_scales};
    ck_ok(hisa_oracle_pool(&keys));
    return keys;
}

static result_t five_row(hisa_mode_t mode, int32_t m, int32_t k, int32_t sink, int32_t local, int64_t ks, int64_t ke) {
    hisa_oracle_keys_t keys = five();
    const hisa_select_options_t options = options_of(mode, m, k, sink, local);
    const result_t result = select_row(&keys, &options, five_q, five_w, ks, ke);
    hisa_oracle_free(&keys);
    return result;
}

START_TEST(pooled_keys) {
    hisa_oracle_keys_t keys = five();
    const uint8_t want[] = {0x76, 0x7e, 0x00, 0x7e, 0x7e, 0x7e};
    ck_assert_mem_eq(keys.pooled, want, sizeof want);
    ck_assert(keys.pooled_scale[0] == 1.0f / 448.0f);
    ck_assert(keys.pooled_scale[1] == 1.25f / 448.0f);
    ck_assert(keys.pooled_scale[2] == 4.0f / 448.0f);
    hisa_oracle_free(&keys);
}
END_TEST

START_TEST(flat) {
    const result_t all = five_row(HISA_MODE_FLAT, 0, 5, 0, 0, 0, 5);
    ck_row(all, 5, 0, 1, 2, 3, 4);
    const float scores[] = {0.5f, 2.0f, 1.25f, 1.0f, 8.0f};
    ck_assert_mem_eq(all.scores, scores, sizeof scores);
    ck_row(five_row(HISA_MODE_FLAT, 0, 1, 0, 0, 0, 5), 1, 4);
    ck_row(five_row(HISA_MODE_FLAT, 0, 2, 0, 0, 0, 5), 2, 1, 4);
    ck_row(five_row(HISA_MODE_FLAT, 0, 3, 0, 0, 0, 5), 3, 1, 2, 4);
    ck_row(five_row(HISA_MODE_FLAT, 0, 2, 0, 0, 2, 4), 2, 2, 3);
    ck_row(five_row(HISA_MODE_FLAT, 0, 1, 0, 0, 2, 4), 1, 2);
}
END_TEST

START_TEST(padding) {
    const result_t some = five_row(HISA_MODE_FLAT, 0, 5, 0, 0, 1, 4);
    ck_row(some, 3, 1, 2, 3, -1, -1);
    const float scores[] = {2.0f, 1.25f, 1.0f, 0.0f, 0.0f};
    ck_assert_mem_eq(some.scores, scores, sizeof scores);
    ck_assert_int_eq(some.indices[5], 0x55555555); /* nothing past k */
    for (int mode = HISA_MODE_HISA; mode <= HISA_MODE_BLOCK; ++mode) {
        ck_row(five_row((hisa_mode_t)mode, 2, 3, 1, 1, 2, 2), 0, -1, -1, -1);
        ck_row(five_row((hisa_mode_t)mode, 2, 3, 1, 1, 5, 5), 0, -1, -1, -1);
        ck_row(five_row((hisa_mode_t)mode, 2, 3, 1, 1, 0, 0), 0, -1, -1, -1);
    }
}
END_TEST

START_TEST(hisa) {
    /* Blocks 2 and 0 are kept: token 2 is the third best of all but stands in block 1. */
    ck_row(five_row(HISA_MODE_HISA, 2, 3, 0, 0, 0, 5), 3, 0, 1, 4);
    ck_row(five_row(HISA_MODE_HISA, 2, 2, 0, 0, 0, 5), 2, 1, 4);
    ck_row(five_row(HISA_MODE_HISA, 2, 4, 0, 0, 0, 5), 3, 0, 1, 4, -1);
    /* As many blocks as are in sight, or more: flat. */
    ck_row(five_row(HISA_MODE_HISA, 3, 3, 0, 0, 0, 5), 3, 1, 2, 4);
    ck_row(five_row(HISA_MODE_HISA, 9, 3, 1, 1, 0, 5), 3, 1, 2, 4);
    /* A window that cuts block 0 still ranks it by all its tokens. */
    ck_row(five_row(HISA_MODE_HISA, 1, 2, 0, 0, 1, 4), 1, 1, -1);
    ck_row(five_row(HISA_MODE_HISA, 1, 2, 0, 0, 3, 4), 1, 3, -1);
    /* One token past a block's edge brings the block in, and it wins. */
    ck_row(five_row(HISA_MODE_HISA, 1, 2, 0, 0, 1, 5), 1, 4, -1);
}
END_TEST

START_TEST(kept_blocks) {
    ck_row(five_row(HISA_MODE_HISA, 1, 2, 1, 0, 0, 5), 2, 0, 1);
    ck_row(five_row(HISA_MODE_HISA, 1, 2, 0, 1, 0, 5), 1, 4, -1);
    ck_row(five_row(HISA_MODE_HISA, 1, 2, 0, 1, 0, 4), 2, 2, 3);
    ck_row(five_row(HISA_MODE_HISA, 1, 2, 1, 0, 2, 5), 2, 2, 3);
    ck_row(five_row(HISA_MODE_HISA, 2, 4, 2, 0, 0, 5), 4, 0, 1, 2, 3);
    ck_row(five_row(HISA_MODE_HISA, 2, 4, 0, 2, 0, 5), 3, 2, 3, 4, -1);
    ck_row(five_row(HISA_MODE_HISA, 2, 4, 1, 1, 0, 4), 4, 0, 1, 2, 3);
    /* They count towards m: the third block is 2, the best of the rest. */
    ck_row(five_row(HISA_MODE_HISA, 2, 4, 1, 0, 0, 5), 3, 0, 1, 4, -1);
    ck_row(five_row(HISA_MODE_HISA, 9, 5, 4, 4, 0, 5), 5, 0, 1, 2, 3, 4);
}
END_TEST

START_TEST(block) {
    ck_row(five_row(HISA_MODE_BLOCK, 0, 1, 0, 0, 0, 5), 1, 4);
    ck_row(five_row(HISA_MODE_BLOCK, 0, 2, 0, 0, 0, 5), 2, 0, 4);
    ck_row(five_row(HISA_MODE_BLOCK, 0, 3, 0, 0, 0, 5), 3, 0, 1, 4);
    ck_row(five_row(HISA_MODE_BLOCK, 0, 4, 0, 0, 0, 5), 4, 0, 1, 2, 4);
    ck_row(five_row(HISA_MODE_BLOCK, 0, 6, 0, 0, 0, 5), 5, 0, 1, 2, 3, 4, -1);
    ck_row(five_row(HISA_MODE_BLOCK, 0, 2, 0, 0, 1, 5), 2, 1, 4);
    /* Forced ones first, in ascending position. */
    ck_row(five_row(HISA_MODE_BLOCK, 0, 1, 1, 1, 0, 5), 1, 0);
    ck_row(five_row(HISA_MODE_BLOCK, 0, 2, 1, 0, 0, 5), 2, 0, 1);
    ck_row(five_row(HISA_MODE_BLOCK, 0, 3, 2, 0, 0, 5), 3, 0, 1, 2);
    ck_row(five_row(HISA_MODE_BLOCK, 0, 3, 1, 2, 2, 5), 3, 2, 3, 4);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- order and rounding */

/* D 1, H 1, B 2: the score is scale * weight * max(0, key). */
static result_t line(int64_t n, const uint8_t *codes, const float *scales, float weight, hisa_mode_t mode, int32_t m,
                     int32_t k) {
    hisa_oracle_keys_t keys = {
        .num_tokens = n, .head_dim = 1, .num_heads = 1, .block_size = 2, .keys = codes, .scales = scales};
    ck_ok(hisa_oracle_pool(&keys));
    const uint8_t q[] = {P1};
    const hisa_select_options_t options = options_of(mode, m, k, 0, 0);
    const result_t result = select_row(&keys, &options, q, &weight, 0, n);
    hisa_oracle_free(&keys);
    return result;
}

static const float ones[] = {1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f};

START_TEST(ties) {
    const uint8_t same[] = {P1, P1, P1, P1, P1, P1};
    ck_row(line(6, same, ones, 1.0f, HISA_MODE_FLAT, 0, 4), 4, 0, 1, 2, 3);
    ck_row(line(6, same, ones, -1.0f, HISA_MODE_FLAT, 0, 4), 4, 0, 1, 2, 3);
    ck_row(line(6, same, ones, 1.0f, HISA_MODE_HISA, 2, 3), 3, 0, 1, 2);
    ck_row(line(6, same, ones, 1.0f, HISA_MODE_BLOCK, 0, 3), 3, 0, 1, 2);
    const uint8_t mixed[] = {P1, P2, P1, P3, P1, P2};
    ck_row(line(6, mixed, ones, 1.0f, HISA_MODE_FLAT, 0, 2), 2, 1, 3);
    ck_row(line(6, mixed, ones, 1.0f, HISA_MODE_FLAT, 0, 4), 4, 0, 1, 3, 5);
    ck_row(line(6, mixed, ones, -1.0f, HISA_MODE_FLAT, 0, 2), 2, 0, 2);
    /* Zero plateaus: keys that point away, and a weight of 0. */
    const uint8_t away[] = {N1, P0, N1, P1, N1, P0};
    ck_row(line(6, away, ones, 1.0f, HISA_MODE_FLAT, 0, 3), 3, 0, 1, 3);
    ck_row(line(6, away, ones, -1.0f, HISA_MODE_FLAT, 0, 5), 5, 0, 1, 2, 4, 5);
    ck_row(line(6, away, ones, 0.0f, HISA_MODE_FLAT, 0, 2), 2, 0, 1);
}
END_TEST

START_TEST(minus_zero) {
    /* The smallest scale times -0.5 is -0; a key of 0 gives +0. Position decides, either way round. */
    const float scales[] = {FLT_TRUE_MIN, 1.0f, FLT_TRUE_MIN, 1.0f};
    const uint8_t codes[] = {HALF, P0, HALF, P0};
    const result_t first = line(4, codes, scales, -1.0f, HISA_MODE_FLAT, 0, 1);
    ck_row(first, 1, 0);
    ck_assert(first.scores[0] == 0.0f && signbit(first.scores[0]) == 0); /* given as +0 */
    ck_row(line(3, codes + 1, scales + 1, -1.0f, HISA_MODE_FLAT, 0, 2), 2, 0, 1);
}
END_TEST

START_TEST(nan_scores) {
    /* An infinite weight times a dot product of 0 is NaN. */
    const uint8_t codes[] = {P1, P0, P2, P0, P0};
    const result_t three = line(5, codes, ones, INFINITY, HISA_MODE_FLAT, 0, 3);
    ck_row(three, 3, 0, 1, 2);
    ck_assert(isinf(three.scores[0]) && isnan(three.scores[1]) && isinf(three.scores[2]));
    ck_assert(signbit(three.scores[1]) == 0);
    ck_row(line(5, codes, ones, INFINITY, HISA_MODE_FLAT, 0, 1), 1, 0);
    ck_row(line(5, codes, ones, INFINITY, HISA_MODE_FLAT, 0, 4), 4, 0, 1, 2, 3);
    ck_row(line(5, codes, ones, -INFINITY, HISA_MODE_FLAT, 0, 1), 1, 0);
    /* The last block's mean is 0, its score NaN: it comes last, in both modes that rank blocks. */
    const uint8_t late[] = {P0, P0, P1, P1, P2, P0};
    ck_row(line(6, late, ones, INFINITY, HISA_MODE_HISA, 2, 4), 4, 2, 3, 4, 5);
    ck_row(line(6, late, ones, INFINITY, HISA_MODE_BLOCK, 0, 5), 5, 0, 2, 3, 4, 5);
}
END_TEST

START_TEST(nan_keys) {
    /* A dot product that is NaN counts as 0, which here is the best score. */
    const uint8_t codes[] = {P1, NAN_CODE, P2};
    const result_t result = line(3, codes, ones, -1.0f, HISA_MODE_FLAT, 0, 1);
    ck_row(result, 1, 1);
    ck_assert(result.scores[0] == 0.0f);
    /* Nor does it spoil its pooled key's scale. */
    const uint8_t pair[] = {NAN_CODE, P1, P1, P3};
    hisa_oracle_keys_t keys = {
        .num_tokens = 2, .head_dim = 2, .num_heads = 1, .block_size = 2, .keys = pair, .scales = ones};
    ck_ok(hisa_oracle_pool(&keys));
    ck_assert(keys.pooled_scale[0] == 2.0f / 448.0f);
    ck_assert_int_eq(keys.pooled[0], 0x7f);
    ck_assert_int_eq(keys.pooled[1], 0x7e);
    hisa_oracle_free(&keys);
}
END_TEST

START_TEST(order_of_sums) {
    const float big = 16777216.0f; /* 2^24: adding 1 to it changes nothing in f32 */
    /* Over tokens: -2^24 + 1 + 1 = -2^24 + 2 exactly, but 2^24 + 1 + 1 - 2^24 = 0. */
    const uint8_t codes[] = {P1, P1, P1, N1};
    const float scales[] = {big, 1.0f, 1.0f, big};
    hisa_oracle_keys_t keys = {
        .num_tokens = 4, .head_dim = 1, .num_heads = 4, .block_size = 4, .keys = codes, .scales = scales};
    ck_ok(hisa_oracle_pool(&keys));
    ck_assert_int_eq(keys.pooled[0], 0);
    ck_assert(keys.pooled_scale[0] == 1e-10f);
    /* Over heads. */
    const uint8_t q[] = {P1, P1, P1, P1};
    const float ascending[] = {big, 1.0f, 1.0f, -big};
    const float other[] = {1.0f, 1.0f, big, -big};
    const hisa_select_options_t options = options_of(HISA_MODE_FLAT, 0, 1, 0, 0);
    ck_assert(select_row(&keys, &options, q, ascending, 1, 2).scores[0] == 0.0f);
    ck_assert(select_row(&keys, &options, q, other, 1, 2).scores[0] == 2.0f);
    hisa_oracle_free(&keys);
    /* Over d: 2^-18 is lost beside 448^2, and is not where 448^2 has been taken away before. */
    const uint8_t key[] = {0x01, 0x7e, 0x7e, 0x01};
    const uint8_t lost[] = {0x01, 0x7e, 0xfe, P0};
    const uint8_t found[] = {P0, 0x7e, 0xfe, 0x01};
    const float one = 1.0f;
    hisa_oracle_keys_t wide = {
        .num_tokens = 1, .head_dim = 4, .num_heads = 1, .block_size = 16, .keys = key, .scales = ones};
    ck_ok(hisa_oracle_pool(&wide));
    ck_assert(select_row(&wide, &options, lost, &one, 0, 1).scores[0] == 0.0f);
    ck_assert(select_row(&wide, &options, found, &one, 0, 1).scores[0] == 0x1p-18f);
    hisa_oracle_free(&wide);
}
END_TEST

START_TEST(many_keys) {
    /* More keys than are scored side by side, with a rest: token s is the best exactly where it should be. */
    enum { TOKENS = 150, DIM = 16 };
    static uint8_t codes[TOKENS * DIM];
    static float scales[TOKENS];
    for (int s = 0; s < TOKENS; ++s) {
        scales[s] = (float)((s * 37) % TOKENS + 1); /* a permutation: 37 and 150 have no common factor */
        codes[s * DIM + s % DIM] = P1;
    }
    hisa_oracle_keys_t keys = {
        .num_tokens = TOKENS, .head_dim = DIM, .num_heads = 1, .block_size = 16, .keys = codes, .scales = scales};
    ck_ok(hisa_oracle_pool(&keys));
    uint8_t q[DIM];
    memset(q, P1, sizeof q);
    const float w = 2.0f;
    const hisa_select_options_t options = options_of(HISA_MODE_FLAT, 0, 2, 0, 0);
    const result_t result = select_row(&keys, &options, q, &w, 0, TOKENS);
    /* s * 37 mod 150 is 149 at s = 77 (2849 = 18 * 150 + 149) and 148 at s = 4. */
    ck_row(result, 2, 4, 77);
    ck_assert(result.scores[0] == 298.0f && result.scores[1] == 300.0f);
    hisa_oracle_free(&keys);
}
END_TEST

START_TEST(no_tokens) {
    hisa_oracle_keys_t keys = {.num_tokens = 0, .head_dim = 16, .num_heads = 1, .block_size = 16};
    ck_ok(hisa_oracle_pool(&keys));
    const uint8_t q[16] = {0};
    for (int mode = HISA_MODE_HISA; mode <= HISA_MODE_BLOCK; ++mode) {
        const hisa_select_options_t options = options_of((hisa_mode_t)mode, 2, 2, 1, 1);
        ck_row(select_row(&keys, &options, q, ones, 0, 0), 0, -1, -1);
    }
    hisa_oracle_free(&keys);
    hisa_oracle_free(NULL);
}
END_TEST

START_TEST(bad_arguments) {
    hisa_oracle_keys_t keys = five();
    result_t r;
    hisa_select_options_t options = options_of(HISA_MODE_FLAT, 0, 2, 0, 0);
    const hisa_status_t bad = HISA_ERR_INVALID_ARGUMENT;
    ck_fails(hisa_oracle_select(&keys, &options, five_q, five_w, 3, 2, r.indices, NULL, &r.count), bad, "[3, 2)");
    ck_fails(hisa_oracle_select(&keys, &options, five_q, five_w, 0, 6, r.indices, NULL, &r.count), bad, "[0, 6)");
    ck_fails(hisa_oracle_select(&keys, &options, five_q, five_w, -1, 2, r.indices, NULL, &r.count), bad, "[-1, 2)");
    options.top_k = 0;
    ck_fails(hisa_oracle_select(&keys, &options, five_q, five_w, 0, 2, r.indices, NULL, &r.count), bad, "top_k 0");
    options = options_of(HISA_MODE_BLOCK, 0, 2, 0, 0);
    ck_fails(hisa_oracle_select(&keys, &options, five_q, five_w, 0, 2, r.indices, r.scores, &r.count), bad, "mode 2");
    hisa_oracle_free(&keys);
    keys.head_dim = 257;
    ck_fails(hisa_oracle_pool(&keys), bad, "D 257");
}
END_TEST

int main(void) {
    Suite *suite = suite_create("oracle");
    TCase *tests = tcase_create("oracle");
    tcase_add_test(tests, e4m3_values);
    tcase_add_test(tests, e4m3_rounding);
    tcase_add_test(tests, pooled_keys);
    tcase_add_test(tests, flat);
    tcase_add_test(tests, padding);
    tcase_add_test(tests, hisa);
    tcase_add_test(tests, kept_blocks);
    tcase_add_test(tests, block);
    tcase_add_test(tests, ties);
    tcase_add_test(tests, minus_zero);
    tcase_add_test(tests, nan_scores);
    tcase_add_test(tests, nan_keys);
    tcase_add_test(tests, order_of_sums);
    tcase_add_test(tests, many_keys);
    tcase_add_test(tests, no_tokens);
    tcase_add_test(tests, bad_arguments);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
