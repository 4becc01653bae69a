/* Synthetic traces: the same bytes however ranges are cut, needles that a flat search finds, sums that are exact. */
#include <math.h>
#include <stdbool.h>

#include "io/trace.h"
#include "support/image.h"
#include "support/suite.h"
#include "support/synth_trace.h"

/* ---------------------------------------------------------------------------------------------- bytes */

static uint64_t hash_bytes(uint64_t hash, const void *data, int64_t bytes) {
    const uint8_t *from = data;
    for (int64_t i = 0; i < bytes; ++i) {
        hash = (hash ^ from[i]) * 0x100000001b3U;
    }
    return hash;
}

static uint64_t trace_hash(const trace_t *trace) {
    const hisa_synth_config_t *config = &trace->config;
    const int64_t rows = config->num_rows;
    const int64_t heads = rows * config->num_heads;
    uint64_t hash = 0xcbf29ce484222325U;
    hash = hash_bytes(hash, trace->keys, config->num_tokens * config->head_dim);
    hash = hash_bytes(hash, trace->scales, config->num_tokens * 4);
    hash = hash_bytes(hash, trace->q, heads * config->head_dim);
    hash = hash_bytes(hash, trace->weights, heads * 4);
    hash = hash_bytes(hash, trace->begins, rows * 4);
    hash = hash_bytes(hash, trace->ends, rows * 4);
    return hash_bytes(hash, trace->needles, rows * config->num_needles * 4);
}

static const hisa_synth_config_t small[2] = {
    {HISA_SYNTH_DRIFT, 3001, 37, 48, 5, 3, 4, 99},
    {HISA_SYNTH_EXACT, 3001, 37, 48, 5, 3, 4, 99},
};

START_TEST(test_ranges) {
    const hisa_synth_config_t *config = &small[_i];
    trace_t whole = trace_make(config, config->num_tokens, config->num_rows);
    static const int64_t pieces[] = {1, 7, 256, 1000};
    for (int i = 0; i < 4; ++i) {
        trace_t cut = trace_make(config, pieces[i], i + 1);
        ck_assert_uint_eq(trace_hash(&cut), trace_hash(&whole));
        trace_free(&cut);
    }
    hisa_synth_config_t other = *config;
    other.seed ^= 1;
    trace_t changed = trace_make(&other, config->num_tokens, config->num_rows);
    ck_assert_uint_ne(trace_hash(&changed), trace_hash(&whole));
    trace_free(&changed);
    trace_free(&whole);
}
END_TEST

/* The bytes are part of what others refer to: if these change, so must the generator's number in src/io/synth_write.c.
 */
