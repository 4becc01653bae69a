/* Writing keys into the store, pooling, and lengths. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/widen.cuh"
#include "backend/e4m3.h"

static __global__ void set_length(int32_t *length, int32_t value) { *length = value; }

extern "C" int hisa_cuda_launch_set_length(int32_t *length, int32_t value, void *stream) {
    return hisa_launch(set_length, dim3(1), 1, stream, length, value);
}

/* Local blocks that hold tokens of the span: [*begin, *end). */
static void blocks_of_span(const hisa_shard_t *shard, const hisa_span_t *span, int64_t *begin, int64_t *end) {
    const hisa_layout_t layout = hisa_shard_layout(shard, span->offset);
    *begin = hisa_layout_count(&layout, shard->rank, span->begin / shard->block_size);
    *end = hisa_layout_count(&layout, shard->rank, hisa_ceil_div(span->end, shard->block_size));
}

#define WRITE_THREADS 256 /* at least the tokens of a block */

/* Local block first_local + blockIdx.x: its tokens lie one after the other in the store and where they come from, so
 * that where they are is settled once a block. A thread copies 16 codes; the first piece copies the scales too. first:
 * tokens that this rank owns below the span. */
static __global__ void __launch_bounds__(WRITE_THREADS)
    write_tokens(hisa_shard_t shard, hisa_span_t span, const uint8_t *keys, const float *scales, bool local,
                 int64_t first_local, int64_t first) {
    const hisa_layout_t layout = hisa_shard_layout(&shard, span.offset);
    const int64_t block = first_local + blockIdx.x;
    const int64_t position = hisa_layout_global(&layout, shard.rank, block) * shard.block_size;
    const int64_t begin = hisa_max(0, span.begin - position);
    const int64_t end = hisa_min(shard.block_size, span.end - position);
    const int64_t to = (span.base + block) * shard.block_size + begin;
    const int64_t from = local ? block * shard.block_size + begin - first : position + begin - span.begin;
    const int64_t vectors = shard.head_dim / 16;
    const int64_t i = int64_t(blockIdx.y) * WRITE_THREADS + threadIdx.x;
    if (i < (end - begin) * vectors) {
        reinterpret_cast<uint4 *>(shard.store.keys)[to * vectors + i] =
            reinterpret_cast<const uint4 *>(keys)[from * vectors + i];
    }
    if (i < end - begin) {
        shard.store.scales[to + i] = scales[from + i];
    }
}

extern "C" int hisa_cuda_launch_write_tokens(const hisa_shard_t *shard, const hisa_span_t *span, const uint8_t *keys,
                                             const float *scales, bool local, void *stream) {
    const hisa_layout_t layout = hisa_shard_layout(shard, span->offset);
    int64_t begin;
    int64_t end;
    blocks_of_span(shard, span, &begin, &end);
    const int64_t pieces = hisa_ceil_div(int64_t(shard->block_size) * (shard->head_dim / 16), WRITE_THREADS);
    return hisa_launch(write_tokens, hisa_row_grid(end - begin, pieces), WRITE_THREADS, stream, *shard, *span, keys,
                       scales, local, begin, hisa_layout_count_tokens(&layout, shard->rank, span->begin));
}

/* A block of threads pools a block of tokens. Few tokens are few thread blocks, so latency is what it costs: all
 * threads decode into shared memory, four codes each at a time and the next lot on its way meanwhile, and what is left
 * of the sum over tokens in the reference's order, a thread an element, is one dependent addition a token. */
#define POOL_THREADS 256 /* at least head_dim, and at least the tokens of a block */
#define POOL_WORDS 8     /* of four codes, a thread's share of a lot */
#define POOL_LOT (POOL_THREADS * POOL_WORDS)

/* The thread's words of the lot that begins at word `first` of `words`. */
static __device__ __forceinline__ void pool_load(const uint32_t *keys, int first, int words, uint32_t lot[POOL_WORDS]) {
#pragma unroll
    for (int j = 0; j < POOL_WORDS; ++j) {
        const int i = first + j * POOL_THREADS + static_cast<int>(threadIdx.x);
        lot[j] = i < words ? keys[i] : 0;
    }
}

/* Largest of all threads' values, none of them NaN. */
static __device__ __forceinline__ float pool_largest(float warp_largest[POOL_THREADS / 32], float value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(0xFFFFFFFFu, value, distance));
    }
    if (threadIdx.x % 32 == 0) {
        warp_largest[threadIdx.x / 32] = value;
    }
    __syncthreads();
    for (int warp = 0; warp < POOL_THREADS / 32; ++warp) {
        value = fmaxf(value, warp_largest[warp]);
    }
    return value;
}

/* A NaN mean does not count in the maximum and becomes the NaN code. */
static __global__ void __launch_bounds__(POOL_THREADS)
    pool_blocks(hisa_shard_t shard, hisa_span_t span, int64_t first_local) {
    __shared__ float4 values[POOL_LOT];
    __shared__ float scales[POOL_THREADS];
    __shared__ float warp_largest[POOL_THREADS / 32];
    const hisa_layout_t layout = hisa_shard_layout(&shard, span.offset);
    const int64_t local = first_local + blockIdx.x;
    const int64_t slot = span.base + local;
    const int64_t position = hisa_layout_global(&layout, shard.rank, local) * shard.block_size;
    const int tokens = static_cast<int>(hisa_min(shard.block_size, span.length - position));
    const int thread = static_cast<int>(threadIdx.x);
    const int dim = shard.head_dim;
    const int words = tokens * (dim / 4);
    const int whole = POOL_LOT / (dim / 4); /* tokens of a lot */
    const uint32_t *keys = reinterpret_cast<const uint32_t *>(shard.store.keys + slot * shard.block_size * dim);
    uint32_t lot[POOL_WORDS];
    pool_load(keys, 0, words, lot);
    if (thread < tokens) {
        scales[thread] = shard.store.scales[slot * shard.block_size + thread];
    }
    float mean = 0.0f;
    for (int first = 0; first < tokens; first += whole) {
        const int count = tokens - first < whole ? tokens - first : whole;
#pragma unroll
        for (int j = 0; j < POOL_WORDS; ++j) {
            values[j * POOL_THREADS + thread] = hisa_widen_to_float(lot[j]);
        }
        pool_load(keys, (first + whole) * (dim / 4), words, lot);
        __syncthreads();
        if (thread < dim) {
            const float *value = reinterpret_cast<const float *>(values) + thread;
#pragma unroll 16
            for (int s = 0; s < count; ++s) {
                mean = __fadd_rn(mean, __fmul_rn(scales[first + s], value[s * dim]));
            }
        }
        __syncthreads();
    }
    mean = __fdiv_rn(mean, static_cast<float>(tokens));
    const float largest = pool_largest(warp_largest, fmaxf(fabsf(mean), 0.0f)); /* of a NaN and 0, fmaxf is 0 */
    const float part = __fdiv_rn(largest, 448.0f);
    const float scale = part > 1e-10f ? part : 1e-10f;
    if (thread < dim) {
        shard.store.pooled[slot * dim + thread] = hisa_e4m3_from_float(__fdiv_rn(mean, scale));
    }
    if (thread == 0) {
        shard.store.pooled_scales[slot] = scale;
    }
}

extern "C" int hisa_cuda_launch_pool_blocks(const hisa_shard_t *shard, const hisa_span_t *span, void *stream) {
    int64_t begin;
    int64_t end;
    blocks_of_span(shard, span, &begin, &end);
    return hisa_launch(pool_blocks, hisa_row_grid(end - begin, 1), POOL_THREADS, stream, *shard, *span, begin);
}
