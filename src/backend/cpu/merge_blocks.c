/* From each rank's best blocks to the blocks a row keeps, and who scores them where. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/topk.h"
#include "backend/order.h"
#include "base/checked.h"

/* A thread's part of the scratch: four arrays of one entry for each list entry of a row. */
static int64_t lane_entries(int32_t width, int32_t ranks) { return (int64_t)width * ranks; }

int64_t hisa_cpu_merge_blocks_scratch(int32_t width, int32_t ranks, int threads) {
    return INT64_C(4) * threads * lane_entries(width, ranks) * (int64_t)sizeof(uint64_t);
}

/* A block that a row keeps: the block in the upper half, so that it sorts by block; its place in the lists below. */
static uint64_t entry_make(int32_t block, int64_t place) { return (uint64_t)block << 32 | (uint32_t)place; }
static int32_t entry_block(uint64_t entry) { return (int32_t)(entry >> 32); }
static int32_t entry_place(uint64_t entry) { return (int32_t)(uint32_t)entry; }

/* Mode block: takes entries in the order of their ranks until k tokens in sight are covered. Moves the taken ones to
 * the front, sorted by block, and returns how many; the last one taken keeps its lowest *cut_tokens tokens in sight. */
static int64_t cover(const hisa_shard_t *shard, const hisa_row_t *row, int32_t top_k, const uint64_t *rank,
                     uint64_t *order, uint64_t *scratch, uint64_t *entry, int64_t n, int32_t *cut_block,
                     int64_t *cut_tokens) {
    /* Ranks end in the complement of the block, so the block is at hand; the entry's place is not needed here. */
    memcpy(order, rank, (size_t)n * sizeof *order);
    hisa_sort_u64(order, scratch, n);
    int64_t taken = 0;
    int64_t left = top_k;
    for (int64_t i = n; i > 0 && left > 0; --i) {
        const int32_t block = hisa_rank_position(order[i - 1]);
        int64_t begin;
        int64_t end;
        hisa_cpu_tokens_in_sight(shard, row, block, &begin, &end);
        *cut_block = block;
        *cut_tokens = hisa_min(left, end - begin);
        left -= *cut_tokens;
        entry[taken++] = entry_make(block, 0);
    }
    hisa_sort_u64(entry, scratch, taken);
    return taken;
}

static void cover_bitmap(const hisa_shard_t *shard, const hisa_row_t *row, const int32_t *kept, int64_t n,
                         int32_t cut_block, int64_t cut_tokens, uint8_t *bitmap) {
    for (int64_t j = 0; j < n; ++j) {
        int64_t begin;
        int64_t end;
        hisa_cpu_tokens_in_sight(shard, row, kept[j], &begin, &end);
        if (kept[j] == cut_block) {
            end = begin + cut_tokens;
        }
        for (int64_t s = begin; s < end; ++s) {
            const int64_t bit = j * shard->block_size + s;
            bitmap[bit / 8] |= (uint8_t)(1u << (bit % 8));
        }
    }
}

hisa_status_t hisa_cpu_merge_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    const hisa_keep_t *keep, const uint64_t *lists, int32_t width, int64_t rank_stride,
                                    int64_t place_stride, int64_t row_begin, int64_t rows, int32_t *kept,
                                    int32_t *place, uint8_t *bitmap, void *stream) {
    (void)stream;
    const int threads = hisa_cpu_of(device)->threads;
    (void)threads; /* without OpenMP */
    const int64_t entries = lane_entries(width, shard->ranks);
    const int64_t bitmap_bytes = (int64_t)keep->width * shard->block_size / 8;
#pragma omp parallel for num_threads(threads)
    for (int64_t r = row_begin; r < row_begin + rows; ++r) {
        uint64_t *rank = (uint64_t *)tile->scratch + INT64_C(4) * hisa_cpu_thread() * entries;
        uint64_t *entry = rank + entries;
        uint64_t *scratch = rank + 2 * entries;
        int64_t n = 0;
        for (int32_t p = 0; p < shard->ranks; ++p) {
            for (int32_t j = 0; j < width; ++j) {
                const uint64_t value = lists[p * rank_stride + r * width + j];
                if (value != HISA_RANK_NONE) {
                    rank[n] = value;
                    entry[n++] = entry_make(hisa_rank_position(value), p * place_stride + r * width + j);
                }
            }
        }
        int32_t cut_block = -1;
        int64_t cut_tokens = 0;
        if (keep->mode == HISA_MODE_BLOCK) {
            n = cover(shard, &tile->row[r], keep->top_k, rank, rank + 3 * entries, scratch, entry, n, &cut_block,
                      &cut_tokens);
        } else {
            const uint64_t threshold = n > keep->width ? hisa_kth_u64(rank, n, keep->width) : 0;
            int64_t taken = 0;
            for (int64_t i = 0; i < n; ++i) {
                if (rank[i] >= threshold) {
                    entry[taken++] = entry[i];
                }
            }
            n = taken;
            hisa_sort_u64(entry, scratch, n);
        }
        for (int32_t j = 0; j < keep->width; ++j) {
            kept[r * keep->width + j] = j < n ? entry_block(entry[j]) : -1;
            if (place != NULL) {
                place[r * keep->width + j] = j < n ? entry_place(entry[j]) : -1;
            }
        }
        if (keep->mode == HISA_MODE_BLOCK) {
            memset(bitmap + r * bitmap_bytes, 0, (size_t)bitmap_bytes);
            cover_bitmap(shard, &tile->row[r], kept + r * keep->width, n, cut_block, cut_tokens,
                         bitmap + r * bitmap_bytes);
        }
    }
    return HISA_OK;
}

