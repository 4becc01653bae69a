/* Flat mode across ranks: dropping what cannot win, the final selection, and the results. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/topk.h"
#include "backend/order.h"
#include "base/checked.h"

/* The HISA_QUANTILES-th highest of the ranks' quantiles of a row, each rank's `stride` behind the last one's. */
static uint32_t least_key(const uint32_t *quantiles, int32_t ranks, int64_t stride) {
    uint32_t highest[HISA_QUANTILES] = {0}; /* descending */
    for (int32_t p = 0; p < ranks; ++p) {
        for (int i = 0; i < HISA_QUANTILES; ++i) {
            uint32_t key = quantiles[p * stride + i];
            for (int h = 0; h < HISA_QUANTILES; ++h) {
                const uint32_t lower = key < highest[h] ? key : highest[h];
                highest[h] = key < highest[h] ? highest[h] : key;
                key = lower;
            }
        }
    }
    return highest[HISA_QUANTILES - 1];
}

hisa_status_t hisa_cpu_flat_trim(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                 int32_t list_width, const uint32_t *quantiles, uint64_t *list, int32_t *counts,
                                 void *stream) {
    (void)device;
    (void)stream;
    int64_t n = 0;
    for (int64_t r = 0; r < tile->rows; ++r) {
        const uint32_t least = least_key(quantiles + r * HISA_QUANTILES, shard->ranks, tile->rows * HISA_QUANTILES);
        const uint64_t bound = least > 0 ? (uint64_t)least << 32 : HISA_RANK_NONE + 1; /* drops the padding */
        const int64_t begin = n;
        for (int64_t i = r * list_width; i < (r + 1) * list_width; ++i) {
            if (list[i] >= bound) {
                list[n++] = list[i];
            }
        }
        counts[r] = (int32_t)(n - begin);
    }
    return HISA_OK;
}

static int64_t sum_counts(const int32_t *counts, const hisa_segment_t *segment) {
    int64_t sum = 0;
    for (int64_t r = 0; r < segment->rows; ++r) {
        sum += counts[segment->tile_begin + r];
    }
    return sum;
}

hisa_status_t hisa_cpu_flat_sizes(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  const hisa_segment_t *segments, const int32_t *counts, int64_t *sizes, void *stream) {
    (void)device;
    (void)stream;
    for (int32_t p = 0; p < shard->ranks; ++p) {
        sizes[p] = sum_counts(counts + shard->rank * tile->rows, &segments[p]);
        sizes[shard->ranks + p] = sum_counts(counts + p * tile->rows, &segments[shard->rank]);
    }
    return HISA_OK;
}

/* An entry that sorts by position and carries its key. */
static uint64_t entry_make(uint64_t rank) { return (uint64_t)hisa_rank_position(rank) << 32 | hisa_rank_key(rank); }
static int32_t entry_position(uint64_t entry) { return (int32_t)(entry >> 32); }
static float entry_score(uint64_t entry) { return hisa_score_from_key((uint32_t)entry); }

/* Selects of entry [n] (ranks) the best k and writes them in ascending position. */
static void merge_row(uint64_t *entry, uint64_t *scratch, int64_t n, int32_t top_k, int32_t *positions, float *selected,
                      uint64_t *threshold) {
    *threshold = HISA_RANK_NONE;
    if (n > 0) {
        *threshold = hisa_kth_u64(entry, n, hisa_min(n, top_k));
    }
    int64_t taken = 0;
    for (int64_t i = 0; i < n; ++i) {
        if (entry[i] >= *threshold) {
            entry[taken++] = entry_make(entry[i]);
        }
    }
    hisa_sort_u64(entry, scratch, taken);
    for (int64_t i = 0; i < top_k; ++i) {
        positions[i] = i < taken ? entry_position(entry[i]) : -1;
        if (selected != NULL) {
            selected[i] = i < taken ? entry_score(entry[i]) : 0.0f;
        }
    }
}

/* Where row r's entries of rank p begin in its packed list: after those of the rows before it. */
static int64_t packed_begin(const int32_t *counts, int64_t row_begin, int64_t r) {
    int64_t begin = 0;
    for (int64_t i = row_begin; i < r; ++i) {
        begin += counts[i];
    }
    return begin;
}

