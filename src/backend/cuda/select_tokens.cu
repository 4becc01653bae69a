/* Several ranks: from the scores of a row's kept blocks, wherever they were computed, to the bitmap of what is
 * selected. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/cuda/token_keys.cuh"
#include "backend/order.h"

/* Up to Radix::capacity candidates a row. Blocks have 16 tokens or more, so a vector of four lies in one, and a row's
 * bitmap is whole words of 16 bits: four lanes' candidates each. */
template <typename Radix>
static __global__ void __launch_bounds__(Radix::threads, Radix::blocks)
    select_tokens(hisa_shard_t shard, const hisa_row_t *rows, int32_t width, int32_t top_k, int64_t row_begin,
                  const int32_t *kept_of, const int32_t *place_of, const float *pool, uint8_t *bitmap, float *scores) {
    __shared__ typename Radix::shared_t shared;
    hisa_grid_release();
    Radix::clear(shared);
    hisa_grid_wait();
    const int64_t r = row_begin + blockIdx.x;
    const hisa_row_t row = rows[r];
    const int size_log2 = 31 - __clz(shard.block_size);
    const int32_t candidates = width << size_log2;
    const int32_t *kept = kept_of + r * width;
    const int32_t *place = place_of + r * width;
    uint16_t *bits = reinterpret_cast<uint16_t *>(bitmap + r * candidates / 8);
    uint32_t key[Radix::keys];
    uint32_t n = 0;
#pragma unroll
    for (int v = 0; v < Radix::vectors; ++v) {
        const int32_t first = Radix::first(v);
        const int32_t position = first < candidates ? hisa_candidate_position(kept, size_log2, first) : INT32_MIN;
        float4 four = make_float4(0, 0, 0, 0);
        if (position + 3 >= row.begin && position < row.end) {
            const int64_t block = place[first >> size_log2];
            four = *reinterpret_cast<const float4 *>(pool + (block << size_log2) + (first & (shard.block_size - 1)));
        }
        n += hisa_token_keys(row, position, four, &key[4 * v]);
    }
    const hisa_cut_t cut = Radix::cut(shared, key, n, static_cast<uint32_t>(top_k));
    const auto places = Radix::place(shared, key, cut);
    const uint32_t mask = Radix::taken(key, cut, places);
#pragma unroll
    for (int v = 0; v < Radix::vectors; ++v) {
        uint32_t word = (mask >> (4 * v) & 0xF) << (4 * (threadIdx.x % 4));
        word |= __shfl_xor_sync(0xFFFFFFFFu, word, 1);
        word |= __shfl_xor_sync(0xFFFFFFFFu, word, 2);
        if (threadIdx.x % 4 == 0 && Radix::first(v) < candidates) {
            bits[Radix::first(v) / 16] = static_cast<uint16_t>(word);
        }
    }
    if (scores == nullptr) {
        return;
    }
    float *selected = scores + r * top_k;
    Radix::each_taken(key, cut, places,
                      [&](uint32_t at, int, uint32_t own) { selected[at] = hisa_radix_to_score(own); });
    for (int64_t i = cut.taken + threadIdx.x; i < top_k; i += Radix::threads) {
        selected[i] = 0.0f;
    }
}

/* Any number of candidates. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS)
    select_tokens_any(hisa_shard_t shard, const hisa_row_t *rows, int32_t width, int32_t top_k, int64_t row_begin,
                      const int32_t *kept_of, const int32_t *place_of, const float *pool, uint8_t *bitmap,
                      float *scores) {
    __shared__ hisa_pick_t shared;
    hisa_grid_release();
    hisa_grid_wait();
    const int64_t r = row_begin + blockIdx.x;
    const hisa_row_t row = rows[r];
    const int64_t size = shard.block_size;
    const int64_t candidates = width * size;
    const int32_t *kept = kept_of + r * width;
    const int32_t *place = place_of + r * width;
    uint16_t *bits = reinterpret_cast<uint16_t *>(bitmap + r * candidates / 8);
    float *selected = scores != nullptr ? scores + r * top_k : nullptr;
    const auto key_of = [&](int64_t candidate, uint32_t *key) {
        const int64_t j = candidate / size;
        const int64_t inside = candidate % size;
        if (kept[j] < 0) {
            return 0u;
        }
        int64_t begin;
        int64_t end;
        hisa_tokens_in_sight(shard, row, kept[j], &begin, &end);
        if (inside < begin || inside >= end) {
            return 0u;
        }
        *key = hisa_key_from_score(pool[place[j] * size + inside]);
        return 1u;
    };
    const hisa_kth_t<uint32_t> kth = hisa_block_kth<uint32_t>(shared, candidates, top_k, key_of);
    hisa_taker_t taker = hisa_taker_make(kth, top_k);
    for (int64_t chunk = 0; chunk < candidates; chunk += HISA_PICK_THREADS) {
        const int64_t candidate = chunk + threadIdx.x;
        uint32_t key = 0;
        uint32_t rank;
        const bool there = candidate < candidates && key_of(candidate, &key) != 0;
        const bool taken = hisa_take(shared, taker, there, key, kth.threshold, &rank);
        /* Half a warp's bits at a time: blocks have 16 tokens or more, so a row's bitmap is whole 16-bit words. */
        const uint32_t mask = __ballot_sync(0xFFFFFFFFu, taken);
        if (threadIdx.x % 16 == 0 && candidate < candidates) {
            bits[candidate / 16] = static_cast<uint16_t>(mask >> (threadIdx.x % 32));
        }
        if (taken && selected != nullptr) {
            selected[rank] = hisa_score_from_key(key);
        }
    }
    if (selected != nullptr) {
        for (int64_t i = hisa_taken(taker) + threadIdx.x; i < top_k; i += HISA_PICK_THREADS) {
            selected[i] = 0.0f;
        }
    }
}

extern "C" int hisa_cuda_launch_select_tokens(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                              int32_t top_k, int64_t row_begin, int64_t rows, const int32_t *kept,
                                              const int32_t *place, const float *pool, uint8_t *bitmap, float *selected,
                                              void *stream) {
    const int64_t candidates = int64_t(width) * shard->block_size;
    const dim3 grid = hisa_row_grid(rows, 1);
    if (candidates > hisa_radix_32k::capacity) {
        return hisa_launch_next(select_tokens_any, grid, HISA_PICK_THREADS, stream, *shard, tile->row, width, top_k,
                                row_begin, kept, place, pool, bitmap, selected);
    }
    return hisa_with_radix(candidates, rows, [&](auto radix) {
        using Radix = decltype(radix);
        return hisa_launch_next(select_tokens<Radix>, grid, Radix::threads, stream, *shard, tile->row, width, top_k,
                                row_begin, kept, place, pool, bitmap, selected);
    });
}
