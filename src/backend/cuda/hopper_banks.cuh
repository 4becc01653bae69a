/* Scoring on Hopper, two queries an instruction: for mode flat, where all rows meet all keys.
 *
 * A stage of the ring holds two queries, 2 * HEADS columns of one product. A warpgroup has 128 keys as in hopper.cuh,
 * and two banks of sums, one for each 64 of them: while it sums the heads in one bank, the products of the other are
 * under way, across the end of a query too. Against hopper.cuh that is half the matrix instructions and descriptions,
 * and products under way all through a batch; the banks take 128 registers a thread.
 *
 * A score is made of the same sums in the same order as there, and has the same bits. */
#ifndef HISA_CUDA_HOPPER_BANKS_CUH
#define HISA_CUDA_HOPPER_BANKS_CUH

#include "backend/cuda/hopper.cuh"

/* ---------------------------------------------------------------------------------------------- the banks
 *
 * Products under way across the end of a loop must not be touched, and a compiler that keeps sums in variables copies
 * them there. So their registers are PTX's own: declared once a kernel, named in every instruction. The statements are
 * volatile, and so stay in the order in which they are written. */

#define HISA_BANKS_DECLARE() asm volatile(".reg .f32 bank0_<64>;\n.reg .f32 bank1_<64>;")

#define HISA_BANK_8(bank, a, b, c, d, e, f, g, h)                                                                      \
    bank #a ", " bank #b ", " bank #c ", " bank #d ", " bank #e ", " bank #f ", " bank #g ", " bank #h
#define HISA_BANK_32(bank)                                                                                             \
    HISA_BANK_8(bank, 0, 1, 2, 3, 4, 5, 6, 7)                                                                          \
    ", " HISA_BANK_8(bank, 8, 9, 10, 11, 12, 13, 14, 15) ", " HISA_BANK_8(                                             \
        bank, 16, 17, 18, 19, 20, 21, 22, 23) ", " HISA_BANK_8(bank, 24, 25, 26, 27, 28, 29, 30, 31)
#define HISA_BANK_64(bank)                                                                                             \
    HISA_BANK_32(bank)                                                                                                 \
    ", " HISA_BANK_8(bank, 32, 33, 34, 35, 36, 37, 38, 39) ", " HISA_BANK_8(                                           \
        bank, 40, 41, 42, 43, 44, 45, 46, 47) ", " HISA_BANK_8(bank, 48, 49, 50, 51, 52, 53, 54,                       \
                                                               55) ", " HISA_BANK_8(bank, 56, 57, 58, 59, 60, 61, 62,  \
                                                                                    63)

/* Descriptions of the B operand for the four steps of a product (hisa_operand). */
struct hisa_operands_t {
    uint64_t step[4];
};
__device__ __forceinline__ hisa_operands_t hisa_operands(uint32_t low) {
    hisa_operands_t b;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
        b.step[i] = uint64_t(0x40000040) << 32 | (low + 2 * i);
    }
    return b;
}

/* hisa_product into a bank: 64 keys by two queries. */
template <int HEADS, int BANK>
__device__ __forceinline__ void hisa_bank_product(const hisa_keys_t &a, const hisa_operands_t &b);

