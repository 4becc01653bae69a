/* Ranks as threads on one device (comm/threads.h), side by side: for tests of what the operations of the CUDA backend
 * do across ranks, on a machine with one GPU. Data calls are in stream order, as NCCL's. */
#ifndef HISA_TESTS_THREAD_COMM_H
#define HISA_TESTS_THREAD_COMM_H

#include "hisa/hisa.h"

hisa_status_t thread_comm_create(int ranks, hisa_comm_t **comms);

/* Returns when the ranks have entered so many control calls (agreements), all together. */
void thread_comm_await(const hisa_comm_t *comm, int calls);

/* Makes each data call from now on, of the group made last, take so much longer, below a second, on the stream. */
void thread_comm_delay(long microseconds);

/* When no thread uses them any more. */
void thread_comm_destroy(int ranks, hisa_comm_t **comms);

#endif
