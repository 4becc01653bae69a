/* From the scores of a row's kept blocks straight to its results. Candidates stand in ascending position, so what is
 * taken in the order of places is in the order of positions. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/token_keys.cuh"
#include "backend/order.h"

/* A row's results. */
struct hisa_results_t {
    int32_t *indices;
    float *scores; /* or NULL */
};

static __device__ __forceinline__ hisa_results_t results_of(const hisa_output_t &output, int64_t at) {
    const hisa_results_t results = {output.indices + at * output.top_k,
                                    output.scores != nullptr ? output.scores + at * output.top_k : nullptr};
    return results;
}

/* What follows the n that were taken. */
static __device__ __forceinline__ void finish(const hisa_output_t &output, int64_t at, uint32_t n) {
    const hisa_results_t results = results_of(output, at);
    if (output.counts != nullptr && threadIdx.x == 0) {
        output.counts[at] = static_cast<int32_t>(n);
    }
    for (int64_t i = n + threadIdx.x; i < output.top_k; i += blockDim.x) {
        results.indices[i] = -1;
        if (results.scores != nullptr) {
            results.scores[i] = 0.0f;
        }
    }
}

/* Results on their way out: places are scattered over threads, lines of memory are not. They take the histogram's room.
 * A quarter of the candidates is what the usual k takes, 2048 of 8192; the largest rows have 48 KB at the most. */
template <typename Radix> union hisa_stage_t {
    static constexpr uint32_t room = Radix::capacity / 4 < 4096 ? Radix::capacity / 4 : 4096;
    typename Radix::shared_t radix;
    struct {
        typename Radix::sums_t sums;
        alignas(16) uint32_t key[room];
        uint16_t candidate[room];
    } out;
};

/* Up to Radix::capacity candidates a row. Blocks have 16 tokens or more, so a vector of four lies in one. PLACED:
 * scores lie by kept block where place_of says, else as their candidates stand. */
template <typename Radix, bool PLACED>
static __global__ void __launch_bounds__(Radix::threads, Radix::blocks)
    select_emit(hisa_shard_t shard, const hisa_row_t *rows, int32_t width, const int32_t *kept_of,
                const int32_t *place_of, const float *pool, hisa_output_t output, hisa_segment_t segment) {
    __shared__ hisa_stage_t<Radix> shared;
    hisa_grid_release();
    Radix::clear(shared.radix);
    hisa_grid_wait();
    const int64_t r = segment.tile_begin + blockIdx.x;
    const int64_t at = segment.output_begin + blockIdx.x;
    const hisa_row_t row = rows[r];
    const int size_log2 = 31 - __clz(shard.block_size);
    const int32_t candidates = width << size_log2;
    const int32_t *kept = kept_of + r * width;
    const auto position_of = [&](int32_t candidate) { return hisa_candidate_position(kept, size_log2, candidate); };
    int32_t position[Radix::vectors];
#pragma unroll
    for (int v = 0; v < Radix::vectors; ++v) {
        position[v] = Radix::first(v) < candidates ? position_of(Radix::first(v)) : INT32_MIN;
    }
    float4 raw[Radix::vectors];
#pragma unroll
    for (int v = 0; v < Radix::vectors; ++v) {
        const int32_t first = Radix::first(v);
        bool any = Radix::eager ? first < candidates : position[v] + 3 >= row.begin && position[v] < row.end;
        int64_t from = r * candidates + first;
        if (PLACED) {
            const int64_t block = any ? place_of[r * width + (first >> size_log2)] : -1;
            any = block >= 0;
            from = (block << size_log2) + (first & (shard.block_size - 1));
        }
        raw[v] = any ? *reinterpret_cast<const float4 *>(pool + from) : make_float4(0, 0, 0, 0);
    }
    uint32_t key[Radix::keys];
    uint32_t n = 0;
#pragma unroll
    for (int v = 0; v < Radix::vectors; ++v) {
        n += hisa_token_keys(row, position[v], raw[v], &key[4 * v]);
    }
    const uint32_t k = static_cast<uint32_t>(output.top_k);
    const hisa_cut_t cut = Radix::cut(shared.radix, key, n, k);
    const auto places = Radix::place(shared.radix, key, cut);
    const hisa_results_t results = results_of(output, at);
    if (cut.taken <= shared.room) {
        Radix::each_taken(key, cut, places, [&](uint32_t place, int i, uint32_t own) {
            shared.out.candidate[place] = static_cast<uint16_t>(i);
            shared.out.key[place] = own;
        });
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < cut.taken; i += Radix::threads) {
            results.indices[i] = position_of(shared.out.candidate[i]);
            if (results.scores != nullptr) {
                results.scores[i] = hisa_radix_to_score(shared.out.key[i]);
            }
        }
    } else {
        Radix::each_taken(key, cut, places, [&](uint32_t place, int i, uint32_t own) {
            results.indices[place] = i;
            if (results.scores != nullptr) {
                results.scores[place] = hisa_radix_to_score(own);
            }
        });
        __syncthreads();
        for (uint32_t i = threadIdx.x; i < cut.taken; i += Radix::threads) {
            results.indices[i] = position_of(results.indices[i]);
        }
    }
    finish(output, at, cut.taken);
}

