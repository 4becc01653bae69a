/* The narrow family keeps its word: pooled codes are 0, +-224 and +-448, dots fit 12 bits, and ties abound. */
#include "oracle/oracle.h"
#include "support/cases.h"
#include "support/narrow.h"
#include "support/runs.h"

enum { TOKENS = 6002, ROWS = 32, BITS = 12 };

static const int32_t shapes[][3] = {{128, 64, 128}, {128, 32, 64}, {256, 16, 256}, {16, 3, 16}}; /* D, H, B */
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static trace_t make(int shape, hisa_oracle_keys_t *keys) {
    const hisa_synth_config_t config = {.family = HISA_SYNTH_EXACT,
                                        .seed = 5,
                                        .num_tokens = TOKENS,
                                        .num_rows = ROWS,
                                        .head_dim = shapes[shape][0],
                                        .num_heads = shapes[shape][1],
                                        .neighbours = 1};
    trace_t trace = narrow_trace(&config, shapes[shape][2]);
    *keys = (hisa_oracle_keys_t){.num_tokens = TOKENS,
                                 .head_dim = config.head_dim,
                                 .num_heads = config.num_heads,
                                 .block_size = shapes[shape][2],
                                 .keys = trace.keys,
                                 .scales = trace.scales};
    ck_ok(hisa_oracle_pool(keys));
    return trace;
}

START_TEST(pooled_codes) {
    hisa_oracle_keys_t keys;
    trace_t trace = make(_i, &keys);
    const int64_t blocks = (TOKENS + shapes[_i][2] - 1) / shapes[_i][2];
    int64_t strange = 0;
    int64_t seen[3] = {0};
    for (int64_t i = 0; i < blocks * shapes[_i][0]; ++i) {
        const float value = fabsf(decode(keys.pooled[i]));
        strange += value != 0.0f && value != 224.0f && value != 448.0f;
        seen[value == 0.0f ? 0 : (value == 224.0f ? 1 : 2)] += 1;
    }
    ck_assert_int_eq(strange, 0);
    ck_assert(seen[0] > 0 && seen[1] > 0 && seen[2] > 0);
    hisa_oracle_free(&keys);
    trace_free(&trace);
}
END_TEST

/* Sums of magnitudes, in steps of which every product is a multiple. */
static int64_t most_steps(const trace_t *trace, const uint8_t *codes, int64_t count, float step) {
    const int64_t dim = trace->config.head_dim;
    const int64_t heads = trace->config.num_heads;
    double most = 0.0;
    for (int64_t r = 0; r < ROWS * heads; r += 7) {
        for (int64_t s = 0; s < count; s += 11) {
            double sum = 0.0;
            for (int64_t d = 0; d < dim; ++d) {
                const double product = fabs((double)decode(trace->q[r * dim + d]) * (double)decode(codes[s * dim + d]));
                sum += product;
                if (product != floor(product / (double)step) * (double)step) {
                    ck_abort_msg("product %g is no multiple of %g", product, (double)step);
                }
            }
            most = sum > most ? sum : most;
        }
    }
    return (int64_t)(most / (double)step);
}

START_TEST(dots_are_narrow) {
    hisa_oracle_keys_t keys;
    trace_t trace = make(_i, &keys);
    ck_assert_int_lt(most_steps(&trace, trace.keys, TOKENS, 0.5f), 1 << BITS);
    ck_assert_int_lt(most_steps(&trace, keys.pooled, TOKENS / shapes[_i][2], 32.0f), 1 << BITS);
    /* And the worst that the rules allow. */
    const int64_t half = shapes[_i][0] / 2;
    ck_assert_int_le(half * 2 * 2 + half * 2 * 4 * 2, 1 << BITS); /* of 0.5: halves of 1 and of 4, times 2 */
    ck_assert_int_le(half * 2 * 448 / 32, 1 << BITS);
    hisa_oracle_free(&keys);
    trace_free(&trace);
}
END_TEST

START_TEST(blocks_and_tokens_repeat) {
    hisa_oracle_keys_t keys;
    trace_t trace = make(_i, &keys);
    const size_t dim = (size_t)shapes[_i][0];
    const int64_t size = shapes[_i][2];
    const int64_t blocks = TOKENS / size;
    int64_t equal = 0;
    int64_t zeros = 0;
    for (int64_t a = 0; a < blocks; ++a) {
        static const uint8_t none[256] = {0};
        zeros += memcmp(keys.pooled + a * (int64_t)dim, none, dim / 2) == 0;
        for (int64_t b = 0; b < a; ++b) {
            if (memcmp(trace.keys + a * size * (int64_t)dim, trace.keys + b * size * (int64_t)dim,
                       dim * (size_t)size) == 0) {
                ++equal;
                break;
            }
        }
    }
    ck_assert_int_gt(equal * 4, blocks);
    ck_assert_int_gt(zeros, 0);
    hisa_oracle_free(&keys);
    trace_free(&trace);
}
END_TEST

/* Random cases of the family have pooled codes of the family, and pass on the CPU. */
START_TEST(random_cases) {
    hisa_comm_t *comm = NULL;
    ck_ok(hisa_comm_create_self(&comm));
    for (uint64_t seed = 1; seed <= 15; ++seed) {
        hisa_index_config_t shape;
        hisa_index_config_init(&shape);
        shape.head_dim = shapes[seed % 2][0];
        shape.num_heads = shapes[seed % 2][1];
        shape.block_size = shapes[seed % 2][2];
        test_case_t made;
        test_case_make_shaped(&made, seed, &shape);
        for (int32_t i = 0; i < made.config.num_sequences; ++i) {
            const int64_t blocks = (made.keys[i].num_tokens + shape.block_size - 1) / shape.block_size;
            ck_assert_int_eq(made.keys[i].num_tokens % 2, 0);
            for (int64_t j = 0; j < blocks * shape.head_dim; ++j) {
                const float value = fabsf(decode(made.keys[i].pooled[j]));
                if (value != 0.0f && value != 224.0f && value != 448.0f) {
                    ck_abort_msg("seed %d: pooled code %g", (int)seed, (double)value);
                }
            }
        }
        run_t run;
        char why[256] = "";
        run_plain(&run, &made, 1);
        ck_assert_msg(run_check(&run, &made, comm, why, sizeof why), "seed %d: %s", (int)seed, why);
        test_case_free(&made);
    }
    hisa_comm_destroy(comm);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("narrow");
    TCase *tests = tcase_create("narrow");
    tcase_set_timeout(tests, 240);
    tcase_add_loop_test(tests, pooled_codes, 0, SHAPES);
    tcase_add_loop_test(tests, dots_are_narrow, 0, SHAPES);
    tcase_add_loop_test(tests, blocks_and_tokens_repeat, 0, SHAPES);
    tcase_add_test(tests, random_cases);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
