/* Timing a call again and again: by the host's clock, or by events on a device's stream. */
#ifndef HISA_CLI_BENCH_CLOCK_H
#define HISA_CLI_BENCH_CLOCK_H

#include <stdint.h>

#include "hisa/hisa.h"

struct cli_gpu;

/* `turn` counts from 0, warm-up included. */
typedef hisa_status_t (*bench_call_fn)(void *context, int64_t turn);

/* Local. Runs `call` warmup + repeats times, each after `before` (may be NULL), which is not timed; the times of the
 * last `repeats` go to seconds. Without a device, calls have finished when they return. On a device nothing is waited
 * for between calls: the stream always has work, as an engine's has, and the host's part hides behind it. */
hisa_status_t bench_time(struct cli_gpu *gpu, bench_call_fn before, bench_call_fn call, void *context, int64_t warmup,
                         int64_t repeats, double *seconds);

#endif
