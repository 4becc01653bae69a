/* Timing a call again and again: by the host's clock, or by events on a device's stream. */
#ifndef HISA_CLI_BENCH_CLOCK_H
#define HISA_CLI_BENCH_CLOCK_H

#include <stdint.h>

#include "hisa/hisa.h"

struct cli_gpu;

/* What the calls run on. */
typedef struct bench_clock {
    struct cli_gpu *gpu; /* NULL: the host, and calls have finished when they return */
    hisa_index_t *index; /* of the calls on a device: waits for them give up on lost peers */
    int64_t ahead;       /* most calls that a device has been given and not been waited for */
} bench_clock_t;

/* `turn` counts from 0, warm-up included. */
typedef hisa_status_t (*bench_call_fn)(void *context, int64_t turn);

/* For calls on an index, of which each enqueues the launches of `launches` calls of hisa_select or fewer. */
bench_clock_t bench_clock_of(struct cli_gpu *gpu, hisa_index_t *index, int64_t launches);

/* Local as long as all goes well. Runs `call` warmup + repeats times, each after `before` (may be NULL), which is not
 * timed; the times of the last `repeats` go to seconds. On a device nothing is waited for between calls, as long as
 * `ahead` allows: the stream has work, as an engine's has, and the host's part hides behind it. */
hisa_status_t bench_time(const bench_clock_t *clock, bench_call_fn before, bench_call_fn call, void *context,
                         int64_t warmup, int64_t repeats, double *seconds);

#endif
