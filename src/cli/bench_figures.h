/* Figures that follow from what bench measured; the same in tables and in JSON. */
#ifndef HISA_CLI_BENCH_FIGURES_H
#define HISA_CLI_BENCH_FIGURES_H

#include <stddef.h>

#include "cli/bench_report.h"

/* Floating-point operations of all ranks a second in a step, by its median time; 0 if it scores nothing. */
static inline double bench_step_flops(const bench_setting_t *setting, const bench_result_t *result,
                                      const bench_step_t *step) {
    const double work = 2.0 * setting->num_heads * setting->head_dim * step->keys * (double)result->rows;
    return step->seconds.median > 0 ? work / step->seconds.median : 0;
}

/* Bytes of keys and scales a second, each query's counted as if read for it alone: where queries share what is read,
 * more than memory gives. */
static inline double bench_step_bytes(const bench_setting_t *setting, const bench_result_t *result,
                                      const bench_step_t *step) {
    const double bytes = ((double)setting->head_dim + (double)sizeof(float)) * step->keys * (double)result->rows;
    return step->seconds.median > 0 ? bytes / step->seconds.median : 0;
}

/* Of all cores that are asked to work. */
static inline double bench_total_peak(const bench_setting_t *setting) {
    return setting->peak * setting->threads * setting->ranks;
}

/* Bytes a query and rank of gathering every rank's k (f32 score, i32 index) pairs everywhere. */
static inline double bench_allgather_bytes(const bench_setting_t *setting) {
    return 8.0 * setting->options->select.top_k * (setting->ranks - 1);
}

static inline double bench_sum_of_received(const bench_result_t *result) {
    double sum = 0;
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        sum += result->steps[s].received;
    }
    return sum;
}

static inline double bench_sum_of_sent(const bench_result_t *result) {
    double sum = 0;
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        sum += result->steps[s].sent;
    }
    return sum;
}

static inline double bench_sum_of_keys(const bench_result_t *result) {
    double sum = 0;
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        sum += result->steps[s].keys;
    }
    return sum;
}

static inline double bench_rows_a_second(const bench_result_t *result) {
    return result->wall.median > 0 ? (double)result->rows / result->wall.median : 0;
}

/* The flat result for the same length, exchange and stripe, or NULL. */
static inline const bench_result_t *bench_find_flat(const bench_result_t *results, int64_t count,
                                                    const bench_result_t *result) {
    for (int64_t i = 0; i < count; i++) {
        if (results[i].mode == HISA_MODE_FLAT && results[i].tokens == result->tokens &&
            results[i].asked == result->asked && results[i].stripe == result->stripe) {
            return &results[i];
        }
    }
    return NULL;
}

/* The measured peak is that of the cores, and says nothing of a GPU. */
static inline bool bench_on_cpu(const bench_result_t *result) { return result->backend != HISA_BACKEND_CUDA; }

#endif