/* Any number of candidates. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    select_emit_any(hisa_shard_t shard, const hisa_row_t *rows, int32_t width, const int32_t *kept_of,
                    const int32_t *place_of, const float *pool, hisa_output_t output, hisa_segment_t segment) {
    __shared__ hisa_pick_t shared;
    hisa_grid_release();
    hisa_grid_wait();
    const int64_t r = segment.tile_begin + blockIdx.x;
    const int64_t at = segment.output_begin + blockIdx.x;
    const hisa_row_t row = rows[r];
    const int64_t size = shard.block_size;
    const int64_t candidates = width * size;
    const int32_t *kept = kept_of + r * width;
    const hisa_results_t results = results_of(output, at);
    const auto key_of = [&](int64_t candidate, uint32_t *key) {
        const int64_t j = r * width + candidate / size;
        const int32_t block = kept_of[j];
        const int64_t position = block * size + candidate % size;
        if (block < 0 || position < row.begin || position >= row.end) {
            return 0u;
        }
        *key = hisa_key_from_score(pool[(place_of != nullptr ? place_of[j] : j) * size + candidate % size]);
        return 1u;
    };
    const uint32_t k = static_cast<uint32_t>(output.top_k);
    const hisa_kth_t<uint32_t> kth = hisa_block_kth<uint32_t>(shared, candidates, k, key_of);
    hisa_taker_t taker = hisa_taker_make(kth, k);
    for (int64_t chunk = 0; chunk < candidates; chunk += HISA_PICK_THREADS) {
        const int64_t candidate = chunk + threadIdx.x;
        uint32_t key = 0;
        uint32_t place;
        const bool there = candidate < candidates && key_of(candidate, &key) != 0;
        if (hisa_take(shared, taker, there, key, kth.threshold, &place)) {
            results.indices[place] = static_cast<int32_t>(kept[candidate / size] * size + candidate % size);
            if (results.scores != nullptr) {
                results.scores[place] = hisa_score_from_key(key);
            }
        }
    }
    finish(output, at, hisa_taken(taker));
}

extern "C" int hisa_cuda_launch_select_emit(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                            const int32_t *kept, const int32_t *place, const float *pool,
                                            const hisa_output_t *output, const hisa_segment_t *segment, void *stream) {
    const int64_t candidates = int64_t(width) * shard->block_size;
    const dim3 grid = hisa_row_grid(segment->rows, 1);
    if (candidates > hisa_radix_32k::capacity) {
        return hisa_launch_next(select_emit_any, grid, HISA_PICK_THREADS, stream, *shard, tile->row, width, kept, place,
                                pool, *output, *segment);
    }
    return hisa_with_radix(candidates, segment->rows, [&](auto radix) {
        using Radix = decltype(radix);
        return hisa_launch_next(place != nullptr ? select_emit<Radix, true> : select_emit<Radix, false>, grid,
                                Radix::threads, stream, *shard, tile->row, width, kept, place, pool, *output, *segment);
    });
}
