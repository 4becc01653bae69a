/* Selections of ranks that talk by NCCL, several of them on one GPU if need be.
 *   - small cases of every kind against the reference, with the scorer that must equal it on any input;
 *   - a larger trace with the library's own choice of scorer against one rank of the same backend, byte for byte. */
#include "gpu/gpu_support.h"
#include "support/stage.h"
#include "support/nccl_suite.h"

/* Ranks on one GPU take turns, and a collective takes milliseconds there. */
#define SELECT_SUITE_CASES 20
#define SELECT_SUITE_CALLS 60
#define SELECT_SUITE_BACKEND HISA_BACKEND_CUDA
#define select_suite_comm nccl_suite_shared_comm
#define select_suite_done(comm) ((void)(comm))

#include "support/select_suite.h"

enum { TOKENS = 30011, ROWS = 61, HEADS = 64, BLOCK = 128, TILE = 7, WAYS = 18 };

/* -- one GPU as the reference -- */

/* The drift trace as a case whose expected results are those of a single rank. */
static void make_trace_case(test_case_t *made, hisa_mode_t mode) {
    trace_t trace = gpu_drift(TOKENS, ROWS, HEADS, 23);
    test_case_blank(made, 128, HEADS, BLOCK, TOKENS, ROWS);
    made->config.backend = HISA_BACKEND_CUDA;
    made->options = gpu_options(mode);
    memcpy(test_case_key(made, 0), trace.keys, (size_t)TOKENS * 128);
    memcpy(test_case_scale(made, 0), trace.scales, TOKENS * sizeof(float));
    memcpy(made->q, trace.q, (size_t)ROWS * HEADS * 128);
    memcpy(made->weights, trace.weights, (size_t)ROWS * HEADS * sizeof(float));
    trace_free(&trace);
    for (int64_t t = 0; t < ROWS; ++t) {
        test_case_window(made, t, t % 5 == 0 ? t * 131 : 0, t % 3 == 0 ? t * 400 : TOKENS - t);
    }
    test_case_change(made, CHANGE_APPEND, 0, TOKENS);
    made->indices = test_alloc(ROWS * (int64_t)made->options.top_k, sizeof(int32_t));
    made->counts = test_alloc(ROWS, sizeof(int32_t));
    made->scores = test_alloc(ROWS * (int64_t)made->options.top_k, sizeof(float));
}

static void expect_single(test_case_t *made) {
    const int64_t cells = ROWS * (int64_t)made->options.top_k;
    run_t run;
    run_plain(&run, made, 1);
    hisa_comm_t *self = NULL;
    hisa_index_t *index = NULL;
    ck_ok(hisa_comm_create_self(&self));
    ck_ok(run_create_index(&run, made, self, &index));
    stage_t stage = {.index = index};
    const hisa_queries_t plain = test_case_queries(made, 0, ROWS);
    const hisa_queries_t queries = stage_queries(&stage, &plain);
    hisa_selection_t selection;
    hisa_selection_init(&selection);
    selection.indices = stage_in_out(&stage, made->indices, (size_t)cells * sizeof(int32_t));
    selection.counts = stage_in_out(&stage, made->counts, ROWS * sizeof(int32_t));
    selection.scores = run.want_scores ? stage_in_out(&stage, made->scores, (size_t)cells * sizeof(float)) : NULL;
    size_t bytes = 0;
    void *workspace = NULL;
    ck_ok(hisa_select_workspace_size(index, &made->options, ROWS, &bytes));
    ck_cuda(cudaMalloc(&workspace, bytes));
    ck_ok(hisa_select(index, &queries, &made->options, &selection, workspace, bytes, NULL));
    stage_back(&stage);
    stage_end(&stage);
    ck_cuda(cudaFree(workspace));
    hisa_index_destroy(index);
    hisa_comm_destroy(self);
}

