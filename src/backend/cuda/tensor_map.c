/* Maps by which Hopper's copy engine finds rows of codes. The encoder is the driver's, asked for at run time: nothing
 * links libcuda, which machines without a GPU do not have. */
#include "backend/cuda/tensor_map.h"

#include <string.h>

#include "base/error.h"

_Static_assert(sizeof(CUtensorMap) == 128, "kernels.h passes maps by address");

hisa_status_t hisa_cuda_find_encoder(hisa_cuda_encoder_t *encoder) {
    void *found = NULL;
    enum cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t error =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t error = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    if (error != cudaSuccess) {
        return hisa_cuda_status(error, "cudaGetDriverEntryPoint");
    }
    if (result != cudaDriverEntryPointSuccess || found == NULL) {
        return hisa_fail(HISA_ERR_DEVICE,
                         "the driver has no cuTensorMapEncodeTiled: one of CUDA 12 or newer is needed");
    }
    memcpy(encoder, &found, sizeof found); /* ISO C has no cast from object to function */
    return HISA_OK;
}

static hisa_status_t encode(hisa_cuda_encoder_t encoder, const void *address, cuuint32_t rank, const cuuint64_t *sizes,
                            const cuuint64_t *strides, const cuuint32_t *box, CUtensorMap *map) {
    const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
    const CUresult result = encoder(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, rank, (void *)(uintptr_t)address, sizes,
                                    strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                    CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS
               ? HISA_OK
               : hisa_fail(HISA_ERR_DEVICE, "cuTensorMapEncodeTiled failed with error %d", (int)result);
}

hisa_status_t hisa_cuda_map_rows(hisa_cuda_encoder_t encoder, const void *rows, int64_t count, int32_t box,
                                 CUtensorMap *map) {
    const cuuint64_t sizes[2] = {128, (cuuint64_t)count};
    const cuuint64_t strides[1] = {128};
    const cuuint32_t boxes[2] = {128, (cuuint32_t)box};
    return encode(encoder, rows, 2, sizes, strides, boxes, map);
}

hisa_status_t hisa_cuda_map_heads(hisa_cuda_encoder_t encoder, const void *q, int32_t heads, CUtensorMap *map) {
    /* How many queries there are is the caller's to know: sources are in range, and the map need not say where they
     * end. */
    const cuuint64_t sizes[5] = {128, 2, 4, 2, INT32_MAX};
    const cuuint64_t strides[4] = {128, 512, 256, 2048}; /* bytes: 1, 4, 2 and 16 heads */
    const cuuint32_t boxes[5] = {128, 2, 4, 2, (cuuint32_t)heads / 16};
    return encode(encoder, q, 5, sizes, strides, boxes, map);
}
