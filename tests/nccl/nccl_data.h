/* Device memory for tests of exchanges, and one exchange of each kind whose answer is known. */
#ifndef HISA_TESTS_NCCL_DATA_H
#define HISA_TESTS_NCCL_DATA_H

#include "support/mpi_suite.h"
#include "support/nccl_rank.h"

#define RANKS_MAX 8

#define ck_cuda(call)                                                                                                  \
    do {                                                                                                               \
        const cudaError_t ck_cuda_error = (call);                                                                      \
        ck_assert_msg(ck_cuda_error == cudaSuccess, "%s: %s", #call, cudaGetErrorString(ck_cuda_error));               \
    } while (0)

/* This rank's place, once a program. */
static inline void nccl_data_place(void) {
    static bool placed = false;
    ck_assert_int_le(mpi_suite_size(), RANKS_MAX);
    if (!placed) {
        ck_cuda(nccl_rank_place(mpi_suite_rank(), mpi_suite_size()));
        placed = true;
    }
}

static inline cudaStream_t nccl_data_stream(void) {
    cudaStream_t stream = NULL;
    ck_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    return stream;
}

/* A copy on the device, made in the stream's order. In whole words of 16 bytes: NCCL reads the last one of a part as a
 * whole, and the sanitizer minds that where a small allocation ends within it. */
static inline char *nccl_data_up(const void *host, int64_t bytes, cudaStream_t stream) {
    void *device = NULL;
    ck_cuda(cudaMalloc(&device, ((size_t)bytes / 16 + 1) * 16));
    ck_cuda(cudaMemcpyAsync(device, host, (size_t)bytes, cudaMemcpyHostToDevice, stream));
    return device;
}

/* Copies back what the stream makes of it, and frees the device's copy. */
static inline void nccl_data_down(hisa_comm_t *comm, void *host, char *device, int64_t bytes, cudaStream_t stream) {
    ck_ok(nccl_rank_wait(comm, stream)); /* first: a copy to pageable memory would wait without a deadline */
    ck_cuda(cudaMemcpyAsync(host, device, (size_t)bytes, cudaMemcpyDeviceToHost, stream));
    ck_cuda(cudaStreamSynchronize(stream));
    ck_cuda(cudaFree(device));
}

/* An all-gather and an all-to-all of the communicator, whose bytes say where they are from. */
static inline void nccl_data_check(hisa_comm_t *comm, int salt) {
    enum { PART = 100 };
    const int ranks = hisa_comm_size(comm);
    const int rank = hisa_comm_rank(comm);
    uint8_t gathered[RANKS_MAX * PART];
    uint8_t sent[RANKS_MAX * PART];
    uint8_t received[RANKS_MAX * PART];
    int64_t bytes[RANKS_MAX];
    int64_t offsets[RANKS_MAX];
    memset(gathered, salt + rank, sizeof gathered);
    memset(received, 255, sizeof received);
    for (int r = 0; r < ranks; ++r) {
        bytes[r] = PART;
        offsets[r] = INT64_C(1) * PART * r;
        memset(sent + PART * r, salt + 10 * rank + r, PART);
    }
    cudaStream_t stream = nccl_data_stream();
    char *in_place = nccl_data_up(gathered, sizeof gathered, stream);
    char *from = nccl_data_up(sent, sizeof sent, stream);
    char *to = nccl_data_up(received, sizeof received, stream);
    ck_ok(hisa_comm_allgather(comm, in_place, PART, stream));
    ck_ok(hisa_comm_alltoallv(comm, from, bytes, offsets, to, bytes, offsets, stream));
    nccl_data_down(comm, gathered, in_place, sizeof gathered, stream);
    nccl_data_down(comm, received, to, sizeof received, stream);
    ck_cuda(cudaFree(from));
    ck_cuda(cudaStreamDestroy(stream));
    for (int i = 0; i < PART * ranks; ++i) {
        ck_assert_int_eq(gathered[i], (uint8_t)(salt + i / PART));
        ck_assert_int_eq(received[i], i / PART == rank ? 255 : (uint8_t)(salt + 10 * (i / PART) + rank));
    }
}

#endif
