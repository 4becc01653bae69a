/* What ranks cost one after another, for people and for programs. */
#include <inttypes.h>

#include "cli/bench_figures.h"
#include "cli/bench_ranks.h"

/* ------------------------------------------------------------------------------------------- tables */

static void print_head(const bench_setting_t *setting, const bench_ranks_result_t *of_one) {
    const hisa_select_options_t *select = &setting->options->select;
    printf("mode %s: %" PRId64 " tokens, %" PRId64 " queries of %" PRId32 " heads of %" PRId32,
           cli_mode_names[of_one->mode], of_one->tokens, of_one->rows, setting->num_heads, setting->head_dim);
    if (of_one->mode == HISA_MODE_FLAT) {
        printf(", k %" PRId32 "\n", select->top_k);
    } else {
        printf(", %" PRId32 " blocks of %" PRId32 ", k %" PRId32 "\n", select->top_blocks, setting->options->block_size,
               select->top_k);
    }
    if (setting->gpu != NULL) {
        printf("ranks one after another on one %s, L2 emptied before each call\n", setting->gpu->name);
    } else {
        printf("ranks one after another on %d threads\n", setting->threads);
    }
    printf("ms that the slowest rank (and the median one) computes, exchanges left out; medians of %" PRId64
           " calls;\nwhat the mean of the ranks has over 1/ranks does not shrink, what the slowest has over that is "
           "uneven\n\n",
           setting->repeats);
}

static void print_times(const bench_ranks_time_t *times) {
    char text[40];
    snprintf(text, sizeof text, "%.4f (%.4f)", 1e3 * times->slowest, 1e3 * times->median);
    printf(" %20s", text);
}

static void print_uneven(double uneven) {
    if (uneven > 0) {
        printf(" %19.3fx", uneven);
    } else {
        printf(" %20s", "-");
    }
}

static void print_table(const bench_ranks_result_t *results, int64_t count) {
    printf("%-18s", "step, on");
    for (int64_t i = 0; i < count; i++) {
        char text[24];
        snprintf(text, sizeof text, "%d rank%s", results[i].ranks, results[i].ranks == 1 ? "" : "s");
        printf(" %20s", text);
    }
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        printf("\n%-18s", hisa_step_name((hisa_step_t)s));
        for (int64_t i = 0; i < count; i++) {
            print_times(&results[i].steps[s].seconds);
        }
    }
    printf("\n%-18s", "all steps");
    for (int64_t i = 0; i < count; i++) {
        print_times(&results[i].all);
    }
    printf("\n%-18s", "both scorings");
    for (int64_t i = 0; i < count; i++) {
        print_times(&results[i].scoring);
    }
    printf("\n%-18s", "  of one rank's");
    for (int64_t i = 0; i < count; i++) {
        printf(" %20.4f", bench_ranks_over_ideal(results[i].scoring.slowest, results[0].scoring.slowest, 1));
    }
    printf("\n%-18s", "  over 1/ranks");
    for (int64_t i = 0; i < count; i++) {
        printf(" %19.3fx",
               bench_ranks_over_ideal(results[i].scoring.slowest, results[0].scoring.slowest, results[i].ranks));
    }
    printf("\n%-18s", "  mean, likewise");
    for (int64_t i = 0; i < count; i++) {
        printf(" %19.3fx",
               bench_ranks_over_ideal(results[i].scoring.mean, results[0].scoring.slowest, results[i].ranks));
    }
    if (count > 1 && results[count - 1].uneven > 0) {
        printf("\n%-18s", "most kept blocks");
        for (int64_t i = 0; i < count; i++) {
            print_uneven(results[i].uneven);
        }
    }
    printf("\n\n");
}

/* The steps that do not shrink, with what one rank spends on them. A step whose mean over the ranks does shrink is
 * dealt out unevenly: it costs no more on all ranks together. */
static void print_rest(const bench_ranks_result_t *results, int64_t count) {
    printf("what does not shrink with the ranks (by more than %.2f/ranks of one rank's time):\n", BENCH_RANKS_SLACK);
    for (int64_t i = 1; i < count; i++) {
        const char *comma = "";
        printf("%6d ranks: ", results[i].ranks);
        for (int s = 0; s < HISA_STEP_COUNT; s++) {
            const double seconds = results[i].steps[s].seconds.slowest;
            const double of_one = results[0].steps[s].seconds.slowest;
            if (bench_ranks_stays(seconds, of_one, results[i].ranks)) {
                const double mean = results[i].steps[s].seconds.mean;
                printf("%s%s %.4f ms (%.4f on one; mean %.4f%s)", comma, hisa_step_name((hisa_step_t)s), 1e3 * seconds,
                       1e3 * of_one, 1e3 * mean,
                       bench_ranks_stays(mean, of_one, results[i].ranks) ? "" : ", so it is only uneven");
                comma = ", ";
            }
        }
        printf("%s\n", comma[0] == '\0' ? "nothing" : "");
    }
    printf("\n");
}

/* What an all-gather of every rank's k (score, index) pairs would bring. */
static double gathered(const bench_setting_t *setting, int ranks) {
    bench_setting_t one = *setting;
    one.ranks = ranks;
    return bench_allgather_bytes(&one);
}

