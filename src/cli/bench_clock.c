#include "cli/bench_clock.h"

#include "cli/progress.h"

#if defined(HISA_HAVE_CUDA)
#include "cli/gpu.h"

/* A pair of slots a call; read whenever they are used up. */
#define PAIRS (CLI_GPU_SLOTS / 2)

static hisa_status_t read_pairs(cli_gpu_t *gpu, int64_t count, double *seconds) {
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < (int)count && status == HISA_OK; i++) {
        status = cli_gpu_seconds(gpu, 2 * i, 2 * i + 1, &seconds[i]);
    }
    return status;
}

static hisa_status_t time_on_device(cli_gpu_t *gpu, bench_call_fn before, bench_call_fn call, void *context,
                                    int64_t warmup, int64_t repeats, double *seconds) {
    hisa_status_t status = HISA_OK;
    for (int64_t turn = 0; turn < warmup + repeats && status == HISA_OK; turn++) {
        const int64_t repeat = turn - warmup;
        const int pair = repeat < 0 ? 0 : (int)(repeat % PAIRS);
        if (before != NULL) {
            status = before(context, turn);
        }
        if (status == HISA_OK) {
            status = cli_gpu_mark(gpu, 2 * pair);
        }
        if (status == HISA_OK) {
            status = call(context, turn);
        }
        if (status == HISA_OK) {
            status = cli_gpu_mark(gpu, 2 * pair + 1);
        }
        if (status == HISA_OK && repeat >= 0 && (pair == PAIRS - 1 || repeat == repeats - 1)) {
            status = read_pairs(gpu, pair + 1, seconds + repeat - pair);
        }
    }
    return status;
}
#endif

hisa_status_t bench_time(struct cli_gpu *gpu, bench_call_fn before, bench_call_fn call, void *context, int64_t warmup,
                         int64_t repeats, double *seconds) {
#if defined(HISA_HAVE_CUDA)
    if (gpu != NULL) {
        return time_on_device(gpu, before, call, context, warmup, repeats, seconds);
    }
#else
    (void)gpu;
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
