/* Decode in a CUDA graph, over whatever communicator gpu_make_comm makes. */
#ifndef HISA_TESTS_GRAPH_TESTS_H
#define HISA_TESTS_GRAPH_TESTS_H

#include <check.h>
#include <stdbool.h>

/* with_refusals: also what cannot be captured, on one rank. */
TCase *graph_tests(bool with_refusals);

#endif
