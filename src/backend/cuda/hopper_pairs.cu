/* Turns kept lists (blocks by row) around (rows by block). */
#include "backend/cuda/hopper_pairs.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/sight.cuh"

/* The slot of entry e of the kept lists, or -1 if this rank does not score it. */
static __device__ __forceinline__ int64_t slot_of(const hisa_shard_t &shard, const hisa_row_t &row, int64_t e,
                                                  const int32_t *kept, const int32_t *work) {
    if (kept[e] < 0 || (work != nullptr && work[e] < 0)) {
        return -1;
    }
    const hisa_layout_t layout = hisa_row_layout(shard, row);
    return shard.bases[row.sequence] + hisa_layout_local(&layout, kept[e]);
}

static __global__ void clear_pairs(int64_t slots, hisa_pairs_t pairs) {
    hisa_grid_release();
    hisa_grid_wait();
    const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    if (i < 3 + slots) {
        pairs.batches[i] = 0; /* and on through cursor, ticket and count, which follow */
    }
}

static __global__ void count_pairs(hisa_shard_t shard, const hisa_row_t *rows, int64_t entries, int32_t width,
                                   const int32_t *kept, const int32_t *work, hisa_pairs_t pairs) {
    hisa_grid_release();
    hisa_grid_wait();
    const int64_t e = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    if (e < entries) {
        const int64_t slot = slot_of(shard, rows[e / width], e, kept, work);
        if (slot >= 0) {
            pairs.turn[e] = atomicAdd(&pairs.count[slot], 1);
        }
    }
}

/* A block's run of pairs, and its batches. */
static __global__ void cut_batches(int64_t slots, hisa_pairs_t pairs) {
    hisa_grid_release();
    hisa_grid_wait();
    const int64_t slot = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    const int32_t count = slot < slots ? pairs.count[slot] : 0;
    if (count == 0) {
        return;
    }
    const int32_t begin = atomicAdd(pairs.cursor, count);
    const int32_t batches = (count + HISA_BATCH_ROWS - 1) / HISA_BATCH_ROWS;
    const int32_t first = atomicAdd(pairs.batches, batches);
    pairs.begin[slot] = begin;
    for (int32_t i = 0; i < batches; ++i) {
        const int32_t before = i * HISA_BATCH_ROWS;
        const int32_t rest = count - before;
        pairs.batch[first + i] = {static_cast<int32_t>(slot), begin + before,
                                  rest < HISA_BATCH_ROWS ? rest : HISA_BATCH_ROWS};
    }
}

static __global__ void put_pairs(hisa_shard_t shard, const hisa_row_t *rows, int64_t entries, int32_t width,
                                 const int32_t *kept, const int32_t *work, hisa_pairs_t pairs) {
    hisa_grid_release();
    hisa_grid_wait();
    const int64_t e = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    if (e < entries) {
        const hisa_row_t row = rows[e / width];
        const int64_t slot = slot_of(shard, row, e, kept, work);
        if (slot >= 0) {
            pairs.pair[pairs.begin[slot] + pairs.turn[e]] = {row.source,
                                                             work != nullptr ? work[e] : static_cast<int32_t>(e)};
        }
    }
}

extern "C" int hisa_cuda_launch_hopper_pairs(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                             const int32_t *kept, const int32_t *work, const hisa_pairs_t *pairs,
                                             void *stream) {
    const int64_t slots = shard->slots;
    const int64_t entries = tile->rows * width;
    const auto grid = [](int64_t n) { return dim3(static_cast<unsigned>((n + 255) / 256)); };
    cudaError_t error = hisa_launch_next(clear_pairs, grid(3 + slots), 256, stream, slots, *pairs);
    if (error == cudaSuccess) {
        error = hisa_launch_next(count_pairs, grid(entries), 256, stream, *shard, tile->row, entries, width, kept, work,
                                 *pairs);
    }
    if (error == cudaSuccess) {
        error = hisa_launch_next(cut_batches, grid(slots), 256, stream, slots, *pairs);
    }
    if (error == cudaSuccess) {
        error = hisa_launch_next(put_pairs, grid(entries), 256, stream, *shard, tile->row, entries, width, kept, work,
                                 *pairs);
    }
    return error;
}
