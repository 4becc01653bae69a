/* What bench measured, for people and for programs. */
#ifndef HISA_CLI_BENCH_REPORT_H
#define HISA_CLI_BENCH_REPORT_H

#include "cli/bench.h"
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
} bench_setting_t;

void bench_print(const bench_setting_t *setting, const bench_result_t *result);
void bench_print_summary(const bench_setting_t *setting, const bench_result_t *results, int64_t count);

/* NULL if memory runs out. `results` are all so far, for the speedup over flat. */
cJSON *bench_json(const bench_setting_t *setting, const bench_result_t *result, const bench_result_t *results,
                  int64_t count);

#endif
