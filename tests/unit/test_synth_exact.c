/* The exact family keeps its word: whatever the order of summation, f32 gives what int64 and double give; and it is
 * full of ties and of odd windows and rows. */
#include <stdbool.h>

#include "support/suite.h"
#include "support/synth_trace.h"

enum { TOKENS = 5000, ROWS = 48, MAX_DIM = 256, MAX_HEADS = 128 };

static const hisa_synth_config_t configs[] = {
    {HISA_SYNTH_EXACT, TOKENS, ROWS, 128, 128, 4, 1, 1},
    {HISA_SYNTH_EXACT, TOKENS, ROWS, 16, 3, 0, 4, 2},
    {HISA_SYNTH_EXACT, TOKENS, ROWS, 256, 8, 0, 1, 3},
};
enum { NUM_CONFIGS = sizeof configs / sizeof configs[0] };

/* One sum in three ways, which must agree; the f32 one is returned. */
static float sum_exactly(const float *terms, int64_t count) {
    float up = 0.0f;
    float down = 0.0f;
    double truth = 0.0;
    for (int64_t i = 0; i < count; ++i) {
        up += terms[i];
        down += terms[count - 1 - i];
        truth += (double)terms[i];
    }
    /* Asserting costs a system call each time: only where there is something to say. */
    if ((double)up != truth || (double)down != truth) {
        ck_abort_msg("up %g, down %g, truth %g", (double)up, (double)down, truth);
    }
    return up;
}

static float multiply_exactly(float a, float b) {
    const float product = a * b;
    if ((double)product != (double)a * (double)b) {
        ck_abort_msg("%g * %g is rounded", (double)a, (double)b);
    }
    return product;
}

static float dot_exactly(const uint8_t *q, const uint8_t *key, int64_t dim) {
    float terms[MAX_DIM];
    for (int64_t d = 0; d < dim; ++d) {
        terms[d] = multiply_exactly(decode(q[d]), decode(key[d]));
    }
    return sum_exactly(terms, dim);
}

/* The head sum of a row on codes of a token or of a pooled key, before the scale. */
static float heads_exactly(const trace_t *trace, int64_t row, const uint8_t *codes) {
    const int64_t dim = trace->config.head_dim;
    const int64_t heads = trace->config.num_heads;
    float terms[MAX_HEADS];
    for (int64_t h = 0; h < heads; ++h) {
        const float dot = dot_exactly(trace->q + (row * heads + h) * dim, codes, dim);
        const float weight = trace->weights[row * heads + h];
        terms[h] = multiply_exactly(weight, dot > 0.0f ? dot : 0.0f);
    }
    return sum_exactly(terms, heads);
}

/* The code nearest to x, ties to even, found by looking at all of them. */
static uint8_t encode(float x) {
    uint8_t best = 0;
    double distance = INFINITY;
    for (uint8_t code = 0; code < 0x7f; ++code) {
        const double now = fabs((double)decode(code) - fabs((double)x));
        if (now < distance || (now == distance && code % 2 == 0)) {
            distance = now;
            best = code;
        }
    }
    return x < 0.0f ? (uint8_t)(best | 0x80) : best;
}

/* Pools a block by the formulas, checking that its sums are exact and that its codes are 0 or at least 0.875. */
static float pool_exactly(const trace_t *trace, int64_t begin, int64_t end, uint8_t *codes) {
    const int64_t dim = trace->config.head_dim;
    float mean[MAX_DIM];
    float largest = 0.0f;
    for (int64_t d = 0; d < dim; ++d) {
        float terms[256];
        for (int64_t s = begin; s < end; ++s) {
            terms[s - begin] = multiply_exactly(trace->scales[s], decode(trace->keys[s * dim + d]));
        }
        mean[d] = sum_exactly(terms, end - begin) / (float)(end - begin);
        largest = fabsf(mean[d]) > largest ? fabsf(mean[d]) : largest;
    }
    const float scale = largest / 448.0f > 1e-10f ? largest / 448.0f : 1e-10f;
    for (int64_t d = 0; d < dim; ++d) {
        codes[d] = encode(mean[d] / scale);
        if ((codes[d] & 0x7f) != 0 && fabsf(decode(codes[d])) < 0.875f) {
            ck_abort_msg("pooled code 0x%02x is finer than 2^-4", (unsigned)codes[d]);
        }
    }
    return scale;
}

