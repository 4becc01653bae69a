/* Decode in a CUDA graph: captured once, in the strictest mode, and replayed with new queries and windows in place and
 * after appends, it must give what a call made then would give. What cannot be captured is refused, and the capture
 * goes on. */
#include "gpu/graph_tests.h"

#include "gpu/gpu_support.h"
#include "support/runs.h"
#include "support/stage.h"

enum { TOKENS = 20000, MOST_ROWS = 64, HEADS = 64, BLOCK = 128, MODES = 3, REPLAYS = 6 };

static trace_t drift;

static void make_drift(void) { drift = gpu_drift(TOKENS, MOST_ROWS * REPLAYS, HEADS, 17); }
static void drop_drift(void) { trace_free(&drift); }

/* What a failing test leaves behind. A graph that holds exchanges keeps its communicator from ending, so it goes first.
 */
static struct {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
} live;

static void drop_graphs(void) {
    if (live.exec != NULL) {
        ck_cuda(cudaGraphExecDestroy(live.exec));
    }
    if (live.graph != NULL) {
        ck_cuda(cudaGraphDestroy(live.graph));
    }
    live.exec = NULL;
    live.graph = NULL;
}

static void after_test(void) {
    drop_graphs();
    gpu_drop_comm();
}

/* A decode step's own memory: inputs that are written in place, results and workspace. */
typedef struct step {
    hisa_index_t *index;
    hisa_select_options_t options;
    hisa_queries_t queries;
    hisa_selection_t selection;
    void *workspace;
    size_t bytes;
    cudaStream_t stream;
    stage_t stage;
    results_t results;
} step_t;

static void step_open(step_t *step, hisa_mode_t mode, int64_t rows, int64_t tokens) {
    static uint8_t zeros[MOST_ROWS * HEADS * 128];
    const hisa_index_config_t config = gpu_config(&drift, HISA_BACKEND_CUDA, BLOCK);
    *step = (step_t){.options = gpu_options(mode)};
    step->options.flags = rows % 2 == 0 ? HISA_SELECT_UNCHECKED : 0u;
    /* What can be captured; by name, one rank takes the way of several as well. */
    step->options.exchange = rows % 3 == 2 || hisa_comm_size(gpu_comm) > 1 ? HISA_EXCHANGE_ONESHOT : HISA_EXCHANGE_AUTO;
    ck_ok(hisa_index_create(&config, gpu_comm, &step->index));
    gpu_append(step->index, &drift, 0, tokens);
    step->stage.index = step->index;
    step->results = results_make(rows, &step->options);
    const size_t cells = (size_t)(rows * step->options.top_k) * sizeof(int32_t);
    hisa_queries_init(&step->queries);
    step->queries.num_rows = rows;
    step->queries.q = stage_in(&step->stage, zeros, (size_t)rows * HEADS * 128);
    step->queries.weights = stage_in(&step->stage, zeros, (size_t)rows * HEADS * sizeof(float));
    step->queries.window_begin = stage_in(&step->stage, zeros, (size_t)rows * sizeof(int32_t));
    /* Half of the time windows end where the sequence does, which a replay must see grow. */
    step->queries.window_end = rows % 3 == 0 ? NULL : stage_in(&step->stage, zeros, (size_t)rows * sizeof(int32_t));
    hisa_selection_init(&step->selection);
    step->selection.indices = stage_in_out(&step->stage, step->results.indices, cells);
    step->selection.counts =
        stage_in_out(&step->stage, step->results.counts, (size_t)rows * sizeof *step->results.counts);
    step->selection.scores = stage_in_out(&step->stage, step->results.scores, cells);
    ck_ok(hisa_select_workspace_size(step->index, &step->options, rows, &step->bytes));
    ck_cuda(cudaMalloc(&step->workspace, step->bytes));
    ck_cuda(cudaStreamCreateWithFlags(&step->stream, cudaStreamNonBlocking));
}