#define HISA_BANK_PRODUCT(heads, bank, shape, sums)                                                                    \
    template <>                                                                                                        \
    __device__ __forceinline__ void hisa_bank_product<heads, bank>(const hisa_keys_t &a, const hisa_operands_t &b) {   \
        asm volatile(                                                                                                  \
            "{\n"                                                                                                      \
            ".reg .pred none;\n"                                                                                       \
            "setp.ne.b32 none, 0, 0;\n"                                                                                \
            "wgmma.fence.sync.aligned;\n"                                                                              \
            "wgmma.mma_async.sync.aligned." shape ".f32.e4m3.e4m3 {" sums "}, {%0, %1, %2, %3}, %16, none, 1, 1;\n"    \
            "wgmma.mma_async.sync.aligned." shape ".f32.e4m3.e4m3 {" sums "}, {%4, %5, %6, %7}, %17, 1, 1, 1;\n"       \
            "wgmma.mma_async.sync.aligned." shape ".f32.e4m3.e4m3 {" sums "}, {%8, %9, %10, %11}, %18, 1, 1, 1;\n"     \
            "wgmma.mma_async.sync.aligned." shape ".f32.e4m3.e4m3 {" sums "}, {%12, %13, %14, %15}, %19, 1, 1, 1;\n"   \
            "wgmma.commit_group.sync.aligned;\n"                                                                       \
            "}" ::"r"(a[0][0]),                                                                                        \
            "r"(a[0][1]), "r"(a[0][2]), "r"(a[0][3]), "r"(a[1][0]), "r"(a[1][1]), "r"(a[1][2]), "r"(a[1][3]),          \
            "r"(a[2][0]), "r"(a[2][1]), "r"(a[2][2]), "r"(a[2][3]), "r"(a[3][0]), "r"(a[3][1]), "r"(a[3][2]),          \
            "r"(a[3][3]), "l"(b.step[0]), "l"(b.step[1]), "l"(b.step[2]), "l"(b.step[3])                               \
            : "memory");                                                                                               \
    }
HISA_BANK_PRODUCT(64, 0, "m64n128k32", HISA_BANK_64("bank0_"))
HISA_BANK_PRODUCT(64, 1, "m64n128k32", HISA_BANK_64("bank1_"))
HISA_BANK_PRODUCT(32, 0, "m64n64k32", HISA_BANK_32("bank0_"))
HISA_BANK_PRODUCT(32, 1, "m64n64k32", HISA_BANK_32("bank1_"))

/* max(0, x) of sum I of a bank, whose product has been waited for. */
template <int BANK, int I> __device__ __forceinline__ float hisa_bank_relu() {
    float y;
    if constexpr (BANK == 0) {
        asm volatile("max.f32 %0, bank0_%1, 0f00000000;" : "=f"(y) : "n"(I));
    } else {
        asm volatile("max.f32 %0, bank1_%1, 0f00000000;" : "=f"(y) : "n"(I));
    }
    return y;
}

/* One round of hisa_head_sum's loop: 16 heads of one query, from sum I of the bank on. */
template <int BANK, int I> __device__ __forceinline__ void hisa_bank_step(float (&sum)[2][2], const float4 &w) {
    sum[0][0] = __fmaf_rn(hisa_bank_relu<BANK, I>(), w.x, sum[0][0]);
    sum[0][1] = __fmaf_rn(hisa_bank_relu<BANK, I + 1>(), w.y, sum[0][1]);
    sum[1][0] = __fmaf_rn(hisa_bank_relu<BANK, I + 2>(), w.x, sum[1][0]);
    sum[1][1] = __fmaf_rn(hisa_bank_relu<BANK, I + 3>(), w.y, sum[1][1]);
    sum[0][0] = __fmaf_rn(hisa_bank_relu<BANK, I + 4>(), w.z, sum[0][0]);
    sum[0][1] = __fmaf_rn(hisa_bank_relu<BANK, I + 5>(), w.w, sum[0][1]);
    sum[1][0] = __fmaf_rn(hisa_bank_relu<BANK, I + 6>(), w.z, sum[1][0]);
    sum[1][1] = __fmaf_rn(hisa_bank_relu<BANK, I + 7>(), w.w, sum[1][1]);
}

/* Both queries in turn, so that neither chain of sums waits for itself. */
template <int HEADS, int BANK, int A>
__device__ __forceinline__ void hisa_bank_steps(float (&sum)[2][2][2], const float4 (&w)[2][HEADS / 16]) {
    hisa_bank_step<BANK, A * 8>(sum[0], w[0][A]);
    hisa_bank_step<BANK, A * 8 + HEADS / 2>(sum[1], w[1][A]);
    if constexpr (A + 1 < HEADS / 16) {
        hisa_bank_steps<HEADS, BANK, A + 1>(sum, w);
    }
}

/* Scores of a bank, before the keys' scale: of every four lanes 0 and 1 get the first query's, 2 and 3 the second's,
 * the even ones of the key in row lane / 4 of the warp's 16, the odd ones of row lane / 4 + 8. Sums as in hisa_head_sum
 * and hisa_quad_sum. */
