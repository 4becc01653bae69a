/* Turns kept lists (blocks by row) around (rows by block): a counting sort of the entries that this rank scores. A
 * block that nearly all rows keep must not cost an addition in device memory for each of them, since additions to one
 * counter wait for one another; so a thread block counts a group of entries in shared memory first. All but the first
 * look at an entry is for this rank's own ones. */
#include "backend/cuda/hopper_pairs.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/cuda/warp.cuh"

/* A thread has four entries, loaded together. Cells: twice as many as entries can need, so that a search is short. */
enum { THREADS = 256, EACH = HISA_PAIR_GROUP / THREADS, CELL_BITS = 11, CELLS = 1 << CELL_BITS };
static_assert(EACH * THREADS == HISA_PAIR_GROUP && CELLS >= 2 * HISA_PAIR_GROUP, "all entries, and cells to spare");

template <typename T> static __device__ __forceinline__ T load_16(const T *from) {
    static_assert(sizeof(T) == sizeof(int4), "one load");
    union {
        int4 words;
        T value;
    } both;
    both.words = *reinterpret_cast<const int4 *>(from);
    return both.value;
}

template <typename T> static __device__ __forceinline__ void store_16(T *to, const T &value) {
    static_assert(sizeof(T) == sizeof(int4), "one store");
    *reinterpret_cast<int4 *>(to) = *reinterpret_cast<const int4 *>(&value);
}

/* Counts of up to HISA_PAIR_GROUP different slots, by slot. */
struct counts_t {
    int32_t slot[CELLS]; /* -1: free */
    int32_t count[CELLS];
};

/* The slot's cell, taken for it if it has none yet. Ends: there are more cells than slots. */
static __device__ __forceinline__ uint32_t find_cell(counts_t &counts, int32_t slot) {
    uint32_t cell = (static_cast<uint32_t>(slot) * 2654435769u) >> (32 - CELL_BITS);
    for (;;) {
        const int32_t there = atomicCAS(&counts.slot[cell], -1, slot);
        if (there == -1 || there == slot) {
            return cell;
        }
        cell = (cell + 1) % CELLS;
    }
}

static __global__ void clear_pairs(int64_t slots, hisa_pairs_t pairs) {
    hisa_grid_release();
    hisa_grid_wait();
    const int64_t i = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    if (i == 0) {
        *pairs.sums = {};
    }
    if (i < slots) {
        pairs.run[i].count = 0;
    }
}

/* Finds the entries of a group that this rank scores, and gives each its turn among its slot's pairs. */
static __global__ void __launch_bounds__(THREADS)
    note_pairs(hisa_shard_t shard, const hisa_row_t *rows, int64_t entries, hisa_divisor_t by_width,
               const int32_t *kept, const int32_t *work, hisa_pairs_t pairs) {
    __shared__ counts_t counts;
    __shared__ int32_t own[HISA_PAIR_GROUP]; /* places in the group */
    __shared__ int32_t shared_n;
    hisa_grid_release();
    for (int32_t cell = static_cast<int32_t>(threadIdx.x); cell < CELLS; cell += THREADS) {
        counts.slot[cell] = -1;
        counts.count[cell] = 0;
    }
    if (threadIdx.x == 0) {
        shared_n = 0;
    }
    __syncthreads();
    hisa_grid_wait();
    const int64_t first = int64_t(blockIdx.x) * HISA_PAIR_GROUP;
    const auto place_of = [&](int64_t e) { return work != nullptr ? work[e] : static_cast<int32_t>(e); };
    bool mine[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int64_t e = first + i * THREADS + threadIdx.x;
        mine[i] = e < entries && kept[e] >= 0 && place_of(e) >= 0;
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const uint32_t all = __ballot_sync(0xFFFFFFFFu, mine[i]);
        const int32_t lane = static_cast<int32_t>(threadIdx.x % 32);
        int32_t begin = 0;
        if (lane == 0) {
            begin = atomicAdd(&shared_n, __popc(all));
        }
        begin = __shfl_sync(0xFFFFFFFFu, begin, 0);
        if (mine[i]) {
            own[begin + __popc(all & ((1u << lane) - 1))] = static_cast<int32_t>(i * THREADS + threadIdx.x);
        }
    }
    __syncthreads();
    const int32_t n = shared_n;
    hisa_pair_note_t note[EACH];
    uint32_t cell[EACH];
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int32_t at = static_cast<int32_t>(i * THREADS + threadIdx.x);
        if (at < n) {
            const int64_t e = first + own[at];
            const hisa_row_t row = rows[hisa_divide(static_cast<uint32_t>(e), by_width)];
            note[i].slot =
                shard.bases[row.sequence] + hisa_deal_local(&shard.deal, hisa_row_first(shard, row), kept[e]);
            note[i].source = row.source;
            note[i].place = place_of(e);
            cell[i] = find_cell(counts, note[i].slot);
            note[i].turn = atomicAdd(&counts.count[cell[i]], 1);
        }
    }
    __syncthreads();
    /* From here on a cell has the turn of the first pair that it counted. */
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        if (static_cast<int32_t>(i * THREADS + threadIdx.x) < n && note[i].turn == 0) {
            int32_t &count = counts.count[cell[i]];
            count = atomicAdd(&pairs.run[note[i].slot].count, count);
        }
    }
    if (threadIdx.x == 0) {
        pairs.held[blockIdx.x] = n;
        atomicAdd(&pairs.sums->total, n);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int32_t at = static_cast<int32_t>(i * THREADS + threadIdx.x);
        if (at < n) {
            note[i].turn += counts.count[cell[i]];
            store_16(&pairs.note[first + at], note[i]);
        }
    }
}

