/* What the lanes of a warp work out together. */
#ifndef HISA_CUDA_WARP_CUH
#define HISA_CUDA_WARP_CUH

/* Sum of the values of this lane and those below it. The whole warp calls it. lane: threadIdx.x % 32, as the caller has
 * it in a register; the compiler does not see that two ways of writing it are the same, and may spill for the second.
 */
template <typename T>
__device__ __forceinline__ T hisa_warp_scan(T sum, int lane = static_cast<int>(threadIdx.x % 32)) {
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
        const T lower = __shfl_up_sync(0xFFFFFFFFu, sum, distance);
        sum += lane >= distance ? lower : 0;
    }
    return sum;
}

#endif
