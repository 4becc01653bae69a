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
    hisa_status_t status = hisa_cuda_map_heads(encoder, tile->q, shard->num_heads, &maps->q);
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

/* Lays the pairs out in scratch (NULL: none), and returns their bytes. What is loaded by 16 bytes comes first. */
static int64_t lay_pairs(int64_t rows, int32_t width, int64_t slots, void *scratch, hisa_pairs_t *pairs) {
    const int64_t entries = rows * width;
    const int64_t note = (int64_t)sizeof(hisa_pair_sums_t);
    const int64_t run = note + entries * (int64_t)sizeof(hisa_pair_note_t);
    const int64_t pair = run + slots * (int64_t)sizeof(hisa_pair_run_t);
    const int64_t batch = pair + entries * (int64_t)sizeof(hisa_pair_t);
    const int64_t held = batch + entries * (int64_t)sizeof(hisa_batch_t);
    uint8_t *bytes = scratch;
    if (bytes != NULL) {
        *pairs = (hisa_pairs_t){.sums = scratch,
                                .note = (hisa_pair_note_t *)(void *)(bytes + note),
                                .run = (hisa_pair_run_t *)(void *)(bytes + run),
                                .held = (int32_t *)(void *)(bytes + held),
                                .pair = (hisa_pair_t *)(void *)(bytes + pair),
                                .batch = (hisa_batch_t *)(void *)(bytes + batch)};
    }
    return held + hisa_ceil_div(entries, HISA_PAIR_GROUP) * (int64_t)sizeof(int32_t);
}

int64_t hisa_cuda_hopper_scratch(const hisa_cuda_t *cuda, int64_t rows, int32_t width, int64_t blocks) {
    return lay_pairs(rows, width, cuda->num_sequences * blocks, NULL, NULL);
}

/* Tokens of a chunk, in tiles of the scoring kernel. A row's list has room for two short chunks on top of its best.
 * While thresholds are young every list is cut down after every chunk, since a young one lets through most of the next;
 * then a list is cut when it has no room for another long chunk, which of random scores is about each time that the
 * tokens have doubled. So cuts are short (usual lists end in registers, flat_compact.cu) and launches few: 0.4 ms less
 * of 4096 rows and 131072 tokens than even chunks of 34 tiles and lists cut when full. */
enum { TILE = 128, CHUNK = 34 * TILE, LONG_CHUNK = 50 * TILE, YOUNG = 2 * CHUNK };

static int64_t flat_capacity(int32_t list_width) { return list_width + INT64_C(2) * CHUNK; }

/* The tickets of this chunk's kernel and of the next one's come first, a word together. */
static int64_t lay_lists(int64_t rows, int32_t list_width, void *scratch, hisa_flat_lists_t *lists) {
    const int64_t capacity = flat_capacity(list_width);
    uint64_t *words = scratch;
    if (words != NULL) {
        *lists = (hisa_flat_lists_t){.list = words + 1 + rows + hisa_ceil_div(rows, 2),
                                     .count = (uint32_t *)(void *)(words + 1 + rows),
                                     .least = words + 1,
                                     .capacity = capacity};
    }
    return (1 + rows + hisa_ceil_div(rows, 2) + rows * capacity) * (int64_t)sizeof *words;
}

int64_t hisa_cuda_hopper_flat_scratch(int64_t rows, int32_t list_width) {
    return lay_lists(rows, list_width, NULL, NULL);
}

static cudaError_t scan_chunks(const maps_t *maps, const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t top_k,
                               const hisa_flat_lists_t *lists, void *stream) {
    const int64_t tokens = shard->local_blocks * shard->block_size;
    const size_t bytes = sizeof(uint64_t) + (size_t)tile->rows * (sizeof *lists->least + sizeof *lists->count);
    uint32_t *tickets = tile->scratch;
    int error = (int)cudaMemsetAsync(tickets, 0, bytes, (cudaStream_t)stream);
    uint32_t *ticket = tickets;
    for (int64_t begin = 0; begin < tokens && error == cudaSuccess;) {
        const int64_t most = begin < YOUNG ? CHUNK : LONG_CHUNK;
        const int64_t chunk = hisa_min(most, hisa_ceil_div(tokens - begin, TILE) * TILE);
        uint32_t *next_ticket = ticket == tickets ? tickets + 1 : tickets;
        error = hisa_cuda_launch_hopper_flat(&maps->all, shard, tile, begin, chunk, ticket, next_ticket, lists, stream);
        ticket = next_ticket;
        begin += chunk;
        const bool all = begin <= YOUNG || begin >= tokens;
        if (error == cudaSuccess) {
            error =
                hisa_cuda_launch_flat_compact(tile->rows, top_k, all ? 0 : lists->capacity - LONG_CHUNK, lists, stream);
        }
    }
    return (cudaError_t)error;
}

hisa_status_t hisa_cuda_hopper_flat_scan(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                         int32_t top_k, int32_t list_width, hisa_flat_lists_t *lists, void *stream) {
    maps_t maps;
    hisa_status_t status = make_maps(device, shard, tile, &maps);
    if (status == HISA_OK) {
        lay_lists(tile->rows, list_width, tile->scratch, lists);
        HISA_CUDA_RUN(status, device, "scanning tokens", scan_chunks(&maps, shard, tile, top_k, lists, stream));
    }
    return status;
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
        /* A block of more than 128 tokens is taken by as many thread blocks as it has panels. */
        const int64_t resident = INT64_C(1) * HISA_TOKENS_RESIDENT * hisa_cuda_of(device)->multiprocessors;
        pairs.takers = (int32_t)hisa_max(1, resident * 128 / shard->block_size);
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