START_MPI_TEST(as_a_single_gpu) {
    static const int64_t stripes[] = {1, 2, 7, HISA_STRIPE_CONTIGUOUS};
    static const int32_t tiles[] = {0, TILE, 20};
    const hisa_mode_t mode = (hisa_mode_t)_i;
    hisa_comm_t *comm = nccl_suite_shared_comm();
    test_case_t made;
    gpu_use_scorer(HISA_CUDA_SCORERS);
    make_trace_case(&made, mode);
    expect_single(&made);
    rng_t rng = {(uint64_t)(400 + _i)};
    for (int stripe = 0; stripe < 4; ++stripe) {
        run_t run;
        hisa_index_t *index = NULL;
        run_draw(&run, &rng, &made, mpi_suite_size());
        run.stripe = stripes[stripe];
        ck_ok(run_create_index(&run, &made, comm, &index));
        for (int i = 0; i < test_part(WAYS); ++i) {
            const int way = (7 * i + 5 * stripe) % WAYS;   /* a part of them holds some of each */
            run_draw(&run, &rng, &made, mpi_suite_size()); /* the index stays as it is; draws who has which rows */
            run.stripe = stripes[stripe];
            run.exchange = (hisa_exchange_t)(HISA_EXCHANGE_OWNER + way % 3);
            run.queries_on = way / 3 % 2 == 0 ? HISA_QUERIES_REPLICATED : HISA_QUERIES_SHARDED;
            run.placement = (hisa_placement_t)(way / 6);
            run.tile_rows = tiles[(way + stripe) % 3];
            run.want_counts = true;
            char why[256] = "";
            const bool well = run_check_index(&run, &made, comm, index, why, sizeof why);
            ck_assert_msg(agreed(well, &run, &made, why), "stripe %d, way %d", stripe, way);
        }
        hisa_index_destroy(index);
    }
    test_case_free(&made);
}

/* -- a thousand calls -- */

/* Sizes change from call to call and the workspace holds what the last call left: no stale byte may decide. HISA_TEST_
 * CALLS sets how many. */
START_MPI_TEST(thousand_calls) {
    const int64_t calls = test_calls(1000);
    hisa_comm_t *comm = nccl_suite_shared_comm();
    test_case_t made;
    named_cases[10].build(&made);
    made.config.backend = HISA_BACKEND_CUDA;
    rng_t rng = {79};
    run_t run;
    run_plain(&run, &made, mpi_suite_size());
    hisa_index_t *index = NULL;
    ck_ok(run_create_index(&run, &made, comm, &index));
    const int64_t all_rows = made.num_rows;
    for (int64_t call = 0; call < calls; ++call) {
        made.num_rows = rng_range(&rng, 0, all_rows);
        made.options.mode = (hisa_mode_t)rng_range(&rng, HISA_MODE_HISA, HISA_MODE_BLOCK);
        made.options.top_blocks = (int32_t)rng_range(&rng, 2, 9);
        made.options.top_k = (int32_t)rng_range(&rng, 1, made.options.top_blocks * 16);
        test_case_again(&made);
        run_draw(&run, &rng, &made, mpi_suite_size());
        run.repeats = 1;
        run.tile_rows = run.tile_rows == 1 ? 0 : run.tile_rows; /* a tile a row costs as many exchanges */
        char why[256] = "";
        const bool well = run_check_index(&run, &made, comm, index, why, sizeof why);
        ck_assert_msg(agreed(well, &run, &made, why), "call %lld", (long long)call);
    }
    hisa_index_destroy(index);
    test_case_free(&made);
}

static void use_f32(void) { gpu_use_scorer(HISA_CUDA_SCORER_F32); }

int main(void) {
    Suite *suite = suite_create("nccl_select");
    TCase *small = tcase_create("small");
    tcase_add_checked_fixture(small, use_f32, NULL);
    select_suite_add(small);
    suite_add_tcase(suite, small);
    TCase *large = tcase_create("as_a_single_gpu");
    tcase_add_loop_test(large, as_a_single_gpu, HISA_MODE_HISA, HISA_MODE_BLOCK + 1);
    suite_add_tcase(suite, large);
    TCase *many = tcase_create("thousand_calls");
    tcase_add_checked_fixture(many, use_f32, NULL);
    tcase_add_test(many, thousand_calls);
    suite_add_tcase(suite, many);
    return nccl_suite_main(suite);
}
