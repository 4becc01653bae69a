/* Scores of one row and a panel of keys, in f32 on the CUDA cores, in the order that the CPU backend and the reference
 * sum in: over d ascending (products of e4m3 values are exact, so a fused multiply-add rounds as the sum alone would),
 * then over heads ascending, product and sum each rounded. Equal to them to the bit on any input. */
#ifndef HISA_CUDA_SCORE_CUH
#define HISA_CUDA_SCORE_CUH

#include <stdint.h>

#include "backend/e4m3.h"

/* 128 threads: a thread has one key to load and to score; in the products a warp takes 16 of 64 heads and a thread 4 of
 * the 128 keys, 64 sums in registers, for which it reads 8 wavefronts of shared memory every 64 instructions: half of
 * what the four warps of a multiprocessor's quarter could read. */
#define HISA_SCORE_KEYS 128
#define HISA_SCORE_HEADS 64
#define HISA_SCORE_DEPTH 32 /* of d at a time: what is staged is no larger than the dots, whose place it shares */

union hisa_score_t {
    struct {
        float key[HISA_SCORE_DEPTH][HISA_SCORE_KEYS];
        float q[HISA_SCORE_DEPTH][HISA_SCORE_HEADS];
    } stage;
    float dot[HISA_SCORE_HEADS][HISA_SCORE_KEYS];
};

/* 16 codes at `from` (16-byte aligned; NULL: zeros) to out[0], out[stride], ... */
__device__ __forceinline__ void hisa_decode_16(const uint8_t *from, float *out, int stride) {
    uint4 codes = make_uint4(0, 0, 0, 0);
    if (from != nullptr) {
        codes = *reinterpret_cast<const uint4 *>(from);
    }
    const uint32_t word[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        out[i * stride] = hisa_e4m3_to_float(static_cast<uint8_t>(word[i / 4] >> (8 * (i % 4))));
    }
}

/* One d of the products. */
__device__ __forceinline__ void hisa_score_step(const hisa_score_t &shared, int d, int warp, int lane,
                                                float sum[16][4]) {
    const float4 key = *reinterpret_cast<const float4 *>(&shared.stage.key[d][lane * 4]);
#pragma unroll
    for (int h = 0; h < 16; h += 4) {
        const float4 q = *reinterpret_cast<const float4 *>(&shared.stage.q[d][warp * 16 + h]);
        const float head[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sum[h + i][0] = __fmaf_rn(head[i], key.x, sum[h + i][0]);
            sum[h + i][1] = __fmaf_rn(head[i], key.y, sum[h + i][1]);
            sum[h + i][2] = __fmaf_rn(head[i], key.z, sum[h + i][2]);
            sum[h + i][3] = __fmaf_rn(head[i], key.w, sum[h + i][3]);
        }
    }
}

__device__ __forceinline__ float hisa_relu(float dot) { return dot > 0.0f ? dot : 0.0f; }

/* The score of the thread's key (NULL: none, the result means nothing). q [H][D], w [H] of the row. All 128 threads
 * call it. */
__device__ __forceinline__ float hisa_score_panel(hisa_score_t &shared, int dim, int heads, const uint8_t *q,
                                                  const float *w, const uint8_t *key, float scale) {
    const int thread = static_cast<int>(threadIdx.x);
    const int warp = thread / 32;
    const int lane = thread % 32;
    float score = 0.0f;
    for (int first = 0; first < heads; first += HISA_SCORE_HEADS) {
        const int count = heads - first < HISA_SCORE_HEADS ? heads - first : HISA_SCORE_HEADS;
        const bool busy = warp * 16 < count;
        float sum[16][4] = {};
        for (int d = 0; d < dim; d += HISA_SCORE_DEPTH) {
            const int depth = dim - d < HISA_SCORE_DEPTH ? dim - d : HISA_SCORE_DEPTH; /* 16 or 32 */
            const int head = thread % HISA_SCORE_HEADS;
            const int half = thread / HISA_SCORE_HEADS * 16;
            __syncthreads();
            for (int i = 0; i < depth; i += 16) {
                hisa_decode_16(key != nullptr ? key + d + i : nullptr, &shared.stage.key[i][thread], HISA_SCORE_KEYS);
            }
            if (half < depth) {
                const uint8_t *from = q + static_cast<int64_t>(first + head) * dim + d + half;
                hisa_decode_16(head < count ? from : nullptr, &shared.stage.q[half][head], HISA_SCORE_HEADS);
            }
            __syncthreads();
            if (busy) {
#pragma unroll 4
                for (int i = 0; i < depth; ++i) {
                    hisa_score_step(shared, i, warp, lane, sum);
                }
            }
        }
        __syncthreads();
        if (busy) {
#pragma unroll
            for (int h = 0; h < 16; ++h) {
                *reinterpret_cast<float4 *>(&shared.dot[warp * 16 + h][lane * 4]) =
                    make_float4(hisa_relu(sum[h][0]), hisa_relu(sum[h][1]), hisa_relu(sum[h][2]), hisa_relu(sum[h][3]));
            }
        }
        __syncthreads();
        for (int h = 0; h < count; ++h) {
            score = __fadd_rn(score, __fmul_rn(w[first + h], shared.dot[h][thread]));
        }
    }
    return __fmul_rn(scale, score);
}

/* As scorer.cuh says. Keys stay where they are, queries are staged anew for each panel. */
struct hisa_score_f32_t {
    static constexpr int BLOCKS = 3;
    typedef hisa_score_t shared_t;
    typedef const uint8_t *keys_t;

    static __device__ __forceinline__ void load(keys_t &keys, int dim, const uint8_t *key) {
        (void)dim;
        keys = key;
    }

    static __device__ __forceinline__ float score(shared_t &shared, const keys_t &keys, int dim, int heads,
                                                  const uint8_t *q, const float *w, float scale, bool fresh) {
        (void)fresh;
        return hisa_score_panel(shared, dim, heads, q, w, keys, scale);
    }
};

#endif
