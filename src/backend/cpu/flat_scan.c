/* Flat mode: one pass over this rank's keys, each row keeping its best so far. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/cpu/topk.h"
#include "backend/order.h"
#include "base/checked.h"

/* Local tokens scored between two rounds of picking: 64 rows of such scores are half of a second-level cache. */
enum { CHUNK = 2048 };

/* A row's best so far: at most 2k ranks, cut to the best k whenever they are full, which raises `least`: whatever does
 * not exceed it has k better ones before it. */
typedef struct best {
    uint64_t *rank; /* [2k] */
    int64_t n;
    uint64_t least;
} best_t;

static int64_t scan_scratch(int64_t rows, int32_t top_k) {
    return rows *
           (2 * (int64_t)top_k * (int64_t)sizeof(uint64_t) + CHUNK * (int64_t)sizeof(float) + (int64_t)sizeof(best_t));
}

int64_t hisa_cpu_flat_scratch(int64_t rows, int32_t top_k, int32_t ranks, int32_t block_size, int threads) {
    (void)block_size;
    /* flat_quantiles, flat_merge: two arrays of a row's entries, those of all ranks at the most, a thread. */
    return hisa_max(scan_scratch(rows, top_k), INT64_C(2) * threads * ranks * top_k * (int64_t)sizeof(uint64_t));
}

static void cut(best_t *best, int64_t k) {
    if (best->n <= k) {
        return;
    }
    const uint64_t least = hisa_kth_u64(best->rank, best->n, k);
    int64_t n = 0;
    for (int64_t i = 0; i < best->n; ++i) {
        if (best->rank[i] >= least) {
            best->rank[n++] = best->rank[i];
        }
    }
    best->n = n;
    best->least = least;
}

/* Local tokens of the row's window: [*begin, *end). They lie one after the other in the store, as local blocks do. */
static void row_tokens(const hisa_shard_t *shard, const hisa_row_t *row, int64_t *begin, int64_t *end) {
    const hisa_layout_t layout = hisa_shard_layout(shard, shard->offsets[row->sequence]);
    *begin = hisa_layout_count_tokens(&layout, shard->rank, row->begin);
    *end = hisa_max(*begin, hisa_layout_count_tokens(&layout, shard->rank, row->end));
}

/* Scores local tokens [begin, begin + count), count <= 32, of a sequence for its rows that see any of them. */
static void score_panel(const hisa_cpu_t *cpu, const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t sequence,
                        int64_t begin, int64_t count, float *score) {
    const hisa_cpu_lane_t *lane = &cpu->lanes[hisa_cpu_thread()];
    const int64_t token = (int64_t)shard->bases[sequence] * shard->block_size + begin;
    hisa_cpu_load_panel(cpu, lane, shard->store.keys + token * shard->head_dim, shard->store.scales + token, count);
    for (int64_t r = 0; r < tile->rows; ++r) {
        int64_t row_begin;
        int64_t row_end;
        if (tile->row[r].sequence != sequence) {
            continue;
        }
        row_tokens(shard, &tile->row[r], &row_begin, &row_end);
        if (row_begin < begin + count && begin < row_end) {
            hisa_cpu_score_panel(cpu, lane, tile, r);
            memcpy(score + r * CHUNK + begin % CHUNK, lane->score, (size_t)count * sizeof *score);
        }
    }
}

/* Takes what is good enough of local tokens [begin, end), of one chunk; score [CHUNK]. */
static void pick(const hisa_shard_t *shard, const hisa_row_t *row, int64_t begin, int64_t end, const float *score,
                 int64_t k, best_t *best) {
    const hisa_layout_t layout = hisa_shard_layout(shard, shard->offsets[row->sequence]);
    const int64_t size = shard->block_size;
    while (begin < end) {
        const int64_t block = begin / size;
        const int64_t block_end = hisa_min(end, (block + 1) * size);
        /* From a local token to its position. */
        const int64_t shift = (hisa_layout_global(&layout, shard->rank, block) - block) * size;
        for (; begin < block_end; ++begin) {
            const uint32_t key = hisa_key_from_score(score[begin % CHUNK]);
            if (key >= hisa_rank_key(best->least)) {
                const uint64_t rank = hisa_rank_make(key, (int32_t)(begin + shift));
                if (rank > best->least) {
                    if (best->n == 2 * k) {
                        cut(best, k);
                    }
                    best->rank[best->n++] = rank;
                }
            }
        }
    }
}

