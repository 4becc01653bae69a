/* Inputs on which every sum is exact: each scorer of the CUDA backend must give the CPU backend's bits, at sizes where
 * tiles, chunks and panels are many; and adversarial scores. */
#include <float.h>

#include "gpu/gpu_support.h"
#include "support/narrow.h"

enum { ROWS = 48, MODES = 3 };

/* The CPU's answer, and then each scorer's. top_k 0: as the options have it. */
static void compare(const trace_t *trace, int32_t block_size, const hisa_select_options_t *options, const char *what) {
    const int64_t rows = trace->config.num_rows;
    results_t expected = results_make(rows, options);
    hisa_index_t *cpu = gpu_index(trace, HISA_BACKEND_CPU, block_size, 0);
    gpu_select(cpu, trace, options, 0, 1, &expected);
    hisa_index_destroy(cpu);
    for (int s = 0; s < (int)HISA_CUDA_SCORERS; ++s) {
        if (!gpu_try_scorer((hisa_cuda_scorer_t)s, trace->config.head_dim, trace->config.num_heads, block_size)) {
            continue;
        }
        char text[160];
        snprintf(text, sizeof text, "%s, mode %s, scorer %s", what, gpu_mode_name(options->mode),
                 hisa_cuda_scorer_name((hisa_cuda_scorer_t)s));
        results_t got = results_make(rows, options);
        hisa_index_t *cuda = gpu_index(trace, HISA_BACKEND_CUDA, block_size, 0);
        ck_assert_int_eq(hisa_index_ops(cuda)->arithmetic(cuda->device) & 0xFF,
                         hisa_cuda_scorer_arithmetic((hisa_cuda_scorer_t)s));
        gpu_select(cuda, trace, options, 0, 1, &got);
        results_same(&expected, 0, &got, text);
        /* One row at a time goes by other kernels. */
        results_t one = results_make(1, options);
        for (int64_t r = 0; r < rows; r += 1 + rows / 4) {
            gpu_select(cuda, trace, options, r, 1, &one);
            results_same(&expected, r, &one, text);
        }
        results_free(&one);
        results_free(&got);
        hisa_index_destroy(cuda);
    }
    results_free(&expected);
}

/* ---------------------------------------------------------------------------------------------- traces */

static const int32_t shapes[][2] = {{64, 128}, {32, 64}, {64, 64}, {32, 256}}; /* H, B */
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static trace_t exact_trace(int64_t tokens, int64_t rows, const int32_t *shape) {
    const hisa_synth_config_t config = {.family = HISA_SYNTH_EXACT,
                                        .seed = 7,
                                        .num_tokens = tokens,
                                        .num_rows = rows,
                                        .head_dim = 128,
                                        .num_heads = shape[0],
                                        .neighbours = 1};
    return narrow_trace(&config, shape[1]);
}

START_TEST(traces) {
    trace_t trace = exact_trace(30002, ROWS, shapes[_i / MODES]);
    hisa_select_options_t options = gpu_options((hisa_mode_t)(_i % MODES));
    compare(&trace, shapes[_i / MODES][1], &options, "exact");
    options.top_k = 777; /* of no round number, and less than what is kept */
    options.sink_blocks = 0;
    options.local_blocks = 0;
    compare(&trace, shapes[_i / MODES][1], &options, "exact, k 777");
    trace_free(&trace);
}
END_TEST

/* More tokens than mode flat takes at once on Hopper, and few rows: what a sanitizer can be asked to watch. */
START_TEST(few_chunks) {
    trace_t trace = exact_trace(9002, 3, shapes[0]);
    for (int i = 0; i < 3; ++i) {
        trace.begins[i] = i * 5;
        trace.ends[i] = 9001 - i;
    }
    const hisa_select_options_t options = gpu_options((hisa_mode_t)_i);
    compare(&trace, shapes[0][1], &options, "few chunks");
    trace_free(&trace);
}
END_TEST

