/* The inner parts of the CPU backend: instruction sets that must agree to the bit, thresholds, sorts, the order of
 * scores, e4m3. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "backend/cpu/cpu.h"
#include "backend/e4m3.h"
#include "backend/cpu/topk.h"
#include "backend/order.h"
#include "index/index.h"
#include "io/synth.h"
#include "oracle/oracle.h"
#include "support/suite.h"

enum { HEADS = 128, DIM = 256, PANEL = HISA_CPU_PANEL };

/* splitmix64: the state is the seed, printed by the assertion that fails. */
static uint64_t next(uint64_t *state) {
    uint64_t x = *state += 0x9E3779B97F4A7C15u;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return x ^ x >> 31;
}

/* Any code but NaN. */
static uint8_t any_code(uint64_t *state) {
    const uint8_t code = (uint8_t)next(state);
    return (code & 0x7F) == 0x7F ? 0x31 : code;
}

/* -- instruction sets -- */

typedef struct panel_case {
    int64_t heads;
    int64_t dim;
    int64_t keys;
    uint8_t codes[PANEL * DIM];
    float q[HEADS * DIM];
    float w[HEADS];
    float scale[PANEL];
} panel_case_t;

static panel_case_t given;

static void make_panel_case(uint64_t seed) {
    uint64_t state = seed;
    given.heads = 1 + (int64_t)(next(&state) % HEADS);
    given.dim = 16 * (1 + (int64_t)(next(&state) % 16));
    given.keys = 1 + (int64_t)(next(&state) % PANEL);
    for (int64_t i = 0; i < PANEL * DIM; ++i) {
        given.codes[i] = any_code(&state);
    }
    for (int64_t i = 0; i < HEADS * DIM; ++i) {
        given.q[i] = hisa_e4m3_to_float(any_code(&state));
    }
    for (int64_t h = 0; h < HEADS; ++h) {
        given.w[h] = ((float)(int64_t)(next(&state) >> 40) - 0x1p23f) * 0x1p-22f;
    }
    for (int64_t s = 0; s < PANEL; ++s) {
        given.scale[s] = (float)(1 + (next(&state) >> 44)) * 0x1p-16f;
    }
}

static void run_panel(const hisa_cpu_isa_t *isa, float *score) {
    static _Alignas(64) float panel[DIM * PANEL];
    static _Alignas(64) float dots[HEADS * PANEL];
    isa->decode_panel(given.codes, given.keys, given.dim, panel);
    isa->dots(given.q, (given.heads + HISA_CPU_HEADS - 1) / HISA_CPU_HEADS, given.dim, panel, dots);
    isa->head_sum(dots, given.w, given.heads, given.scale, score);
}

/* The same sums in plain loops, one rounding a product and one a sum. */
static float plain_score(int64_t s) {
    float sum = 0.0f;
    for (int64_t h = 0; h < given.heads; ++h) {
        float dot = 0.0f;
        for (int64_t d = 0; d < given.dim; ++d) {
            const float q = given.q[h / 8 * given.dim * 8 + d * 8 + h % 8];
            dot += q * hisa_oracle_e4m3_to_float(given.codes[s * given.dim + d]);
        }
        sum += given.w[h] * (dot > 0.0f ? dot : 0.0f);
    }
    return given.scale[s] * sum;
}

START_TEST(instruction_sets_agree) {
    int count = 0;
    for (int place = 0; hisa_cpu_isa_at(place) != NULL; ++place, ++count) {
        for (uint64_t seed = 1; seed <= 40; ++seed) {
            float score[PANEL];
            make_panel_case(seed);
            run_panel(hisa_cpu_isa_at(place), score);
            for (int64_t s = 0; s < given.keys; ++s) {
                const float plain = plain_score(s);
                ck_assert_msg(memcmp(&score[s], &plain, sizeof plain) == 0, "%s, seed %llu, key %lld: %a, not %a",
                              hisa_cpu_isa_at(place)->name, (unsigned long long)seed, (long long)s, (double)score[s],
                              (double)plain);
            }
        }
    }
    ck_assert_int_ge(count, 1);
    ck_assert_str_eq(hisa_cpu_isa_at(count - 1)->name, "portable");
}
END_TEST