template <int HEADS, int BANK> __device__ __forceinline__ float hisa_bank_scores(const float4 (&w)[2][HEADS / 16]) {
    float sum[2][2][2] = {};
    hisa_bank_steps<HEADS, BANK, 0>(sum, w);
    const bool odd = threadIdx.x % 2 != 0;
    float part[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float low = sum[i][0][0] + sum[i][0][1];
        const float high = sum[i][1][0] + sum[i][1][1];
        part[i] = (odd ? high : low) + __shfl_xor_sync(0xFFFFFFFFu, odd ? low : high, 1);
    }
    return hisa_quad_sum(part[0], part[1]);
}

/* ------------------------------------------------------------------------------------------ the feeding warp */

/* As hisa_feed_query, two of them; the second may be missing (negative), and its scores are anything then. */
template <int HEADS, int GROUPS, int STAGES, typename Place>
__device__ __forceinline__ void hisa_feed_two(hisa_hopper_t<2 * HEADS, GROUPS, STAGES, Place> &shared,
                                              hisa_feeder_t &feeder, const CUtensorMap *map, const float *weights,
                                              int32_t first, int32_t second, const Place &place) {
    if (threadIdx.x % 32 == 0) {
        const uint32_t s = feeder.ring.stage;
        hisa_barrier_wait(&shared.empty[s], feeder.ring.parity);
        shared.place[s] = place;
        const uint32_t bytes = HEADS * (HISA_HOPPER_DIM + 4);
        hisa_barrier_arrive_expect(&shared.full[s], second >= 0 ? 2 * bytes : bytes);
        hisa_copy_box_5d(shared.q[s], map, first * (HEADS / 16), &shared.full[s]);
        hisa_copy_bytes(shared.weights[s], weights + int64_t(first) * HEADS, HEADS * 4, &shared.full[s]);
        if (second >= 0) {
            hisa_copy_box_5d(shared.q[s] + HEADS * HISA_HOPPER_DIM, map, second * (HEADS / 16), &shared.full[s]);
            hisa_copy_bytes(shared.weights[s] + HEADS, weights + int64_t(second) * HEADS, HEADS * 4, &shared.full[s]);
        }
    }
    hisa_ring_next<STAGES>(feeder.ring);
}

/* ------------------------------------------------------------------------------------------ a warpgroup */

template <int HEADS, int GROUPS, int STAGES, typename Place>
__device__ __forceinline__ void hisa_load_weights(float4 (&w)[2][HEADS / 16],
                                                  const hisa_hopper_t<2 * HEADS, GROUPS, STAGES, Place> &shared,
                                                  uint32_t stage, int weight) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int a = 0; a < HEADS / 16; ++a) {
            w[i][a] = *reinterpret_cast<const float4 *>(shared.weights[stage] + i * HEADS + weight + a * 16);
        }
    }
}

/* At the last stage of a batch: takes the next one's stages as well, if it has the same keys. The feeding warp
 * announces it as soon as that stage is fed. Otherwise it is left as it is. */
template <int HEADS, int GROUPS, int STAGES, typename Place>
__device__ __forceinline__ bool hisa_batch_goes_on(hisa_hopper_t<2 * HEADS, GROUPS, STAGES, Place> &shared,
                                                   uint32_t &batch_parity, int &n) {
    hisa_barrier_wait(&shared.batch_full, batch_parity);
    const int more = shared.queries;
    if (shared.fresh != 0 || more <= 0) {
        return false;
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
        hisa_barrier_arrive(&shared.batch_empty);
    }
    batch_parity ^= 1;
    n += more;
    return true;
}

/* The n stages of a batch, n > 0. The next stage's first products go under this one's last sums. Scores go to shared
 * memory: `out` is where the thread's first one of stage 0 belongs. */
