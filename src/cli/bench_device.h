/* Measuring on a device: calls, steps and graph replays, by events on a stream. Compiled only where the build has CUDA.
 */
#ifndef HISA_CLI_BENCH_DEVICE_H
#define HISA_CLI_BENCH_DEVICE_H

#include "cli/bench.h"
#include "cli/gpu.h"

/* Collective; agreed. Sets [sets]: this rank's queries, all of one shape and with the same windows, taken in turn; all
 * else as in bench_measure. Keys of the steps, and their share over ranks, are left to the caller. */
hisa_status_t bench_measure_device(cli_session_t *session, cli_gpu_t *gpu, hisa_index_t *index,
                                   const hisa_select_options_t *options, const hisa_queries_t *sets, int64_t num_sets,
                                   int64_t rows, const bench_plan_t *plan, bench_result_t *result);

#endif
