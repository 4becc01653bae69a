/* Scoring on Hopper the other way round: rows stay, keys stream by. Where all of many rows meet all keys: block scores
 * and mode flat.
 *
 * A warpgroup has 128 columns of one product: the heads of two queries, or of four of 32 heads (the B operand, in
 * shared memory), with their weights in registers. Tiles of 128 keys come through a ring of stages, and four warpgroups
 * with rows of their own take each of them, 64 keys a product (the A operand). No warpgroup overlaps its sums with its
 * own products: the products of the other three run under them.
 *
 * Against hopper.cuh, where keys stay, that is no weights to be read and a barrier in every 256 dots of a thread
 * instead of 64. In mode flat the chip is at its power limit (700 W; 1.6 of its 1.98 GHz), so that what counts is the
 * work that a score takes, not only the clocks: NOTES.md has the figures.
 *
 * A score is made of the same sums in the same order as there, and has the same bits. */
#ifndef HISA_CUDA_HOPPER_ROWS_CUH
#define HISA_CUDA_HOPPER_ROWS_CUH

#include "backend/cuda/hopper.cuh"
#include "backend/cuda/rows_item.h"

/* What becomes of the scores is decided by HISA_ROWS_DRAINS warps more, so that those which score never wait for an
 * atomic; two are too few (0.4 ms of a call of 4096 rows and 131072 keys). They and the feeding warp are a warpgroup,
 * which gives up registers that the others take: 64 and 104 where 96 were had. 128 keys a stage and not 64, since
 * barriers are then half as many: 0.2 ms. */
enum {
    HISA_ROWS_GROUPS = 4,
    HISA_ROWS_TILE = 128,
    HISA_ROWS_DRAINS = 3,
    HISA_ROWS_MATH = HISA_ROWS_GROUPS * 128,
    HISA_ROWS_THREADS = HISA_ROWS_MATH + 32 + HISA_ROWS_DRAINS * 32,
    HISA_ROWS_MATH_REGISTERS = 104,
    HISA_ROWS_OTHER_REGISTERS = 64
};
static_assert(HISA_ROWS_THREADS == HISA_ROWS_MATH + 128, "registers change hands by whole warpgroups");

/* Rows of a batch, which stay while its tiles stream by. Two batches have room, so that the next one's queries come in
 * time. Target: what the kernel wants to know of a row; hide() makes it that of a row whose scores are not wanted. */
template <int HEADS, typename Target> struct hisa_rows_t {
    static constexpr int stages = HEADS == 64 ? 4 : 3; /* as many as there is room for */
    static constexpr int queries = 128 / HEADS;        /* of a warpgroup */
    static constexpr int rows = queries * HISA_ROWS_GROUPS;
    static constexpr int stride = HISA_ROWS_TILE + 16; /* two rows' scores do not meet in a bank */
    /* Whose rows drains may still ask for: those of every stage's tile, and those of the batch to come. */
    static constexpr int batches = stages + 1;
    uint8_t q[2][HISA_ROWS_GROUPS][128 * HISA_HOPPER_DIM];
    uint8_t key[stages][HISA_ROWS_TILE * HISA_HOPPER_DIM];
    float weights[2][HISA_ROWS_GROUPS][128];
    float scale[stages][2][stride]; /* twice the same, as far apart as the scores of two rows */
    float score[stages][rows][stride];
    Target row[batches][rows];
    int32_t sequence[batches];
    int32_t tiles[2];      /* of the batch; 0: no more batches */
    int32_t first[stages]; /* the tile's first local key; negative: no more tiles */
    int32_t batch[stages]; /* of the tile: which of `batches` */
    uint64_t full[stages];
    uint64_t empty[stages];
    uint64_t done[stages]; /* all rows have their scores */
    uint64_t batch_full[2];
    uint64_t batch_empty[2];
};

template <int HEADS, typename Target> constexpr int hisa_rows_bytes() {
    return static_cast<int>(sizeof(hisa_rows_t<HEADS, Target>)) + 1024;
}

