#include "cli/bench_report.h"

#include <time.h>

#include "backend/cpu/isa.h"
#include "cli/bench_figures.h"

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
        if (setting->ranks > 1) {
            add_spread(item, "exchange_seconds", &step->exchange);
        }
        cJSON_AddNumberToObject(item, "bytes_sent_per_query_and_rank", step->sent);
        cJSON_AddNumberToObject(item, "bytes_received_per_query_and_rank", step->received);
        cJSON_AddNumberToObject(item, "keys_per_query", step->keys);
        if (step->keys > 0) {
            const double flops = bench_step_flops(setting, result, step);
            cJSON_AddNumberToObject(item, "gflops", flops / 1e9);
            if (bench_on_cpu(result)) {
                cJSON_AddNumberToObject(item, "share_of_peak", flops / bench_total_peak(setting));
            } else {
                cJSON_AddNumberToObject(item, "key_bytes_per_second", bench_step_bytes(setting, result, step));
            }
        }
        cJSON_AddItemToArray(steps, item);
    }
}

void bench_json_add_setting(cJSON *root, const bench_setting_t *setting) {
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

/* "2026-11-23T22:43:08Z" */
static void add_date(cJSON *root) {
    const time_t now = time(NULL);
    struct tm parts;
    char text[32] = "";
    if (gmtime_r(&now, &parts) != NULL) {
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
    }
    cJSON_AddStringToObject(root, "date", text);
}

/* What is given on the command line, and is the default elsewhere, is left out there. */
static void add_choices(cJSON *root, const bench_setting_t *setting) {
    if (setting->options->sequences > 1) {
        cJSON_AddNumberToObject(root, "sequences", setting->options->sequences);
    }
    if (setting->queries != NULL) {
        cJSON_AddStringToObject(root, "query_family", setting->queries);
    }
    if (setting->commit != NULL) {
        cJSON_AddStringToObject(root, "commit", setting->commit);
    }
}

static void add_gpu(cJSON *root, const bench_setting_t *setting) {
    const cli_gpu_t *gpu = setting->gpu;
    cJSON *item = cJSON_AddObjectToObject(root, "device");
    cJSON_AddStringToObject(item, "name", gpu->name);
    cJSON_AddNumberToObject(item, "compute_capability", gpu->major + gpu->minor / 10.0);
    cJSON_AddNumberToObject(item, "multiprocessors", gpu->multiprocessors);
    cJSON_AddNumberToObject(item, "memory_bytes", (double)gpu->memory_bytes);
    cJSON_AddNumberToObject(item, "l2_bytes", (double)gpu->l2_bytes);
    cJSON_AddStringToObject(item, "driver", gpu->driver);
    cJSON_AddNumberToObject(item, "cuda_driver", gpu->cuda_driver);
    cJSON_AddNumberToObject(item, "cuda_runtime", gpu->cuda_runtime);
    cJSON *ceilings = cJSON_AddObjectToObject(root, "ceilings");
    cJSON_AddNumberToObject(ceilings, "copy_bytes_per_second", setting->gpu_peak.copy);
    if (setting->gpu_peak.matrix > 0) {
        cJSON_AddNumberToObject(ceilings, "matrix_gflops", setting->gpu_peak.matrix / 1e9);
    } else {
        cJSON_AddNullToObject(ceilings, "matrix_gflops");
    }
    cJSON_AddStringToObject(ceilings, "matrix", setting->gpu_peak.matrix_name);
    add_date(root);
}

void bench_json_add_end(cJSON *root, const bench_setting_t *setting) {
    add_choices(root, setting);
    if (setting->gpu != NULL) {
        add_gpu(root, setting);
    }
}

static void add_on_device(cJSON *root, const bench_on_device_t *device) {
    cJSON_AddStringToObject(root, "scorer", device->scorer);
    add_spread(root, "seconds_l2_emptied", &device->cold);
    cJSON_AddNumberToObject(root, "query_sets", (double)device->sets);
    cJSON_AddNumberToObject(root, "query_set_bytes", (double)device->set_bytes);
    cJSON_AddBoolToObject(root, "keys_exact", device->keys_exact);
    if (device->graph) {
        cJSON *graph = cJSON_AddObjectToObject(root, "graph");
        add_spread(graph, "seconds", &device->replay);
        add_spread(graph, "seconds_l2_emptied", &device->replay_cold);
        add_spread(graph, "seconds_back_to_back", &device->batch);
        cJSON_AddNumberToObject(graph, "batch_calls", (double)device->batch_calls);
    }
}

static void add_overlap(cJSON *root, const bench_overlap_t *overlap) {
    cJSON *item = cJSON_AddObjectToObject(root, "neighbours_share");
    cJSON_AddNumberToObject(item, "pairs", (double)overlap->pairs);
    cJSON_AddNumberToObject(item, "tokens", overlap->tokens);
    cJSON_AddNumberToObject(item, "blocks", overlap->blocks);
}

static void add_exchanges(cJSON *root, const bench_exchange_t *exchange) {
    cJSON *item = cJSON_AddObjectToObject(root, "exchanges");
    add_spread(item, "seconds", &exchange->seconds);
    add_spread(item, "seconds_least_waiting", &exchange->least);
    cJSON_AddNumberToObject(item, "predicted_seconds", exchange->predicted);
    add_spread(item, "in_order_seconds", &exchange->in_order);
    cJSON_AddNumberToObject(item, "tiles", (double)exchange->tiles);
    cJSON_AddNumberToObject(item, "tiles_under_way", (double)exchange->lanes);
    cJSON_AddNumberToObject(item, "hidden_share", exchange->hidden);
}

cJSON *bench_json(const bench_setting_t *setting, const bench_result_t *result, const bench_result_t *results,
                  int64_t count) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "command", "bench");
    cJSON_AddStringToObject(root, "mode", cli_mode_names[result->mode]);
    cJSON_AddStringToObject(root, "exchange", cli_exchange_names[result->exchange]);
    cJSON_AddNumberToObject(root, "tokens", (double)result->tokens);
    cJSON_AddNumberToObject(root, "rows", (double)result->rows);
    bench_json_add_setting(root, setting);
    cJSON_AddStringToObject(root, "backend", result->backend == HISA_BACKEND_CUDA ? "cuda" : "cpu");
    cJSON_AddStringToObject(root, "cpu_isa", hisa_cpu_isa_name());
    add_spread(root, "seconds", &result->wall);
    cJSON_AddNumberToObject(root, "rows_per_second", bench_rows_a_second(result));
    add_steps(root, setting, result);
    cJSON_AddNumberToObject(root, "keys_per_query", bench_sum_of_keys(result));
    cJSON_AddNumberToObject(root, "bytes_sent_per_query_and_rank", bench_sum_of_sent(result));
    cJSON_AddNumberToObject(root, "bytes_received_per_query_and_rank", bench_sum_of_received(result));
    cJSON_AddNumberToObject(root, "allgather_bytes_per_query_and_rank", bench_allgather_bytes(setting));
    if (setting->ranks > 1) {
        add_exchanges(root, &result->exchanges);
    }
    cJSON_AddNumberToObject(root, "workspace_bytes", (double)result->workspace_bytes);
    cJSON_AddNumberToObject(root, "index_bytes", (double)result->index_bytes);
    const bench_result_t *flat = bench_find_flat(results, count, result);
    if (flat != NULL && result->wall.median > 0) {
        cJSON_AddNumberToObject(root, "speedup_over_flat", flat->wall.median / result->wall.median);
    }
    add_choices(root, setting);
    if (result->overlap.pairs > 0) {
        add_overlap(root, &result->overlap);
    }
    if (setting->gpu != NULL) {
        add_on_device(root, &result->device);
        add_gpu(root, setting);
    }
    return root;
}

cJSON *bench_append_json(const bench_setting_t *setting, const bench_append_t *append) {
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "command", "bench");
    cJSON_AddStringToObject(root, "measure", "append");
    cJSON_AddNumberToObject(root, "appended", (double)append->tokens);
    cJSON_AddNumberToObject(root, "tokens", (double)append->length);
    bench_json_add_setting(root, setting);
    cJSON_AddStringToObject(root, "backend", append->backend == HISA_BACKEND_CUDA ? "cuda" : "cpu");
    add_spread(root, "seconds", &append->seconds);
    cJSON_AddNumberToObject(root, "bytes", (double)append->bytes);
    add_choices(root, setting);
    if (setting->gpu != NULL) {
        add_spread(root, "seconds_l2_emptied", &append->cold);
        add_gpu(root, setting);
    }
    return root;
}
