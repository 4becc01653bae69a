#include "cli/bench_report.h"

#include <inttypes.h>

#include "base/checked.h"
#include "backend/cpu/isa.h"

/* Floating-point operations of all ranks a second in a step, by its median time; 0 if it scores nothing. */
static double step_flops(const bench_setting_t *setting, const bench_result_t *result, const bench_step_t *step) {
    const double work = 2.0 * setting->num_heads * setting->head_dim * step->keys * (double)result->rows;
    return step->seconds.median > 0 ? work / step->seconds.median : 0;
}

/* Of all cores that are asked to work. */
static double total_peak(const bench_setting_t *setting) { return setting->peak * setting->threads * setting->ranks; }

/* Bytes a query and rank of gathering every rank's k (f32 score, i32 index) pairs everywhere. */
static double allgather_bytes(const bench_setting_t *setting) {
    return 8.0 * setting->options->select.top_k * (setting->ranks - 1);
}

static double sum_of_received(const bench_result_t *result) {
    double sum = 0;
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        sum += result->steps[s].received;
    }
    return sum;
}

static double sum_of_sent(const bench_result_t *result) {
    double sum = 0;
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        sum += result->steps[s].sent;
    }
    return sum;
}

static double rows_a_second(const bench_result_t *result) {
    return result->wall.median > 0 ? (double)result->rows / result->wall.median : 0;
}

static double sum_of_keys(const bench_result_t *result) {
    double sum = 0;
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        sum += result->steps[s].keys;
    }
    return sum;
}

/* The flat result for the same length, or NULL. */
static const bench_result_t *find_flat(const bench_result_t *results, int64_t count, const bench_result_t *result) {
    for (int64_t i = 0; i < count; i++) {
        if (results[i].mode == HISA_MODE_FLAT && results[i].tokens == result->tokens) {
            return &results[i];
        }
    }
    return NULL;
}

/* ------------------------------------------------------------------------------------------- tables */

/* The measured peak is that of the cores, and says nothing of a GPU. */
static bool on_cpu(const bench_result_t *result) { return result->backend != HISA_BACKEND_CUDA; }

static void print_head(const bench_setting_t *setting, const bench_result_t *result) {
    const hisa_select_options_t *select = &setting->options->select;
    printf("mode %s: %" PRId64 " tokens, %" PRId64 " queries of %" PRId32 " heads of %" PRId32,
           cli_mode_names[result->mode], result->tokens, result->rows, setting->num_heads, setting->head_dim);
    if (result->mode == HISA_MODE_FLAT) {
        printf(", k %" PRId32 "\n", select->top_k);
    } else {
        printf(", %" PRId32 " blocks of %" PRId32 ", k %" PRId32 "\n", select->top_blocks, setting->options->block_size,
               select->top_k);
    }
    printf("ranks %d (%s), ", setting->ranks, setting->comm);
    if (on_cpu(result)) {
        printf("threads a rank %d, exchange %s, peak of a core %.1f GFLOP/s (%s), scored with %s\n\n", setting->threads,
               cli_exchange_names[result->exchange], setting->peak / 1e9, setting->peak_name, hisa_cpu_isa_name());
    } else {
        printf("backend cuda, exchange %s; keys are upper bounds, as windows are on the device\n\n",
               cli_exchange_names[result->exchange]);
    }
}

static void print_step(const bench_setting_t *setting, const bench_result_t *result, int place) {
    const bench_step_t *step = &result->steps[place];
    printf("%-16s %10.3f %10.3f %10.3f", hisa_step_name((hisa_step_t)place), 1e3 * step->seconds.median,
           1e3 * step->seconds.min, 1e3 * step->seconds.max);
    if (step->keys > 0) {
        const double flops = step_flops(setting, result, step);
        printf(" %11.0f %9.1f", step->keys, flops / 1e9);
        if (on_cpu(result)) {
            printf(" %6.1f %%", 100 * flops / total_peak(setting));
        } else {
            printf(" %8s", "-");
        }
    } else {
        printf(" %11s %9s %8s", "-", "-", "-");
    }
    printf(" %10.0f %10.0f\n", step->sent, step->received);
}

void bench_print(const bench_setting_t *setting, const bench_result_t *result) {
    print_head(setting, result);
    printf("%-16s %10s %10s %10s %11s %9s %8s %10s %10s\n", "step", "ms", "fastest", "slowest", "keys/query", "GFLOP/s",
           "of peak", "B sent", "B received");
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        print_step(setting, result, s);
    }
    printf("%-16s %10.3f %10.3f %10.3f %11.0f %9s %8s %10.0f %10.0f\n\n", "whole call", 1e3 * result->wall.median,
           1e3 * result->wall.min, 1e3 * result->wall.max, sum_of_keys(result), "", "", sum_of_sent(result),
           sum_of_received(result));
    printf("%.1f queries/s; workspace %.2f MB, index %.2f MB a rank\n", rows_a_second(result),
           (double)result->workspace_bytes / 1e6, (double)result->index_bytes / 1e6);
    if (setting->ranks > 1) {
        printf("bytes a query and rank: %.0f received; an all-gather of (score, index) lists would be %.0f\n",
               sum_of_received(result), allgather_bytes(setting));
    }
    printf("\n");
}