template <int HEADS, typename Target> __device__ __forceinline__ hisa_rows_t<HEADS, Target> &hisa_rows_begin() {
    hisa_grid_release();
    extern __shared__ uint8_t raw[];
    const uint32_t skip = (1024 - hisa_shared_address(raw) % 1024) % 1024;
    auto &shared = *reinterpret_cast<hisa_rows_t<HEADS, Target> *>(raw + skip);
    const int own = static_cast<int>(threadIdx.x); /* a few barriers a thread, as each takes some 20 cycles */
    if (own < shared.stages) {
        hisa_barrier_init(&shared.full[own], HISA_FEED_ARRIVALS);
        hisa_barrier_init(&shared.empty[own], HISA_WARP_ARRIVALS);
        hisa_barrier_init(&shared.done[own], 4 * HISA_ROWS_GROUPS * HISA_WARP_ARRIVALS);
    }
    if (own < 2) {
        hisa_barrier_init(&shared.batch_full[own], HISA_WARP_ARRIVALS);
        hisa_barrier_init(&shared.batch_empty[own], 4 * HISA_ROWS_GROUPS * HISA_WARP_ARRIVALS);
    }
    hisa_barrier_init_fence();
    __syncthreads();
    hisa_grid_wait();
    return shared;
}

/* ------------------------------------------------------------------------------------------ the warpgroups */

/* 64 keys by 128 columns, as a group of its own; operands' descriptions as hisa_products has them, both from shared
 * memory. */
__device__ __forceinline__ void hisa_rows_product(float (&d)[64], uint32_t a, uint32_t b) {
#define HISA_ROWS_SUMS                                                                                                 \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                          \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                                 \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                                 \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"
    asm volatile("{\n"
                 ".reg .pred none;\n"
                 ".reg .b32 low;\n"
                 ".reg .b64 a0, a1, a2, a3, b0, b1, b2, b3;\n"
                 "setp.ne.b32 none, 0, 0;\n"
                 "mov.b64 a0, {%64, 0x40000040};\n"
                 "add.u32 low, %64, 2;\n"
                 "mov.b64 a1, {low, 0x40000040};\n"
                 "add.u32 low, %64, 4;\n"
                 "mov.b64 a2, {low, 0x40000040};\n"
                 "add.u32 low, %64, 6;\n"
                 "mov.b64 a3, {low, 0x40000040};\n"
                 "mov.b64 b0, {%65, 0x40000040};\n"
                 "add.u32 low, %65, 2;\n"
                 "mov.b64 b1, {low, 0x40000040};\n"
                 "add.u32 low, %65, 4;\n"
                 "mov.b64 b2, {low, 0x40000040};\n"
                 "add.u32 low, %65, 6;\n"
                 "mov.b64 b3, {low, 0x40000040};\n"
                 "wgmma.fence.sync.aligned;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " HISA_ROWS_SUMS ", a0, b0, none, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " HISA_ROWS_SUMS ", a1, b1, 1, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " HISA_ROWS_SUMS ", a2, b2, 1, 1, 1;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 " HISA_ROWS_SUMS ", a3, b3, 1, 1, 1;\n"
                 "wgmma.commit_group.sync.aligned;\n"
                 "}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]),
                   "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),
                   "+f"(d[30]), "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]),
                   "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
                   "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),
                   "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]),
                   "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
                 : "r"(a), "r"(b)
                 : "memory");
#undef HISA_ROWS_SUMS
}

/* A stage's 128 keys. Of every four lanes 0 and 1 get the scores of a pair's first query, 2 and 3 of its second, the
 * even ones of the key in row lane / 4 of the warp's 16, the odd ones of row lane / 4 + 8. */