/* One pass over the local tokens of a sequence, for all its rows. */
static void scan_sequence(const hisa_cpu_t *cpu, const hisa_shard_t *shard, const hisa_tile_t *tile, int32_t sequence,
                          int64_t k, float *score, best_t *best) {
    int64_t first = INT64_MAX;
    int64_t last = 0;
    for (int64_t r = 0; r < tile->rows; ++r) {
        int64_t begin;
        int64_t end;
        row_tokens(shard, &tile->row[r], &begin, &end);
        if (tile->row[r].sequence == sequence && begin < end) {
            first = hisa_min(first, begin);
            last = hisa_max(last, end);
        }
    }
    for (int64_t chunk = first / CHUNK * CHUNK; chunk < last; chunk += CHUNK) {
        const int64_t end = hisa_min(chunk + CHUNK, last);
#pragma omp parallel for num_threads(cpu->threads) schedule(dynamic)
        for (int64_t s = chunk; s < end; s += HISA_CPU_PANEL) {
            score_panel(cpu, shard, tile, sequence, s, hisa_min(HISA_CPU_PANEL, end - s), score);
        }
#pragma omp parallel for num_threads(cpu->threads) schedule(dynamic)
        for (int64_t r = 0; r < tile->rows; ++r) {
            int64_t row_begin;
            int64_t row_end;
            row_tokens(shard, &tile->row[r], &row_begin, &row_end);
            if (tile->row[r].sequence == sequence) {
                pick(shard, &tile->row[r], hisa_max(chunk, row_begin), hisa_min(end, row_end), score + r * CHUNK, k,
                     &best[r]);
            }
        }
    }
}

hisa_status_t hisa_cpu_flat_scan(hisa_device_t *device, const hisa_shard_t *shard, const hisa_tile_t *tile,
                                 int32_t top_k, int32_t list_width, uint64_t *list, int64_t *keys_scored,
                                 void *stream) {
    (void)stream;
    const hisa_cpu_t *cpu = hisa_cpu_of(device);
    best_t *best = tile->scratch;
    uint64_t *rank = (uint64_t *)(best + tile->rows);
    float *score = (float *)(void *)(rank + tile->rows * 2 * top_k);
    for (int64_t r = 0; r < tile->rows; ++r) {
        int64_t begin;
        int64_t end;
        best[r] = (best_t){.rank = rank + r * 2 * top_k, .n = 0, .least = HISA_RANK_NONE};
        row_tokens(shard, &tile->row[r], &begin, &end);
        *keys_scored += end - begin;
    }
    for (int64_t r = 0; r < tile->rows; ++r) {
        if (hisa_cpu_first_of_sequence(tile, r)) {
            scan_sequence(cpu, shard, tile, tile->row[r].sequence, top_k, score, best);
        }
    }
    for (int64_t r = 0; r < tile->rows; ++r) {
        cut(&best[r], top_k);
        uint64_t *out = list + r * list_width;
        memcpy(out, best[r].rank, (size_t)best[r].n * sizeof *out);
        memset(out + best[r].n, 0, (size_t)(list_width - best[r].n) * sizeof *out);
    }
    return HISA_OK;
}

hisa_status_t hisa_cpu_flat_quantiles(hisa_device_t *device, const hisa_tile_t *tile, int32_t top_k, int32_t list_width,
                                      const uint64_t *list, uint32_t *quantiles, void *stream) {
    (void)stream;
    const int threads = hisa_cpu_of(device)->threads;
    (void)threads; /* without OpenMP */
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t r = 0; r < tile->rows; ++r) {
        uint64_t *sorted = (uint64_t *)tile->scratch + INT64_C(2) * hisa_cpu_thread() * top_k;
        int64_t n = 0;
        for (int64_t i = 0; i < list_width; ++i) {
            if (list[r * list_width + i] != HISA_RANK_NONE) {
                sorted[n++] = list[r * list_width + i];
            }
        }
        hisa_sort_u64(sorted, sorted + top_k, n);
        for (int64_t i = 0; i < HISA_QUANTILES; ++i) {
            const int64_t reach = hisa_ceil_div((i + 1) * top_k, HISA_QUANTILES);
            quantiles[r * HISA_QUANTILES + i] = reach <= n ? hisa_rank_key(sorted[n - reach]) : 0;
        }
    }
    return HISA_OK;
}