static void print_bytes(const bench_setting_t *setting, const bench_ranks_result_t *results, int64_t count) {
    printf("bytes received a query and rank (no times: here exchanges are copies between threads)\n");
    printf("%6s %10s %14s %14s %28s\n", "ranks", "timed", "owner", "oneshot", "lists of k gathered by all");
    for (int64_t i = 1; i < count; i++) {
        printf("%6d %10s %14.0f %14.0f %28.0f\n", results[i].ranks, cli_exchange_names[results[i].exchange],
               results[i].by_owner, results[i].by_oneshot, gathered(setting, results[i].ranks));
    }
    printf("\nall numbers of ranks select the same by both exchanges, byte for byte\n\n");
}

void bench_ranks_print(const bench_setting_t *setting, const bench_ranks_result_t *results, int64_t count) {
    print_head(setting, &results[0]);
    print_table(results, count);
    if (count > 1) {
        print_rest(results, count);
        print_bytes(setting, results, count);
    }
}

/* ------------------------------------------------------------------------------------------- JSON */

static void add_time(cJSON *object, const bench_ranks_time_t *time, const bench_ranks_time_t *of_one, int ranks) {
    cJSON_AddNumberToObject(object, "seconds_slowest", time->slowest);
    cJSON_AddNumberToObject(object, "seconds_median", time->median);
    cJSON_AddNumberToObject(object, "seconds_mean", time->mean);
    if (of_one->slowest > 0) {
        cJSON_AddNumberToObject(object, "of_one_rank", time->slowest / of_one->slowest);
        cJSON_AddNumberToObject(object, "over_ideal", bench_ranks_over_ideal(time->slowest, of_one->slowest, ranks));
        cJSON_AddNumberToObject(object, "mean_over_ideal", bench_ranks_over_ideal(time->mean, of_one->slowest, ranks));
    }
}

static void add_steps(cJSON *root, const bench_ranks_result_t *result, const bench_ranks_result_t *of_one) {
    cJSON *steps = cJSON_AddArrayToObject(root, "steps");
    cJSON *stays = cJSON_AddArrayToObject(root, "does_not_shrink");
    for (int s = 0; s < HISA_STEP_COUNT; s++) {
        const bench_ranks_step_t *step = &result->steps[s];
        const char *name = hisa_step_name((hisa_step_t)s);
        cJSON *item = cJSON_CreateObject();
        cJSON_AddStringToObject(item, "step", name);
        add_time(item, &step->seconds, &of_one->steps[s].seconds, result->ranks);
        cJSON_AddNumberToObject(item, "bytes_sent_per_query_and_rank", step->sent);
        cJSON_AddNumberToObject(item, "bytes_received_per_query_and_rank", step->received);
        cJSON_AddNumberToObject(item, "keys_per_query", step->keys);
        if (result->backend != HISA_BACKEND_CUDA) {
            cJSON_AddNumberToObject(item, "keys_per_query_of_busiest_rank", step->busiest);
        }
        cJSON_AddItemToArray(steps, item);
        if (bench_ranks_stays(step->seconds.slowest, of_one->steps[s].seconds.slowest, result->ranks)) {
            cJSON_AddItemToArray(stays, cJSON_CreateString(name));
        }
    }
}

cJSON *bench_ranks_json(const bench_setting_t *setting, const bench_ranks_result_t *result,
                        const bench_ranks_result_t *of_one) {
    bench_setting_t own = *setting;
    cJSON *root = cJSON_CreateObject();
    own.ranks = result->ranks;
    own.comm = "threads";
    cJSON_AddStringToObject(root, "command", "bench");
    cJSON_AddStringToObject(root, "measure", "as-ranks");
    cJSON_AddStringToObject(root, "mode", cli_mode_names[result->mode]);
    cJSON_AddStringToObject(root, "exchange", cli_exchange_names[result->exchange]);
    cJSON_AddNumberToObject(root, "tokens", (double)result->tokens);
    cJSON_AddNumberToObject(root, "rows", (double)result->rows);
    bench_json_add_setting(root, &own);
    cJSON_AddStringToObject(root, "backend", result->backend == HISA_BACKEND_CUDA ? "cuda" : "cpu");
    add_steps(root, result, of_one);
    add_time(cJSON_AddObjectToObject(root, "scoring"), &result->scoring, &of_one->scoring, result->ranks);
    add_time(cJSON_AddObjectToObject(root, "all_steps"), &result->all, &of_one->all, result->ranks);
    if (result->uneven > 0) {
        cJSON_AddNumberToObject(root, "kept_blocks_of_busiest_rank_over_mean", result->uneven);
    }
    cJSON *received = cJSON_AddObjectToObject(root, "bytes_received_per_query_and_rank");
    cJSON_AddNumberToObject(received, "owner", result->by_owner);
    cJSON_AddNumberToObject(received, "oneshot", result->by_oneshot);
    cJSON_AddNumberToObject(root, "allgather_bytes_per_query_and_rank", gathered(setting, result->ranks));
    cJSON_AddNumberToObject(root, "index_bytes", (double)result->index_bytes);
    cJSON_AddBoolToObject(root, "same_as_one_rank", true); /* a difference is a failure */
    bench_json_add_end(root, setting);
    return root;
}
