/* Measuring appends. */
#ifndef HISA_CLI_BENCH_APPEND_H
#define HISA_CLI_BENCH_APPEND_H

#include "cli/bench.h"
#include "cli/bench_input.h"

struct cli_gpu;

typedef struct bench_append {
    int64_t tokens; /* of an append; 0: not measured */
    int64_t length; /* of the sequence before it */
    hisa_backend_t backend;
    bench_spread_t seconds;
    bench_spread_t cold; /* a device: L2 emptied before */
    int64_t bytes;       /* keys and scales read and written, and pooled keys written, over all ranks */
} bench_append_t;

/* Collective; agreed. Appends `tokens` tokens to sequence 0 again and again, and takes them back each time. The index
 * must have room for them. gpu: NULL for the clock of the host. */
hisa_status_t bench_measure_append(cli_session_t *session, struct cli_gpu *gpu, hisa_index_t *index,
                                   const bench_source_t *source, const bench_input_t *input, int64_t tokens,
                                   const bench_plan_t *plan, bench_append_t *result);

#endif
