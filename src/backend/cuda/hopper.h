/* The steps of a tile that Hopper's tensor cores score. */
#ifndef HISA_CUDA_HOPPER_H
#define HISA_CUDA_HOPPER_H

#include "backend/cuda/cuda.h"

/* Scratch of score_tokens for tiles of up to `rows` rows. */
int64_t hisa_cuda_hopper_scratch(const hisa_cuda_t *cuda, int64_t rows, int32_t width, int64_t blocks);

/* As score_blocks of kernels.h: key uint32 [rows][shard->local_blocks]. */
hisa_status_t hisa_cuda_hopper_score_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                            uint32_t *key, void *stream);
/* As score_tokens of the table. */
hisa_status_t hisa_cuda_hopper_score_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                            int32_t width, const int32_t *kept, const int32_t *work, float *pool,
                                            void *stream);

int64_t hisa_cuda_hopper_flat_scratch(int64_t rows, int32_t list_width);
/* The best of each row among this rank's tokens, in any order, in scratch: lists says where. */
hisa_status_t hisa_cuda_hopper_flat_scan(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                         int32_t top_k, int32_t list_width, hisa_flat_lists_t *lists, void *stream);

#endif
