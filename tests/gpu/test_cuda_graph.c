/* Decode in a CUDA graph on one rank (graph_tests.c). */
#include "gpu/gpu_support.h"
#include "gpu/graph_tests.h"

int main(void) {
    Suite *suite = suite_create("cuda_graph");
    graph_tests_add(suite);
    return gpu_main(suite);
}