/* The rank that owns kept block i of the tile's row r, or -1 past the last. */
static int32_t kept_owner(const hisa_shard_t *shard, const hisa_tile_t *tile, int64_t r, int32_t block) {
    if (block < 0) {
        return -1;
    }
    const hisa_layout_t layout = hisa_shard_layout(shard, shard->offsets[tile->row[r].sequence]);
    return hisa_layout_owner(&layout, block);
}

hisa_status_t hisa_cpu_own_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  int32_t width, const int32_t *kept, int32_t own_width, int32_t *own, int32_t *place,
                                  void *stream) {
    (void)device;
    (void)stream;
    for (int64_t r = 0; r < tile->rows; ++r) {
        int64_t next = r * own_width;
        for (int64_t i = r * width; i < (r + 1) * width; ++i) {
            if (kept_owner(shard, tile, r, kept[i]) == shard->rank) {
                own[next] = kept[i];
                place[next] = (int32_t)next;
                ++next;
            }
        }
        for (; next < (r + 1) * own_width; ++next) {
            own[next] = -1;
            place[next] = -1;
        }
    }
    return HISA_OK;
}

/* Places of the segment's own rows: first count what each rank sends, then deal the places out by rank, row and block.
 */
static void plan_own_rows(const hisa_shard_t *shard, const hisa_tile_t *tile, const hisa_segment_t *own, int32_t width,
                          const int32_t *kept, int32_t *work, int32_t *place, int64_t *recv_blocks) {
    const int64_t begin = own->tile_begin * width;
    const int64_t end = begin + own->rows * width;
    int64_t total = 0;
    for (int64_t i = begin; i < end; ++i) {
        const int32_t owner = kept_owner(shard, tile, i / width, kept[i]);
        if (owner >= 0) {
            ++recv_blocks[owner];
        }
    }
    /* recv_blocks turns into each rank's next place ... */
    for (int32_t p = 0; p < shard->ranks; ++p) {
        const int64_t count = recv_blocks[p];
        recv_blocks[p] = total;
        total += count;
    }
    for (int64_t i = begin; i < end; ++i) {
        const int32_t owner = kept_owner(shard, tile, i / width, kept[i]);
        place[i] = owner >= 0 ? (int32_t)recv_blocks[owner]++ : -1;
        work[i] = owner == shard->rank ? place[i] : -1;
    }
    /* ... and, now that it stands where the next rank began, back into a count. */
    for (int32_t p = shard->ranks - 1; p > 0; --p) {
        recv_blocks[p] -= recv_blocks[p - 1];
    }
}

hisa_status_t hisa_cpu_plan_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   const hisa_segment_t *segments, int32_t width, const int32_t *kept,
                                   int64_t send_begin, int32_t *work, int32_t *place, int64_t *sizes, void *stream) {
    (void)device;
    (void)stream;
    int64_t *send_blocks = sizes;
    int64_t *recv_blocks = sizes + shard->ranks;
    int64_t next = send_begin;
    for (int32_t p = 0; p < shard->ranks; ++p) {
        recv_blocks[p] = 0;
        send_blocks[p] = 0;
    }
    for (int32_t p = 0; p < shard->ranks; ++p) {
        const hisa_segment_t *segment = &segments[p];
        if (p == shard->rank) {
            plan_own_rows(shard, tile, segment, width, kept, work, place, recv_blocks);
            continue;
        }
        const int64_t begin = next;
        for (int64_t i = segment->tile_begin * width; i < (segment->tile_begin + segment->rows) * width; ++i) {
            const bool mine = kept_owner(shard, tile, i / width, kept[i]) == shard->rank;
            work[i] = mine ? (int32_t)next++ : -1;
        }
        send_blocks[p] = next - begin;
    }
    return HISA_OK;
}
