/* Mode flat on Hopper: every row against a chunk of this rank's tokens. Scores are not stored: what could be among a
 * row's best goes behind its list, which has room for a whole chunk, so that nothing overflows whatever the scores. */
#include "backend/cuda/hopper_rows.cuh"
#include "backend/cuda/sight.cuh"
#include "backend/order.h"

enum { TILE = HISA_ROWS_TILE };

struct flat_source_t {
    hisa_shard_t shard;
    const hisa_row_t *rows;
    const float *weights;
    int64_t tile_rows;
    int64_t begin;         /* of the chunk, in local tokens: a multiple of TILE */
    int32_t tiles;         /* of the chunk */
    uint32_t *ticket;      /* 0 before the kernel */
    uint32_t *next_ticket; /* 0 after it */
    hisa_flat_lists_t lists;
};

/* What the list of a row takes. Floor and all say the same as the least key that is still taken. */
struct target_t {
    uint64_t *list;
    uint32_t *count;
    float floor;   /* scores from it on are taken; NaN: none; -inf: all but NaN */
    int32_t all;   /* NaN too */
    int32_t begin; /* local tokens that the row sees */
    int32_t end;
    __device__ __forceinline__ void hide() { end = 0; }
};

template <int HEADS> using shared_t = hisa_rows_t<HEADS, target_t>;

/* Position of a local token. They follow one another as global ones do inside a block, and a block's size is a power of
 * two. */
static __device__ __forceinline__ int32_t position_of(const hisa_shard_t &shard, int32_t sequence, uint32_t token) {
    if (shard.ranks == 1) {
        return static_cast<int32_t>(token);
    }
    const uint32_t size = static_cast<uint32_t>(shard.block_size);
    const hisa_layout_t layout = hisa_shard_layout(&shard, shard.offsets[sequence]);
    const int64_t block = hisa_layout_global(&layout, shard.rank, token / size);
    return static_cast<int32_t>(static_cast<uint32_t>(block) * size + token % size);
}

/* Four lanes a row: which of the tile's keys this lane's score i is of. It reads four by four. */
static __device__ __forceinline__ int key_of(int lane, int i) { return i / 4 * 16 + lane % 4 * 4 + i % 4; }

/* A bit for each of this lane's scores that the list takes. first: the tile's first token. */
static __device__ __forceinline__ uint32_t taken(const target_t &to, int32_t first, const float *score) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const float floor = to.floor;
    uint32_t mine = 0;
#pragma unroll
    for (int i = 0; i < TILE / 16; ++i) {
        const float4 s = *reinterpret_cast<const float4 *>(score + key_of(lane, 4 * i));
        mine |= s.x >= floor ? 1u << (4 * i) : 0;
        mine |= s.y >= floor ? 2u << (4 * i) : 0;
        mine |= s.z >= floor ? 4u << (4 * i) : 0;
        mine |= s.w >= floor ? 8u << (4 * i) : 0;
    }
    if (to.all != 0) {
        mine = 0xFFFFFFFFu;
    }
    const int32_t begin = to.begin - first;
    const int32_t end = to.end - first;
    if (begin > 0 || end < TILE) {
#pragma unroll
        for (int i = 0; i < TILE / 4; ++i) {
            if (key_of(lane, i) < begin || key_of(lane, i) >= end) {
                mine &= ~(1u << i);
            }
        }
    }
    return mine;
}
static_assert(TILE / 4 == 32, "a bit a score");

/* A warp puts what eight rows' lists take of a tile at their ends, in the order in which warps come. */
template <int HEADS>
static __device__ __forceinline__ void take(const hisa_shard_t &shard, const shared_t<HEADS> &shared, uint32_t stage,
                                            int rows_before) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int32_t first = shared.first[stage];
    const int32_t batch = shared.batch[stage];
    const target_t &to = shared.row[batch][rows_before + lane / 4];
    const float *score = shared.score[stage][rows_before + lane / 4];
    const uint32_t mine = taken(to, first, score);
    if (__all_sync(0xFFFFFFFFu, mine == 0)) {
        return;
    }
    const uint32_t own = static_cast<uint32_t>(__popc(mine));
    uint32_t up_to = own;
