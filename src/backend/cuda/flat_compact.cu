/* Mode flat, between chunks on Hopper and among the ranks' entries: each row's list is cut down to its best. A list is
 * left as it lies but for what loses: what wins behind the first top_k places moves into the holes among them. So what
 * is written is never read again, and whoever wants an entry twice may look it up. */
#include "backend/cuda/launch.cuh"
#include "backend/cuda/pick.cuh"
#include "backend/cuda/radix.cuh"
#include "backend/order.h"

/* Two chunks of 4352 tokens on top of 2048 are the most that k 2048 can have; the usual rest: after j chunks of random
 * scores one more brings some top_k / j entries. Fewer keys in registers are more rows at a time. */
using radix_usual = hisa_radix_t<256, 5, 5>;
using radix_most = hisa_radix_t<512, 6, 2>;
using radix_wide = hisa_radix_t<1024, 3, 1>;
/* The entries of eight ranks, k 2048 each, and more. */
using radix_widest = hisa_radix_t<1024, 8, 1>;

/* Thread blocks that are dealt rows of which few or none are theirs: two a multiprocessor of an H100. */
enum { DEALT = 264 };

/* Lists of more than `above` entries, and of no more than the kernel has room for. */
struct compact_t {
    hisa_flat_lists_t lists;
    int64_t rows;
    uint32_t top_k;
    uint32_t above;
    uint32_t idle; /* shorter lists can wait */
};

/* The word that goes first in an order: entries are little-endian. */
static __device__ __forceinline__ uint32_t key_at(const uint64_t *list, uint32_t i) {
    return hisa_radix_from_key(reinterpret_cast<const uint32_t *>(list + i)[1]);
}

/* Of a key that two entries share, the one with the lower position has the larger word. Never 0, that is "none". */
static __device__ __forceinline__ uint32_t word_at(const uint64_t *list, uint32_t i) {
    return reinterpret_cast<const uint32_t *>(list + i)[0];
}

static __device__ __forceinline__ uint64_t rank_of(uint32_t key, uint32_t word) {
    return uint64_t(key == HISA_RADIX_NAN ? HISA_KEY_NAN : key) << 32 | word;
}

/* The holes take the histogram's room. There are no more of them than places, nor than entries behind those. */
template <typename Radix> union shared_t {
    typename Radix::shared_t radix;
    struct {
        typename Radix::sums_t sums;
        uint16_t hole[Radix::capacity / 2];
    } moves;
};