/* A whole selection on each instruction set: the same bytes. */
START_TEST(instruction_sets_select_alike) {
    enum { TOKENS = 5000, ROWS = 5, K = 256 };
    static uint8_t keys[TOKENS * 128];
    static float scales[TOKENS];
    static uint8_t q[ROWS * 64 * 128];
    static float weights[ROWS * 64];
    static int32_t begin[ROWS];
    static int32_t end[ROWS];
    static int32_t indices[2][ROWS * K];
    static float scores[2][ROWS * K];
    hisa_synth_config_t synth;
    hisa_synth_config_init(&synth);
    synth.num_tokens = TOKENS;
    synth.num_rows = ROWS;
    hisa_synth_keys(&synth, 0, TOKENS, keys, scales);
    hisa_synth_rows(&synth, 0, ROWS, q, weights, begin, end, NULL);

    hisa_comm_t *comm = NULL;
    hisa_index_t *index = NULL;
    hisa_index_config_t config;
    hisa_select_options_t options;
    hisa_queries_t queries;
    hisa_index_config_init(&config);
    config.capacity = TOKENS;
    hisa_select_options_init(&options);
    options.top_blocks = 16;
    options.top_k = K;
    hisa_queries_init(&queries);
    queries.num_rows = ROWS;
    queries.q = q;
    queries.weights = weights;
    queries.window_begin = begin;
    queries.window_end = end;
    ck_ok(hisa_comm_create_self(&comm));
    ck_ok(hisa_index_create(&config, comm, &index));
    ck_ok(hisa_index_append(index, 0, TOKENS, keys, scales, HISA_KEYS_REPLICATED, NULL));
    size_t bytes = 0;
    ck_ok(hisa_select_workspace_size(index, &options, ROWS, &bytes));
    void *workspace = aligned_alloc(256, (bytes + 255) / 256 * 256);
    ck_assert_ptr_nonnull(workspace);
    for (int place = 0; hisa_cpu_isa_at(place) != NULL; ++place) {
        hisa_selection_t selection;
        hisa_selection_init(&selection);
        const int slot = place > 0;
        selection.indices = indices[slot];
        selection.scores = scores[slot];
        hisa_cpu_use_isa(index->device, hisa_cpu_isa_at(place));
        ck_ok(hisa_select(index, &queries, &options, &selection, workspace, bytes, NULL));
        ck_assert_int_ge(indices[slot][0], 0);
        ck_assert_mem_eq(indices[0], indices[slot], sizeof indices[0]);
        ck_assert_mem_eq(scores[0], scores[slot], sizeof scores[0]);
    }
    free(workspace);
    hisa_index_destroy(index);
    hisa_comm_destroy(comm);
}
END_TEST

/* -- thresholds and sorts -- */