static void step_close(step_t *step) {
    ck_cuda(cudaStreamDestroy(step->stream));
    ck_cuda(cudaFree(step->workspace));
    stage_end(&step->stage);
    results_free(&step->results);
    hisa_index_destroy(step->index);
}

static hisa_status_t step_call(step_t *step) {
    return hisa_select(step->index, &step->queries, &step->options, &step->selection, step->workspace, step->bytes,
                       step->stream);
}

/* Rows [first, ..) of the trace into the step's inputs, with windows that fit `length`. */
static void step_load(step_t *step, int64_t first, int64_t length) {
    const int64_t rows = step->queries.num_rows;
    static int32_t begins[MOST_ROWS];
    static int32_t ends[MOST_ROWS];
    for (int64_t r = 0; r < rows; ++r) {
        begins[r] = (int32_t)((first + r) * 41 % 3 == 0 ? (first + r) * 29 % length : 0);
        ends[r] = (int32_t)(length - (r + first) % 7 * 100);
        ends[r] = ends[r] < begins[r] ? begins[r] : ends[r];
    }
    const size_t heads = (size_t)rows * HEADS;
    /* The default stream: the step's own does not wait for it, so it is waited for here. */
    ck_cuda(cudaMemcpy((void *)(uintptr_t)step->queries.q, drift.q + first * HEADS * 128, heads * 128,
                       cudaMemcpyHostToDevice));
    ck_cuda(cudaMemcpy((void *)(uintptr_t)step->queries.weights, drift.weights + first * HEADS, heads * sizeof(float),
                       cudaMemcpyHostToDevice));
    ck_cuda(cudaMemcpy((void *)(uintptr_t)step->queries.window_begin, begins, (size_t)rows * sizeof *begins,
                       cudaMemcpyHostToDevice));
    if (step->queries.window_end != NULL) {
        ck_cuda(cudaMemcpy((void *)(uintptr_t)step->queries.window_end, ends, (size_t)rows * sizeof *ends,
                           cudaMemcpyHostToDevice));
    }
    /* Nothing that an earlier call left may pass for this one's. */
    ck_cuda(cudaMemset(step->workspace, 0xff, step->bytes));
    ck_cuda(cudaMemset(step->selection.indices, 0x77, (size_t)(rows * step->options.top_k) * sizeof(int32_t)));
    ck_cuda(cudaMemset(step->selection.counts, 0x77, (size_t)rows * sizeof(int32_t)));
    ck_cuda(cudaDeviceSynchronize());
}

/* Captures a call into live.exec. */
static void step_capture(step_t *step) {
    size_t nodes = 0;
    ck_cuda(cudaStreamBeginCapture(step->stream, cudaStreamCaptureModeGlobal));
    const hisa_status_t status = step_call(step);
    const cudaError_t ended = cudaStreamEndCapture(step->stream, &live.graph);
    ck_assert_msg(status == HISA_OK, "in a capture: %s", hisa_last_error());
    ck_cuda(ended);
    ck_cuda(cudaGraphGetNodes(live.graph, NULL, &nodes));
    ck_assert_uint_gt(nodes, 0);
    ck_cuda(cudaGraphInstantiate(&live.exec, live.graph, 0));
}

static void take_results(step_t *step, results_t *into) {
    ck_cuda(cudaStreamSynchronize(step->stream));
    stage_back(&step->stage);
    const size_t cells = (size_t)(into->rows * into->k);
    memcpy(into->indices, step->results.indices, cells * sizeof *into->indices);
    memcpy(into->counts, step->results.counts, (size_t)into->rows * sizeof *into->counts);
    if (into->scores != NULL) {
        memcpy(into->scores, step->results.scores, cells * sizeof *into->scores);
    }
}