template <int HEADS, typename Target>
__device__ __forceinline__ void hisa_score_stage(const hisa_rows_t<HEADS, Target> &shared, float (&dot)[64],
                                                 const float4 (&w)[128 / HEADS][HEADS / 16], uint32_t stage, int group,
                                                 uint32_t keys, uint32_t b, uint32_t place) {
    const uint32_t scales = hisa_shared_address(shared.scale[stage]);
    const uint32_t scores = hisa_shared_address(shared.score[stage][group * shared.queries]);
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
        hisa_rows_product(dot, keys + (2 * stage + half) * (64 * HISA_HOPPER_DIM / 16), b);
        float scale;
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(scale) : "r"(scales + half * 256 + place));
        hisa_product_wait<0>();
        hisa_pin(dot);
#pragma unroll
        for (int i = 0; i < shared.queries; i += 2) {
            const float first = hisa_head_sum<HEADS>(dot + i * HEADS / 2, w[i]);
            const float second = hisa_head_sum<HEADS>(dot + (i + 1) * HEADS / 2, w[i + 1]);
            const float score = scale * hisa_quad_sum(first, second);
            asm volatile("st.shared.f32 [%0], %1;" ::"r"(scores + i * shared.stride * 4 + half * 256 + place),
                         "f"(score)
                         : "memory");
        }
    }
}

/* The warpgroups' part of the kernel: all batches. Scores go to score[stage][row of the batch][key of the tile]; those
 * of rows that the batch has not are anything. */
template <int HEADS, typename Target>
__device__ __forceinline__ void hisa_score_rows(hisa_rows_t<HEADS, Target> &shared) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    /* By way of lane 0, so that the compiler knows it for the warp's and keeps what comes of it in uniform registers.
     */
    const int group = __shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x / 128), 0);
    /* Of every two rows the thread's own, and its key of the first 64: one offset for scores and scales, as registers
     * are few. A lane gets it from itself, or else ptxas would work it out anew from the thread's number in every
     * stage. */
    const uint32_t place = __shfl_sync(
        0xFFFFFFFFu,
        4 * (lane / 2 % 2 * shared.stride + static_cast<int>(threadIdx.x % 128 / 32) * 16 + lane / 4 + lane % 2 * 8),
        lane);
    const uint32_t keys = hisa_operand(hisa_shared_address(shared.key[0]));
    hisa_ring_t ring = {0, 0};
    for (uint32_t batch = 0;; ++batch) {
        const uint32_t which = batch % 2;
        hisa_barrier_wait(&shared.batch_full[which], batch / 2 % 2);
        int tiles = shared.tiles[which];
        if (tiles == 0) {
            return;
        }
        float4 w[shared.queries][HEADS / 16];
#pragma unroll
        for (int i = 0; i < shared.queries; ++i) {
#pragma unroll
            for (int a = 0; a < HEADS / 16; ++a) {
                w[i][a] =
                    *reinterpret_cast<const float4 *>(shared.weights[which][group] + i * HEADS + lane % 4 * 4 + a * 16);
            }
        }
        const uint32_t b = hisa_operand(hisa_shared_address(shared.q[which][group]));
        float dot[64];
        hisa_pin(dot);
#pragma unroll 1
        for (; tiles > 0; --tiles) {
            hisa_barrier_wait(&shared.full[ring.stage], ring.parity);
            hisa_score_stage(shared, dot, w, ring.stage, group, keys, b, place);
            hisa_barrier_arrive_warp(&shared.done[ring.stage], lane);
            hisa_ring_next<shared.stages>(ring);
        }
        hisa_barrier_arrive_warp(&shared.batch_empty[which], lane);
    }
}

/* ------------------------------------------------------------------------------------------ the feeding warp */

struct hisa_rows_feeder_t {
    hisa_ring_t ring;
    uint32_t batch;
};
__device__ __forceinline__ hisa_rows_feeder_t hisa_rows_feeder_make() { return {{0, 1}, 0}; }

/* What is scored against what: keys are rows of a map, as many as there are scales. */
struct hisa_rows_source_t {
    const CUtensorMap *q_map;
    const float *weights;
    const CUtensorMap *key_map;
    const float *scales;
    int64_t keys;
};

