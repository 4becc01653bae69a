#include "cli/bench_report.h"

#include <inttypes.h>

#include "backend/cpu/isa.h"
#include "cli/bench_figures.h"

/* The device, what it can do, and what of the input its L2 may still hold from the call before. */
static void print_device(const bench_setting_t *setting, const bench_result_t *result) {
    const cli_gpu_t *gpu = setting->gpu;
    const bench_on_device_t *device = &result->device;
    const int64_t all = device->sets * device->set_bytes;
    printf("%s, sm_%d%d, %d multiprocessors, L2 %.1f MB; driver %s (CUDA %d.%d), runtime %d.%d\n", gpu->name,
           gpu->major, gpu->minor, gpu->multiprocessors, (double)gpu->l2_bytes / 1e6, gpu->driver,
           gpu->cuda_driver / 1000, gpu->cuda_driver % 1000 / 10, gpu->cuda_runtime / 1000,
           gpu->cuda_runtime % 1000 / 10);
    printf("measured on it: copy %.2f TB/s (read + written); matrix product ", setting->gpu_peak.copy / 1e12);
    if (setting->gpu_peak.matrix > 0) {
        printf("%.0f TFLOP/s (%s)\n", setting->gpu_peak.matrix / 1e12, setting->gpu_peak.matrix_name);
    } else {
        printf("%s\n", setting->gpu_peak.matrix_name);
    }
    printf("%" PRId64 " sets of queries in turn, %.1f MB, %s L2; index %.1f MB, %s L2%s\n", device->sets,
           (double)all / 1e6, all > gpu->l2_bytes ? "more than" : "within", (double)result->index_bytes / 1e6,
           result->index_bytes > gpu->l2_bytes ? "more than" : "within",
           result->index_bytes > gpu->l2_bytes ? "" : ": keys are L2-warm where L2 was not emptied");
    printf("times by events; keys by the windows, %s; bytes as if each query read its keys alone\n\n",
           device->keys_exact ? "exact" : "a bound");
}

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
    if (bench_on_cpu(result)) {
        printf("threads a rank %d, exchange %s, peak of a core %.1f GFLOP/s (%s), scored with %s\n\n", setting->threads,
               cli_exchange_names[result->exchange], setting->peak / 1e9, setting->peak_name, hisa_cpu_isa_name());
    } else {
        printf("backend cuda, exchange %s, scored with %s\n", cli_exchange_names[result->exchange],
               result->device.scorer);
        print_device(setting, result);
    }
}

static void print_spread(const char *name, const bench_spread_t *seconds) {
    printf("%-16s %10.4f %10.4f %10.4f", name, 1e3 * seconds->median, 1e3 * seconds->min, 1e3 * seconds->max);
}

static void print_cpu_step(const bench_setting_t *setting, const bench_result_t *result, int place) {
    const bench_step_t *step = &result->steps[place];
    printf("%-16s %10.3f %10.3f %10.3f", hisa_step_name((hisa_step_t)place), 1e3 * step->seconds.median,
           1e3 * step->seconds.min, 1e3 * step->seconds.max);
    if (step->keys > 0) {
        const double flops = bench_step_flops(setting, result, step);
        printf(" %11.0f %9.1f %6.1f %%", step->keys, flops / 1e9, 100 * flops / bench_total_peak(setting));
    } else {
        printf(" %11s %9s %8s", "-", "-", "-");
    }
    printf(" %10.0f %10.0f\n", step->sent, step->received);
}

static void print_cpu_table(const bench_setting_t *setting, const bench_result_t *result) {
    printf("%-16s %10s %10s %10s %11s %9s %8s %10s %10s\n", "step", "ms", "fastest", "slowest", "keys/query", "GFLOP/s",
           "of peak", "B sent", "B received");
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        print_cpu_step(setting, result, s);
    }
    printf("%-16s %10.3f %10.3f %10.3f %11.0f %9s %8s %10.0f %10.0f\n\n", "whole call", 1e3 * result->wall.median,
           1e3 * result->wall.min, 1e3 * result->wall.max, bench_sum_of_keys(result), "", "", bench_sum_of_sent(result),
           bench_sum_of_received(result));
}

static void print_device_step(const bench_setting_t *setting, const bench_result_t *result, int place) {
    const bench_step_t *step = &result->steps[place];
    print_spread(hisa_step_name((hisa_step_t)place), &step->seconds);
    if (step->keys <= 0 || step->seconds.median <= 0) {
        printf(" %11s %9s %9s %9s %8s\n", "-", "-", "-", "-", "-");
        return;
    }
    const cli_gpu_peak_t *peak = &setting->gpu_peak;
    const double flops = bench_step_flops(setting, result, step);
    const double bytes = bench_step_bytes(setting, result, step);
    printf(" %11.0f %9.1f", step->keys, flops / 1e12);
    if (peak->matrix > 0) {
        printf(" %7.1f %%", 100 * flops / peak->matrix);
    } else {
        printf(" %9s", "-");
    }
    printf(" %9.1f %6.1f %%\n", bytes / 1e9, 100 * bytes / peak->copy);
}