static void replay(hisa_mode_t mode, int64_t rows, const char *scorer) {
    step_t step;
    char what[128];
    int64_t length = TOKENS - 900 * REPLAYS;
    int64_t chosen = 0;
    step_open(&step, mode, rows, length);
    step_load(&step, 0, length);
    step_capture(&step);
    results_t captured = results_make(rows, &step.options);
    results_t eager = results_make(rows, &step.options);
    for (int i = 0; i < REPLAYS; ++i) {
        snprintf(what, sizeof what, "mode %s, scorer %s, %d rows, replay %d", gpu_mode_name(mode), scorer, (int)rows,
                 i);
        if (i > 1) { /* replays 0 and 1 see the length that was captured */
            const int64_t more = i % 2 == 0 ? 1 : 1799;
            gpu_append(step.index, &drift, length, length + more);
            length += more;
        }
        step_load(&step, i * rows, length);
        ck_cuda(cudaGraphLaunch(live.exec, step.stream));
        take_results(&step, &captured);
        step_load(&step, i * rows, length);
        ck_ok(step_call(&step));
        take_results(&step, &eager);
        results_same(&eager, 0, &captured, what);
        for (int64_t r = 0; r < rows; ++r) {
            chosen += eager.counts[r];
        }
    }
    ck_assert_int_gt(chosen, 0);
    /* A shorter sequence too. */
    ck_ok(hisa_index_truncate(step.index, 0, 5003, NULL));
    step_load(&step, 0, 5003);
    ck_cuda(cudaGraphLaunch(live.exec, step.stream));
    take_results(&step, &captured);
    step_load(&step, 0, 5003);
    ck_ok(step_call(&step));
    take_results(&step, &eager);
    results_same(&eager, 0, &captured, "after a truncate");
    results_free(&captured);
    results_free(&eager);
    drop_graphs();
    step_close(&step);
}

START_TEST(replays) {
    static const int64_t rows[] = {1, 2, 3, 8, 17, 32, 64};
    const hisa_cuda_scorer_t scorer = (hisa_cuda_scorer_t)(_i / MODES);
    if (!gpu_try_scorer(scorer, 128, HEADS, BLOCK)) {
        return;
    }
    const int count = (int)(sizeof rows / sizeof rows[0]);
    const int part = test_part(count);
    for (int n = 0; n < part; ++n) {
        const int i = (n * count / part + _i) % count;
        replay((hisa_mode_t)(_i % MODES), rows[i], hisa_cuda_scorer_name(scorer));
    }
}
END_TEST

/* ---------------------------------------------------------------------------------------------- what cannot be */

/* Of the first outcome that is not the expected one, what it was. */
static void note(char *why, size_t size, const char *what, hisa_status_t got, hisa_status_t wanted, const char *text) {
    if (why[0] == '\0' && (got != wanted || (got != HISA_OK && strstr(hisa_last_error(), text) == NULL))) {
        snprintf(why, size, "%s: got %s (%.120s), expected %s with \"%s\"", what, hisa_status_string(got),
                 got == HISA_OK ? "" : hisa_last_error(), hisa_status_string(wanted), text);
    }
}

/* Nodes of live.graph that do something on the device. A communicator adds others for an order of its own: once a
 * graph, not once a call. */
static int work_nodes(void) {
    enum { MOST = 512 };
    cudaGraphNode_t nodes[MOST];
    size_t count = 0;
    int work = 0;
    ck_cuda(cudaGraphGetNodes(live.graph, NULL, &count));
    ck_assert_uint_le(count, MOST);
    ck_cuda(cudaGraphGetNodes(live.graph, nodes, &count));
    for (size_t i = 0; i < count; ++i) {
        enum cudaGraphNodeType type = cudaGraphNodeTypeEmpty;
        ck_cuda(cudaGraphNodeGetType(nodes[i], &type));
        work += type == cudaGraphNodeTypeKernel || type == cudaGraphNodeTypeMemcpy || type == cudaGraphNodeTypeMemset;
    }
    return work;
}

/* Makes all calls that must be refused on the step's stream, which is being captured. Says in `why` which was not: an
 * assertion here would leave the capture open. */
