/* Scoring on Hopper's tensor cores: keys stay, queries stream by.
 *
 * A warpgroup holds a panel of 128 keys in registers (two A operands of 64 rows), and one warp more feeds it: through a
 * ring of stages in shared memory it copies query after query (heads x 128 bytes, the B operand) with its weights. For
 * each query the warpgroup takes the products of both halves of its keys, and sums the heads of the first while those
 * of the second are under way, so that the tensor cores work while the other pipes take ReLU, weight and sum.
 *
 * A score depends on its key, its query and nothing else: every kernel scores here, over d in four steps of 32, then
 * over heads in the order of head_sum. Its bits do not depend on panel, stage, tile or kernel. */
#ifndef HISA_CUDA_HOPPER_CUH
#define HISA_CUDA_HOPPER_CUH

#include "backend/cuda/hopper_ptx.cuh"
#include "backend/cuda/launch.cuh"

#define HISA_HOPPER_DIM 128

enum { HISA_HOPPER_PANEL = 128 /* keys */, HISA_HOPPER_THREADS = 128 + 32 };

/* Place: where a query's scores of the panel go, the kernel's own business. */
template <int HEADS, int STAGES, typename Place> struct hisa_hopper_t {
    uint8_t key[HISA_HOPPER_PANEL * HISA_HOPPER_DIM];
    uint8_t q[STAGES][HEADS * HISA_HOPPER_DIM];
    float weights[STAGES][HEADS];
    float scale[HISA_HOPPER_PANEL];
    Place place[STAGES];
    int32_t queries; /* of the batch; negative: no more */
    uint64_t full[STAGES];
    uint64_t empty[STAGES];
    uint64_t batch_full;
    uint64_t batch_empty;
};

/* Shared memory to ask for: the struct, and room to begin it at a multiple of 1024 bytes. */
template <int HEADS, int STAGES, typename Place> constexpr int hisa_hopper_bytes() {
    return static_cast<int>(sizeof(hisa_hopper_t<HEADS, STAGES, Place>)) + 1024;
}

template <int HEADS, int STAGES, typename Place>
__device__ __forceinline__ hisa_hopper_t<HEADS, STAGES, Place> &hisa_hopper_begin() {
    hisa_grid_release();
    extern __shared__ uint8_t raw[];
    const uint32_t skip = (1024 - hisa_shared_address(raw) % 1024) % 1024;
    auto &shared = *reinterpret_cast<hisa_hopper_t<HEADS, STAGES, Place> *>(raw + skip);
    if (threadIdx.x == 0) {
        for (int s = 0; s < STAGES; ++s) {
            hisa_barrier_init(&shared.full[s], 1);
            hisa_barrier_init(&shared.empty[s], 4 * HISA_WARP_ARRIVALS);
        }
        hisa_barrier_init(&shared.batch_full, HISA_FEED_ARRIVALS);
        hisa_barrier_init(&shared.batch_empty, 4 * HISA_WARP_ARRIVALS);
        hisa_barrier_init_fence();
    }
    __syncthreads();
    hisa_grid_wait();
    return shared;
}

/* As hisa_launch_next, with the shared memory that the kernel needs. */
template <typename... Parameters, typename... Arguments>
static cudaError_t hisa_hopper_launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int bytes,
                                      void *stream, Arguments... arguments) {
    const cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                                   cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    return error == cudaSuccess
               ? hisa_launch_next_with(kernel, dim3(static_cast<unsigned>(blocks)), static_cast<unsigned>(threads),
                                       static_cast<unsigned>(bytes), stream, arguments...)
               : error;
}

/* A place in a ring: which stage, and the parity of its phase. */
struct hisa_ring_t {
    uint32_t stage;
    uint32_t parity;
};
template <int STAGES> __device__ __forceinline__ void hisa_ring_next(hisa_ring_t &ring) {
    if (++ring.stage == STAGES) {
        ring.stage = 0;
        ring.parity ^= 1;
    }
}

/* ------------------------------------------------------------------------------------------ the feeding warp */

struct hisa_feeder_t {
    hisa_ring_t ring;
    uint32_t batch_parity;
};
__device__ __forceinline__ hisa_feeder_t hisa_feeder_make() { return {{0, 1}, 1}; }

/* Begins a batch of `queries` against rows of `map` from `row` on. Scales of the first `valid` keys at `scales`, others
 * are 0. Waits for none of it. The whole warp calls it. */
template <int HEADS, int STAGES, typename Place>
__device__ __forceinline__ void hisa_feed_batch(hisa_hopper_t<HEADS, STAGES, Place> &shared, hisa_feeder_t &feeder,
                                                int queries, const CUtensorMap *map, int32_t row, const float *scales,
                                                int64_t valid) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    hisa_barrier_wait(&shared.batch_empty, feeder.batch_parity);
    feeder.batch_parity ^= 1;
    if (lane == 0) {
        shared.queries = queries;
        hisa_barrier_arrive_expect(&shared.batch_full, HISA_HOPPER_PANEL * HISA_HOPPER_DIM);
        hisa_copy_box(shared.key, map, row, &shared.batch_full);
    }