/* A list of n entries, n >= k. The histogram must be cleared. */
template <typename Radix>
static __device__ __forceinline__ void compact_row(shared_t<Radix> &shared, uint64_t *list, uint32_t n, uint32_t k,
                                                   uint32_t *count, uint64_t *least) {
    const auto place_of = [](int v) { return static_cast<uint32_t>(v * Radix::threads) + threadIdx.x; };
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t warp = threadIdx.x / 32;
    uint32_t key[Radix::keys];
    uint32_t own = 0;
#pragma unroll
    for (int v = 0; v < Radix::keys; ++v) {
        key[v] = place_of(v) < n ? key_at(list, place_of(v)) : HISA_RADIX_NONE;
        own += place_of(v) < n ? 1u : 0u;
    }
    const hisa_cut_t cut = Radix::cut(shared.radix, key, own, k);
    uint32_t from = cut.from;
    if (cut.ties != 0) {
        /* The positions of those at the tie decide. What is above it takes part as what is taken first of all. */
        own = 0;
#pragma unroll
        for (int v = 0; v < Radix::keys; ++v) {
            const uint32_t above = key[v] >= cut.from ? 0xFFFFFFFFu : HISA_RADIX_NONE;
            key[v] = key[v] == cut.tie ? word_at(list, place_of(v)) : above;
            own += key[v] != HISA_RADIX_NONE ? 1u : 0u;
        }
        from = Radix::cut(shared.radix, key, own, k).from;
    }
    /* Low half: holes; high half: what moves. There are as many of the one as of the other. */
    uint32_t moves = 0;
    uint32_t low = 0xFFFFFFFFu;
#pragma unroll
    for (int v = 0; v < Radix::keys; ++v) {
        const bool wins = key[v] >= from;
        const bool inside = place_of(v) < k;
        moves += inside && !wins ? 1u : 0u;
        moves += !inside && wins ? 1u << 16 : 0u;
        low = wins ? min(low, key[v]) : low;
    }
    low = __reduce_min_sync(0xFFFFFFFFu, low);
    if (lane == 0) {
        shared.radix.sums.low[warp] = low;
    }
    const uint32_t lanes = hisa_warp_scan(moves, static_cast<int>(threadIdx.x) % 32);
    const uint32_t before = Radix::sum_of_lower_warps(shared.radix, lanes) + lanes - moves;
    low = __reduce_min_sync(0xFFFFFFFFu, lane < Radix::warps ? shared.radix.sums.low[lane] : 0xFFFFFFFFu);
    uint32_t hole = before & 0xFFFF;
    uint32_t word = 0xFFFFFFFFu;
#pragma unroll
    for (int v = 0; v < Radix::keys; ++v) {
        if (key[v] < from && place_of(v) < k) {
            shared.moves.hole[hole++] = static_cast<uint16_t>(place_of(v));
        }
        if (cut.ties == 0 && key[v] == low) {
            word = min(word, word_at(list, place_of(v)));
        }
    }
    word = __reduce_min_sync(0xFFFFFFFFu, word);
    if (lane == 0) {
        shared.radix.sums.high[warp] = word;
    }
    __syncthreads();
    uint32_t mover = before >> 16;
#pragma unroll
    for (int v = 0; v < Radix::keys; ++v) {
        if (key[v] >= from && place_of(v) >= k) {
            list[shared.moves.hole[mover++]] = list[place_of(v)];
        }
    }
    if (warp == 0) {
        word = __reduce_min_sync(0xFFFFFFFFu, lane < Radix::warps ? shared.radix.sums.high[lane] : 0xFFFFFFFFu);
        if (lane == 0) {
            *count = k;
            *least = cut.ties != 0 ? rank_of(cut.tie, low) : rank_of(low, word);
        }
    }
}

/* Whether row r has something to be done, by a kernel with room for `most` entries. */
static __device__ __forceinline__ bool is_due(const compact_t &from, int64_t r, uint32_t most) {
    const uint32_t n = from.lists.count[r];
    return n > from.above && n > from.idle && n <= most &&
           (n > from.top_k || (n == from.top_k && from.lists.least[r] == HISA_RANK_NONE));
}

template <typename Radix>
static __global__ void __launch_bounds__(Radix::threads, Radix::blocks) compact(compact_t from) {
    __shared__ shared_t<Radix> shared;
    hisa_grid_release();
    Radix::clear(shared.radix);
    hisa_grid_wait();
    const int64_t r = blockIdx.x;
    if (is_due(from, r, Radix::capacity)) {
        compact_row<Radix>(shared, from.lists.list + r * from.lists.capacity, from.lists.count[r], from.top_k,
                           from.lists.count + r, from.lists.least + r);
    }
}

/* Calls row(r) for the thread block's rows that are due. It looks at 32 at a time, since most of them are not. row
 * passes a barrier before it changes what is_due asks for. */
template <typename Row> static __device__ __forceinline__ void each_due(const compact_t &from, uint32_t most, Row row) {
    const int64_t stride = gridDim.x;
    for (int64_t begin = blockIdx.x; begin < from.rows; begin += 32 * stride) {
        const int64_t own = begin + threadIdx.x % 32 * stride;
        uint32_t left = __ballot_sync(0xFFFFFFFFu, own < from.rows && is_due(from, own, most));
        while (left != 0) {
            row(begin + (__ffs(static_cast<int>(left)) - 1) * stride);
            left &= left - 1;
        }
    }
}