#pragma unroll
    for (int distance = 1; distance < 4; distance *= 2) {
        const uint32_t lower = __shfl_up_sync(0xFFFFFFFFu, up_to, distance, 4);
        up_to += lane % 4 >= distance ? lower : 0;
    }
    uint32_t before = 0;
    if (lane % 4 == 3 && up_to != 0) {
        before = atomicAdd(to.count, up_to);
    }
    uint64_t *list = to.list + __shfl_sync(0xFFFFFFFFu, before, 3, 4) + up_to - own;
    const int32_t sequence = shared.sequence[batch];
    for (uint32_t m = mine; m != 0; m &= m - 1) {
        const int at = key_of(lane, __ffs(static_cast<int>(m)) - 1);
        *list++ = hisa_rank_make(hisa_key_from_score(score[at]),
                                 position_of(shard, sequence, static_cast<uint32_t>(first + at)));
    }
}

/* The lane's row of a batch that begins at `begin`, against tiles [tile_begin, tile_end) of the chunk. */
template <int HEADS>
static __device__ __forceinline__ hisa_rows_lane_t<target_t> look(const flat_source_t &from, int64_t begin,
                                                                  int32_t tile_begin, int32_t tile_end) {
    hisa_rows_lane_t<target_t> own = hisa_look_at_row<HEADS, target_t>(
        from.rows, begin, from.tile_rows, from.begin + int64_t(tile_begin) * TILE,
        from.begin + int64_t(tile_end) * TILE, [&](const hisa_row_t &row, int64_t *first, int64_t *last) {
            hisa_local_tokens_in_sight(from.shard, row, first, last);
        });
    if (own.valid) {
        const int64_t r = begin + threadIdx.x % 32;
        const uint64_t rank = from.lists.least[r];
        /* Equal keys of later positions lose, and this chunk's positions are later than the list's. */
        const uint32_t least = rank == HISA_RANK_NONE ? 0 : hisa_rank_key(rank) + 1;
        own.target = {from.lists.list + r * from.lists.capacity,
                      from.lists.count + r,
                      least <= hisa_key_from_score(-INFINITY) ? -INFINITY : hisa_score_from_key(least),
                      least == 0 ? 1 : 0,
                      own.low,
                      own.high};
    }
    return own;
}

template <int HEADS>
static __global__ void __launch_bounds__(HISA_ROWS_THREADS, 1)
    score_flat(__grid_constant__ const CUtensorMap q_map, __grid_constant__ const CUtensorMap key_map,
               flat_source_t from) {
    auto &shared = hisa_rows_begin<HEADS, target_t>();
    hisa_run_rows(
        shared,
        [&](uint32_t stage) {
#pragma unroll
            for (int i = 0; i < shared.rows; i += 8) {
                take(from.shard, shared, stage, i);
            }
        },
        [&]() {
            const hisa_rows_source_t source = {&q_map, from.weights, &key_map, from.shard.store.scales,
                                               from.shard.slots * int64_t(from.shard.block_size)};
            if (blockIdx.x == 0 && threadIdx.x % 32 == 0) {
                *from.next_ticket = 0;
            }
            hisa_feed_part(
                shared, source, from.tile_rows, from.tiles, from.ticket,
                [&](int64_t begin, int32_t tile_begin, int32_t tile_end) {
                    return look<HEADS>(from, begin, tile_begin, tile_end);
                },
                [&](int32_t sequence) { return from.shard.bases[sequence] * int64_t(from.shard.block_size); });
        });
}

template <int HEADS>
static cudaError_t launch(const hisa_hopper_maps_t *maps, const flat_source_t &from, void *stream) {
    const int64_t work = from.tiles * hisa_ceil_div(from.tile_rows, shared_t<HEADS>::rows);
    return hisa_hopper_launch(score_flat<HEADS>, hisa_min(work, int64_t(maps->multiprocessors)), HISA_ROWS_THREADS,
                              hisa_rows_bytes<HEADS, target_t>(), stream,
                              *reinterpret_cast<const CUtensorMap *>(maps->q),
                              *reinterpret_cast<const CUtensorMap *>(maps->keys), from);
}

extern "C" int hisa_cuda_launch_hopper_flat(const hisa_hopper_maps_t *maps, const hisa_shard_t *shard,
                                            const hisa_tile_t *tile, int64_t begin, int64_t chunk, uint32_t *ticket,
                                            uint32_t *next_ticket, const hisa_flat_lists_t *lists, void *stream) {
    const flat_source_t from = {*shard,     tile->row,   tile->weights,
                                tile->rows, begin,       static_cast<int32_t>(chunk / TILE),
                                ticket,     next_ticket, *lists};
    return shard->num_heads == 64 ? launch<64>(maps, from, stream) : launch<32>(maps, from, stream);
}
