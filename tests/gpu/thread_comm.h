/* A communicator whose ranks are threads of this process and share one device: for tests of what the operations of the
 * CUDA backend do across ranks, on a machine with one GPU. Data calls are in stream order, as NCCL's: they return
 * when all ranks have made them and nothing need have moved yet. No deadline and no faults: a rank that fails makes the
 * others wait. */
#ifndef HISA_TESTS_THREAD_COMM_H
#define HISA_TESTS_THREAD_COMM_H

#include "hisa/hisa.h"

hisa_status_t thread_comm_create(int ranks, hisa_comm_t **comms);

/* Returns when the ranks have entered so many control calls (agreements), all together. */
void thread_comm_await(const hisa_comm_t *comm, int calls);

/* Makes each data call from now on take so much longer, below a second, on the stream. */
void thread_comm_delay(const hisa_comm_t *comm, long microseconds);

/* When no thread uses them any more. */
void thread_comm_destroy(int ranks, hisa_comm_t **comms);

#endif