/* ---------------------------------------------------------------------------------------------- exactness */

START_TEST(test_tokens_are_exact) {
    trace_t trace = trace_make(&configs[_i], TOKENS, ROWS);
    for (int64_t row = 0; row < ROWS; row += 5) {
        for (int64_t s = row % 3; s < TOKENS; s += 23) {
            const float sum = heads_exactly(&trace, row, trace.keys + s * trace.config.head_dim);
            (void)multiply_exactly(sum, trace.scales[s]);
        }
    }
    trace_free(&trace);
}
END_TEST

START_TEST(test_blocks_are_exact) {
    trace_t trace = trace_make(&configs[_i], TOKENS, ROWS);
    uint8_t codes[MAX_DIM];
    for (int64_t size = 16; size <= 256; size *= 2) {
        for (int64_t begin = 0; begin < TOKENS; begin += size * (256 / size)) {
            const int64_t end = begin + size < TOKENS ? begin + size : TOKENS;
            (void)pool_exactly(&trace, begin, end, codes);
            for (int64_t row = begin / 256 % 3; row < ROWS; row += 7) {
                (void)heads_exactly(&trace, row, codes);
            }
        }
    }
    trace_free(&trace);
}
END_TEST

/* The worst that the family's rules allow, which a sample may not reach: 2^24 steps are not passed. */
START_TEST(test_bound) {
    const double largest = 8.0 * 448.0 * 128.0 * 1.0;
    const double step = 0.0625 * 0.5;
    ck_assert_double_lt(largest / step, 16777216.0);
    trace_t trace = trace_make(&configs[0], TOKENS, ROWS);
    const int64_t dim = trace.config.head_dim;
    int64_t strange = 0;
    for (int64_t i = 0; i < ROWS * trace.config.num_heads; ++i) {
        int nonzero = 0;
        for (int64_t d = 0; d < dim; ++d) {
            const uint8_t code = trace.q[i * dim + d];
            strange += code != 0x00 && code != 0x38 && code != 0xb8;
            nonzero += code != 0;
        }
        ck_assert_int_le(nonzero, 8);
        ck_assert(fabsf(trace.weights[i]) <= 1.0f && trace.weights[i] * 2.0f == floorf(trace.weights[i] * 2.0f));
    }
    for (int64_t s = 0; s + 4 <= TOKENS; s += 4) {
        ck_assert_double_eq((double)sum_exactly(trace.scales + s, 4), 4.0);
    }
    for (int64_t i = 0; i < TOKENS * dim; ++i) {
        strange += trace.keys[i] != 0x00 && trace.keys[i] != 0x38 && trace.keys[i] != 0xb8;
    }
    ck_assert_int_eq(strange, 0);
    trace_free(&trace);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- ties */

static int compare_floats(const void *left, const void *right) {
    const float a = *(const float *)left;
    const float b = *(const float *)right;
    return (a < b) - (a > b);
}

typedef struct ties {
    int64_t distinct;  /* values among the scores */
    int64_t threshold; /* of places k = 1, 2, 4, ... the ones where the k-th and the next score are equal */
    int64_t places;
} ties_t;

static ties_t count_ties(float *scores, int64_t count) {
    ties_t ties = {1, 0, 0};
    qsort(scores, (size_t)count, sizeof *scores, compare_floats);
    for (int64_t i = 1; i < count; ++i) {
        ties.distinct += scores[i - 1] != scores[i];
    }
    for (int64_t k = 1; k < count; k *= 2) {
        ++ties.places;
        ties.threshold += scores[k - 1] == scores[k];
    }
    return ties;
}

/* Row 0 is an ordinary one. */
START_TEST(test_tokens_tie) {
    trace_t trace = trace_make(&configs[_i], TOKENS, ROWS);
    static float scores[TOKENS];
    for (int64_t s = 0; s < TOKENS; ++s) {
        scores[s] = heads_exactly(&trace, 0, trace.keys + s * trace.config.head_dim) * trace.scales[s];
    }
    const ties_t ties = count_ties(scores, TOKENS);
    ck_assert_msg(ties.distinct < TOKENS / 4, "%d distinct scores", (int)ties.distinct);
    ck_assert_msg(ties.distinct > 4, "%d distinct scores", (int)ties.distinct);
    ck_assert_msg(ties.threshold * 2 > ties.places, "ties at %d of %d thresholds", (int)ties.threshold,
                  (int)ties.places);
    trace_free(&trace);
}
END_TEST

/* Blocks of every size come in copies. */
START_TEST(test_blocks_tie) {
    trace_t trace = trace_make(&configs[_i], TOKENS, ROWS);
    uint8_t codes[MAX_DIM];
    static float scores[TOKENS / 16];
    for (int64_t size = 16; size <= 256; size *= 2) {
        const int64_t blocks = TOKENS / size;
        for (int64_t block = 0; block < blocks; ++block) {
            const float scale = pool_exactly(&trace, block * size, (block + 1) * size, codes);
            scores[block] = heads_exactly(&trace, 0, codes) * scale;
        }
        const ties_t ties = count_ties(scores, blocks);
        ck_assert_msg(ties.distinct < blocks * 3 / 4 && ties.threshold > 0,
                      "block size %d: %d distinct scores of %d, ties at %d of %d thresholds", (int)size,
                      (int)ties.distinct, (int)blocks, (int)ties.threshold, (int)ties.places);
    }
    trace_free(&trace);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- rows */

START_TEST(test_odd_rows_occur) {
    trace_t trace = trace_make(&configs[_i], TOKENS, ROWS);
    const int64_t heads = trace.config.num_heads;
    const int64_t codes = heads * trace.config.head_dim;
    int negative = 0;
    int no_weight = 0;
    int no_query = 0;
    int mixed = 0;
    for (int64_t row = 0; row < ROWS; ++row) {
        int64_t below = 0;
        int64_t above = 0;
        int64_t nonzero = 0;
        for (int64_t h = 0; h < heads; ++h) {
            below += trace.weights[row * heads + h] < 0.0f;
            above += trace.weights[row * heads + h] > 0.0f;
        }
        for (int64_t i = 0; i < codes; ++i) {
            nonzero += trace.q[row * codes + i] != 0;
        }
        negative += below == heads;
        no_weight += below + above == 0;
        no_query += nonzero == 0;
        mixed += below > 0 && above > 0;
    }
    ck_assert_int_ge(negative, 3);
    ck_assert_int_ge(no_weight, 3);
    ck_assert_int_ge(no_query, 3);
    ck_assert_int_ge(mixed, ROWS / 4);
    trace_free(&trace);
}
END_TEST

START_TEST(test_windows_occur) {
    trace_t trace = trace_make(&configs[_i], TOKENS, ROWS);
    int empty = 0;
    int whole = 0;
    int causal = 0;
    int few = 0;
    int cut = 0;
    for (int row = 0; row < ROWS; ++row) {
        const int begin = trace.begins[row];
        const int end = trace.ends[row];
        ck_assert(begin >= 0 && begin <= end && end <= TOKENS);
        empty += begin == end;
        whole += begin == 0 && end == TOKENS;
        causal += begin == 0 && end > 0 && end < TOKENS;
        few += begin < end && end - begin <= 40;
        cut += begin % 16 != 0 && end % 16 != 0 && end - begin > 256;
    }
    ck_assert_int_ge(empty, 4);
    ck_assert_int_ge(whole, 4);
    ck_assert_int_ge(causal, 12);
    ck_assert_int_ge(few, 4);
    ck_assert_int_ge(cut, 4);
    trace_free(&trace);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("synth_exact");
    TCase *tests = tcase_create("synth_exact");
    tcase_set_timeout(tests, 240);
    tcase_add_loop_test(tests, test_tokens_are_exact, 0, NUM_CONFIGS);
    tcase_add_loop_test(tests, test_blocks_are_exact, 0, NUM_CONFIGS);
    tcase_add_test(tests, test_bound);
    tcase_add_loop_test(tests, test_tokens_tie, 0, NUM_CONFIGS);
    tcase_add_loop_test(tests, test_blocks_tie, 0, NUM_CONFIGS);
    tcase_add_loop_test(tests, test_odd_rows_occur, 0, NUM_CONFIGS);
    tcase_add_loop_test(tests, test_windows_occur, 0, NUM_CONFIGS);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
