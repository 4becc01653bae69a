/* Token scores of kept blocks, the selection inside them, and the results. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/topk.h"
#include "backend/order.h"
#include "base/checked.h"

int64_t hisa_cpu_score_tokens_scratch(int64_t rows, int32_t width) {
    return 3 * rows * width * (int64_t)sizeof(uint64_t);
}

/* Scores one block for the rows that want it: wanted [n], each slot << 32 | place in kept. */
static void score_block(const hisa_cpu_t *cpu, const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                        const int32_t *kept, const int32_t *work, const uint64_t *wanted, int64_t n, float *pool) {
    const hisa_cpu_lane_t *lane = &cpu->lanes[hisa_cpu_thread()];
    const int64_t size = shard->block_size;
    const int64_t slot = (int64_t)(wanted[0] >> 32);
    for (int64_t s = 0; s < size; s += HISA_CPU_PANEL) {
        const int64_t keys = hisa_min(HISA_CPU_PANEL, size - s);
        hisa_cpu_load_panel(cpu, lane, shard->store.keys + (slot * size + s) * shard->head_dim,
                            shard->store.scales + slot * size + s, keys);
        for (int64_t i = 0; i < n; ++i) {
            const int64_t at = (int64_t)(wanted[i] & UINT32_MAX);
            const int64_t r = at / width;
            const int64_t first = kept[at] * size + s;
            /* Panels out of the row's sight are not scored: nobody reads them. */
            if (first < tile->row[r].end && first + keys > tile->row[r].begin) {
                hisa_cpu_score_panel(cpu, lane, tile, r);
                memcpy(pool + (work != NULL ? work[at] : at) * size + s, lane->score, (size_t)keys * sizeof *pool);
            }
        }
    }
}

hisa_status_t hisa_cpu_score_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                    int32_t width, const int32_t *kept, const int32_t *work, float *pool,
                                    int64_t *keys_scored, void *stream) {
    (void)stream;
    const hisa_cpu_t *cpu = hisa_cpu_of(device);
    uint64_t *wanted = tile->scratch;
    uint64_t *group = wanted + tile->rows * width; /* where each block's run of `wanted` begins */
    uint64_t *sort_scratch = group + tile->rows * width;
    int64_t n = 0;
    for (int64_t i = 0; i < tile->rows * width; ++i) {
        if ((work != NULL ? work[i] : kept[i]) >= 0) {
            const hisa_row_t *row = &tile->row[i / width];
            const hisa_layout_t layout = hisa_shard_layout(shard, shard->offsets[row->sequence]);
            int64_t begin;
            int64_t end;
            wanted[n++] =
                (uint64_t)(shard->bases[row->sequence] + hisa_layout_local(&layout, kept[i])) << 32 | (uint32_t)i;
            hisa_cpu_tokens_in_sight(shard, row, kept[i], &begin, &end);
            *keys_scored += end - begin;
        }
    }
    /* By block: it is decoded once for all rows that want it. */
    hisa_sort_u64(wanted, sort_scratch, n);
    int64_t groups = 0;
    for (int64_t i = 0; i < n; ++i) {
        if (i == 0 || wanted[i] >> 32 != wanted[i - 1] >> 32) {
            group[groups++] = (uint64_t)i;
        }
    }
#pragma omp parallel for num_threads(cpu->threads) schedule(dynamic)
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t begin = (int64_t)group[g];
        const int64_t end = g + 1 < groups ? (int64_t)group[g + 1] : n;
        score_block(cpu, shard, tile, width, kept, work, wanted + begin, end - begin, pool);
    }
    return HISA_OK;
}

int64_t hisa_cpu_select_tokens_scratch(int32_t width, int32_t block_size, int threads) {
    return threads * (int64_t)width * block_size * (int64_t)sizeof(uint32_t);
}

/* Keys of the row's candidates in ascending position; returns how many. */
static int64_t gather_keys(const hisa_shard_t *shard, const hisa_row_t *row, int32_t width, const int32_t *kept,
                           const int32_t *place, const float *pool, uint32_t *key) {
    const int64_t size = shard->block_size;
    int64_t n = 0;
    for (int32_t j = 0; j < width && kept[j] >= 0; ++j) {
        const float *score = pool + place[j] * size;
        int64_t begin;
        int64_t end;
        hisa_cpu_tokens_in_sight(shard, row, kept[j], &begin, &end);
        for (int64_t s = begin; s < end; ++s) {
            key[n++] = hisa_key_from_score(score[s]);
        }
    }
    return n;
}

static void select_row(const hisa_shard_t *shard, const hisa_row_t *row, int32_t width, int32_t top_k,
                       const int32_t *kept, const int32_t *place, const float *pool, uint32_t *key, uint8_t *bitmap,
                       float *selected) {
    const int64_t size = shard->block_size;
    const int64_t n = gather_keys(shard, row, width, kept, place, pool, key);
    uint32_t threshold = 0;
    int64_t ties = n;
    if (n > top_k) {
        int64_t above;
        threshold = hisa_kth_u32(key, n, top_k, &above);
        ties = top_k - above;
    }
    int64_t i = 0;
    int64_t taken = 0;
    for (int32_t j = 0; j < width && kept[j] >= 0; ++j) {
        int64_t begin;
        int64_t end;
        hisa_cpu_tokens_in_sight(shard, row, kept[j], &begin, &end);
        for (int64_t s = begin; s < end; ++s, ++i) {
            if (key[i] > threshold || (key[i] == threshold && ties-- > 0)) {
                const int64_t bit = j * size + s;
                bitmap[bit / 8] |= (uint8_t)(1u << (bit % 8));
                if (selected != NULL) {
                    selected[taken++] = hisa_score_from_key(key[i]);
                }
            }
        }
    }
}

