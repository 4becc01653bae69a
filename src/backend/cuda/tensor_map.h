/* Maps by which Hopper's copy engine finds rows of 128 codes. */
#ifndef HISA_CUDA_TENSOR_MAP_H
#define HISA_CUDA_TENSOR_MAP_H

#include <cuda.h>

#include "backend/cuda/cuda.h"

typedef CUresult (*hisa_cuda_encoder_t)(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank, void *address,
                                        const cuuint64_t *sizes, const cuuint64_t *strides, const cuuint32_t *box,
                                        const cuuint32_t *steps, CUtensorMapInterleave interleave,
                                        CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion,
                                        CUtensorMapFloatOOBfill fill);

/* The driver's encoder. The device is current. */
hisa_status_t hisa_cuda_find_encoder(hisa_cuda_encoder_t *encoder);

/* A map of `count` rows of 128 bytes at `rows` (16-byte aligned), copied `box` rows at a time into shared memory with
 * the swizzle that wgmma reads. What lies past the last row is copied as zeros. */
hisa_status_t hisa_cuda_map_rows(hisa_cuda_encoder_t encoder, const void *rows, int64_t count, int32_t box,
                                 CUtensorMap *map);

/* A map of queries, [..][heads][128] at q (16-byte aligned; heads a multiple of 16), copied a query at a time, swizzled
 * likewise: of every 16 heads, head 4q + 2b + c becomes row 8b + 2q + c. A thread of a matrix product holds columns
 * 2q + {0, 1} of every 8, and so gets the sums of four heads in a row. */
hisa_status_t hisa_cuda_map_heads(hisa_cuda_encoder_t encoder, const void *q, int32_t heads, CUtensorMap *map);

#endif
