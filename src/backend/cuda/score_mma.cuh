/* Scores of one row and a panel of keys on the tensor cores, by mma.sync: for every device from compute capability 8.0
 * on. Keys are the rows of the matrix product, heads its columns, so that a thread has whole sums over d of 4 keys and
 * every fourth pair of heads; it sums its heads ascending, and its quad adds the four sums as (0 + 1) + (2 + 3).
 * Nothing in this depends on where in a panel the key stands, on other keys or on other rows.
 *
 * Two formats of the operands, both with f32 accumulators:
 *   f16   e4m3 values are f16 values, so the conversion and the products are exact (as they would be in bf16, for which
 *         there is no instruction to convert). Within a step of 16 products the tensor core aligns them and the
 *         accumulator to the largest and drops what lies below its 24 bits or so: sums whose terms span no more are
 * exact. fp8   half the steps and no conversion, but accumulators of 13 fraction bits or so: 2^-13 of the largest
 * partial sum. fp8 runs where it is an instruction of its own (QMMA: 8.9, 12.x) and the caller does not ask for exact
 * sums; elsewhere ptxas makes an fp8 mma.sync out of conversions and f16 products in the inner loop (9.0, 10.x, 11.0:
 * seen in the machine code), so converting once, ahead of the loop, is the same arithmetic for less. Block scores ask:
 * the dots of exactly representable traces have up to 16 bits there, those of tokens few. Which format runs is thus
 * settled by what is scored and by the architecture that the code was compiled for, never by the data. */
#ifndef HISA_CUDA_SCORE_MMA_CUH
#define HISA_CUDA_SCORE_MMA_CUH

#include <stdint.h>

#include "backend/cuda/score.cuh"
#include "backend/cuda/widen.cuh"

#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
#define HISA_MMA_NATIVE_FP8 true
#else
#define HISA_MMA_NATIVE_FP8 false
#endif