hisa_status_t hisa_cpu_select_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                     int32_t width, int32_t top_k, int64_t row_begin, int64_t rows, const int32_t *kept,
                                     const int32_t *place, const float *pool, uint8_t *bitmap, float *selected,
                                     void *stream) {
    (void)stream;
    const int threads = hisa_cpu_of(device)->threads;
    (void)threads; /* without OpenMP */
    const int64_t candidates = (int64_t)width * shard->block_size;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t r = row_begin; r < row_begin + rows; ++r) {
        uint8_t *row_bitmap = bitmap + r * candidates / 8;
        float *row_selected = selected != NULL ? selected + r * top_k : NULL;
        memset(row_bitmap, 0, (size_t)candidates / 8);
        if (row_selected != NULL) {
            memset(row_selected, 0, (size_t)top_k * sizeof *row_selected);
        }
        select_row(shard, &tile->row[r], width, top_k, kept + r * width, place + r * width, pool,
                   (uint32_t *)tile->scratch + hisa_cpu_thread() * candidates, row_bitmap, row_selected);
    }
    return HISA_OK;
}

hisa_status_t hisa_cpu_list_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                   int32_t width, int32_t top_k, const int32_t *kept, const uint8_t *bitmap,
                                   const float *selected, int32_t list_width, uint64_t *list, void *stream) {
    (void)device;
    (void)stream;
    const int64_t size = shard->block_size;
    for (int64_t r = 0; r < tile->rows; ++r) {
        const int32_t *row_kept = kept + r * width;
        const uint8_t *bits = bitmap + r * width * size / 8;
        uint64_t *row_list = list + r * list_width;
        int32_t n = 0;
        for (int64_t i = 0; i < width * size && row_kept[i / size] >= 0; ++i) {
            if ((bits[i / 8] >> (i % 8) & 1) != 0) {
                row_list[n] = hisa_rank_make(hisa_key_from_score(selected[r * top_k + n]),
                                             (int32_t)(row_kept[i / size] * size + i % size));
                ++n;
            }
        }
        for (; n < list_width; ++n) {
            row_list[n] = HISA_RANK_NONE;
        }
    }
    return HISA_OK;
}

/* Writes one row's results. `taken` counts all selected tokens, `n` those written: fewer if only local ones are. */
static void emit_row(const hisa_shard_t *shard, const hisa_row_t *row, int32_t width, const int32_t *kept,
                     const uint8_t *bitmap, const float *selected, const hisa_output_t *output, int64_t at) {
    const hisa_layout_t layout = hisa_shard_layout(shard, shard->offsets[row->sequence]);
    const bool local = output->placement == HISA_PLACE_LOCAL;
    const int64_t size = shard->block_size;
    int32_t *indices = output->indices + at * output->top_k;
    float *scores = selected != NULL ? output->scores + at * output->top_k : NULL;
    int64_t taken = 0;
    int32_t n = 0;
    for (int32_t j = 0; j < width && kept[j] >= 0; ++j) {
        const bool here = !local || hisa_layout_owner(&layout, kept[j]) == shard->rank;
        const int64_t first = (local ? hisa_layout_local(&layout, kept[j]) : kept[j]) * size;
        for (int64_t byte = 0; byte < size / 8; ++byte) {
            for (unsigned bits = bitmap[j * size / 8 + byte]; bits != 0; bits &= bits - 1, ++taken) {
                if (here) {
                    if (scores != NULL) {
                        scores[n] = selected[taken];
                    }
                    indices[n++] = (int32_t)(first + byte * 8 + __builtin_ctz(bits));
                }
            }
        }
    }
    if (output->counts != NULL) {
        output->counts[at] = n;
    }
    for (; n < output->top_k; ++n) {
        indices[n] = -1;
        if (scores != NULL) {
            scores[n] = 0.0f;
        }
    }
}

hisa_status_t hisa_cpu_emit(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t width,
                            const int32_t *kept, const uint8_t *bitmap, const float *selected,
                            const hisa_output_t *output, void *stream) {
    (void)device;
    (void)stream;
    const int64_t bitmap_bytes = (int64_t)width * shard->block_size / 8;
    for (int32_t i = 0; i < output->n_segments; ++i) {
        const hisa_segment_t *segment = &output->segments[i];
        if (segment->output_begin < 0) {
            continue;
        }
        for (int64_t r = segment->tile_begin; r < segment->tile_begin + segment->rows; ++r) {
            emit_row(shard, &tile->row[r], width, kept + r * width, bitmap + r * bitmap_bytes,
                     selected != NULL ? selected + r * output->top_k : NULL, output,
                     segment->output_begin + r - segment->tile_begin);
        }
    }
    return HISA_OK;
}