#pragma unroll
    for (int i = 0; i < HISA_HOPPER_PANEL; i += 32) {
        hisa_copy_word(&shared.scale[i + lane], scales + i + lane, i + lane < valid);
    }
    hisa_barrier_arrive_copied(&shared.batch_full);
}

/* No more batches. The whole warp calls it. */
template <int HEADS, int STAGES, typename Place>
__device__ __forceinline__ void hisa_feed_end(hisa_hopper_t<HEADS, STAGES, Place> &shared, hisa_feeder_t &feeder) {
    hisa_barrier_wait(&shared.batch_empty, feeder.batch_parity);
    if (threadIdx.x % 32 == 0) {
        shared.queries = -1;
    }
    hisa_barrier_arrive_fed(&shared.batch_full, static_cast<int>(threadIdx.x % 32));
}

/* The next query of the batch: heads [source * HEADS, + HEADS) of `map` (tensor_map.h says in which order). The whole
 * warp calls it. */
template <int HEADS, int STAGES, typename Place>
__device__ __forceinline__ void hisa_feed_query(hisa_hopper_t<HEADS, STAGES, Place> &shared, hisa_feeder_t &feeder,
                                                const CUtensorMap *map, const float *weights, int32_t source,
                                                const Place &place) {
    if (threadIdx.x % 32 == 0) {
        const uint32_t s = feeder.ring.stage;
        hisa_barrier_wait(&shared.empty[s], feeder.ring.parity);
        shared.place[s] = place;
        hisa_barrier_arrive_expect(&shared.full[s], HEADS * (HISA_HOPPER_DIM + 4));
        hisa_copy_box_5d(shared.q[s], map, source * (HEADS / 16), &shared.full[s]);
        hisa_copy_bytes(shared.weights[s], weights + int64_t(source) * HEADS, HEADS * 4, &shared.full[s]);
    }
    hisa_ring_next<STAGES>(feeder.ring);
}

/* ------------------------------------------------------------------------------------------ a warpgroup */

/* This thread's part of 64 keys: rows lane / 4 and lane / 4 + 8 of its warp's 16. */
typedef uint32_t hisa_keys_t[4][4];

/* This thread's part of 64 keys, from where the copy engine put them. */
__device__ __forceinline__ void hisa_load_keys(hisa_keys_t &keys, const uint8_t *from) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t row = threadIdx.x % 128 / 32 * 16 + lane % 16;
    const uint32_t base = hisa_shared_address(from) + row * HISA_HOPPER_DIM;
#pragma unroll
    for (uint32_t step = 0; step < 4; ++step) {
        hisa_load_matrices(keys[step], base + ((step * 2 + lane / 16) ^ row % 8) * 16);
    }
}

/* Keeps the compiler from moving uses of sums across the instructions that compute them behind its back. */
template <int N> __device__ __forceinline__ void hisa_pin(float (&dot)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
        asm volatile("" : "+f"(dot[i])::"memory");
    }
}

/* sum_h w[h] * max(0, dot[h]) over this thread's heads and its neighbour's, of the key in row lane / 4 (lanes with an
 * even number) or lane / 4 + 8 (odd ones) of the warp's 16. The thread's columns 16a + 8b + 2 * (lane % 4) + c hold
 * heads 16a + 4 * (lane % 4) + 2b + c, so that its weights lie four by four. Sums are
 * over a and b, c apart, then over c, then over the two lanes. */
template <int HEADS>
__device__ __forceinline__ float hisa_head_sum(const float *dot, const float4 (&weights)[HEADS / 16]) {
    float sum[2][2] = {{0.0f, 0.0f}, {0.0f, 0.0f}};
#pragma unroll
    for (int a = 0; a < HEADS / 16; ++a) {
        const float4 w = weights[a];
        sum[0][0] = __fmaf_rn(fmaxf(dot[8 * a], 0.0f), w.x, sum[0][0]);
        sum[0][1] = __fmaf_rn(fmaxf(dot[8 * a + 1], 0.0f), w.y, sum[0][1]);
        sum[1][0] = __fmaf_rn(fmaxf(dot[8 * a + 2], 0.0f), w.x, sum[1][0]);
        sum[1][1] = __fmaf_rn(fmaxf(dot[8 * a + 3], 0.0f), w.y, sum[1][1]);
        sum[0][0] = __fmaf_rn(fmaxf(dot[8 * a + 4], 0.0f), w.z, sum[0][0]);
        sum[0][1] = __fmaf_rn(fmaxf(dot[8 * a + 5], 0.0f), w.w, sum[0][1]);
        sum[1][0] = __fmaf_rn(fmaxf(dot[8 * a + 6], 0.0f), w.z, sum[1][0]);
        sum[1][1] = __fmaf_rn(fmaxf(dot[8 * a + 7], 0.0f), w.w, sum[1][1]);
    }
    const float low = sum[0][0] + sum[0][1];
    const float high = sum[1][0] + sum[1][1];
    const bool odd = threadIdx.x % 2 != 0;
    return (odd ? high : low) + __shfl_xor_sync(0xFFFFFFFFu, odd ? low : high, 1);
}