/* sum += a * b: 16 keys x 16 or 32 elements, 8 heads. */
template <bool FP8>
__device__ __forceinline__ void hisa_mma_step(float sum[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                              uint32_t b0, uint32_t b1) {
    if constexpr (FP8) {
        asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    } else {
        asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    }
}

/* SEGMENTS: of 64 elements, head_dim rounded up with zeros, which change no sum. EXACT: see above.
 *
 * 128 threads; a warp has 32 keys. Lane 4 g + t has of keys 8 i + g, i = 0..3, the 16 elements from 16 t on of each
 * segment: one 16-byte load, a quad reading 64 bytes in a row, and no shared memory. It feeds them to the steps of the
 * product four (f16: two and two) at a time. The product pairs elements by where they stand in operands and does not
 * care which of the d they are, so long as heads stand in the same order: they are read from shared memory the same
 * way. */
template <int SEGMENTS, bool EXACT> struct hisa_score_mma_t {
    static constexpr bool FP8 = HISA_MMA_NATIVE_FP8 && !EXACT;
    static constexpr int WORDS = FP8 ? 4 : 8; /* that hold 16 elements */
    /* Rows 16 bytes (f16) or 64 bytes (fp8) apart in the banks: two rows by four chunks make one wavefront. */
    static constexpr int STRIDE = FP8 ? (SEGMENTS | 1) * 16 : SEGMENTS * 32 + 4;
    /* Keys take 32 registers a segment as f16. */
    static constexpr int BLOCKS = SEGMENTS <= 2 ? 3 : 2;

    struct shared_t {
        alignas(16) uint32_t q[HISA_SCORE_HEADS][STRIDE];
        alignas(8) float w[HISA_SCORE_HEADS];
    };

    struct keys_t {
        uint32_t word[4][SEGMENTS][WORDS];
    };

    /* 16 codes as operands have them. */
    static __device__ __forceinline__ void widen(const uint4 &codes, uint32_t out[WORDS]) {
        const uint32_t word[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if constexpr (FP8) {
                out[i] = word[i];
            } else {
                hisa_widen(word[i], &out[2 * i], &out[2 * i + 1]);
            }
        }
    }

    /* key: the thread's own (NULL: none). All threads call it. */
    static __device__ __forceinline__ void load(keys_t &keys, int dim, const uint8_t *key) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        const unsigned long long own = reinterpret_cast<unsigned long long>(key);
        uint4 codes[4][SEGMENTS];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const unsigned long long from = __shfl_sync(0xFFFFFFFFu, own, 8 * i + lane / 4);
#pragma unroll
            for (int s = 0; s < SEGMENTS; ++s) {
                const int d = s * 64 + lane % 4 * 16;
                codes[i][s] = make_uint4(0, 0, 0, 0);
                if (from != 0 && d < dim) {
                    codes[i][s] = *reinterpret_cast<const uint4 *>(from + d);
                }
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
            for (int s = 0; s < SEGMENTS; ++s) {
                widen(codes[i][s], keys.word[i][s]);
            }
        }
    }

    /* Heads [0, count) of q [..][D] and w, and zeros up to the next multiple of 16. */
    static __device__ __forceinline__ void stage(shared_t &shared, int dim, int count, const uint8_t *q,
                                                 const float *w) {
        const int thread = static_cast<int>(threadIdx.x);
        const int padded = (count + 15) / 16 * 16;
        __syncthreads();
        for (int i = thread; i < padded * SEGMENTS * 4; i += HISA_SCORE_KEYS) {
            const int head = i / (SEGMENTS * 4);
            const int d = i % (SEGMENTS * 4) * 16;
            uint4 codes = make_uint4(0, 0, 0, 0);
            if (head < count && d < dim) {
                codes = *reinterpret_cast<const uint4 *>(q + static_cast<int64_t>(head) * dim + d);
            }
            uint32_t word[WORDS];
            widen(codes, word);
            uint4 *to = reinterpret_cast<uint4 *>(&shared.q[head][d / 16 * WORDS]);
#pragma unroll
            for (int v = 0; v < WORDS / 4; ++v) {
                to[v] = make_uint4(word[4 * v], word[4 * v + 1], word[4 * v + 2], word[4 * v + 3]);
            }
        }
        if (thread < padded) {
            shared.w[thread] = thread < count ? w[thread] : 0.0f;
        }
        __syncthreads();
    }

    /* Heads [head, head + 16) of what is staged, into the thread's sums of its 4 keys. */
    static __device__ __forceinline__ void add_heads(const shared_t &shared, const keys_t &keys, int head,
                                                     float score[4]) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        float sum[2][2][4] = {}; /* [keys 0..15, 16..31][heads 0..7, 8..15] */
#pragma unroll
        for (int s = 0; s < SEGMENTS; ++s) {
            uint32_t q[2][WORDS];
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                const uint4 *from =
                    reinterpret_cast<const uint4 *>(&shared.q[head + 8 * j + lane / 4][(s * 4 + lane % 4) * WORDS]);
#pragma unroll
                for (int v = 0; v < WORDS / 4; ++v) {
                    const uint4 four = from[v];
                    q[j][4 * v] = four.x;
                    q[j][4 * v + 1] = four.y;
                    q[j][4 * v + 2] = four.z;
                    q[j][4 * v + 3] = four.w;
                }
            }
#pragma unroll
            for (int word = 0; word < WORDS; word += 2) {
#pragma unroll
                for (int m = 0; m < 2; ++m) {
#pragma unroll
                    for (int j = 0; j < 2; ++j) {
                        hisa_mma_step<FP8>(sum[m][j], keys.word[2 * m][s][word], keys.word[2 * m + 1][s][word],
                                           keys.word[2 * m][s][word + 1], keys.word[2 * m + 1][s][word + 1], q[j][word],
                                           q[j][word + 1]);
                    }
                }
            }
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const float2 w = *reinterpret_cast<const float2 *>(&shared.w[head + 8 * j + lane % 4 * 2]);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float *dot = &sum[i / 2][j][i % 2 * 2];
                score[i] = __fmaf_rn(w.x, fmaxf(dot[0], 0.0f), score[i]); /* of a NaN and 0, fmaxf is 0 */
                score[i] = __fmaf_rn(w.y, fmaxf(dot[1], 0.0f), score[i]);
            }
        }
    }

    /* The score of the thread's key. q [H][D], w [H] of the row; fresh: they are other ones than the call before's. All
     * threads call it. */
    static __device__ __forceinline__ float score(shared_t &shared, const keys_t &keys, int dim, int heads,
                                                  const uint8_t *q, const float *w, float scale, bool fresh) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        float score[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        for (int first = 0; first < heads; first += HISA_SCORE_HEADS) {
            const int count = heads - first < HISA_SCORE_HEADS ? heads - first : HISA_SCORE_HEADS;
            if (fresh || heads > HISA_SCORE_HEADS) {
                stage(shared, dim, count, q + static_cast<int64_t>(first) * dim, w + first);
            }
#pragma unroll 1
            for (int head = 0; head < count; head += 16) {
                add_heads(shared, keys, head, score);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            score[i] = __fadd_rn(score[i], __shfl_xor_sync(0xFFFFFFFFu, score[i], 1));
            score[i] = __fadd_rn(score[i], __shfl_xor_sync(0xFFFFFFFFu, score[i], 2));
        }
        /* Lane 4 g + t hands out key 8 t + g. */
        const float low = lane % 2 == 0 ? score[0] : score[1];
        const float high = lane % 2 == 0 ? score[2] : score[3];
        const float given = lane % 4 < 2 ? low : high;
        return __fmul_rn(scale, __shfl_sync(0xFFFFFFFFu, given, lane % 8 * 4 + lane / 8));
    }
};

#endif
