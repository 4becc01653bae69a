/* Token scores of kept blocks on Hopper. A block's keys stay in a warpgroup's registers, and the rows that kept it
 * stream by: 8 KB a row and block through L2, whether neighbours keep the same blocks or not. */
#include "backend/cuda/hopper.cuh"
#include "backend/cuda/hopper_pairs.cuh"
#include "backend/cuda/launch.cuh"
#include "backend/cuda/sight.cuh"

/* One warpgroup a thread block, three of which share a multiprocessor: a panel is 128 keys, the usual block. */
enum { PANEL = HISA_HOPPER_PANEL, STAGES = 6, RESIDENT = HISA_TOKENS_RESIDENT };

struct token_source_t {
    hisa_shard_t shard;
    const hisa_row_t *rows;
    const float *weights;
    int32_t width;
    hisa_divisor_t by_width;
    const int32_t *kept;
    const int32_t *work; /* NULL: place r * width + j */
    int64_t tile_rows;
    float *pool;
    hisa_pairs_t pairs;
};

struct target_t {
    float *pool;
};

struct put_score_t {
    __device__ __forceinline__ void operator()(const target_t &to, int at, float score) const {
        __stcs(to.pool + at, score);
    }
};

/* Many rows: batches of rows that share a block, from hopper_pairs.cu. */
template <int HEADS>
static __device__ void feed_shared(hisa_hopper_t<HEADS, STAGES, target_t> &shared, hisa_feeder_t &feeder,
                                   const token_source_t &from, const CUtensorMap *q_map, const CUtensorMap *key_map) {
    const int32_t size = from.shard.block_size;
    const int32_t panels = size / PANEL;
    const int32_t panels_log2 = 31 - __clz(panels);
    const int64_t batches = int64_t(from.pairs.sums->full + from.pairs.sums->rest) * panels;
    const int lane = static_cast<int>(threadIdx.x % 32);
    /* Batches are taken as they come (7% faster than in turn); the next ticket is drawn before this one is fed. */
    int64_t b = blockIdx.x;
    while (b < batches) {
        int32_t ticket = 0;
        if (lane == 0) {
            ticket = atomicAdd(&from.pairs.sums->ticket, 1);
        }
        const hisa_batch_t batch = from.pairs.batch[b >> panels_log2];
        const int32_t inside = static_cast<int32_t>(b & (panels - 1)) * PANEL;
        const int64_t key = int64_t(batch.slot) * size + inside;
        hisa_pair_t pair = {0, 0};
        if (lane < batch.count) {
            pair = from.pairs.pair[batch.begin + lane];
        }
        hisa_feed_batch(shared, feeder, batch.count, key_map, static_cast<int32_t>(key), from.shard.store.scales + key,
                        PANEL);
        for (int i = 0; i < batch.count; ++i) {
            const int32_t source = __shfl_sync(0xFFFFFFFFu, pair.source, i);
            const int32_t place = __shfl_sync(0xFFFFFFFFu, pair.place, i);
            hisa_feed_query(shared, feeder, q_map, from.weights, source,
                            target_t{from.pool + int64_t(place) * size + inside});
        }
        b = int64_t(gridDim.x) + __shfl_sync(0xFFFFFFFFu, ticket, 0);
    }
}

/* Few rows: kept block after kept block, each for its own row. In 32 bits, as a step of decode feels a division of 64:
 * blocks of a sequence have at most 2^24 panels, and few rows are at most 64. */
template <int HEADS>
static __device__ void feed_each(hisa_hopper_t<HEADS, STAGES, target_t> &shared, hisa_feeder_t &feeder,
                                 const token_source_t &from, const CUtensorMap *q_map, const CUtensorMap *key_map) {
    const int32_t size = from.shard.block_size;
    const int32_t panels = size / PANEL;
    const int32_t panels_log2 = 31 - __clz(panels);
    const int32_t end = static_cast<int32_t>(from.tile_rows) * from.width * panels;
    for (int32_t b = static_cast<int32_t>(blockIdx.x); b < end; b += static_cast<int32_t>(gridDim.x)) {
        const int32_t at = b >> panels_log2;
        const int32_t block = from.kept[at];
        const int32_t place = from.work != nullptr ? from.work[at] : at;
        const hisa_row_t row = from.rows[hisa_divide(static_cast<uint32_t>(at), from.by_width)];
        if (block < 0 || place < 0) {
            continue;
        }
        const int32_t inside = (b & (panels - 1)) * PANEL;
        const int32_t slot =
            from.shard.bases[row.sequence] + hisa_deal_local(&from.shard.deal, hisa_row_first(from.shard, row), block);
        const int64_t key = int64_t(slot) * size + inside;
        hisa_feed_batch(shared, feeder, 1, key_map, static_cast<int32_t>(key), from.shard.store.scales + key, PANEL);
        hisa_feed_query(shared, feeder, q_map, from.weights, row.source,
                        target_t{from.pool + int64_t(place) * size + inside});
    }
}

template <int HEADS, bool SHARED>
static __global__ void __launch_bounds__(HISA_HOPPER_THREADS, RESIDENT)
    score_tokens(__grid_constant__ const CUtensorMap q_map, __grid_constant__ const CUtensorMap key_map,
                 token_source_t from) {
    auto &shared = hisa_hopper_begin<HEADS, STAGES, target_t>();
    if (threadIdx.x < 128) {
        hisa_score_batches(shared, put_score_t());
        return;
    }
    hisa_feeder_t feeder = hisa_feeder_make();
    if (SHARED) {
        feed_shared(shared, feeder, from, &q_map, &key_map);
    } else {
        feed_each(shared, feeder, from, &q_map, &key_map);
    }
    hisa_feed_end(shared, feeder);
}

extern "C" int hisa_cuda_launch_hopper_tokens(const hisa_hopper_maps_t *maps, const hisa_shard_t *shard,
                                              const hisa_tile_t *tile, int32_t width, const int32_t *kept,
                                              const int32_t *work, float *pool, const hisa_pairs_t *pairs,
                                              void *stream) {
    token_source_t from = {*shard, tile->row, tile->weights, width, hisa_divisor_make(width),
                           kept,   work,      tile->rows,    pool,  {}};
    const bool wide = shard->num_heads == 64;
    auto kernel = wide ? score_tokens<64, false> : score_tokens<32, false>;
    if (pairs != nullptr) {
        from.pairs = *pairs;
        kernel = wide ? score_tokens<64, true> : score_tokens<32, true>;
    }
    const int bytes = wide ? hisa_hopper_bytes<64, STAGES, target_t>() : hisa_hopper_bytes<32, STAGES, target_t>();
    const int64_t work_items = tile->rows * width * (shard->block_size / PANEL);
    const int64_t blocks = hisa_min(work_items, int64_t(maps->multiprocessors) * RESIDENT);
    return hisa_hopper_launch(kernel, blocks, HISA_HOPPER_THREADS, bytes, stream,
                              *reinterpret_cast<const CUtensorMap *>(maps->q),
                              *reinterpret_cast<const CUtensorMap *>(maps->keys), from);
}