/* Over all heads, from the sums of both halves of the panel: lanes 0 and 1 of four get the first half's key, lanes 2
 * and 3 the second's. */
__device__ __forceinline__ float hisa_quad_sum(float first, float second) {
    const bool upper = threadIdx.x % 4 >= 2;
    return (upper ? second : first) + __shfl_xor_sync(0xFFFFFFFFu, upper ? first : second, 2);
}

/* A warp has read what it needs of a stage. */
template <int HEADS, int STAGES, typename Place>
__device__ __forceinline__ void hisa_release_stage(hisa_hopper_t<HEADS, STAGES, Place> &shared, hisa_ring_t ring) {
    hisa_barrier_arrive_warp(&shared.empty[ring.stage], static_cast<int>(threadIdx.x % 32));
}

/* A query of a batch: while the heads of the first half of the panel are summed, the second half's products are under
 * way. */
template <int HEADS, int STAGES, typename Place, typename Put>
__device__ __forceinline__ void hisa_score_query(hisa_hopper_t<HEADS, STAGES, Place> &shared, hisa_ring_t &ring,
                                                 const hisa_keys_t (&keys)[2], float scale, const Put &put, int key,
                                                 int weight) {
    float dot[2][HEADS / 2];
    constexpr uint32_t stride = HEADS * HISA_HOPPER_DIM / 16;
    hisa_barrier_wait(&shared.full[ring.stage], ring.parity);
    hisa_pin(dot[0]);
    hisa_pin(dot[1]);
    hisa_products(dot, keys, hisa_operand(hisa_shared_address(shared.q[0])) + ring.stage * stride);
    hisa_product_wait<1>();
    float4 w[HEADS / 16];
#pragma unroll
    for (int a = 0; a < HEADS / 16; ++a) {
        w[a] = *reinterpret_cast<const float4 *>(shared.weights[ring.stage] + weight + a * 16);
    }
    hisa_pin(dot[0]);
    const float first = hisa_head_sum<HEADS>(dot[0], w);
    hisa_product_wait<0>();
    hisa_pin(dot[1]);
    const float second = hisa_head_sum<HEADS>(dot[1], w);
    put(shared.place[ring.stage], key, scale * hisa_quad_sum(first, second));
    hisa_release_stage(shared, ring);
    hisa_ring_next<STAGES>(ring);
}

/* 0, once the panel's keys and scale are in registers. An arrival does not wait for loads of matrices that were issued
 * before it, and goes past them when they are held up; the next panel's keys then came where some were still to be
 * read, and a batch had a quarter of them among its own. So the arrival's address takes this in. queries: not negative,
 * which the compiler must not make use of. */
__device__ __forceinline__ uint32_t hisa_zero_when_loaded(const hisa_keys_t (&keys)[2], float scale, int queries) {
    uint32_t loaded = __float_as_uint(scale);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int step = 0; step < 4; ++step) {
            loaded |= keys[half][step][0];
        }
    }
    uint32_t zero;
    asm volatile("shr.s32 %0, %1, 31;" : "=r"(zero) : "r"(queries));
    return loaded & zero;
}

/* The warpgroup's part of the kernel: all batches. put(place, key, score) takes the score of key `key` of the panel. */
template <int HEADS, int STAGES, typename Place, typename Put>
__device__ __forceinline__ void hisa_score_batches(hisa_hopper_t<HEADS, STAGES, Place> &shared, Put put) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    /* The key whose sum comes out in this lane, and its first weight: in registers, not worked out for every query. */
    int key = lane / 2 % 2 * 64 + static_cast<int>(threadIdx.x / 32) * 16 + lane / 4 + lane % 2 * 8;
    int weight = lane % 4 * 4;
    asm volatile("" : "+r"(key), "+r"(weight));
    hisa_ring_t ring = {0, 0};
    uint32_t batch_parity = 0;
    for (;;) {
        hisa_barrier_wait(&shared.batch_full, batch_parity);
        batch_parity ^= 1;
        const int queries = shared.queries;
        if (queries < 0) {
            return;
        }
        hisa_keys_t keys[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            hisa_load_keys(keys[half], shared.key + half * 64 * HISA_HOPPER_DIM);
        }
        const float scale = shared.scale[key];
        hisa_barrier_arrive_warp(&shared.batch_empty + hisa_zero_when_loaded(keys, scale, queries), lane);
        for (int i = 0; i < queries; ++i) {
            hisa_score_query(shared, ring, keys, scale, put, key, weight);
        }
    }
}

#endif