hisa_status_t hisa_cpu_flat_merge(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                  int32_t top_k, int32_t list_width, const uint64_t *lists, const int64_t *offsets,
                                  const int32_t *counts, int64_t row_begin, int64_t rows, int32_t *positions,
                                  float *selected, uint64_t *threshold, void *stream) {
    (void)stream;
    const int threads = hisa_cpu_of(device)->threads;
    (void)threads; /* without OpenMP */
    const int64_t entries = (int64_t)shard->ranks * top_k;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t r = row_begin; r < row_begin + rows; ++r) {
        uint64_t *entry = (uint64_t *)tile->scratch + INT64_C(2) * hisa_cpu_thread() * entries;
        int64_t n = 0;
        for (int32_t p = 0; p < shard->ranks; ++p) {
            const uint64_t *from = lists + offsets[p];
            int64_t count = list_width;
            if (counts != NULL) {
                from += packed_begin(counts + p * tile->rows, row_begin, r);
                count = counts[p * tile->rows + r];
            } else {
                from += (r - row_begin) * list_width;
            }
            for (int64_t i = 0; i < count; ++i) {
                if (from[i] != HISA_RANK_NONE) {
                    entry[n++] = from[i];
                }
            }
        }
        merge_row(entry, entry + entries, n, top_k, positions + r * top_k,
                  selected != NULL ? selected + r * top_k : NULL, &threshold[r]);
    }
    return HISA_OK;
}

hisa_status_t hisa_cpu_flat_emit(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                 const int32_t *positions, const float *selected, const hisa_output_t *output,
                                 void *stream) {
    (void)device;
    (void)shard;
    (void)tile;
    (void)stream;
    const int64_t k = output->top_k;
    for (int32_t i = 0; i < output->n_segments; ++i) {
        const hisa_segment_t *segment = &output->segments[i];
        if (segment->output_begin < 0 || segment->rows == 0) {
            continue;
        }
        memcpy(output->indices + segment->output_begin * k, positions + segment->tile_begin * k,
               (size_t)(segment->rows * k) * sizeof *positions);
        if (output->scores != NULL) {
            memcpy(output->scores + segment->output_begin * k, selected + segment->tile_begin * k,
                   (size_t)(segment->rows * k) * sizeof *selected);
        }
        for (int64_t r = 0; output->counts != NULL && r < segment->rows; ++r) {
            const int32_t *row = positions + (segment->tile_begin + r) * k;
            int32_t n = 0;
            while (n < k && row[n] >= 0) {
                ++n;
            }
            output->counts[segment->output_begin + r] = n;
        }
    }
    return HISA_OK;
}

hisa_status_t hisa_cpu_flat_emit_local(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                       int32_t list_width, const uint64_t *list, const int32_t *counts,
                                       const uint64_t *threshold, const hisa_output_t *output, void *stream) {
    (void)device;
    (void)stream;
    const int64_t k = output->top_k;
    uint64_t *entry = tile->scratch;
    for (int32_t i = 0; i < output->n_segments; ++i) {
        const hisa_segment_t *segment = &output->segments[i];
        for (int64_t r = segment->tile_begin; r < segment->tile_begin + segment->rows; ++r) {
            const hisa_layout_t layout = hisa_shard_layout(shard, shard->offsets[tile->row[r].sequence]);
            const int64_t at = segment->output_begin + r - segment->tile_begin;
            const uint64_t *from = list + (counts != NULL ? packed_begin(counts, 0, r) : r * list_width);
            const int64_t count = counts != NULL ? counts[r] : list_width;
            int64_t n = 0;
            for (int64_t e = 0; e < count; ++e) {
                if (from[e] != HISA_RANK_NONE && (threshold == NULL || from[e] >= threshold[r])) {
                    entry[n++] = entry_make(from[e]);
                }
            }
            hisa_sort_u64(entry, entry + k, n);
            if (output->counts != NULL) {
                output->counts[at] = (int32_t)n;
            }
            for (int64_t e = 0; e < k; ++e) {
                const int64_t position = e < n ? entry_position(entry[e]) : 0;
                const int64_t slot = hisa_layout_local(&layout, position / shard->block_size) * shard->block_size +
                                     position % shard->block_size;
                output->indices[at * k + e] = e < n ? (int32_t)slot : -1;
                if (output->scores != NULL) {
                    output->scores[at * k + e] = e < n ? entry_score(entry[e]) : 0.0f;
                }
            }
        }
    }
    return HISA_OK;
}