void bench_print_summary(const bench_setting_t *setting, const bench_result_t *results, int64_t count) {
    if (count < 2) {
        return;
    }
    printf("%-6s %10s %12s %12s %12s %10s\n", "mode", "tokens", "ms a call", "queries/s", "keys/query", "over flat");
    for (int64_t i = 0; i < count; i++) {
        const bench_result_t *flat = find_flat(results, count, &results[i]);
        printf("%-6s %10" PRId64 " %12.3f %12.1f %12.0f", cli_mode_names[results[i].mode], results[i].tokens,
               1e3 * results[i].wall.median, rows_a_second(&results[i]), sum_of_keys(&results[i]));
        if (flat != NULL && flat != &results[i] && results[i].wall.median > 0) {
            printf(" %9.2fx\n", flat->wall.median / results[i].wall.median);
        } else {
            printf(" %10s\n", "-");
        }
    }
    printf("\nmedian of %" PRId64 " calls; 'over flat' is how many times faster than mode flat\n", setting->repeats);
}

/* ------------------------------------------------------------------------------------------- JSON */

static void add_spread(cJSON *object, const char *name, const bench_spread_t *spread) {
    cJSON *item = cJSON_AddObjectToObject(object, name);
    cJSON_AddNumberToObject(item, "median", spread->median);
    cJSON_AddNumberToObject(item, "min", spread->min);
    cJSON_AddNumberToObject(item, "max", spread->max);
}

static void add_steps(cJSON *root, const bench_setting_t *setting, const bench_result_t *result) {
    cJSON *steps = cJSON_AddArrayToObject(root, "steps");
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        const bench_step_t *step = &result->steps[s];
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "step", hisa_step_name((hisa_step_t)s));
        add_spread(item, "seconds", &step->seconds);
        cJSON_AddNumberToObject(item, "bytes_sent_per_query_and_rank", step->sent);
        cJSON_AddNumberToObject(item, "bytes_received_per_query_and_rank", step->received);
        cJSON_AddNumberToObject(item, "keys_per_query", step->keys);
        if (step->keys > 0) {
            const double flops = step_flops(setting, result, step);
            cJSON_AddNumberToObject(item, "gflops", flops / 1e9);
            if (on_cpu(result)) {
                cJSON_AddNumberToObject(item, "share_of_peak", flops / total_peak(setting));
            }
        }
        cJSON_AddItemToArray(steps, item);
    }
}

static void add_setting(cJSON *root, const bench_setting_t *setting) {
    const hisa_select_options_t *select = &setting->options->select;
    cJSON_AddStringToObject(root, "input", setting->family);
    cJSON_AddNumberToObject(root, "heads", setting->num_heads);
    cJSON_AddNumberToObject(root, "head_dim", setting->head_dim);
    cJSON_AddNumberToObject(root, "block_size", setting->options->block_size);
    cJSON_AddNumberToObject(root, "top_blocks", select->top_blocks);
    cJSON_AddNumberToObject(root, "top_k", select->top_k);
    cJSON_AddNumberToObject(root, "sink_blocks", select->sink_blocks);
    cJSON_AddNumberToObject(root, "local_blocks", select->local_blocks);
    cJSON_AddNumberToObject(root, "stripe", (double)setting->options->stripe);
    cJSON_AddStringToObject(root, "queries_on", cli_queries_on_names[select->queries_on]);
    cJSON_AddStringToObject(root, "comm", setting->comm);
    cJSON_AddNumberToObject(root, "ranks", setting->ranks);
    cJSON_AddNumberToObject(root, "threads", setting->threads);
    cJSON_AddNumberToObject(root, "repeats", (double)setting->repeats);
    cJSON_AddNumberToObject(root, "peak_gflops_per_core", setting->peak / 1e9);
    cJSON_AddStringToObject(root, "peak_isa", setting->peak_name);
}

cJSON *bench_json(const bench_setting_t *setting, const bench_result_t *result, const bench_result_t *results,
                  int64_t count) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "command", "bench");
    cJSON_AddStringToObject(root, "mode", cli_mode_names[result->mode]);
    cJSON_AddStringToObject(root, "exchange", cli_exchange_names[result->exchange]);
    cJSON_AddNumberToObject(root, "tokens", (double)result->tokens);
    cJSON_AddNumberToObject(root, "rows", (double)result->rows);
    add_setting(root, setting);
    cJSON_AddStringToObject(root, "backend", result->backend == HISA_BACKEND_CUDA ? "cuda" : "cpu");
    cJSON_AddStringToObject(root, "cpu_isa", hisa_cpu_isa_name());
    add_spread(root, "seconds", &result->wall);
    cJSON_AddNumberToObject(root, "rows_per_second", rows_a_second(result));
    add_steps(root, setting, result);
    cJSON_AddNumberToObject(root, "keys_per_query", sum_of_keys(result));
    cJSON_AddNumberToObject(root, "bytes_sent_per_query_and_rank", sum_of_sent(result));
    cJSON_AddNumberToObject(root, "bytes_received_per_query_and_rank", sum_of_received(result));
    cJSON_AddNumberToObject(root, "allgather_bytes_per_query_and_rank", allgather_bytes(setting));
    cJSON_AddNumberToObject(root, "workspace_bytes", (double)result->workspace_bytes);
    cJSON_AddNumberToObject(root, "index_bytes", (double)result->index_bytes);
    const bench_result_t *flat = find_flat(results, count, result);
    if (flat != NULL && result->wall.median > 0) {
        cJSON_AddNumberToObject(root, "speedup_over_flat", flat->wall.median / result->wall.median);
    }
    return root;
}