template <typename Radix>
static __global__ void __launch_bounds__(Radix::threads, Radix::blocks) compact_dealt(compact_t from) {
    __shared__ shared_t<Radix> shared;
    hisa_grid_release();
    hisa_grid_wait();
    each_due(from, Radix::capacity, [&](int64_t r) {
        __syncthreads(); /* the row before may still be at its holes */
        Radix::clear(shared.radix);
        compact_row<Radix>(shared, from.lists.list + r * from.lists.capacity, from.lists.count[r], from.top_k,
                           from.lists.count + r, from.lists.least + r);
    });
}

/* Any number of entries. Holes wait in a ring until as many are found as a step has entries that move. */
static __global__ void __launch_bounds__(HISA_PICK_THREADS) compact_any(compact_t from) {
    __shared__ hisa_pick_t shared;
    __shared__ uint32_t ring[2 * HISA_PICK_THREADS];
    hisa_grid_release();
    hisa_grid_wait();
    const int64_t k = from.top_k;
    each_due(from, UINT32_MAX, [&](int64_t r) {
        uint64_t *list = from.lists.list + r * from.lists.capacity;
        const int64_t n = from.lists.count[r];
        const hisa_kth_t<uint64_t> kth =
            hisa_block_kth<uint64_t>(shared, n, from.top_k, [&](int64_t i, uint64_t *rank) {
                *rank = list[i];
                return 1u;
            });
        uint32_t holes = 0;
        uint32_t moved = 0;
        int64_t searched = 0;
        for (int64_t chunk = k; chunk < n; chunk += HISA_PICK_THREADS) {
            const int64_t i = chunk + threadIdx.x;
            const bool moves = i < n && list[i] >= kth.threshold;
            uint32_t total;
            const uint32_t before = hisa_block_scan(shared, moves ? 1u : 0u, &total);
            while (holes < moved + total) {
                const int64_t place = searched + threadIdx.x;
                const bool hole = place < k && list[place] < kth.threshold;
                uint32_t found;
                const uint32_t at = holes + hisa_block_scan(shared, hole ? 1u : 0u, &found);
                if (hole) {
                    ring[at % (2 * HISA_PICK_THREADS)] = static_cast<uint32_t>(place);
                }
                holes += found;
                searched += HISA_PICK_THREADS;
            }
            __syncthreads();
            if (moves) {
                list[ring[(moved + before) % (2 * HISA_PICK_THREADS)]] = list[i];
            }
            moved += total;
        }
        if (threadIdx.x == 0) {
            from.lists.count[r] = from.top_k;
            from.lists.least[r] = kth.threshold;
        }
    });
}

extern "C" int hisa_cuda_launch_flat_compact(int64_t rows, int32_t top_k, int64_t idle, const hisa_flat_lists_t *lists,
                                             void *stream) {
    compact_t from = {*lists, rows, static_cast<uint32_t>(top_k), 0, static_cast<uint32_t>(idle)};
    cudaError_t error = cudaSuccess;
    const auto dealt = [&](auto radix, auto kernel) {
        if (error == cudaSuccess && lists->capacity > from.above) {
            error = hisa_launch_next(kernel, dim3(DEALT), decltype(radix)::threads, stream, from);
            from.above = decltype(radix)::capacity;
        }
    };
    if (hisa_radix_wide(rows) && lists->capacity <= radix_wide::capacity) {
        return hisa_launch_next(compact<radix_wide>, hisa_row_grid(rows, 1), radix_wide::threads, stream, from);
    }
    if (!hisa_radix_wide(rows)) {
        if (from.idle < radix_usual::capacity) {
            error = hisa_launch_next(compact<radix_usual>, hisa_row_grid(rows, 1), radix_usual::threads, stream, from);
        }
        from.above = radix_usual::capacity;
        dealt(radix_most(), compact_dealt<radix_most>);
    }
    dealt(radix_widest(), compact_dealt<radix_widest>);
    if (error == cudaSuccess && lists->capacity > from.above) {
        error = hisa_launch_next(compact_any, dim3(DEALT), HISA_PICK_THREADS, stream, from);
    }
    return error;
}
