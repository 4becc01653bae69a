#include "backend/cuda/hopper.h"

#include "backend/cuda/hopper_pairs.cuh"
#include "backend/cuda/tensor_map.h"
#include "base/checked.h"

/* Above this many rows it pays to find out first which of them kept the same blocks. */
enum { FEW_ROWS = 64 };

/* The maps themselves, and their addresses for the launchers. */
typedef struct maps {
    CUtensorMap q;
    CUtensorMap keys;
    CUtensorMap pooled;
    hisa_hopper_maps_t all;
} maps_t;

static hisa_status_t make_maps(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                               maps_t *maps) {
    const hisa_cuda_t *cuda = hisa_cuda_of(device);
    const hisa_cuda_encoder_t encoder = (hisa_cuda_encoder_t)cuda->encoder;
    /* How many rows q has is the caller's to know: sources are in range, and the map need not say where they end. */
    hisa_status_t status = hisa_cuda_map_rows(encoder, tile->q, INT32_MAX, shard->num_heads, &maps->q);
    if (status == HISA_OK) {
        status = hisa_cuda_map_rows(encoder, shard->store.keys, hisa_max(1, shard->slots) * shard->block_size, 128,
                                    &maps->keys);
    }
    if (status == HISA_OK) {
        status = hisa_cuda_map_rows(encoder, shard->store.pooled, hisa_max(1, shard->slots), 128, &maps->pooled);
    }
    maps->all = (hisa_hopper_maps_t){
        .q = &maps->q, .keys = &maps->keys, .pooled = &maps->pooled, .multiprocessors = cuda->multiprocessors};
    return status;
}

/* Lays the pairs out in scratch (NULL: none), and returns their bytes. */
static int64_t lay_pairs(int64_t rows, int32_t width, int64_t slots, void *scratch, hisa_pairs_t *pairs) {
    const int64_t entries = rows * width;
    int32_t *words = scratch;
    const int64_t pair = 2 * hisa_ceil_div(2 + 2 * slots + entries, 2);
    const int64_t batch = pair + 2 * entries;
    if (words != NULL) {
        *pairs = (hisa_pairs_t){.batches = words,
                                .cursor = words + 1,
                                .count = words + 2,
                                .begin = words + 2 + slots,
                                .turn = words + 2 + 2 * slots,
                                .pair = (hisa_pair_t *)(void *)(words + pair),
                                .batch = (hisa_batch_t *)(void *)(words + batch)};
    }
    return (batch + 3 * entries) * (int64_t)sizeof *words;
}

int64_t hisa_cuda_hopper_scratch(const hisa_cuda_t *cuda, int64_t rows, int32_t width, int64_t blocks) {
    return lay_pairs(rows, width, cuda->num_sequences * blocks, NULL, NULL);
}

hisa_status_t hisa_cuda_hopper_score_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                            uint32_t *key, void *stream) {
    maps_t maps;
    hisa_status_t status = make_maps(device, shard, tile, &maps);
    if (status == HISA_OK) {
        HISA_CUDA_RUN(status, device, "scoring blocks",
                      hisa_cuda_launch_hopper_blocks(&maps.all, shard, tile, key, stream));
    }
    return status;
}

hisa_status_t hisa_cuda_hopper_score_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                            int32_t width, const int32_t *kept, const int32_t *work, float *pool,
                                            void *stream) {
    maps_t maps;
    hisa_pairs_t pairs;
    const bool many = tile->rows > FEW_ROWS;
    hisa_status_t status = make_maps(device, shard, tile, &maps);
    if (status == HISA_OK && many) {
        lay_pairs(tile->rows, width, shard->slots, tile->scratch, &pairs);
        HISA_CUDA_RUN(status, device, "pairing rows and blocks",
                      hisa_cuda_launch_hopper_pairs(shard, tile, width, kept, work, &pairs, stream));
    }
    if (status == HISA_OK) {
        HISA_CUDA_RUN(status, device, "scoring tokens",
                      hisa_cuda_launch_hopper_tokens(&maps.all, shard, tile, width, kept, work, pool,
                                                     many ? &pairs : NULL, stream));
    }
    return status;
}
