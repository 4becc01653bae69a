/* What the GPU suites share: one process and no fork (CUDA does not survive it), a communicator, traces played on an
 * index of either backend, and the choice of a scorer. A suite exits with 77, which CTest takes for skipped, where
 * there is no device.
 *     HISA_CUDA_SCORER=s    tests that go through the scorers try this one alone */
#ifndef HISA_TESTS_GPU_SUPPORT_H
#define HISA_TESTS_GPU_SUPPORT_H

#include <stdbool.h>
#include <stdio.h>

#include "backend/cuda/cuda.h"
#include "index/index.h"
#include "support/synth_trace.h"

/* Asserts that a CUDA call of the test's own succeeds. */
#define ck_cuda(call)                                                                                                  \
    do {                                                                                                               \
        const cudaError_t ck_cuda_error = (call);                                                                      \
        ck_assert_msg(ck_cuda_error == cudaSuccess, "%s: %s", #call, cudaGetErrorString(ck_cuda_error));               \
    } while (0)

/* Says what device there is; false if there is none. */
bool gpu_present(void);

/* A suite's main: runs it in this process, or gives 77 (no device, or one that does not have the scorer asked for). */
int gpu_main(Suite *suite);

/* The communicator of the test under way: a checked fixture. Self, unless a suite says how another is made. */
extern hisa_comm_t *gpu_comm;
extern hisa_status_t (*gpu_comm_create)(hisa_comm_t **comm);
extern bool gpu_comm_kept; /* by the suite: a test's end does not destroy it */
void gpu_make_comm(void);
void gpu_drop_comm(void);

/* Whether tests of this scorer were asked for. */
bool gpu_wants_scorer(hisa_cuda_scorer_t scorer);

/* Makes indexes created from now on use this scorer; HISA_CUDA_SCORERS: the library's choice again. */
void gpu_use_scorer(hisa_cuda_scorer_t scorer);

/* The same if it was asked for and the device has it for the shape; otherwise false, and a line says the latter. */
bool gpu_try_scorer(hisa_cuda_scorer_t scorer, int32_t head_dim, int32_t num_heads, int32_t block_size);

/* ---------------------------------------------------------------------------------------------- traces */

/* Results of rows [first, first + rows) of a trace, on the host. */
typedef struct results {
    int64_t rows;
    int64_t k;
    int32_t *indices;
    int32_t *counts;
    float *scores; /* NULL in mode block */
} results_t;

results_t results_make(int64_t rows, const hisa_select_options_t *options);
void results_free(results_t *results);

/* Asserts that rows [0, b->rows) of `b` are rows [first, first + b->rows) of `a`, to the bit. */
void results_same(const results_t *a, int64_t first, const results_t *b, const char *what);

/* The synth family drift, in memory. */
trace_t gpu_drift(int64_t tokens, int64_t rows, int32_t heads, uint64_t seed);

/* Configuration of an index for the trace, with room to spare. */
hisa_index_config_t gpu_config(const trace_t *trace, hisa_backend_t backend, int32_t block_size);

/* An index that holds the trace, appended in pieces of `chunk` tokens (0: all at once), on gpu_comm. */
hisa_index_t *gpu_index(const trace_t *trace, hisa_backend_t backend, int32_t block_size, int64_t chunk);

/* Appends tokens [begin, end) of the trace at once. */
void gpu_append(hisa_index_t *index, const trace_t *trace, int64_t begin, int64_t end);

/* `times` calls in a row for rows [first, first + results->rows); all calls after the first must repeat it. */
void gpu_select(hisa_index_t *index, const trace_t *trace, const hisa_select_options_t *options, int64_t first,
                int times, results_t *results);

hisa_select_options_t gpu_options(hisa_mode_t mode);
const char *gpu_mode_name(hisa_mode_t mode);

#endif
