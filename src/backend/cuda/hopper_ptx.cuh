/* Instructions of sm_90a that CUDA C has no name for: barriers with transaction counts, the copy engine, and the
 * warpgroup matrix product on e4m3. */
#ifndef HISA_CUDA_HOPPER_PTX_CUH
#define HISA_CUDA_HOPPER_PTX_CUH

#include <cuda.h>
#include <stdint.h>

__device__ __forceinline__ uint32_t hisa_shared_address(const void *pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/* ---- registers that warpgroups hand over ----
 *
 * All warps of a warpgroup call it. What a thread has afterwards; more waits until others have given up enough. */

template <int registers> __device__ __forceinline__ void hisa_registers_more() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers> __device__ __forceinline__ void hisa_registers_fewer() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

/* ---- barriers in shared memory ---- */

__device__ __forceinline__ void hisa_barrier_init(uint64_t *barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(hisa_shared_address(barrier)), "r"(arrivals)
                 : "memory");
}

/* Makes initialised barriers visible to the copy engine. */
__device__ __forceinline__ void hisa_barrier_init_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void hisa_barrier_arrive(uint64_t *barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(hisa_shared_address(barrier)) : "memory");
}

/* A warp arrives by lane 0, after a __syncwarp that orders what the other lanes did before it. compute-sanitizer's
 * racecheck goes by what the arriving thread itself did: for it, and with the same order otherwise, a build with
 * HISA_EACH_LANE_ARRIVES has all lanes arrive (launch/gpu-test.sh). */
#ifdef HISA_EACH_LANE_ARRIVES
enum { HISA_WARP_ARRIVALS = 32 };
#else
enum { HISA_WARP_ARRIVALS = 1 };
#endif

/* By the whole warp. */
__device__ __forceinline__ void hisa_barrier_arrive_warp(uint64_t *barrier, int lane) {
    __syncwarp();
    if (HISA_WARP_ARRIVALS > 1 || lane == 0) {
        hisa_barrier_arrive(barrier);
    }
}

/* By the lanes other than 0, which arrives in another way. */
__device__ __forceinline__ void hisa_barrier_arrive_others(uint64_t *barrier, int lane) {
    if (HISA_WARP_ARRIVALS > 1 && lane != 0) {
        hisa_barrier_arrive(barrier);
    }
}

/* Arrives, and makes the phase wait for `bytes` of copies as well. */
__device__ __forceinline__ void hisa_barrier_arrive_expect(uint64_t *barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(hisa_shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

/* Returns when the phase of that parity is complete. */
__device__ __forceinline__ void hisa_barrier_wait(uint64_t *barrier, uint32_t parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra over;\n"
                 "bra again;\n"
                 "over:\n"
                 "}" ::"r"(hisa_shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

/* ---- copies into shared memory; complete on the barrier ---- */

/* A box of rows of a 2-d map, from row `row` on. One thread. */
__device__ __forceinline__ void hisa_copy_box(void *to, const CUtensorMap *map, int32_t row, uint64_t *barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3}], [%4];" ::"r"(hisa_shared_address(to)),
                 "l"(map), "r"(0), "r"(row), "r"(hisa_shared_address(barrier))
                 : "memory");
}

/* The same of a 5-d map, at `last` of its last dimension. */
__device__ __forceinline__ void hisa_copy_box_5d(void *to, const CUtensorMap *map, int32_t last, uint64_t *barrier) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %2, %2, %2, %3}], [%4];" ::"r"(hisa_shared_address(to)),
                 "l"(map), "r"(0), "r"(last), "r"(hisa_shared_address(barrier))
                 : "memory");
}

/* Bytes in a row; 16-byte aligned, a multiple of 16. One thread. */
__device__ __forceinline__ void hisa_copy_bytes(void *to, const void *from, uint32_t bytes, uint64_t *barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     hisa_shared_address(to)),
                 "l"(from), "r"(bytes), "r"(hisa_shared_address(barrier))
                 : "memory");
}

/* Four bytes; 0 if they are not valid, and then `from` is not read. Each thread its own. No barrier is told by itself
 * that they have come: hisa_barrier_arrive_copied does that. */
__device__ __forceinline__ void hisa_copy_word(void *to, const void *from, bool valid) {
    asm volatile("cp.async.ca.shared::cta.global [%0], [%1], 4, %2;" ::"r"(hisa_shared_address(to)), "l"(from),
                 "r"(valid ? 4 : 0)
                 : "memory");
}

/* Arrives for this thread once all words that it has asked for have come; does not wait for them. */
__device__ __forceinline__ void hisa_barrier_arrive_copied(uint64_t *barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(hisa_shared_address(barrier)) : "memory");
}

