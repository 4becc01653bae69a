/* Rows of a tile: checks, windows, queries as f32; and the scoring of one panel, which every scoring step shares. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/e4m3.h"
#include "base/checked.h"
#include "base/error.h"

static hisa_row_t row_at(const hisa_shard_t *shard, const hisa_queries_t *queries, int64_t row) {
    hisa_row_t out = {.sequence = queries->sequence != NULL ? queries->sequence[row] : 0};
    out.begin = queries->window_begin != NULL ? queries->window_begin[row] : 0;
    if (queries->window_end != NULL) {
        out.end = queries->window_end[row];
    } else if (out.sequence >= 0 && out.sequence < shard->num_sequences) {
        out.end = shard->lengths[out.sequence];
    }
    return out;
}

hisa_status_t hisa_cpu_check_rows(hisa_device_t *device, const hisa_shard_t *shard, const hisa_queries_t *queries) {
    (void)device;
    for (int64_t r = 0; r < queries->num_rows; ++r) {
        const hisa_row_t row = row_at(shard, queries, r);
        const long long at = r;
        if (row.sequence < 0 || row.sequence >= shard->num_sequences) {
            return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "sequence %d at row %lld is not in [0, %d)", row.sequence, at,
                             shard->num_sequences);
        }
        if (row.begin < 0) {
            return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "window begin ks = %d at row %lld is negative", row.begin, at);
        }
        if (row.begin > row.end) {
            return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "ks > ke at row %lld (%d > %d)", at, row.begin, row.end);
        }
        if (row.end > shard->lengths[row.sequence]) {
            return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "ke > length at row %lld (%d > %d)", at, row.end,
                             shard->lengths[row.sequence]);
        }
    }
    return HISA_OK;
}

hisa_status_t hisa_cpu_make_rows(hisa_device_t *device, const hisa_shard_t *shard, const hisa_queries_t *queries,
                                 const hisa_segment_t *segments, int32_t n_segments, hisa_row_t *row, void *prepared,
                                 void *stream) {
    (void)device;
    (void)prepared;
    (void)stream;
    for (int32_t i = 0; i < n_segments; ++i) {
        for (int64_t r = 0; r < segments[i].rows; ++r) {
            hisa_row_t *out = row + segments[i].tile_begin + r;
            *out = row_at(shard, queries, segments[i].query_begin + r);
            out->source = (int32_t)(segments[i].source_begin + r);
        }
    }
    return HISA_OK;
}

static int64_t row_floats(const hisa_cpu_t *cpu) { return cpu->groups * HISA_CPU_HEADS * cpu->head_dim; }

int64_t hisa_cpu_queries_bytes(const hisa_device_t *device, int64_t rows) {
    return rows * row_floats(hisa_cpu_of(device)) * (int64_t)sizeof(float);
}

const float *hisa_cpu_prepared_row(const hisa_cpu_t *cpu, const hisa_tile_t *tile, int64_t row) {
    return (const float *)tile->prepared + row * row_floats(cpu);
}

hisa_status_t hisa_cpu_prepare_queries(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                       void *stream) {
    (void)shard;
    (void)stream;
    const hisa_cpu_t *cpu = hisa_cpu_of(device);
    const int64_t dim = cpu->head_dim;
#pragma omp parallel for num_threads(cpu->threads)
    for (int64_t r = 0; r < tile->rows; ++r) {
        const uint8_t *q = tile->q + (int64_t)tile->row[r].source * cpu->num_heads * dim;
        float *out = (float *)tile->prepared + r * row_floats(cpu);
        memset(out, 0, (size_t)row_floats(cpu) * sizeof *out);
        for (int64_t h = 0; h < cpu->num_heads; ++h) {
            float *head = out + h / HISA_CPU_HEADS * dim * HISA_CPU_HEADS + h % HISA_CPU_HEADS;
            for (int64_t d = 0; d < dim; ++d) {
                head[d * HISA_CPU_HEADS] = hisa_e4m3_to_float(q[h * dim + d]);
            }
        }
    }
    return HISA_OK;
}

void hisa_cpu_blocks_in_sight(const hisa_shard_t *shard, const hisa_row_t *row, int64_t *begin, int64_t *end) {
    *begin = row->begin / shard->block_size;
    *end = row->end > row->begin ? hisa_ceil_div(row->end, shard->block_size) : *begin;
}

void hisa_cpu_row_blocks(const hisa_shard_t *shard, const hisa_row_t *row, int64_t *begin, int64_t *end) {
    const hisa_layout_t layout = hisa_shard_layout(shard, shard->offsets[row->sequence]);
    int64_t first;
    int64_t last;
    hisa_cpu_blocks_in_sight(shard, row, &first, &last);
    *begin = hisa_layout_count(&layout, shard->rank, first);
    *end = hisa_layout_count(&layout, shard->rank, last);
}

void hisa_cpu_tokens_in_sight(const hisa_shard_t *shard, const hisa_row_t *row, int64_t block, int64_t *begin,
                              int64_t *end) {
    const int64_t first = block * shard->block_size;
    *begin = hisa_max(0, row->begin - first);
    *end = hisa_max(*begin, hisa_min(shard->block_size, row->end - first));
}

bool hisa_cpu_first_of_sequence(const hisa_tile_t *tile, int64_t row) {
    for (int64_t r = 0; r < row; ++r) {
        if (tile->row[r].sequence == tile->row[row].sequence) {
            return false;
        }
    }
    return true;
}

void hisa_cpu_load_panel(const hisa_cpu_t *cpu, const hisa_cpu_lane_t *lane, const uint8_t *codes, const float *scales,
                         int64_t keys) {
    cpu->isa->decode_panel(codes, keys, cpu->head_dim, lane->panel);
    memset(lane->scale, 0, HISA_CPU_PANEL * sizeof *lane->scale);
    memcpy(lane->scale, scales, (size_t)keys * sizeof *scales);
}

void hisa_cpu_score_panel(const hisa_cpu_t *cpu, const hisa_cpu_lane_t *lane, const hisa_tile_t *tile, int64_t row) {
    cpu->isa->dots(hisa_cpu_prepared_row(cpu, tile, row), cpu->groups, cpu->head_dim, lane->panel, lane->dots);
    cpu->isa->head_sum(lane->dots, tile->weights + (int64_t)tile->row[row].source * cpu->num_heads, cpu->num_heads,
                       lane->scale, lane->score);
}
