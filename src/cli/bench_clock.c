#include "cli/bench_clock.h"

#include "base/checked.h"
#include "cli/progress.h"
#include "index/index.h"

#if defined(HISA_HAVE_CUDA)
#include "cli/gpu.h"

/* A pair of slots a call; read whenever they are used up. */
#define PAIRS (CLI_GPU_SLOTS / 2)

/* Calls that may be on the stream where peers may be lost under them. A launch blocks in the driver, beyond any
 * deadline, once about a thousand wait behind a collective that never ends; a call has some twenty. */
#define AHEAD_OF_PEERS 16

bench_clock_t bench_clock_of(struct cli_gpu *gpu, hisa_index_t *index, int64_t launches) {
    const int64_t calls = index->comm->size == 1 ? PAIRS : hisa_max(1, AHEAD_OF_PEERS / launches);
    return (bench_clock_t){.gpu = gpu, .index = index, .ahead = calls};
}

static hisa_status_t read_pairs(cli_gpu_t *gpu, int64_t count, double *seconds) {
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < (int)count && status == HISA_OK; i++) {
        status = cli_gpu_seconds(gpu, 2 * i, 2 * i + 1, &seconds[i]);
    }
    return status;
}

static hisa_status_t time_on_device(const bench_clock_t *clock, bench_call_fn before, bench_call_fn call, void *context,
                                    int64_t warmup, int64_t repeats, double *seconds) {
    cli_gpu_t *gpu = clock->gpu;
    hisa_status_t status = HISA_OK;
    int64_t pair = 0;
    for (int64_t turn = 0; turn < warmup + repeats && status == HISA_OK; turn++) {
        if (before != NULL) {
            status = before(context, turn);
        }
        if (status == HISA_OK) {
            status = cli_gpu_mark(gpu, 2 * (int)pair);
        }
        if (status == HISA_OK) {
            status = call(context, turn);
        }
        if (status == HISA_OK) {
            status = cli_gpu_mark(gpu, 2 * (int)pair + 1);
        }
        pair++;
        if (status == HISA_OK && (pair == clock->ahead || turn == warmup + repeats - 1)) {
            status = hisa_index_synchronize(clock->index, gpu->stream);
            if (status == HISA_OK && turn >= warmup) {
                status = read_pairs(gpu, pair, seconds + turn - warmup + 1 - pair);
            }
            pair = 0;
        }
        if (turn == warmup - 1) {
            pair = 0; /* warm calls are not read; without a wait, the first timed one finds the stream at work */
        }
    }
    return status;
}
#else
bench_clock_t bench_clock_of(struct cli_gpu *gpu, hisa_index_t *index, int64_t launches) {
    (void)launches;
    return (bench_clock_t){.gpu = gpu, .index = index, .ahead = 1};
}
#endif

hisa_status_t bench_time(const bench_clock_t *clock, bench_call_fn before, bench_call_fn call, void *context,
                         int64_t warmup, int64_t repeats, double *seconds) {
#if defined(HISA_HAVE_CUDA)
    if (clock->gpu != NULL) {
        return time_on_device(clock, before, call, context, warmup, repeats, seconds);
    }
#else
    (void)clock;
#endif
    hisa_status_t status = HISA_OK;
    for (int64_t turn = 0; turn < warmup + repeats && status == HISA_OK; turn++) {
        if (before != NULL) {
            status = before(context, turn);
        }
        const double begin = cli_seconds();
        if (status == HISA_OK) {
            status = call(context, turn);
        }
        if (status == HISA_OK && turn >= warmup) {
            seconds[turn - warmup] = cli_seconds() - begin;
        }
    }
    return status;
}
