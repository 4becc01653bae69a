/* Writing keys into the store, pooling, and lengths. */
#include "backend/cuda/launch.cuh"
#include "backend/e4m3.h"

static __global__ void set_length(int32_t *length, int32_t value) { *length = value; }

extern "C" int hisa_cuda_launch_set_length(int32_t *length, int32_t value, void *stream) {
    return hisa_launch(set_length, dim3(1), 1, stream, length, value);
}

/* A thread copies 16 codes. Owned tokens are counted from the sequence's first: they lie in that order in the store. */
static __global__ void write_tokens(hisa_shard_t shard, hisa_span_t span, const uint8_t *keys, const float *scales,
                                    bool local, int64_t first, int64_t tokens) {
    const hisa_layout_t layout = hisa_shard_layout(&shard, span.offset);
    const int64_t vectors = shard.head_dim / 16;
    for (int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x; i < tokens * vectors;
         i += gridDim.x * int64_t(blockDim.x)) {
        const int64_t token = i / vectors;
        const int64_t own = first + token;
        const int64_t block = hisa_layout_global(&layout, shard.rank, own / shard.block_size);
        const int64_t position = block * shard.block_size + own % shard.block_size;
        const int64_t from = local ? token : position - span.begin;
        const int64_t to = int64_t(span.base) * shard.block_size + own;
        reinterpret_cast<uint4 *>(shard.store.keys)[to * vectors + i % vectors] =
            reinterpret_cast<const uint4 *>(keys)[from * vectors + i % vectors];
        if (i % vectors == 0) {
            shard.store.scales[to] = scales[from];
        }
    }
}

extern "C" int hisa_cuda_launch_write_tokens(const hisa_shard_t *shard, const hisa_span_t *span, const uint8_t *keys,
                                             const float *scales, bool local, void *stream) {
    const hisa_layout_t layout = hisa_shard_layout(shard, span->offset);
    const int64_t first = hisa_layout_count_tokens(&layout, shard->rank, span->begin);
    const int64_t tokens = hisa_layout_count_tokens(&layout, shard->rank, span->end) - first;
    return hisa_launch(write_tokens, hisa_element_grid(tokens * (shard->head_dim / 16), 256), 256, stream, *shard,
                       *span, keys, scales, local, first, tokens);
}

/* A block of threads pools a block of tokens, a thread an element: the sum over tokens has the reference's order. A NaN
 * mean does not count in the maximum and becomes the NaN code. */
static __global__ void pool_blocks(hisa_shard_t shard, hisa_span_t span, int64_t first_local) {
    __shared__ float largest_of[256];
    const hisa_layout_t layout = hisa_shard_layout(&shard, span.offset);
    const int64_t local = first_local + blockIdx.x;
    const int64_t slot = span.base + local;
    const int64_t dim = shard.head_dim;
    const int64_t first = hisa_layout_global(&layout, shard.rank, local) * shard.block_size;
    const int64_t tokens = hisa_min(shard.block_size, span.length - first);
    const uint8_t *keys = shard.store.keys + slot * shard.block_size * dim + threadIdx.x;
    const float *scales = shard.store.scales + slot * shard.block_size;
    float mean = 0.0f;
    for (int64_t s = 0; s < tokens; ++s) {
        mean = __fadd_rn(mean, __fmul_rn(scales[s], hisa_e4m3_to_float(keys[s * dim])));
    }
    mean = __fdiv_rn(mean, static_cast<float>(tokens));
    largest_of[threadIdx.x] = fabsf(mean);
    __syncthreads();
    float largest = 0.0f;
    for (int64_t d = 0; d < dim; ++d) {
        largest = largest_of[d] > largest ? largest_of[d] : largest;
    }
    const float part = __fdiv_rn(largest, 448.0f);
    const float scale = part > 1e-10f ? part : 1e-10f;
    shard.store.pooled[slot * dim + threadIdx.x] = hisa_e4m3_from_float(__fdiv_rn(mean, scale));
    if (threadIdx.x == 0) {
        shard.store.pooled_scales[slot] = scale;
    }
}

extern "C" int hisa_cuda_launch_pool_blocks(const hisa_shard_t *shard, const hisa_span_t *span, void *stream) {
    const hisa_layout_t layout = hisa_shard_layout(shard, span->offset);
    const int64_t size = shard->block_size;
    const int64_t begin = hisa_layout_count(&layout, shard->rank, span->begin / size);
    const int64_t end = hisa_layout_count(&layout, shard->rank, hisa_ceil_div(span->end, size));
    return hisa_launch(pool_blocks, dim3(static_cast<unsigned>(end - begin)), static_cast<unsigned>(shard->head_dim),
                       stream, *shard, *span, begin);
}
