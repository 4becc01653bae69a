/* Decode steps of several ranks in a CUDA graph, the exchange captured with the scoring: replays give what calls made
 * then would give, and what cannot be captured is refused on all ranks (graph_tests.c). */
#include "gpu/gpu_support.h"
#include "gpu/graph_tests.h"
#include "support/nccl_suite.h"

static hisa_status_t create(hisa_comm_t **comm) {
    *comm = nccl_suite_shared_comm();
    return HISA_OK;
}

int main(void) {
    Suite *suite = suite_create("nccl_graph");
    gpu_comm_create = create;
    gpu_comm_kept = true;
    graph_tests_add(suite);
    return nccl_suite_main(suite);
}