/* A lane's row, and which of its sequence's local keys it is to be scored against: [low, high). */
template <typename Target> struct hisa_rows_lane_t {
    bool valid;
    int32_t source; /* place in q and weights */
    int32_t sequence;
    int32_t low;
    int32_t high;
    Target target;
};

/* The lane's of a batch's rows, which are rows[begin] on, of `count` in all; against keys [low, high) of those it sees.
 * see(row, &begin, &end): these. What the target is to be is left to the caller, if the lane is valid. */
template <int HEADS, typename Target, typename See>
__device__ __forceinline__ hisa_rows_lane_t<Target>
hisa_look_at_row(const hisa_row_t *rows, int64_t begin, int64_t count, int64_t low, int64_t high, const See &see) {
    const int64_t r = begin + threadIdx.x % 32;
    hisa_rows_lane_t<Target> own = {};
    own.valid = static_cast<int>(threadIdx.x % 32) < hisa_rows_t<HEADS, Target>::rows && r < count;
    if (own.valid) {
        const hisa_row_t row = rows[r];
        own.source = row.source;
        own.sequence = row.sequence;
        int64_t from;
        int64_t to;
        see(row, &from, &to);
        own.low = static_cast<int32_t>(hisa_max(from, low));
        own.high = static_cast<int32_t>(hisa_min(to, high));
    }
    return own;
}

/* Copies the rows of a batch's valid lanes. By the whole warp. */
template <int HEADS, typename Target>
__device__ __forceinline__ void hisa_feed_rows(hisa_rows_t<HEADS, Target> &shared, uint32_t which, int32_t tiles,
                                               const hisa_rows_source_t &from, const hisa_rows_lane_t<Target> &own) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t count = static_cast<uint32_t>(__popc(__ballot_sync(0xFFFFFFFFu, own.valid)));
    if (lane == 0) {
        shared.tiles[which] = tiles;
        hisa_barrier_arrive_expect(&shared.batch_full[which], count * HEADS * (HISA_HOPPER_DIM + 4));
    }
    hisa_barrier_arrive_others(&shared.batch_full[which], static_cast<int>(lane));
    __syncwarp();
    if (own.valid) {
        hisa_copy_box_5d(&shared.q[which][0][0] + lane * HEADS * HISA_HOPPER_DIM, from.q_map, own.source * (HEADS / 16),
                         &shared.batch_full[which]);
        hisa_copy_bytes(&shared.weights[which][0][0] + lane * HEADS, from.weights + int64_t(own.source) * HEADS,
                        HEADS * 4, &shared.batch_full[which]);
    }
}

/* A batch's next tile: 128 keys from `key` on, local ones from `first` on. Their scales may begin at any multiple of 4
 * bytes, which the copy engine does not take. Waits for nothing but room. By the whole warp. */
template <int HEADS, typename Target>
__device__ __forceinline__ void hisa_feed_tile(hisa_rows_t<HEADS, Target> &shared, hisa_ring_t &ring, uint32_t batch,
                                               const hisa_rows_source_t &from, int64_t key, int32_t first) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const uint32_t s = ring.stage;
    hisa_barrier_wait(&shared.empty[s], ring.parity);
    if (lane == 0) {
        shared.first[s] = first;
        shared.batch[s] = static_cast<int32_t>(batch);
        hisa_barrier_arrive_expect(&shared.full[s], HISA_ROWS_TILE * HISA_HOPPER_DIM);
        hisa_copy_box(shared.key[s], from.key_map, static_cast<int32_t>(key), &shared.full[s]);
    }
#pragma unroll
    for (int i = 0; i < HISA_ROWS_TILE; i += 32) {
        const bool there = key + i + lane < from.keys;
        hisa_copy_word(&shared.scale[s][0][i + lane], from.scales + key + i + lane, there);
        hisa_copy_word(&shared.scale[s][1][i + lane], from.scales + key + i + lane, there);
    }
    hisa_barrier_arrive_copied(&shared.full[s]);
    hisa_ring_next<shared.stages>(ring);
}

