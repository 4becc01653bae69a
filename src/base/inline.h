/* Functions small enough for a header, shared by C and by device code. */
#ifndef HISA_BASE_INLINE_H
#define HISA_BASE_INLINE_H

#if defined(__CUDACC__)
#define HISA_INLINE static __host__ __device__ __forceinline__
#else
#define HISA_INLINE static inline
#endif

#endif
