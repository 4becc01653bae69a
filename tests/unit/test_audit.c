/* hisa_audit against figures worked out here from the reference's selections. */
#include <math.h>

#include "support/cases.h"
#include "support/named.h"
#include "support/runs.h"
#include "support/suite.h"

enum { MAX_ROWS = 160 };

static hisa_comm_t *comm;

static void setup(void) { ck_ok(hisa_comm_create_self(&comm)); }

static void teardown(void) { hisa_comm_destroy(comm); }

/* One mode's selections: positions [rows][k], counts and scores of the reference. */
typedef struct chosen {
    int32_t *indices;
    int32_t *counts;
    float *scores;
} chosen_t;

static chosen_t choose(test_case_t *made, hisa_mode_t mode) {
    made->options.mode = mode;
    test_case_again(made);
    const chosen_t chosen = {made->indices, made->counts, made->scores};
    made->indices = NULL;
    made->counts = NULL;
    made->scores = NULL;
    return chosen;
}

static void unchoose(chosen_t *chosen) {
    free(chosen->indices);
    free(chosen->counts);
    free(chosen->scores);
}

static double place(const double *values, int rows, double p) {
    double sorted[MAX_ROWS] = {0.0};
    for (int i = 0; i < rows; ++i) { /* by insertion */
        int j = i;
        for (; j > 0 && sorted[j - 1] > values[i]; --j) {
            sorted[j] = sorted[j - 1];
        }
        sorted[j] = values[i];
    }
    const int nearest = (int)ceil(p * rows);
    return sorted[nearest < 1 ? 0 : nearest - 1];
}

static void compare(const char *what, const hisa_audit_figure_t *figure, const double *values, const int64_t *numbers,
                    int rows) {
    double sum = 0.0;
    int worst = 0;
    for (int i = 0; i < rows; ++i) {
        sum += values[i];
        worst = values[i] < values[worst] ? i : worst;
    }
    ck_assert_msg(fabs(figure->mean - sum / rows) < 1e-12, "%s: mean %g, expected %g", what, figure->mean, sum / rows);
    ck_assert_msg(fabs(figure->p1 - place(values, rows, 0.01)) < 1e-12, "%s: p1 %g", what, figure->p1);
    ck_assert_msg(fabs(figure->p10 - place(values, rows, 0.10)) < 1e-12, "%s: p10 %g", what, figure->p10);
    ck_assert_msg(fabs(figure->worst - values[worst]) < 1e-12, "%s: worst %g", what, figure->worst);
    ck_assert_msg(figure->worst_row == numbers[worst], "%s: worst row %lld, expected %lld", what,
                  (long long)figure->worst_row, (long long)numbers[worst]);
}

/* Recall, mass and IoU of every row whose flat selection is not empty. */
static void compare_mode(const char *name, const hisa_audit_mode_t *mode, const chosen_t *flat, const chosen_t *other,
                         int rows, int64_t k) {
    double recall[MAX_ROWS];
    double mass[MAX_ROWS];
    double iou[MAX_ROWS];
    int64_t numbers[MAX_ROWS];
    int used = 0;
    for (int t = 0; t < rows; ++t) {
        if (flat->counts[t] == 0) {
            continue;
        }
        int both = 0;
        double kept = 0.0;
        double all = 0.0;
        for (int i = 0; i < flat->counts[t]; ++i) {
            bool found = false;
            for (int j = 0; j < other->counts[t]; ++j) {
                found = found || other->indices[t * k + j] == flat->indices[t * k + i];
            }
            const double score = (double)flat->scores[t * k + i];
            both += found ? 1 : 0;
            all += score > 0.0 ? score : 0.0;
            kept += found && score > 0.0 ? score : 0.0;
        }
        recall[used] = (double)both / flat->counts[t];
        mass[used] = all > 0.0 ? kept / all : 1.0;
        iou[used] = (double)both / (flat->counts[t] + other->counts[t] - both);
        numbers[used] = t;
        ++used;
    }
    ck_assert_msg(used > 0, "%s: no rows", name);
    compare("recall", &mode->recall, recall, numbers, used);
    compare("mass", &mode->mass, mass, numbers, used);
    compare("iou", &mode->iou, iou, numbers, used);
}

