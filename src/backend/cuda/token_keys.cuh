/* The keys of a row's candidates: the tokens of its kept blocks. */
#ifndef HISA_CUDA_TOKEN_KEYS_CUH
#define HISA_CUDA_TOKEN_KEYS_CUH

#include "backend/backend.h"
#include "backend/cuda/radix.cuh"

/* A thread's four candidates from `first` on as radix keys; returns how many are in sight. position: of the first. */
static __device__ __forceinline__ uint32_t hisa_token_keys(const hisa_row_t &row, int32_t position, const float4 &score,
                                                           uint32_t *key) {
    const float raw[4] = {score.x, score.y, score.z, score.w};
    uint32_t n = 0;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
        const bool there = position + c >= row.begin && position + c < row.end;
        key[c] = there ? hisa_radix_from_score(raw[c]) : HISA_RADIX_NONE;
        n += there ? 1u : 0u;
    }
    return n;
}

/* Position of a candidate, far below every window if its place is empty. size_log2: of the block size. */
static __device__ __forceinline__ int32_t hisa_candidate_position(const int32_t *kept, int size_log2,
                                                                  int32_t candidate) {
    const int32_t block = kept[candidate >> size_log2];
    return block < 0 ? INT32_MIN : (block << size_log2) + (candidate & ((1 << size_log2) - 1));
}

#endif
