/* Decode steps of several ranks in a CUDA graph, the exchange captured with the scoring: replays give what calls made
 * then would give (graph_tests.c). */
#include "gpu/gpu_support.h"
#include "gpu/graph_tests.h"
#include "support/nccl_suite.h"

static hisa_status_t create(hisa_comm_t **comm) {
    *comm = nccl_suite_comm();
    return HISA_OK;
}

int main(void) {
    Suite *suite = suite_create("nccl_graph");
    gpu_comm_create = create;
    suite_add_tcase(suite, graph_tests(false));
    return nccl_suite_main(suite);
}