static void make_refused_calls(step_t *step, char *why, size_t size) {
    const hisa_select_options_t good = step->options;
    const size_t bytes = step->bytes;
    const hisa_status_t no = HISA_ERR_UNSUPPORTED;
    const void *keys = step->queries.q;
    const float *scales = step->queries.weights;
    for (int mode = HISA_MODE_HISA; mode <= HISA_MODE_FLAT; ++mode) {
        step->options = good;
        step->options.mode = (hisa_mode_t)mode;
        step->options.exchange = HISA_EXCHANGE_OWNER;
        note(why, size, "owner merge", step_call(step), no, "is being captured");
        step->options.exchange = good.exchange;
        step->options.flags |= HISA_SELECT_TIMED;
        note(why, size, "timed", step_call(step), no, "is being captured");
    }
    step->options = good;
    note(why, size, "append", hisa_index_append(step->index, 0, 16, keys, scales, HISA_KEYS_REPLICATED, step->stream),
         no, "cannot be part of a graph");
    note(why, size, "truncate", hisa_index_truncate(step->index, 0, 777, step->stream), no,
         "cannot be part of a graph");
    note(why, size, "overwrite",
         hisa_index_overwrite(step->index, 0, 0, 1, keys, scales, HISA_KEYS_REPLICATED, step->stream), no,
         "cannot be part of a graph");
    note(why, size, "synchronize", hisa_index_synchronize(step->index, step->stream), no, "cannot be part of a graph");
    step->bytes = 16;
    note(why, size, "small workspace", step_call(step), HISA_ERR_WORKSPACE, "");
    step->bytes = bytes;
}

/* A capture that begins with a good call and ends with one, and is refused others in between: the graph holds the two.
 */
START_TEST(refusals) {
    step_t step;
    char why[400] = "";
    step_open(&step, HISA_MODE_HISA, 4, 10000);
    step_load(&step, 0, 10000);
    step_capture(&step);
    const int once = work_nodes();
    drop_graphs();

    /* Room for every call that is refused, so that it is not refused for that. */
    for (int mode = HISA_MODE_HISA; mode <= HISA_MODE_FLAT; ++mode) {
        hisa_select_options_t any = step.options;
        size_t bytes = 0;
        any.mode = (hisa_mode_t)mode;
        any.exchange = HISA_EXCHANGE_AUTO;
        ck_ok(hisa_select_workspace_size(step.index, &any, 4, &bytes));
        step.bytes = step.bytes < bytes ? bytes : step.bytes;
    }
    ck_cuda(cudaFree(step.workspace));
    ck_cuda(cudaMalloc(&step.workspace, step.bytes));
    ck_cuda(cudaStreamBeginCapture(step.stream, cudaStreamCaptureModeGlobal));
    note(why, sizeof why, "first", step_call(&step), HISA_OK, "");
    make_refused_calls(&step, why, sizeof why);
    note(why, sizeof why, "last", step_call(&step), HISA_OK, "");
    ck_cuda(cudaStreamEndCapture(step.stream, &live.graph));
    ck_assert_msg(why[0] == '\0', "%s", why);
    ck_assert_int_eq(work_nodes(), 2 * once);
    drop_graphs();

    /* The index is what it was, and the stream works. */
    int64_t length = 0;
    ck_ok(hisa_index_length(step.index, 0, &length));
    ck_assert_int_eq(length, 10000);
    step.options.exchange = HISA_EXCHANGE_OWNER;
    ck_ok(step_call(&step));
    ck_ok(hisa_index_synchronize(step.index, step.stream));
    step_close(&step);
}
END_TEST

static TCase *add_case(Suite *suite, const char *name) {
    TCase *tests = tcase_create(name);
    tcase_add_unchecked_fixture(tests, make_drift, drop_drift);
    tcase_add_checked_fixture(tests, gpu_make_comm, after_test);
    suite_add_tcase(suite, tests);
    return tests;
}

void graph_tests_add(Suite *suite) {
    tcase_add_loop_test(add_case(suite, "graph"), replays, 0, HISA_CUDA_SCORERS * MODES);
    tcase_add_test(add_case(suite, "refusals"), refusals);
}
