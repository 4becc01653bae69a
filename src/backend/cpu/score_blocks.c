/* Block scores of this rank's blocks, and each row's best. */
#include "backend/cpu/cpu.h"
#include "backend/cpu/topk.h"
#include "backend/order.h"
#include "base/checked.h"

int64_t hisa_cpu_score_blocks_scratch(int64_t rows, int64_t blocks, int threads) {
    (void)threads;
    return rows * blocks * (int64_t)sizeof(uint32_t);
}

/* Scores local blocks [begin, begin + count), count <= 32, for the rows from `first` on that are of its sequence and
 * see any of them. key [rows][stride], by local block. */
static void score_panel(const hisa_cpu_t *cpu, const hisa_shard_t *shard, const hisa_tile_t *tile, int64_t first,
                        int64_t begin, int64_t count, uint32_t *key, int64_t stride) {
    const hisa_cpu_lane_t *lane = &cpu->lanes[hisa_cpu_thread()];
    const int32_t sequence = tile->row[first].sequence;
    const int64_t slot = shard->bases[sequence] + begin;
    hisa_cpu_load_panel(cpu, lane, shard->store.pooled + slot * shard->head_dim, shard->store.pooled_scales + slot,
                        count);
    for (int64_t r = first; r < tile->rows; ++r) {
        int64_t row_begin;
        int64_t row_end;
        if (tile->row[r].sequence != sequence) {
            continue;
        }
        hisa_cpu_row_blocks(shard, &tile->row[r], &row_begin, &row_end);
        const int64_t from = hisa_max(begin, row_begin);
        const int64_t to = hisa_min(begin + count, row_end);
        if (from < to) {
            hisa_cpu_score_panel(cpu, lane, tile, r);
            for (int64_t b = from; b < to; ++b) {
                key[r * stride + b] = hisa_key_from_score(lane->score[b - begin]);
            }
        }
    }
}

/* Local blocks that any row of the sequence of row `first` sees: [*begin, *end). */
static void sequence_blocks(const hisa_shard_t *shard, const hisa_tile_t *tile, int64_t first, int64_t *begin,
                            int64_t *end) {
    *begin = INT64_MAX;
    *end = 0;
    for (int64_t r = first; r < tile->rows; ++r) {
        if (tile->row[r].sequence == tile->row[first].sequence) {
            int64_t row_begin;
            int64_t row_end;
            hisa_cpu_row_blocks(shard, &tile->row[r], &row_begin, &row_end);
            if (row_begin < row_end) {
                *begin = hisa_min(*begin, row_begin);
                *end = hisa_max(*end, row_end);
            }
        }
    }
    *begin = hisa_min(*begin, *end);
}

/* Marks blocks [begin, end) as kept whatever their score, where this rank owns them. */
static void force_blocks(const hisa_layout_t *layout, int32_t rank, int64_t begin, int64_t end, uint32_t *key) {
    for (int64_t b = begin; b < end; ++b) {
        if (hisa_layout_owner(layout, b) == rank) {
            key[hisa_layout_local(layout, b)] = HISA_KEY_FORCED;
        }
    }
}

/* The row's best `width` blocks: all above the width-th key, and of those equal to it the lowest. */
static void list_row(const hisa_shard_t *shard, const hisa_row_t *row, const hisa_keep_t *keep, int32_t width,
                     uint32_t *key, uint64_t *list) {
    const hisa_layout_t layout = hisa_shard_layout(shard, shard->offsets[row->sequence]);
    int64_t begin;
    int64_t end;
    hisa_cpu_blocks_in_sight(shard, row, &begin, &end);
    force_blocks(&layout, shard->rank, begin, hisa_min(end, begin + keep->sink_blocks), key);
    force_blocks(&layout, shard->rank, hisa_max(begin, end - keep->local_blocks), end, key);
    hisa_cpu_row_blocks(shard, row, &begin, &end);
    uint32_t threshold = 0;
    int64_t ties = end - begin;
    if (end - begin > width) {
        int64_t above;
        threshold = hisa_kth_u32(key + begin, end - begin, width, &above);
        ties = width - above;
    }
    int32_t n = 0;
    for (int64_t b = begin; b < end && n < width; ++b) {
        if (key[b] > threshold || (key[b] == threshold && ties-- > 0)) {
            list[n++] = hisa_rank_make(key[b], (int32_t)hisa_layout_global(&layout, shard->rank, b));
        }
    }
    while (n < width) {
        list[n++] = HISA_RANK_NONE;
    }
}

hisa_status_t hisa_cpu_score_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    const hisa_keep_t *keep, int32_t width, uint64_t *list, int32_t *blocks,
                                    int64_t *keys_scored, void *stream) {
    (void)stream;
    const hisa_cpu_t *cpu = hisa_cpu_of(device);
    uint32_t *key = tile->scratch;
    int64_t stride = 0; /* local blocks in sight of any row, from 0 on: at most what scratch was sized for */
    for (int64_t r = 0; r < tile->rows; ++r) {
        int64_t begin;
        int64_t end;
        hisa_cpu_row_blocks(shard, &tile->row[r], &begin, &end);
        stride = hisa_max(stride, end);
        *keys_scored += end - begin;
    }
    for (int64_t first = 0; first < tile->rows; ++first) {
        if (!hisa_cpu_first_of_sequence(tile, first)) {
            continue;
        }
        int64_t begin;
        int64_t end;
        sequence_blocks(shard, tile, first, &begin, &end);
#pragma omp parallel for num_threads(cpu->threads) schedule(dynamic)
        for (int64_t b = begin; b < end; b += HISA_CPU_PANEL) {
            score_panel(cpu, shard, tile, first, b, hisa_min(HISA_CPU_PANEL, end - b), key, stride);
        }
    }
#pragma omp parallel for num_threads(cpu->threads) schedule(dynamic)
    for (int64_t r = 0; r < tile->rows; ++r) {
        list_row(shard, &tile->row[r], keep, width, key + r * stride, list + r * width);
        for (int64_t i = r * width; blocks != NULL && i < (r + 1) * width; ++i) {
            blocks[i] = list[i] == HISA_RANK_NONE ? -1 : hisa_rank_position(list[i]);
        }
    }
    return HISA_OK;
}