/* What the callback was given, beside what it should be given. */
typedef struct seen {
    const chosen_t *flat;
    const chosen_t *hisa;
    const chosen_t *block;
    int64_t k;
    int64_t rows;
    bool well;
} seen_t;

static bool same_row(const int32_t *indices, int64_t count, const chosen_t *chosen, int64_t row, int64_t k) {
    return count == chosen->counts[row] &&
           (count == 0 || memcmp(indices, chosen->indices + row * k, (size_t)count * sizeof *indices) == 0);
}

static void see_row(void *context, int64_t row, const int32_t *flat, int64_t flat_count, const int32_t *hisa,
                    int64_t hisa_count, const int32_t *block, int64_t block_count) {
    seen_t *seen = context;
    seen->well = seen->well && row == seen->rows && same_row(flat, flat_count, seen->flat, row, seen->k) &&
                 same_row(hisa, hisa_count, seen->hisa, row, seen->k) &&
                 same_row(block, block_count, seen->block, row, seen->k);
    ++seen->rows;
}

static void audit_case(test_case_t *made, int empty_rows) {
    ck_assert_int_le(made->num_rows, MAX_ROWS);
    chosen_t flat = choose(made, HISA_MODE_FLAT);
    chosen_t hisa = choose(made, HISA_MODE_HISA);
    chosen_t block = choose(made, HISA_MODE_BLOCK);
    run_t run;
    run_plain(&run, made, 1);
    hisa_index_t *index = NULL;
    ck_ok(run_create_index(&run, made, comm, &index));
    const hisa_queries_t queries = test_case_queries(made, 0, made->num_rows);
    seen_t seen = {&flat, &hisa, &block, made->options.top_k, 0, true};
    hisa_audit_report_t report = {.struct_size = sizeof report};
    ck_ok(hisa_audit(index, &queries, &made->options, see_row, &seen, NULL, &report));
    ck_assert_int_eq(report.rows, made->num_rows);
    ck_assert_int_eq(report.rows_empty, empty_rows);
    ck_assert_int_eq(seen.rows, made->num_rows);
    ck_assert(seen.well);
    compare_mode("hisa", &report.hisa, &flat, &hisa, (int)made->num_rows, made->options.top_k);
    compare_mode("block", &report.block, &flat, &block, (int)made->num_rows, made->options.top_k);
    /* The callback is no condition. */
    hisa_audit_report_t again = {.struct_size = sizeof again};
    ck_ok(hisa_audit(index, &queries, &made->options, NULL, NULL, NULL, &again));
    ck_assert_mem_eq(&report, &again, sizeof report);
    hisa_index_destroy(index);
    unchoose(&flat);
    unchoose(&hisa);
    unchoose(&block);
}

static void fill_varied(test_case_t *made, uint64_t seed) {
    rng_t rng = {seed};
    for (int64_t s = 0; s < made->keys[0].num_tokens; ++s) {
        for (int32_t d = 0; d < made->config.head_dim; ++d) {
            test_case_key(made, s)[d] = (uint8_t)(rng_range(&rng, 0x28, 0x50) | (rng_chance(&rng, 50) ? 0x80 : 0));
        }
    }
    for (int64_t i = 0; i < made->num_rows * made->config.num_heads * made->config.head_dim; ++i) {
        made->q[i] = (uint8_t)(rng_range(&rng, 0x28, 0x50) | (rng_chance(&rng, 50) ? 0x80 : 0));
    }
    for (int64_t t = 0; t < made->num_rows; ++t) {
        test_case_window(made, t, rng_range(&rng, 0, 50), rng_range(&rng, 200, made->keys[0].num_tokens));
    }
}