/* Rows of a full batch: a power of 2. */
static __device__ __forceinline__ int32_t batch_rows(const hisa_pairs_t &pairs) {
    const int32_t each = pairs.sums->total / (pairs.takers * HISA_BATCHES_EACH);
    int32_t rows = HISA_BATCH_ROWS;
    while (rows > HISA_BATCH_ROWS_LEAST && rows > each) {
        rows /= 2;
    }
    return rows;
}

/* The first of `own` numbers of each lane, dealt out of a counter that all share: one addition a warp. */
static __device__ __forceinline__ int32_t deal(int32_t *counter, int32_t own) {
    const int32_t up_to = hisa_warp_scan(own);
    int32_t begin = 0;
    if (threadIdx.x % 32 == 31) {
        begin = atomicAdd(counter, up_to);
    }
    return __shfl_sync(0xFFFFFFFFu, begin, 31) + up_to - own;
}

/* Where each slot's pairs and batches go. */
static __global__ void cut_batches(int64_t slots, hisa_pairs_t pairs) {
    hisa_grid_release();
    hisa_grid_wait();
    const int64_t slot = blockIdx.x * int64_t(blockDim.x) + threadIdx.x;
    const int32_t count = slot < slots ? pairs.run[slot].count : 0;
    if (__any_sync(0xFFFFFFFFu, count != 0)) {
        const int32_t rows = batch_rows(pairs);
        hisa_pair_run_t run;
        run.count = count;
        run.begin = deal(&pairs.sums->cursor, count);
        run.full = deal(&pairs.sums->full, count / rows);
        run.rest = deal(&pairs.sums->rest, count % rows != 0 ? 1 : 0);
        if (slot < slots) {
            store_16(&pairs.run[slot], run);
        }
    }
}

/* Large batches come first, so that small ones are left for when thread blocks run out of them. */
static __global__ void __launch_bounds__(THREADS) put_pairs(hisa_pairs_t pairs) {
    hisa_grid_release();
    hisa_grid_wait();
    const int32_t n = pairs.held[blockIdx.x];
    const int32_t rows = batch_rows(pairs);
    const int32_t all_full = pairs.sums->full;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        const int32_t at = static_cast<int32_t>(i * THREADS + threadIdx.x);
        if (at < n) {
            const hisa_pair_note_t note = load_16(&pairs.note[int64_t(blockIdx.x) * HISA_PAIR_GROUP + at]);
            const hisa_pair_run_t run = load_16(&pairs.run[note.slot]);
            const int32_t pair = run.begin + note.turn;
            pairs.pair[pair] = {note.source, note.place};
            if (note.turn % rows == 0) {
                const int32_t left = run.count - note.turn;
                const int32_t batch = left >= rows ? run.full + note.turn / rows : all_full + run.rest;
                pairs.batch[batch] = {note.slot, pair, left < rows ? left : rows};
            }
        }
    }
}

extern "C" int hisa_cuda_launch_hopper_pairs(const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                                             const int32_t *kept, const int32_t *work, const hisa_pairs_t *pairs,
                                             void *stream) {
    const int64_t slots = shard->slots;
    const int64_t entries = tile->rows * width;
    const dim3 by_slot(static_cast<unsigned>(hisa_ceil_div(hisa_max(1, slots), THREADS)));
    const dim3 by_group(static_cast<unsigned>(hisa_ceil_div(entries, HISA_PAIR_GROUP)));
    cudaError_t error = hisa_launch_next(clear_pairs, by_slot, THREADS, stream, slots, *pairs);
    if (error == cudaSuccess) {
        error = hisa_launch_next(note_pairs, by_group, THREADS, stream, *shard, tile->row, entries,
                                 hisa_divisor_make(width), kept, work, *pairs);
    }
    if (error == cudaSuccess) {
        error = hisa_launch_next(cut_batches, by_slot, THREADS, stream, slots, *pairs);
    }
    if (error == cudaSuccess) {
        error = hisa_launch_next(put_pairs, by_group, THREADS, stream, *pairs);
    }
    return error;
}