/* A batch: shared.rows rows, a lane each, against the tiles that some of them see; once more for each sequence more
 * that they are of. base(sequence): where its local keys begin. next(): the lane of the next batch, looked for when
 * stages are full. Rows are asked for as soon as there is room for them, since their first tile may have to wait for
 * its own; but not when a kernel begins, where that tile would wait behind the rows of all multiprocessors. By the
 * whole warp. */
template <int HEADS, typename Target, typename Base, typename Next>
__device__ __forceinline__ void hisa_feed_batch_of_rows(hisa_rows_t<HEADS, Target> &shared, hisa_rows_feeder_t &feeder,
                                                        const hisa_rows_source_t &from, hisa_rows_lane_t<Target> &own,
                                                        const Base &base, const Next &next) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    uint32_t left = __ballot_sync(0xFFFFFFFFu, own.low < own.high);
    do {
        const uint32_t batch = feeder.batch % shared.batches;
        int64_t key = 0;
        int32_t first = 0;
        int32_t tiles = 0;
        if (left != 0) {
            const int32_t sequence = __shfl_sync(0xFFFFFFFFu, own.sequence, __ffs(static_cast<int>(left)) - 1);
            const bool sees = own.low < own.high && own.sequence == sequence;
            left &= ~__ballot_sync(0xFFFFFFFFu, sees);
            const int32_t lowest = __reduce_min_sync(0xFFFFFFFFu, sees ? own.low : INT32_MAX);
            const int32_t highest = __reduce_max_sync(0xFFFFFFFFu, sees ? own.high : 0);
            first = lowest / HISA_ROWS_TILE * HISA_ROWS_TILE;
            tiles = (highest - first + HISA_ROWS_TILE - 1) / HISA_ROWS_TILE;
            key = base(sequence) + first;
            const uint32_t which = feeder.batch % 2;
            const bool begins = feeder.batch == 0;
            hisa_barrier_wait(&shared.batch_empty[which], (feeder.batch / 2 + 1) % 2);
            ++feeder.batch;
            if (lane == 0) {
                shared.sequence[batch] = sequence;
            }
            if (lane < shared.rows) {
                shared.row[batch][lane] = own.target;
                if (!sees) {
                    shared.row[batch][lane].hide();
                }
            }
            if (begins) {
                hisa_feed_tile(shared, feeder.ring, batch, from, key, first);
            }
            hisa_feed_rows(shared, which, tiles, from, own);
            if (!begins) {
                hisa_feed_tile(shared, feeder.ring, batch, from, key, first);
            }
        }
        int32_t i = 1;
        for (; i < hisa_min(tiles, shared.stages); ++i) {
            hisa_feed_tile(shared, feeder.ring, batch, from, key + i * HISA_ROWS_TILE, first + i * HISA_ROWS_TILE);
        }
        if (left == 0) {
            own = next();
        }
        for (; i < tiles; ++i) {
            hisa_feed_tile(shared, feeder.ring, batch, from, key + i * HISA_ROWS_TILE, first + i * HISA_ROWS_TILE);
        }
    } while (left != 0);
}

/* No more batches, and no more tiles for the drains. By the whole warp. */
template <int HEADS, typename Target>
__device__ __forceinline__ void hisa_feed_rows_end(hisa_rows_t<HEADS, Target> &shared, hisa_rows_feeder_t &feeder) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const uint32_t which = feeder.batch % 2;
    hisa_barrier_wait(&shared.batch_empty[which], (feeder.batch / 2 + 1) % 2);
    if (lane == 0) {
        shared.tiles[which] = 0;
    }
    hisa_barrier_arrive_warp(&shared.batch_full[which], lane);
    for (int i = 0; i < HISA_ROWS_DRAINS; ++i) {
        const uint32_t s = feeder.ring.stage;
        hisa_barrier_wait(&shared.empty[s], feeder.ring.parity);
        if (lane == 0) {
            shared.first[s] = -1;
        }
        hisa_barrier_arrive_fed(&shared.full[s], lane);
        hisa_ring_next<shared.stages>(feeder.ring);
    }
}