START_TEST(figures) {
    test_case_t made;
    test_case_blank(&made, 32, 2, 16, 700, 150); /* three of the audit's chunks */
    fill_varied(&made, 5);
    test_case_window(&made, 7, 33, 33); /* empty */
    test_case_window(&made, 59, 0, 0);
    for (int h = 0; h < 2; ++h) {
        made.weights[2 * 11 + h] = -1.0f; /* no mass at all: all of it is kept */
        made.weights[2 * 12 + h] = 0.0f;
    }
    made.options.sink_blocks = 1;
    made.options.local_blocks = 1;
    made.options.top_blocks = 6;
    made.options.top_k = 50;
    test_case_finish(&made);
    audit_case(&made, 2);
    test_case_free(&made);
}
END_TEST

START_TEST(worst_row_is_the_lowest_of_several) {
    test_case_t made;
    test_case_blank(&made, 32, 2, 16, 400, 20);
    fill_varied(&made, 6);
    for (int64_t t = 10; t < 20; ++t) { /* each row twice, so that each figure ties */
        memcpy(made.q + t * 64, made.q + (t - 10) * 64, 64);
        test_case_window(&made, t, made.window_begin[t - 10], made.window_end[t - 10]);
    }
    made.options.top_k = 30;
    test_case_finish(&made);
    audit_case(&made, 0);
    test_case_free(&made);
}
END_TEST

START_TEST(all_is_kept) {
    test_case_t made;
    test_case_blank(&made, 16, 1, 16, 60, 3);
    fill_varied(&made, 7);
    for (int64_t t = 0; t < 3; ++t) {
        test_case_window(&made, t, t, 60);
    }
    test_case_finish(&made);
    hisa_index_t *index = NULL;
    run_t run;
    run_plain(&run, &made, 1);
    ck_ok(run_create_index(&run, &made, comm, &index));
    const hisa_queries_t queries = test_case_queries(&made, 0, 3);
    hisa_audit_report_t report = {.struct_size = sizeof report};
    ck_ok(hisa_audit(index, &queries, &made.options, NULL, NULL, NULL, &report));
    ck_assert(report.hisa.recall.mean == 1.0 && report.hisa.recall.worst == 1.0);
    ck_assert(report.hisa.iou.p1 == 1.0 && report.hisa.mass.p10 == 1.0);
    ck_assert_int_eq(report.hisa.recall.worst_row, 0);
    hisa_index_destroy(index);
    test_case_free(&made);
}
END_TEST

START_TEST(bad_arguments) {
    test_case_t made;
    test_case_blank(&made, 16, 1, 16, 60, 3);
    test_case_finish(&made);
    hisa_index_t *index = NULL;
    run_t run;
    run_plain(&run, &made, 1);
    ck_ok(run_create_index(&run, &made, comm, &index));
    hisa_queries_t queries = test_case_queries(&made, 0, 3);
    hisa_audit_report_t report;
    memset(&report, 0x5b, sizeof report);
    report.struct_size = sizeof report;
    const hisa_audit_report_t before = report;
    const hisa_status_t bad = HISA_ERR_INVALID_ARGUMENT;
    ck_fails(hisa_audit(index, NULL, &made.options, NULL, NULL, NULL, &report), bad, "NULL");
    ck_fails(hisa_audit(index, &queries, &made.options, NULL, NULL, NULL, NULL), bad, "NULL");
    made.options.top_k = 65; /* m*B is 64 */
    ck_fails(hisa_audit(index, &queries, &made.options, NULL, NULL, NULL, &report), bad, "top_k");
    made.options.top_k = 16;
    made.window_end[1] = 61;
    ck_fails(hisa_audit(index, &queries, &made.options, NULL, NULL, NULL, &report), bad, "row 1");
    ck_assert_mem_eq(&report, &before, sizeof report);
    report.struct_size = 1;
    ck_fails(hisa_audit(index, &queries, &made.options, NULL, NULL, NULL, &report), bad, "struct_size");
    hisa_index_destroy(index);
    test_case_free(&made);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("audit");
    TCase *tests = tcase_create("audit");
    tcase_set_timeout(tests, 60);
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, figures);
    tcase_add_test(tests, worst_row_is_the_lowest_of_several);
    tcase_add_test(tests, all_is_kept);
    tcase_add_test(tests, bad_arguments);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
