/* What bench measured, for people and for programs. */
#ifndef HISA_CLI_BENCH_REPORT_H
#define HISA_CLI_BENCH_REPORT_H

#include "cli/bench.h"
#include "cli/bench_append.h"
#include "cli/gpu_peak.h"
#include "cli/peak.h"
#include "cli/report.h"

/* What all results of a run have in common. */
typedef struct bench_setting {
    const cli_options_t *options;
    const char *comm;
    int ranks;
    int threads; /* of rank 0 */
    int64_t repeats;
    const char *family; /* of the input */
    int32_t num_heads;
    int32_t head_dim;
    double peak; /* floating-point operations a second of one core */
    const char *peak_name;
    const char *queries;  /* their family, NULL: the input's */
    const char *commit;   /* what is measured, or NULL */
    const cli_gpu_t *gpu; /* NULL on the CPU, and so are the two below zero */
    cli_gpu_peak_t gpu_peak;
    int64_t l2_bytes;
} bench_setting_t;

void bench_print(const bench_setting_t *setting, const bench_result_t *result);
void bench_print_append(const bench_setting_t *setting, const bench_append_t *append);
void bench_print_summary(const bench_setting_t *setting, const bench_result_t *results, int64_t count);

/* NULL if memory runs out. `results` are all so far, for the speedup over flat. */
cJSON *bench_json(const bench_setting_t *setting, const bench_result_t *result, const bench_result_t *results,
                  int64_t count);
cJSON *bench_append_json(const bench_setting_t *setting, const bench_append_t *append);

/* What all lines have in common: input, shapes and ranks; and what was chosen, and the device. */
void bench_json_add_setting(cJSON *root, const bench_setting_t *setting);
void bench_json_add_end(cJSON *root, const bench_setting_t *setting);

#endif
