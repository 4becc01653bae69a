#include "cli/bench_append.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/error.h"
#include "cli/bench_clock.h"
#include "cli/staging.h"

#if defined(HISA_HAVE_CUDA)
#include "cli/gpu.h"
#endif

typedef struct work {
    hisa_index_t *index;
    struct cli_gpu *gpu;
    void *stream;
    void *keys; /* backend memory */
    void *scales;
    int64_t tokens;
    int64_t length; /* before the append */
} work_t;

/* Takes back the append before. */
static hisa_status_t before(void *context, int64_t turn) {
    const work_t *work = context;
    (void)turn;
    return hisa_index_truncate(work->index, 0, work->length, work->stream);
}

static hisa_status_t call(void *context, int64_t turn) {
    const work_t *work = context;
    (void)turn;
    return hisa_index_append(work->index, 0, work->tokens, work->keys, work->scales, HISA_KEYS_REPLICATED,
                             work->stream);
}

#if defined(HISA_HAVE_CUDA)
static hisa_status_t before_cold(void *context, int64_t turn) {
    const hisa_status_t status = before(context, turn);
    return status == HISA_OK ? cli_gpu_flush(((const work_t *)context)->gpu) : status;
}
#endif

/* Keys in the backend's memory, to be appended from there. */
static hisa_status_t stage(const bench_source_t *source, const bench_input_t *input, work_t *work) {
    const int64_t dim = input->rows.head_dim;
    const int64_t key_bytes = work->tokens * dim;
    const int64_t scale_bytes = work->tokens * (int64_t)sizeof(float);
    uint8_t *keys = malloc((size_t)key_bytes);
    float *scales = malloc((size_t)scale_bytes);
    hisa_status_t status = HISA_OK;
    if (keys == NULL || scales == NULL) {
        status = hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for %" PRId64 " keys to append", work->tokens);
    }
    if (status == HISA_OK) {
        bench_input_keys(source, input, work->tokens, keys, scales);
        status = cli_staged_put(work->index, keys, key_bytes, &work->keys);
    }
    if (status == HISA_OK) {
        status = cli_staged_put(work->index, scales, scale_bytes, &work->scales);
    }
    free(keys);
    free(scales);
    return status;
}

/* seconds: [2 * repeats], those with the keys in the cache and then, on a GPU, those without. */
static hisa_status_t time_appends(work_t *work, const bench_plan_t *plan, double *seconds) {
    const bench_clock_t clock = bench_clock_of(work->gpu, work->index, 1);
    hisa_status_t status = bench_time(&clock, before, call, work, plan->warmup, plan->repeats, seconds);
#if defined(HISA_HAVE_CUDA)
    if (status == HISA_OK && work->gpu != NULL) {
        status = bench_time(&clock, before_cold, call, work, plan->warmup, plan->repeats, seconds + plan->repeats);
    }
#endif
    if (status == HISA_OK) {
        status = before(work, 0);
    }
#if defined(HISA_HAVE_CUDA)
    if (status == HISA_OK && work->gpu != NULL) {
        status = hisa_index_synchronize(work->index, work->stream);
    }
#endif
    return status;
}

hisa_status_t bench_measure_append(cli_session_t *session, struct cli_gpu *gpu, hisa_index_t *index,
                                   const bench_source_t *source, const bench_input_t *input, int64_t tokens,
                                   const bench_plan_t *plan, bench_append_t *result) {
    const int64_t token_bytes = input->rows.head_dim + (int64_t)sizeof(float);
    work_t work = {.index = index, .gpu = gpu, .tokens = tokens, .length = input->tokens};
#if defined(HISA_HAVE_CUDA)
    work.stream = gpu != NULL ? gpu->stream : NULL;
#endif
    *result = (bench_append_t){.tokens = tokens, .length = input->tokens, .backend = hisa_index_backend(index)};
    result->bytes = 2 * tokens * token_bytes + hisa_ceil_div(tokens, source->options->block_size) * token_bytes;
    double *seconds = calloc((size_t)plan->repeats * 2, sizeof *seconds);
    hisa_status_t status = HISA_OK;
    if (seconds == NULL) {
        status = hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for the measurements");
    }
    if (status == HISA_OK) {
        status = stage(source, input, &work);
    }
    if (status == HISA_OK) {
        status = time_appends(&work, plan, seconds);
    }
    status = cli_session_agree(session, status);
    if (status == HISA_OK) {
        status = bench_reduce(session, seconds, plan->repeats, &result->seconds);
    }
    if (status == HISA_OK) {
        status = bench_reduce(session, seconds + plan->repeats, plan->repeats, &result->cold);
    }
    cli_staged_release(index, work.keys);
    cli_staged_release(index, work.scales);
    free(seconds);
    return status;
}