/* Arrivals in a phase of a barrier for which lane 0 announces the bytes of the copy engine, and all lanes copy words.
 */
enum { HISA_FEED_ARRIVALS = 1 + 32 };

/* All these arrivals, of a warp that copies nothing. */
__device__ __forceinline__ void hisa_barrier_arrive_fed(uint64_t *barrier, int lane) {
    __syncwarp();
    hisa_barrier_arrive(barrier);
    if (lane == 0) {
        hisa_barrier_arrive(barrier);
    }
}

/* ---- matrix products of a warpgroup ---- */

/* Waits until at most `pending` groups are under way. */
template <int pending> __device__ __forceinline__ void hisa_product_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

/* B operand: rows of 128 bytes, swizzled by the copy engine in groups of 8 rows (1024 bytes). Its description is 64
 * bits, of which the upper 32 are the same everywhere: 0x40000040, groups 64 * 16 bytes apart, 128-byte swizzle. The
 * lower ones hold the address in units of 16 bytes. */
__device__ __forceinline__ uint32_t hisa_operand(uint32_t address) { return (address & 0x3FFFF) >> 4 | 1u << 16; }

/* d = a * b for twice 64 rows of A (in registers), 64 or 32 columns, and an inner dimension of 128, each half as a
 * group of its own: four steps of 32, which lie 32 bytes apart along the rows of B. One statement, so that the
 * operands' descriptions cost as little as they can. */
