/* Decode in a CUDA graph, over whatever communicator gpu_make_comm makes. */
#ifndef HISA_TESTS_GRAPH_TESTS_H
#define HISA_TESTS_GRAPH_TESTS_H

#include <check.h>

/* Two test cases: graph, the replays, and refusals, what cannot be captured. */
void graph_tests_add(Suite *suite);

#endif