static int ascending(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Values of a kind that radix passes may stumble over: few bits set, all equal, neighbours, anything. */
static uint64_t draw(uint64_t *state, int kind) {
    const uint64_t x = next(state);
    switch (kind) {
    case 0:
        return x;
    case 1:
        return x % 3;
    case 2:
        return UINT64_C(0x80000000FFFFFFF0) + x % 40;
    case 3:
        return UINT64_MAX - x % 2;
    default:
        return UINT64_C(1) << (x % 64);
    }
}

START_TEST(thresholds_and_sorts) {
    enum { MOST = 700 };
    static uint64_t value[MOST];
    static uint64_t sorted[MOST];
    static uint64_t scratch[MOST];
    static uint32_t key[MOST];
    for (uint64_t seed = 1; seed <= 400; ++seed) {
        uint64_t state = seed;
        const int64_t n = 1 + (int64_t)(next(&state) % MOST);
        const int kind = (int)(next(&state) % 5);
        for (int64_t i = 0; i < n; ++i) {
            value[i] = draw(&state, kind);
            key[i] = (uint32_t)(value[i] >> (kind == 2 ? 0 : 32)) + (kind == 1 ? (uint32_t)value[i] : 0);
            sorted[i] = value[i];
        }
        qsort(sorted, (size_t)n, sizeof *sorted, ascending);
        const int64_t k = 1 + (int64_t)(next(&state) % (uint64_t)n);
        ck_assert_msg(hisa_kth_u64(value, n, k) == sorted[n - k], "seed %llu", (unsigned long long)seed);

        int64_t above = -1;
        const uint32_t kth = hisa_kth_u32(key, n, k, &above);
        int64_t larger = 0;
        int64_t equal = 0;
        for (int64_t i = 0; i < n; ++i) {
            larger += key[i] > kth;
            equal += key[i] == kth;
        }
        ck_assert_msg(larger == above && larger < k && larger + equal >= k, "seed %llu", (unsigned long long)seed);

        hisa_sort_u64(value, scratch, n);
        ck_assert_msg(memcmp(value, sorted, (size_t)n * sizeof *value) == 0, "seed %llu", (unsigned long long)seed);
    }
}
END_TEST

/* -- the order of scores -- */

START_TEST(order_of_scores) {
    static const float rising[] = {-INFINITY, -3e38f, -1.0f, -1e-40f, 0.0f, 1e-45f, 1e-40f, 1.0f, 1.0000001f, INFINITY};
    const int n = (int)(sizeof rising / sizeof rising[0]);
    for (int i = 0; i + 1 < n; ++i) {
        ck_assert_uint_lt(hisa_key_from_score(rising[i]), hisa_key_from_score(rising[i + 1]));
    }
    for (int i = 0; i < n; ++i) {
        ck_assert(hisa_score_from_key(hisa_key_from_score(rising[i])) == rising[i]);
    }
    ck_assert_uint_eq(hisa_key_from_score(-0.0f), hisa_key_from_score(0.0f));
    ck_assert_uint_eq(hisa_key_from_score(NAN), HISA_KEY_NAN);
    ck_assert_uint_eq(hisa_key_from_score(-NAN), HISA_KEY_NAN);
    ck_assert_uint_lt(HISA_KEY_NAN, hisa_key_from_score(-INFINITY));
    ck_assert_uint_gt(HISA_KEY_FORCED, hisa_key_from_score(INFINITY));
    ck_assert(isnan(hisa_score_from_key(HISA_KEY_NAN)));
    /* Equal scores: the lower position ranks higher; NaN at any position is still an entry. */
    ck_assert(hisa_rank_make(7, 3) > hisa_rank_make(7, 4));
    ck_assert(hisa_rank_make(8, INT32_MAX) > hisa_rank_make(7, 0));
    ck_assert(hisa_rank_make(HISA_KEY_NAN, INT32_MAX) > HISA_RANK_NONE);
    ck_assert_int_eq(hisa_rank_position(hisa_rank_make(9, 123456789)), 123456789);
    ck_assert_uint_eq(hisa_rank_key(hisa_rank_make(9, 5)), 9);
}
END_TEST

/* -- e4m3 against the reference's plain conversion -- */

START_TEST(e4m3) {
    for (int code = 0; code < 256; ++code) {
        const float fast = hisa_e4m3_to_float((uint8_t)code);
        const float plain = hisa_oracle_e4m3_to_float((uint8_t)code);
        ck_assert_msg(isnan(plain) ? isnan(fast) : memcmp(&fast, &plain, sizeof fast) == 0, "code 0x%02x: %a, not %a",
                      (unsigned)code, (double)fast, (double)plain);
    }
    /* Every code's neighbourhood, every midpoint and its neighbours, and random numbers. */
    uint64_t state = 11;
    for (int i = 0; i < 200000; ++i) {
        float x = hisa_oracle_e4m3_to_float(any_code(&state));
        if (i % 3 == 0) {
            x = (x + hisa_oracle_e4m3_to_float(any_code(&state))) * 0.5f;
        } else if (i % 3 == 1) {
            const uint32_t bits = (uint32_t)next(&state);
            memcpy(&x, &bits, sizeof x);
        }
        x = i % 2 == 0 ? nextafterf(x, i % 4 == 0 ? INFINITY : -INFINITY) : x;
        const uint8_t fast = hisa_e4m3_from_float(x);
        const uint8_t plain = hisa_oracle_e4m3_from_float(x);
        ck_assert_msg(fast == plain, "%a: 0x%02x, not 0x%02x", (double)x, fast, plain);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cpu");
    TCase *tests = tcase_create("cpu");
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, instruction_sets_agree);
    tcase_add_test(tests, instruction_sets_select_alike);
    tcase_add_test(tests, thresholds_and_sorts);
    tcase_add_test(tests, order_of_scores);
    tcase_add_test(tests, e4m3);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