/* The feeding warp's part of the kernel: of `rows` rows by `tiles` tiles, items of work (rows_item.h) for as long as
 * there are any. ticket: device, how many have been taken beyond each thread block's first; 0 before the kernel.
 * look(row, tile_begin, tile_end): the lane of the batch that begins with that row. It takes a microsecond or two, and
 * is called while the batch before is still to be scored. */
template <int HEADS, typename Target, typename Look, typename Base>
__device__ __forceinline__ void hisa_feed_part(hisa_rows_t<HEADS, Target> &shared, const hisa_rows_source_t &from,
                                               int64_t rows, int32_t tiles, uint32_t *ticket, const Look &look,
                                               const Base &base) {
    const int64_t batches = hisa_ceil_div(rows, shared.rows);
    const bool draws = threadIdx.x % 32 == 0;
    uint32_t drawn = 0; /* by lane 0, while the item before is looked at and fed */
    bool begun = false;
    bool more = true;
    const auto next = [&]() {
        hisa_rows_lane_t<Target> lane = {};
        const int64_t at = begun ? int64_t(gridDim.x) + __shfl_sync(0xFFFFFFFFu, drawn, 0) : blockIdx.x;
        const hisa_rows_item_t item = hisa_rows_item(batches, tiles, gridDim.x, at);
        begun = true;
        more = item.batch >= 0;
        if (more) {
            if (draws) {
                drawn = atomicAdd(ticket, 1u);
            }
            lane = look(item.batch * shared.rows, item.tile_begin, item.tile_end);
        }
        return lane;
    };
    hisa_rows_feeder_t feeder = hisa_rows_feeder_make();
    hisa_rows_lane_t<Target> own = next();
    while (more) {
        hisa_feed_batch_of_rows(shared, feeder, from, own, base, next);
    }
    hisa_feed_rows_end(shared, feeder);
}

/* ------------------------------------------------------------------------------------------ the drains */

/* Drain `which` takes every HISA_ROWS_DRAINS-th tile: take(stage), by the whole warp. */
template <int HEADS, typename Target, typename Take>
__device__ __forceinline__ void hisa_drain_rows(hisa_rows_t<HEADS, Target> &shared, uint32_t which, const Take &take) {
    hisa_ring_t ring = {which, 0};
    for (;;) {
        hisa_barrier_wait(&shared.full[ring.stage], ring.parity);
        if (shared.first[ring.stage] < 0) {
            return;
        }
        hisa_barrier_wait(&shared.done[ring.stage], ring.parity);
        take(ring.stage);
        hisa_barrier_arrive_warp(&shared.empty[ring.stage], static_cast<int>(threadIdx.x % 32));
        ring.stage += HISA_ROWS_DRAINS;
        if (ring.stage >= shared.stages) {
            ring.stage -= shared.stages;
            ring.parity ^= 1;
        }
    }
}

/* ------------------------------------------------------------------------------------------ the thread block */

/* What each warp of a kernel does: take(stage) for the drains, as hisa_drain_rows; feed() by the feeding warp. The
 * scoring comes first in the code, as it spills where ptxas meets it after the rest. */
template <int HEADS, typename Target, typename Take, typename Feed>
__device__ __forceinline__ void hisa_run_rows(hisa_rows_t<HEADS, Target> &shared, const Take &take, const Feed &feed) {
    if (threadIdx.x < HISA_ROWS_MATH) {
        hisa_registers_more<HISA_ROWS_MATH_REGISTERS>();
        hisa_score_rows(shared);
    } else {
        hisa_registers_fewer<HISA_ROWS_OTHER_REGISTERS>();
        const uint32_t which = (threadIdx.x - HISA_ROWS_MATH) / 32;
        if (which != 0) {
            hisa_drain_rows(shared, which - 1, take);
            return;
        }
        feed();
    }
}

#endif