/* A million tokens, whole and cut. */
START_TEST(a_million_tokens) {
    trace_t trace = exact_trace(1 << 20, 3, shapes[0]);
    trace.begins[0] = 0;
    trace.ends[0] = 1 << 20;
    trace.begins[1] = 77777;
    trace.ends[1] = (1 << 20) - 3;
    trace.begins[2] = 0;
    trace.ends[2] = 1 << 20;
    const hisa_select_options_t options = gpu_options((hisa_mode_t)_i);
    compare(&trace, shapes[0][1], &options, "a million tokens");
    trace_free(&trace);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- adversarial scores */

enum { N = 20000, ONE = 0x38, MINUS_ONE = 0xb8, NAN_CODE = 0x7f, SETS = 12 };

/* Every token 1 in 16 places, queries 1 there, weights 1: dots 16, sums 16 H, and the scales alone tell tokens apart.
 */
static void fill_plain(trace_t *trace) {
    const int64_t dim = trace->config.head_dim;
    const int64_t heads = trace->config.num_heads;
    for (int64_t s = 0; s < N; ++s) {
        memset(trace->keys + s * dim, 0, (size_t)dim);
        for (int64_t d = 0; d < dim; d += 8) {
            trace->keys[s * dim + d] = ONE;
        }
        trace->scales[s] = 1.0f;
    }
    memset(trace->q, ONE, (size_t)(trace->config.num_rows * heads * dim));
    for (int64_t i = 0; i < trace->config.num_rows * heads; ++i) {
        trace->weights[i] = 1.0f;
    }
}

static void set_weights(trace_t *trace, float weight) {
    for (int64_t i = 0; i < trace->config.num_rows * trace->config.num_heads; ++i) {
        trace->weights[i] = weight;
    }
}

static const char *fill_set(trace_t *trace, int set) {
    const int64_t dim = trace->config.head_dim;
    fill_plain(trace);
    switch (set) {
    case 0:
        return "all equal";
    case 1:
        memset(trace->keys, 0, (size_t)(N * dim));
        return "all zero";
    case 2:
        set_weights(trace, -1.0f);
        return "all equal and negative";
    case 3:
        for (int64_t i = 0; i < N * dim; ++i) {
            trace->keys[i] = trace->keys[i] != 0 ? MINUS_ONE : 0;
        }
        set_weights(trace, -1.0f); /* -0 everywhere */
        return "all dots negative";
    case 4:
        for (int64_t s = 0; s < N; ++s) {
            trace->scales[s] = s * 5 % 7 < 3 ? 1.0f : 1.0f + FLT_EPSILON;
        }
        return "two clusters an ulp apart";
    case 5: /* 4096 scores that share all but their low 12 bits: one bin of the first 20 */
        for (int64_t s = 0; s < N; ++s) {
            trace->scales[s] = 1.0f + (float)(s * 389 % 4096) * FLT_EPSILON;
        }
        return "one bin holds everything";
    case 6:
        for (int64_t s = 0; s < N; ++s) {
            trace->scales[s] = 1.0f + (float)s * 0x1p-20f;
        }
        return "ascending";
    case 7:
        for (int64_t s = 0; s < N; ++s) {
            trace->scales[s] = 1.0f + (float)(N - s) * 0x1p-20f;
        }
        return "descending";
    case 8:
        for (int64_t s = 0; s < N; ++s) {
            trace->scales[s] = FLT_TRUE_MIN * (float)(1 + s * 31 % 977);
        }
        return "denormal scales";
    case 9:
        for (int64_t s = 0; s < N; s += 37) {
            trace->keys[s * dim + s % dim] = s % 2 == 0 ? NAN_CODE : NAN_CODE | 0x80;
        }
        return "NaN codes";
    case 10:
        for (int64_t s = 0; s < N; ++s) {
            trace->scales[s] = 1.0f + (float)s * 0x1p-20f;
        }
        set_weights(trace, -1.0f);
        return "ascending and negative";
    default: /* a step of one at every 1024 tokens: whole runs tie, and later ones beat what was kept */
        for (int64_t s = 0; s < N; ++s) {
            const int64_t step = s / 1024;
            trace->scales[s] = 1.0f + (float)step * 0x1p-20f;
        }
        return "ascending plateaus";
    }
}

START_TEST(adversarial) {
    static const int32_t windows[][2] = {{0, N},       {0, 0},     {777, 777}, {1, N - 1}, {5000, 5001},
                                         {5000, 5128}, {127, 129}, {0, 2048},  {0, 2049},  {N - 100, N}};
    enum { WINDOWS = sizeof windows / sizeof windows[0] };
    const int32_t *shape = shapes[_i % 2];
    const hisa_synth_config_t config = {.family = HISA_SYNTH_EXACT,
                                        .seed = 1,
                                        .num_tokens = N,
                                        .num_rows = WINDOWS,
                                        .head_dim = 128,
                                        .num_heads = shape[0],
                                        .neighbours = 1};
    trace_t trace = trace_allocate(&config);
    for (int i = 0; i < WINDOWS; ++i) {
        trace.begins[i] = windows[i][0];
        trace.ends[i] = windows[i][1];
    }
    const char *what = fill_set(&trace, _i / 2);
    for (int mode = 0; mode < MODES; ++mode) {
        hisa_select_options_t options = gpu_options((hisa_mode_t)mode);
        compare(&trace, shape[1], &options, what);
        options.top_k = mode == HISA_MODE_HISA ? options.top_blocks * shape[1] : N + 500; /* more than there are */
        compare(&trace, shape[1], &options, what);
    }
    trace_free(&trace);
}
END_TEST

/* The exact family of the synth command, whose pooled dots need 16 bits: the f32 scorer alone. */
START_TEST(synth_exact) {
    const hisa_synth_config_t config = {.family = HISA_SYNTH_EXACT,
                                        .seed = 7,
                                        .num_tokens = 100003,
                                        .num_rows = 12,
                                        .head_dim = 128,
                                        .num_heads = 64,
                                        .neighbours = 1};
    if (!gpu_wants_scorer(HISA_CUDA_SCORER_F32)) {
        return;
    }
    trace_t trace = trace_make(&config, 100003, 12);
    const hisa_select_options_t options = gpu_options((hisa_mode_t)_i);
    results_t expected = results_make(12, &options);
    results_t got = results_make(12, &options);
    hisa_index_t *cpu = gpu_index(&trace, HISA_BACKEND_CPU, 128, 0);
    gpu_use_scorer(HISA_CUDA_SCORER_F32);
    hisa_index_t *cuda = gpu_index(&trace, HISA_BACKEND_CUDA, 128, 0);
    gpu_select(cpu, &trace, &options, 0, 1, &expected);
    gpu_select(cuda, &trace, &options, 0, 2, &got);
    results_same(&expected, 0, &got, "exact family");
    results_free(&expected);
    results_free(&got);
    hisa_index_destroy(cpu);
    hisa_index_destroy(cuda);
    trace_free(&trace);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cuda_exact");
    TCase *small = tcase_create("small");
    tcase_add_checked_fixture(small, gpu_make_comm, gpu_drop_comm);
    tcase_add_loop_test(small, few_chunks, 0, MODES);
    suite_add_tcase(suite, small);
    TCase *tests = tcase_create("exact");
    tcase_add_checked_fixture(tests, gpu_make_comm, gpu_drop_comm);
    tcase_add_loop_test(tests, traces, 0, SHAPES * MODES);
    tcase_add_loop_test(tests, a_million_tokens, 0, MODES);
    tcase_add_loop_test(tests, adversarial, 0, SETS * 2);
    tcase_add_loop_test(tests, synth_exact, 0, MODES);
    suite_add_tcase(suite, tests);
    return gpu_main(suite);
}