START_TEST(test_pinned) {
    static const uint64_t pinned[2] = {0x9ef2e7b4ea3a2eae, 0x9b11db2bcbd22556};
    trace_t trace = trace_make(&small[_i], 3001, 37);
    ck_assert_msg(trace_hash(&trace) == pinned[_i], "family %d has hash 0x%llx", _i,
                  (unsigned long long)trace_hash(&trace));
    trace_free(&trace);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- config */

START_TEST(test_check) {
    static const struct {
        hisa_synth_config_t config;
        const char *message;
    } cases[] = {
        {{HISA_SYNTH_DRIFT, 0, 1, 16, 1, 0, 1, 1}, "0 tokens"},
        {{HISA_SYNTH_DRIFT, (int64_t)1 << 31, 1, 16, 1, 0, 1, 1}, "2147483648 tokens"},
        {{HISA_SYNTH_DRIFT, 8, -1, 16, 1, 0, 1, 1}, "-1 rows"},
        {{HISA_SYNTH_DRIFT, 8, 1, 24, 1, 0, 1, 1}, "head dim 24"},
        {{HISA_SYNTH_DRIFT, 8, 1, 272, 1, 0, 1, 1}, "head dim 272"},
        {{HISA_SYNTH_DRIFT, 8, 1, 16, 0, 0, 1, 1}, "0 heads"},
        {{HISA_SYNTH_DRIFT, 8, 1, 16, 129, 0, 1, 1}, "129 heads"},
        {{HISA_SYNTH_DRIFT, 8, 1, 16, 1, -1, 1, 1}, "-1 needles"},
        {{HISA_SYNTH_DRIFT, 8, 4, 16, 1, 2, 1, 1}, "4 rows of 2 needles do not fit the first 5 tokens"},
        {{HISA_SYNTH_DRIFT, 8, 1, 16, 1, 0, 0, 1}, "0 neighbours"},
        {{HISA_SYNTH_DRIFT, 8, 1, 16, 1, 0, 5, 1}, "5 neighbours"},
        {{(hisa_synth_family_t)2, 8, 1, 16, 1, 0, 1, 1}, "no family 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        ck_fails(hisa_synth_check(&cases[i].config), HISA_ERR_INVALID_ARGUMENT, cases[i].message);
    }
    ck_fails(hisa_synth_check(NULL), HISA_ERR_INVALID_ARGUMENT, "no configuration");
    hisa_synth_config_t config;
    hisa_synth_config_init(&config);
    ck_ok(hisa_synth_check(&config));
    ck_assert_int_eq(config.num_tokens, 131072);
    ck_assert_int_eq(config.num_needles, 4);
}
END_TEST

START_TEST(test_rows_stand_in_the_second_half) {
    trace_t trace = trace_make(&small[0], 3001, 37);
    for (int row = 0; row < 37; ++row) {
        ck_assert_int_eq(trace.begins[row], 0);
        ck_assert_int_ge(trace.ends[row], 1500);
        ck_assert_int_le(trace.ends[row], 3001);
        if (row % 4 != 0) {
            ck_assert_int_eq(trace.ends[row], trace.ends[row - 1] + 1);
        }
    }
    ck_assert_int_eq(trace.ends[36], 3001);
    trace_free(&trace);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- drift */

/* The formula of README.md on one row and key. */
static double token_score(const trace_t *trace, int64_t row, int64_t token) {
    const int64_t dim = trace->config.head_dim;
    const int64_t heads = trace->config.num_heads;
    const uint8_t *key = trace->keys + token * dim;
    double sum = 0.0;
    for (int64_t h = 0; h < heads; ++h) {
        const uint8_t *q = trace->q + (row * heads + h) * dim;
        float dot = 0.0f;
        for (int64_t d = 0; d < dim; ++d) {
            dot += decode(q[d]) * decode(key[d]);
        }
        sum += (double)trace->weights[row * heads + h] * (double)(dot > 0.0f ? dot : 0.0f);
    }
    return sum * (double)trace->scales[token];
}

static const hisa_synth_config_t planted[] = {
    {HISA_SYNTH_DRIFT, 16384, 8, 128, 16, 4, 1, 1}, {HISA_SYNTH_DRIFT, 4096, 16, 64, 32, 8, 4, 2},
    {HISA_SYNTH_DRIFT, 3001, 33, 16, 1, 2, 3, 3},   {HISA_SYNTH_DRIFT, 3001, 33, 16, 2, 2, 1, 4},
    {HISA_SYNTH_DRIFT, 3001, 33, 16, 4, 1, 5, 5},   {HISA_SYNTH_DRIFT, 3001, 33, 32, 3, 3, 1, 6},
    {HISA_SYNTH_DRIFT, 1000, 17, 256, 5, 29, 1, 7}, {HISA_SYNTH_DRIFT, 2000, 64, 16, 64, 1, 64, 8},
};
enum { NUM_PLANTED = sizeof planted / sizeof planted[0] };

/* Marks every needle's token with its row + 1; checks that a row's needles ascend within its window and stand alone. */
static int32_t *mark_needles(const trace_t *trace) {
    int32_t *owner = allocate(trace->config.num_tokens, sizeof(int32_t));
    const int32_t count = trace->config.num_needles;
    for (int32_t row = 0; row < trace->config.num_rows; ++row) {
        const int32_t *needles = trace->needles + (int64_t)row * count;
        for (int32_t i = 0; i < count; ++i) {
            ck_assert_int_ge(needles[i], i == 0 ? 0 : needles[i - 1] + 1);
            ck_assert_int_lt(needles[i], trace->ends[row]);
            ck_assert_msg(owner[needles[i]] == 0, "token %d carries two needles", needles[i]);
            owner[needles[i]] = row + 1;
        }
    }
    return owner;
}

/* How many times above the strongest other token of its row the weakest needle stands, at the worst row. With few
 * elements, whose signs two rows may share by chance, other rows' needles are left out of it. */
static double least_gap(const trace_t *trace) {
    int32_t *owner = mark_needles(trace);
    double gap = INFINITY;
    for (int32_t row = 0; row < trace->config.num_rows; ++row) {
        double weakest = INFINITY;
        double strongest = 0.0;
        for (int32_t token = 0; token < trace->ends[row]; ++token) {
            const double score = token_score(trace, row, token);
            if (owner[token] == row + 1) {
                weakest = score < weakest ? score : weakest;
            } else if (owner[token] == 0 || trace->config.head_dim >= 64) {
                strongest = score > strongest ? score : strongest;
            }
        }
        gap = weakest / strongest < gap ? weakest / strongest : gap;
    }
    free(owner);
    return gap;
}

/* Every needle scores above every token that is not a needle of its row: a flat top-k with k >= n contains them all. */
START_TEST(test_needles_win) {
    const hisa_synth_config_t *config = &planted[_i];
    trace_t trace = trace_make(config, 1000, 10);
    const double gap = least_gap(&trace);
    if (getenv("HISA_TEST_FIGURES") != NULL) {
        printf("needles of config %d stand %.2f times above the rest\n", _i, gap);
    }
    ck_assert_msg(gap > 1.5, "config %d seed %llu: the gap is %g", _i, (unsigned long long)config->seed, gap);
    trace_free(&trace);
}
END_TEST

/* Scores of a row on block means (unquantised), in doubles: what pooling can see. */
static double block_score(const trace_t *trace, int64_t row, int64_t block, int64_t size) {
    const int64_t dim = trace->config.head_dim;
    const int64_t heads = trace->config.num_heads;
    double mean[256] = {0};
    for (int64_t s = block * size; s < (block + 1) * size; ++s) {
        for (int64_t d = 0; d < dim; ++d) {
            mean[d] += (double)trace->scales[s] * (double)decode(trace->keys[s * dim + d]) / (double)size;
        }
    }
    double sum = 0.0;
    for (int64_t h = 0; h < heads; ++h) {
        double dot = 0.0;
        for (int64_t d = 0; d < dim; ++d) {
            dot += (double)decode(trace->q[(row * heads + h) * dim + d]) * mean[d];
        }
        sum += (double)trace->weights[row * heads + h] * (dot > 0.0 ? dot : 0.0);
    }
    return sum;
}

/* A needle does not lift its block into sight: of 128 blocks with 8 kept, pooling misses needles that flat finds. And
 * it is not blind to topics: at least a third of the blocks score less than half the best one. */
START_TEST(test_pooling_misses_needles) {
    enum { TOKENS = 16384, BLOCK = 128, BLOCKS = TOKENS / BLOCK, ROWS = 8, KEPT = 8 };
    const hisa_synth_config_t config = {HISA_SYNTH_DRIFT, TOKENS, ROWS, 128, 16, 4, 1, 11};
    trace_t trace = trace_make(&config, TOKENS, ROWS);
    int missed = 0;
    for (int row = 0; row < ROWS; ++row) {
        const int blocks = trace.ends[row] / BLOCK;
        double scores[BLOCKS];
        for (int block = 0; block < blocks; ++block) {
            scores[block] = block_score(&trace, row, block, BLOCK);
        }
        double best = -INFINITY;
        int above_half = 0;
        for (int block = 0; block < blocks; ++block) {
            best = scores[block] > best ? scores[block] : best;
        }
        for (int block = 0; block < blocks; ++block) {
            above_half += scores[block] > best / 2;
        }
        ck_assert_int_lt(above_half, blocks * 2 / 3);
        for (int i = 0; i < 4; ++i) {
            const int own = trace.needles[row * 4 + i] / BLOCK;
            int better = 0;
            for (int block = 0; block < blocks; ++block) {
                better += scores[block] > scores[own];
            }
            missed += better >= KEPT;
        }
    }
    if (getenv("HISA_TEST_FIGURES") != NULL) {
        printf("pooling with %d of %d blocks misses %d of %d needles\n", KEPT, BLOCKS, missed, ROWS * 4);
    }
    ck_assert_msg(missed >= ROWS, "pooling misses only %d of %d needles", missed, ROWS * 4);
    trace_free(&trace);
}
END_TEST

/* Weights of both signs, most of them positive; codes without NaN; the largest element of each key at +-448. */
START_TEST(test_drift_values) {
    trace_t trace = trace_make(&planted[0], 16384, 8);
    const hisa_synth_config_t *config = &trace.config;
    int64_t negative = 0;
    const int64_t weights = config->num_rows * config->num_heads;
    for (int64_t i = 0; i < weights; ++i) {
        negative += trace.weights[i] < 0.0f;
    }
    ck_assert_int_gt(negative, 0);
    ck_assert_int_lt(negative, weights / 4);
    for (int64_t s = 0; s < config->num_tokens; ++s) {
        uint8_t largest = 0;
        for (int64_t d = 0; d < config->head_dim; ++d) {
            const uint8_t code = trace.keys[s * config->head_dim + d] & 0x7f;
            largest = code > largest ? code : largest;
        }
        ck_assert_int_eq(largest, 0x7e);
        ck_assert(trace.scales[s] > 0.0f && trace.scales[s] < 1.0f);
    }
    trace_free(&trace);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- files */

static void check_files(const hisa_synth_config_t *config) {
    char folder[FOLDER_BYTES];
    char keys_path[FOLDER_BYTES * 2];
    char queries_path[FOLDER_BYTES * 2];
    folder_make(folder);
    folder_path(folder, "keys", keys_path);
    folder_path(folder, "queries", queries_path);
    ck_ok(hisa_synth_write(config, keys_path, queries_path));
    hisa_trace_t file;
    ck_ok(hisa_trace_open(keys_path, queries_path, &file));
    ck_ok(hisa_trace_check_keys(&file, 0, file.num_tokens));
    ck_ok(hisa_trace_check_rows(&file, 0, file.num_rows));
    trace_t made = trace_make(config, config->num_tokens, config->num_rows + 1);
    const size_t tokens = (size_t)config->num_tokens;
    const size_t rows = (size_t)config->num_rows;
    const size_t heads = rows * (size_t)config->num_heads;
    ck_assert_mem_eq(file.keys, made.keys, tokens * (size_t)config->head_dim);
    ck_assert_mem_eq(file.key_scales, made.scales, tokens * 4);
    ck_assert_mem_eq(file.q, made.q, heads * (size_t)config->head_dim);
    ck_assert_mem_eq(file.weights, made.weights, heads * 4);
    ck_assert_mem_eq(file.window_begin, made.begins, rows * 4);
    ck_assert_mem_eq(file.window_end, made.ends, rows * 4);
    if (config->family == HISA_SYNTH_DRIFT && config->num_needles > 0) {
        ck_assert_int_eq(file.num_needles, config->num_needles);
        ck_assert_mem_eq(file.needles, made.needles, rows * (size_t)config->num_needles * 4);
    } else {
        ck_assert_ptr_null(file.needles);
    }
    trace_free(&made);
    hisa_trace_close(&file);
    folder_remove(folder);
}

START_TEST(test_files) {
    /* More tokens than one piece holds: 4 MB of codes. */
    static const hisa_synth_config_t configs[] = {
        {HISA_SYNTH_DRIFT, 20000, 300, 256, 64, 3, 1, 5}, {HISA_SYNTH_EXACT, 20000, 300, 256, 64, 3, 1, 5},
        {HISA_SYNTH_DRIFT, 1, 1, 16, 1, 1, 1, 5},         {HISA_SYNTH_DRIFT, 100, 0, 16, 1, 4, 1, 5},
        {HISA_SYNTH_DRIFT, 100, 5, 16, 1, 0, 1, 5},       {HISA_SYNTH_EXACT, 1, 40, 16, 1, 0, 1, 5},
    };
    check_files(&configs[_i]);
}
END_TEST

START_TEST(test_files_refused) {
    char folder[FOLDER_BYTES];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    folder_path(folder, "keys", path);
    ck_fails(hisa_synth_write(&small[0], path, path), HISA_ERR_INVALID_ARGUMENT, "a file each");
    ck_fails(hisa_synth_write(&small[0], path, "/nowhere/q"), HISA_ERR_IO, "/nowhere/q: cannot create");
    ck_assert_int_eq(folder_count(folder), 0);
    folder_remove(folder);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("synth");
    TCase *tests = tcase_create("synth");
    tcase_set_timeout(tests, 240);
    tcase_add_loop_test(tests, test_ranges, 0, 2);
    tcase_add_loop_test(tests, test_pinned, 0, 2);
    tcase_add_test(tests, test_check);
    tcase_add_test(tests, test_rows_stand_in_the_second_half);
    tcase_add_loop_test(tests, test_needles_win, 0, NUM_PLANTED);
    tcase_add_test(tests, test_pooling_misses_needles);
    tcase_add_test(tests, test_drift_values);
    tcase_add_loop_test(tests, test_files, 0, 6);
    tcase_add_test(tests, test_files_refused);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