__device__ __forceinline__ void hisa_products(float (&d)[2][32], const uint32_t (&a)[2][4][4], uint32_t b) {
    asm volatile("{\n"
                 ".reg .pred none;\n"
                 ".reg .b32 low;\n"
                 ".reg .b64 b0, b1, b2, b3;\n"
                 "setp.ne.b32 none, 0, 0;\n"
                 "mov.b64 b0, {%96, 0x40000040};\n"
                 "add.u32 low, %96, 2;\n"
                 "mov.b64 b1, {low, 0x40000040};\n"
                 "add.u32 low, %96, 4;\n"
                 "mov.b64 b2, {low, 0x40000040};\n"
                 "add.u32 low, %96, 6;\n"
                 "mov.b64 b3, {low, 0x40000040};\n"
                 "wgmma.fence.sync.aligned;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%64, %65, %66, %67}, b0, none, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%68, %69, %70, %71}, b1, 1, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%72, %73, %74, %75}, b2, 1, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%76, %77, %78, %79}, b3, 1, 1, 1;\n"
                 "wgmma.commit_group.sync.aligned;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {"
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%80, %81, %82, %83}, b0, none, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {"
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%84, %85, %86, %87}, b1, 1, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {"
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%88, %89, %90, %91}, b2, 1, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {"
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "{%92, %93, %94, %95}, b3, 1, 1, 1;\n"
                 "wgmma.commit_group.sync.aligned;\n"
                 "}"
                 : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[0][4]), "+f"(d[0][5]),
                   "+f"(d[0][6]), "+f"(d[0][7]), "+f"(d[0][8]), "+f"(d[0][9]), "+f"(d[0][10]), "+f"(d[0][11]),
                   "+f"(d[0][12]), "+f"(d[0][13]), "+f"(d[0][14]), "+f"(d[0][15]), "+f"(d[0][16]), "+f"(d[0][17]),
                   "+f"(d[0][18]), "+f"(d[0][19]), "+f"(d[0][20]), "+f"(d[0][21]), "+f"(d[0][22]), "+f"(d[0][23]),
                   "+f"(d[0][24]), "+f"(d[0][25]), "+f"(d[0][26]), "+f"(d[0][27]), "+f"(d[0][28]), "+f"(d[0][29]),
                   "+f"(d[0][30]), "+f"(d[0][31]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]),
                   "+f"(d[1][4]), "+f"(d[1][5]), "+f"(d[1][6]), "+f"(d[1][7]), "+f"(d[1][8]), "+f"(d[1][9]),
                   "+f"(d[1][10]), "+f"(d[1][11]), "+f"(d[1][12]), "+f"(d[1][13]), "+f"(d[1][14]), "+f"(d[1][15]),
                   "+f"(d[1][16]), "+f"(d[1][17]), "+f"(d[1][18]), "+f"(d[1][19]), "+f"(d[1][20]), "+f"(d[1][21]),
                   "+f"(d[1][22]), "+f"(d[1][23]), "+f"(d[1][24]), "+f"(d[1][25]), "+f"(d[1][26]), "+f"(d[1][27]),
                   "+f"(d[1][28]), "+f"(d[1][29]), "+f"(d[1][30]), "+f"(d[1][31])
                 : "r"(a[0][0][0]), "r"(a[0][0][1]), "r"(a[0][0][2]), "r"(a[0][0][3]), "r"(a[0][1][0]), "r"(a[0][1][1]),
                   "r"(a[0][1][2]), "r"(a[0][1][3]), "r"(a[0][2][0]), "r"(a[0][2][1]), "r"(a[0][2][2]), "r"(a[0][2][3]),
                   "r"(a[0][3][0]), "r"(a[0][3][1]), "r"(a[0][3][2]), "r"(a[0][3][3]), "r"(a[1][0][0]), "r"(a[1][0][1]),
                   "r"(a[1][0][2]), "r"(a[1][0][3]), "r"(a[1][1][0]), "r"(a[1][1][1]), "r"(a[1][1][2]), "r"(a[1][1][3]),
                   "r"(a[1][2][0]), "r"(a[1][2][1]), "r"(a[1][2][2]), "r"(a[1][2][3]), "r"(a[1][3][0]), "r"(a[1][3][1]),
                   "r"(a[1][3][2]), "r"(a[1][3][3]), "r"(b)
                 : "memory");
}
__device__ __forceinline__ void hisa_products(float (&d)[2][16], const uint32_t (&a)[2][4][4], uint32_t b) {
    asm volatile("{\n"
                 ".reg .pred none;\n"
                 ".reg .b32 low;\n"
                 ".reg .b64 b0, b1, b2, b3;\n"
                 "setp.ne.b32 none, 0, 0;\n"
                 "mov.b64 b0, {%64, 0x40000040};\n"
                 "add.u32 low, %64, 2;\n"
                 "mov.b64 b1, {low, 0x40000040};\n"
                 "add.u32 low, %64, 4;\n"
                 "mov.b64 b2, {low, 0x40000040};\n"
                 "add.u32 low, %64, 6;\n"
                 "mov.b64 b3, {low, 0x40000040};\n"
                 "wgmma.fence.sync.aligned;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                 "{%32, %33, %34, %35}, b0, none, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                 "{%36, %37, %38, %39}, b1, 1, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                 "{%40, %41, %42, %43}, b2, 1, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                 "{%44, %45, %46, %47}, b3, 1, 1, 1;\n"
                 "wgmma.commit_group.sync.aligned;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {"
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%48, %49, %50, %51}, b0, none, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {"
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%52, %53, %54, %55}, b1, 1, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {"
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%56, %57, %58, %59}, b2, 1, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {"
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
                 "{%60, %61, %62, %63}, b3, 1, 1, 1;\n"
                 "wgmma.commit_group.sync.aligned;\n"
                 "}"
                 : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[0][4]), "+f"(d[0][5]),
                   "+f"(d[0][6]), "+f"(d[0][7]), "+f"(d[0][8]), "+f"(d[0][9]), "+f"(d[0][10]), "+f"(d[0][11]),
                   "+f"(d[0][12]), "+f"(d[0][13]), "+f"(d[0][14]), "+f"(d[0][15]), "+f"(d[1][0]), "+f"(d[1][1]),
                   "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[1][4]), "+f"(d[1][5]), "+f"(d[1][6]), "+f"(d[1][7]),
                   "+f"(d[1][8]), "+f"(d[1][9]), "+f"(d[1][10]), "+f"(d[1][11]), "+f"(d[1][12]), "+f"(d[1][13]),
                   "+f"(d[1][14]), "+f"(d[1][15])
                 : "r"(a[0][0][0]), "r"(a[0][0][1]), "r"(a[0][0][2]), "r"(a[0][0][3]), "r"(a[0][1][0]), "r"(a[0][1][1]),
                   "r"(a[0][1][2]), "r"(a[0][1][3]), "r"(a[0][2][0]), "r"(a[0][2][1]), "r"(a[0][2][2]), "r"(a[0][2][3]),
                   "r"(a[0][3][0]), "r"(a[0][3][1]), "r"(a[0][3][2]), "r"(a[0][3][3]), "r"(a[1][0][0]), "r"(a[1][0][1]),
                   "r"(a[1][0][2]), "r"(a[1][0][3]), "r"(a[1][1][0]), "r"(a[1][1][1]), "r"(a[1][1][2]), "r"(a[1][1][3]),
                   "r"(a[1][2][0]), "r"(a[1][2][1]), "r"(a[1][2][2]), "r"(a[1][2][3]), "r"(a[1][3][0]), "r"(a[1][3][1]),
                   "r"(a[1][3][2]), "r"(a[1][3][3]), "r"(b)
                 : "memory");
}

/* Four 8 x 8 matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8. */
__device__ __forceinline__ void hisa_load_matrices(uint32_t (&out)[4], uint32_t address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

#endif