static void print_device_table(const bench_setting_t *setting, const bench_result_t *result) {
    const bench_on_device_t *device = &result->device;
    printf("%-16s %10s %10s %10s %11s %9s %9s %9s %8s\n", "step", "ms", "fastest", "slowest", "keys/query", "TFLOP/s",
           "of matrix", "GB/s", "of copy");
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        print_device_step(setting, result, s);
    }
    print_spread("whole call", &result->wall);
    printf(" %11.0f\n", bench_sum_of_keys(result));
    print_spread("  L2 emptied", &device->cold);
    printf("\n");
    if (device->graph) {
        print_spread("graph replay", &device->replay);
        printf("\n");
        print_spread("  L2 emptied", &device->replay_cold);
        printf("\n");
        print_spread("  back to back", &device->batch);
        printf("  a replay, of batches of %" PRId64 "\n", device->batch_calls);
    } else if (device->no_graph) {
        printf("%-16s the owner merge reads sizes back, which a graph cannot\n", "graph replay");
    }
    printf("\n");
}

static void print_exchanges(const bench_setting_t *setting, const bench_result_t *result) {
    const bench_exchange_t *exchange = &result->exchanges;
    printf("bytes a query and rank: %.0f received; an all-gather of (score, index) lists would be %.0f\n",
           bench_sum_of_received(result), bench_allgather_bytes(setting));
    printf("%" PRId64 " tiles; exchanges %.4f ms (%.4f on the rank that waits least, predicted %.4f) of %.4f ms with "
           "one step after the other; ",
           exchange->tiles, 1e3 * exchange->seconds.median, 1e3 * exchange->least.median, 1e3 * exchange->predicted,
           1e3 * exchange->in_order.median);
    if (exchange->lanes > 1) {
        printf("%.0f %% of them hidden under computing\n", 100 * exchange->hidden);
    } else {
        printf("none hidden, as tiles follow each other\n");
    }
}

void bench_print(const bench_setting_t *setting, const bench_result_t *result) {
    print_head(setting, result);
    if (bench_on_cpu(result)) {
        print_cpu_table(setting, result);
    } else {
        print_device_table(setting, result);
    }
    printf("%.1f queries/s; workspace %.2f MB, index %.2f MB a rank\n", bench_rows_a_second(result),
           (double)result->workspace_bytes / 1e6, (double)result->index_bytes / 1e6);
    if (setting->ranks > 1) {
        print_exchanges(setting, result);
    }
    if (result->overlap.pairs > 0) {
        printf("neighbouring queries share %.1f %% of their tokens, %.1f %% of the blocks that hold them\n",
               100 * result->overlap.tokens, 100 * result->overlap.blocks);
    }
    printf("\n");
}

void bench_print_append(const bench_setting_t *setting, const bench_append_t *append) {
    char name[48];
    snprintf(name, sizeof name, "append %" PRId64, append->tokens);
    printf("%-16s %10s %10s %10s %9s\n", "", "ms", "fastest", "slowest", "GB/s");
    print_spread(name, &append->seconds);
    printf(" %9.1f\n", append->seconds.median > 0 ? (double)append->bytes / append->seconds.median / 1e9 : 0);
    if (setting->gpu != NULL) {
        print_spread("  L2 emptied", &append->cold);
        printf("\n");
    }
    printf("to a sequence of %" PRId64 " tokens; bytes read and written\n\n", append->length);
}

void bench_print_summary(const bench_setting_t *setting, const bench_result_t *results, int64_t count) {
    if (count < 2) {
        return;
    }
    printf("%-6s %-8s %10s %10s %12s %12s %12s %10s\n", "mode", "exchange", "stripe", "tokens", "ms a call",
           "queries/s", "keys/query", "over flat");
    for (int64_t i = 0; i < count; i++) {
        const bench_result_t *flat = bench_find_flat(results, count, &results[i]);
        char stripe[24] = "contiguous";
        if (results[i].stripe != HISA_STRIPE_CONTIGUOUS) {
            snprintf(stripe, sizeof stripe, "%" PRId64, results[i].stripe);
        }
        printf("%-6s %-8s %10s %10" PRId64 " %12.3f %12.1f %12.0f", cli_mode_names[results[i].mode],
               setting->ranks > 1 ? cli_exchange_names[results[i].exchange] : "-", setting->ranks > 1 ? stripe : "-",
               results[i].tokens, 1e3 * results[i].wall.median, bench_rows_a_second(&results[i]),
               bench_sum_of_keys(&results[i]));
        if (flat != NULL && flat != &results[i] && results[i].wall.median > 0) {
            printf(" %9.2fx\n", flat->wall.median / results[i].wall.median);
        } else {
            printf(" %10s\n", "-");
        }
    }
    printf("\nmedian of %" PRId64 " calls; 'over flat' is how many times faster than mode flat\n", setting->repeats);
}
