/* Decode in a CUDA graph, over whatever communicator gpu_make_comm makes. */
#ifndef HISA_TESTS_GRAPH_TESTS_H
#define HISA_TESTS_GRAPH_TESTS_H

#include <check.h>

TCase *graph_tests(void);

#endif