template <int HEADS, int GROUPS, int STAGES, typename Place>
__device__ __forceinline__ void hisa_score_twos(hisa_hopper_t<2 * HEADS, GROUPS, STAGES, Place> &shared,
                                                hisa_ring_t &ring, uint32_t &batch_parity, const hisa_keys_t (&keys)[2],
                                                const float (&scale)[2], uint32_t out, int weight, int n) {
    float4 w[2][HEADS / 16];
    constexpr uint32_t stride = 2 * HEADS * HISA_HOPPER_DIM / 16;
    constexpr uint32_t out_stride = 2 * GROUPS * 128 * 4;
    const uint32_t q = hisa_operand(hisa_shared_address(shared.q[0]));
    const auto put = [&](uint32_t stage, int half, float score) {
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(out + stage * out_stride + half * 256), "f"(score) : "memory");
    };
    hisa_barrier_wait(&shared.full[ring.stage], ring.parity);
    hisa_operands_t b = hisa_operands(q + ring.stage * stride);
    hisa_bank_product<HEADS, 0>(keys[0], b);
#pragma unroll 1
    for (; n > 1 || hisa_batch_goes_on<HEADS>(shared, batch_parity, n); --n) {
        const hisa_ring_t now = ring;
        hisa_ring_next<STAGES>(ring);
        hisa_load_weights<HEADS>(w, shared, now.stage, weight);
        hisa_product_wait<0>();
        hisa_bank_product<HEADS, 1>(keys[1], b);
        put(now.stage, 0, scale[0] * hisa_bank_scores<HEADS, 0>(w));
        hisa_barrier_wait(&shared.full[ring.stage], ring.parity);
        b = hisa_operands(q + ring.stage * stride);
        hisa_product_wait<0>();
        hisa_bank_product<HEADS, 0>(keys[0], b);
        put(now.stage, 1, scale[1] * hisa_bank_scores<HEADS, 1>(w));
        hisa_release_stage(shared, now);
    }
    hisa_load_weights<HEADS>(w, shared, ring.stage, weight);
    hisa_product_wait<0>();
    hisa_bank_product<HEADS, 1>(keys[1], b);
    put(ring.stage, 0, scale[0] * hisa_bank_scores<HEADS, 0>(w));
    hisa_product_wait<0>();
    put(ring.stage, 1, scale[1] * hisa_bank_scores<HEADS, 1>(w));
    hisa_release_stage(shared, ring);
    hisa_ring_next<STAGES>(ring);
}

/* The warpgroups' part of the kernel: all batches, whose queries count by twos. Scores go to scores[stage][query of
 * two][key of the panel]. */
template <int HEADS, int GROUPS, int STAGES, typename Place>
__device__ __forceinline__ void hisa_score_batches_of_twos(hisa_hopper_t<2 * HEADS, GROUPS, STAGES, Place> &shared,
                                                           const float *scores) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    /* The first key whose sum comes out in this lane. */
    const int key = static_cast<int>(threadIdx.x / 128) * 128 + static_cast<int>(threadIdx.x % 128 / 32) * 16 +
                    lane / 4 + lane % 2 * 8;
    uint32_t out = hisa_shared_address(scores) + static_cast<uint32_t>(lane / 2 % 2 * GROUPS * 128 + key) * 4;
    int weight = lane % 4 * 4;
    asm volatile("" : "+r"(out), "+r"(weight));
    hisa_ring_t ring = {0, 0};
    uint32_t batch_parity = 0;
    hisa_keys_t keys[2];
    float scale[2] = {0.0f, 0.0f};
    HISA_BANKS_DECLARE();
    for (;;) {
        hisa_barrier_wait(&shared.batch_full, batch_parity);
        batch_parity ^= 1;
        const int n = shared.queries;
        if (n < 0) {
            return;
        }
        if (shared.fresh != 0) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int at = static_cast<int>(threadIdx.x / 128) * 128 + half * 64;
                hisa_load_keys(keys[half], shared.key + at * HISA_HOPPER_DIM);
                scale[half] = shared.scale[key + half * 64];
            }
        }
        __syncwarp();
        if (lane == 0) {
            hisa_barrier_arrive(&shared.batch_empty);
        }
        hisa_score_twos<HEADS>(shared, ring, batch_parity, keys, scale, out, weight, n);
    }
}

#endif
