#include "support/lists.h"

#include "backend/order.h"
#include "base/checked.h"

const lists_case_t lists_cases[] = {
    {"fewer than k in all", 200, 3, 1000, 300, 0},
    {"a few thousand a row", 300, 4, 2048, 2048, 0},
    {"the same, equal keys", 300, 4, 2048, 2048, 5},
    {"few rows of eight ranks", 7, 8, 2048, 2048, 0},
    {"the same, one key", 7, 8, 2048, 2048, 1},
    {"many rows of eight ranks", 150, 8, 2048, 2048, 40},
    {"more rows than are merged at a time", 1300, 16, 64, 64, 0},
    {"more than fit on chip", 5, 5, 9000, 9000, 30},
    {"many ranks", 4, 200, 500, 500, 0},
    {"one rank", 150, 1, 500, 500, 3},
    {"k 1", 300, 4, 1, 1, 2},
};
const int lists_cases_count = sizeof lists_cases / sizeof lists_cases[0];

void *lists_zeroed(int64_t count, size_t size) {
    void *memory = calloc((size_t)hisa_max(1, count), size);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

/* ---------------------------------------------------------------------------------------------- lists */

static uint32_t any_key(rng_t *rng, uint32_t keys) {
    if (keys == 0) {
        return hisa_key_from_score(rng_unit(rng) * 8 - 2);
    }
    return rng_chance(rng, 2) ? HISA_KEY_NAN : hisa_key_from_score((float)rng_range(rng, 1, keys));
}

uint64_t *lists_at(const lists_t *lists, int32_t rank, int64_t row) {
    return lists->entry + (rank * lists->of->rows + row) * lists->of->top_k;
}

/* Some rows have whole lists, some have none. */
lists_t lists_make(const lists_case_t *of, uint64_t seed) {
    rng_t rng = {seed};
    lists_t lists = {of, lists_zeroed(of->ranks * of->rows * of->top_k, sizeof(uint64_t)),
                     lists_zeroed(of->ranks * of->rows, sizeof(int32_t))};
    for (int32_t p = 0; p < of->ranks; ++p) {
        for (int64_t r = 0; r < of->rows; ++r) {
            const int64_t n = r % 3 == 0 ? of->most : rng_chance(&rng, 10) ? 0 : rng_range(&rng, 0, of->most);
            int32_t position = (int32_t)rng_range(&rng, 0, 5);
            for (int64_t i = 0; i < n; ++i, position += (int32_t)rng_range(&rng, 1, 40)) {
                lists_at(&lists, p, r)[i] = hisa_rank_make(any_key(&rng, of->keys), position * of->ranks + p);
            }
            lists.count[p * of->rows + r] = (int32_t)n;
        }
    }
    return lists;
}

void lists_drop(lists_t *lists) {
    free(lists->entry);
    free(lists->count);
}

int64_t lists_pack(const lists_t *lists, int32_t rank, int64_t begin, int64_t end, uint64_t *packed) {
    int64_t n = 0;
    for (int64_t r = begin; r < end; ++r) {
        const int32_t count = lists->count[rank * lists->of->rows + r];
        memcpy(packed + n, lists_at(lists, rank, r), (size_t)count * sizeof *packed);
        n += count;
    }
    return n;
}

/* ---------------------------------------------------------------------------------------------- sides */

lists_side_t lists_side_make(hisa_backend_t backend, const lists_case_t *of) {
    enum { BLOCK = 128 };
    lists_side_t side = {.comm = NULL};
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    config.backend = backend;
    config.head_dim = 128;
    config.num_heads = 32;
    config.block_size = BLOCK;
    config.capacity = BLOCK;
    ck_ok(hisa_comm_create_self(&side.comm));
    ck_ok(hisa_index_create(&config, side.comm, &side.index));
    side.ops = hisa_index_ops(side.index);
    side.device = side.index->device;
    side.shard = side.index->shard;
    side.shard.ranks = of->ranks;
    side.tile.rows = of->rows;
    const int64_t bytes =
        side.ops->scratch_bytes(side.device, of->rows, 1, of->top_k, hisa_ceil_div(of->top_k, BLOCK), of->ranks, true);
    ck_ok(side.ops->alloc(side.device, bytes, &side.tile.scratch));
    return side;
}

void lists_side_drop(lists_side_t *side) {
    side->ops->release(side->device, side->tile.scratch);
    hisa_index_destroy(side->index);
    hisa_comm_destroy(side->comm);
}

void *lists_to(const lists_side_t *side, const void *host, int64_t bytes) {
    void *memory = NULL;
    ck_ok(side->ops->alloc(side->device, bytes, &memory));
    ck_ok(side->ops->from_host(side->device, memory, host, bytes, NULL));
    return memory;
}

void lists_from(const lists_side_t *side, void *memory, void *host, int64_t bytes) {
    ck_ok(side->ops->to_host(side->device, host, memory, bytes, NULL));
    ck_ok(side->ops->synchronize(side->device, NULL));
    side->ops->release(side->device, memory);
}

/* ---------------------------------------------------------------------------------------------- trimming */

static int compare_ranks(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

/* How many of n ranks, the best first, reach a key. */
static int64_t reaching(const uint64_t *best_first, int64_t n, uint64_t key) {
    int64_t low = 0;
    for (int64_t high = n; low < high;) {
        const int64_t middle = (low + high) / 2;
        if (hisa_rank_key(best_first[middle]) >= key) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static void check_quantiles(const lists_t *lists, int32_t rank, int64_t row, const uint32_t *quantile) {
    const lists_case_t *of = lists->of;
    uint64_t *list = lists_zeroed(of->top_k, sizeof *list);
    const int64_t n = lists_pack(lists, rank, row, row + 1, list);
    qsort(list, (size_t)n, sizeof *list, compare_ranks);
    const int64_t scores = reaching(list, n, HISA_KEY_NAN + 1); /* the others are NaN */
    const uint32_t high = scores > 0 ? hisa_rank_key(list[0]) : HISA_KEY_NAN;
    const uint32_t low = scores > 0 ? hisa_rank_key(list[scores - 1]) : HISA_KEY_NAN + 1;
    const float slack = scores > 0 ? (hisa_score_from_key(high) - hisa_score_from_key(low)) / 1000 : 0;
    for (int32_t i = 0; i < HISA_QUANTILES; ++i) {
        const int64_t reach = hisa_ceil_div((i + 1) * (int64_t)of->top_k, HISA_QUANTILES);
        const bool there = reach <= n;
        ck_assert_msg(there || quantile[i] == 0, "%s: rank %d, row %d: quantile %d of %d entries is not 0", of->what,
                      rank, (int)row, i, (int)n);
        if (there) {
            ck_assert_msg(reaching(list, n, quantile[i]) >= reach, "%s: rank %d, row %d: too few reach quantile %d",
                          of->what, rank, (int)row, i);
            const float score = hisa_score_from_key(quantile[i]) + slack;
            const uint64_t beyond = quantile[i] == HISA_KEY_NAN ? low : hisa_key_from_score(score) + UINT64_C(1);
            ck_assert_msg(reaching(list, n, beyond) < reach, "%s: rank %d, row %d: quantile %d could be higher",
                          of->what, rank, (int)row, i);
        }
    }
    free(list);
}

/* The lowest rank of a row's best; HISA_RANK_NONE if all entries are. */
static uint64_t lowest_of_best(const lists_t *lists, int64_t row) {
    const lists_case_t *of = lists->of;
    uint64_t *all = lists_zeroed(of->ranks * (int64_t)of->top_k, sizeof *all);
    int64_t n = 0;
    for (int32_t p = 0; p < of->ranks; ++p) {
        n += lists_pack(lists, p, row, row + 1, all + n);
    }
    qsort(all, (size_t)n, sizeof *all, compare_ranks);
    const uint64_t lowest = n > of->top_k ? all[of->top_k - 1] : HISA_RANK_NONE;
    free(all);
    return lowest;
}

/* `kept` is the rank's list of the row without what is below some key, and that key is not above the row's best. */
static void check_kept(const lists_t *lists, int32_t rank, int64_t row, uint64_t lowest, const uint64_t *kept,
                       int32_t n) {
    const lists_case_t *of = lists->of;
    const uint64_t *list = lists_at(lists, rank, row);
    uint64_t dropped = 0; /* the best of them */
    int32_t at = 0;
    for (int32_t i = 0; i < lists->count[rank * of->rows + row]; ++i) {
        if (at < n && kept[at] == list[i]) {
            ++at;
        } else if (list[i] > dropped) {
            dropped = list[i];
        }
    }
    ck_assert_msg(at == n, "%s: rank %d, row %d: %d of %d kept entries are not the list's, in its order", of->what,
                  rank, (int)row, n - at, n);
    ck_assert_msg(dropped == 0 || (lowest != HISA_RANK_NONE && dropped < lowest),
                  "%s: rank %d, row %d: what is among the best was dropped", of->what, rank, (int)row);
}

static void check_trim(const lists_side_t *side, const lists_t *lists, const uint32_t *quantiles) {
    const lists_case_t *of = lists->of;
    const int64_t cells = of->rows * of->top_k;
    uint64_t *lowest = lists_zeroed(of->rows, sizeof *lowest);
    int64_t *left = lists_zeroed(of->rows, sizeof *left);
    uint64_t *kept = lists_zeroed(cells, sizeof *kept);
    int32_t *counts = lists_zeroed(of->rows, sizeof *counts);
    const int64_t bytes = of->ranks * of->rows * HISA_QUANTILES * (int64_t)sizeof *quantiles;
    uint32_t *all = lists_to(side, quantiles, bytes);
    for (int64_t r = 0; r < of->rows; ++r) {
        lowest[r] = lowest_of_best(lists, r);
    }
    for (int32_t p = 0; p < of->ranks; ++p) {
        uint64_t *own = lists_to(side, lists_at(lists, p, 0), cells * (int64_t)sizeof *own);
        int32_t *own_counts = lists_to(side, counts, of->rows * (int64_t)sizeof *counts);
        ck_ok(side->ops->flat_trim(side->device, &side->shard, &side->tile, of->top_k, all, own, own_counts, NULL));
        lists_from(side, own, kept, cells * (int64_t)sizeof *kept);
        lists_from(side, own_counts, counts, of->rows * (int64_t)sizeof *counts);
        const uint64_t *at = kept;
        for (int64_t r = 0; r < of->rows; ++r) {
            check_kept(lists, p, r, lowest[r], at, counts[r]);
            at += counts[r];
            left[r] += counts[r];
        }
    }
    /* What reaches the bound: a part of k too many a rank, and what shares a quantile's range of keys. */
    const int64_t most = of->top_k + of->ranks * (hisa_ceil_div(of->top_k, HISA_QUANTILES) + of->top_k / 64 + 1);
    for (int64_t r = 0; r < of->rows && of->keys == 0; ++r) {
        ck_assert_msg(left[r] <= most, "%s: row %d: %d entries are left, %d would do", of->what, (int)r, (int)left[r],
                      (int)most);
    }
    side->ops->release(side->device, all);
    free(lowest);
    free(left);
    free(kept);
    free(counts);
}

void lists_check_trimming(const lists_case_t *of, hisa_backend_t backend, uint64_t seed) {
    lists_side_t side = lists_side_make(backend, of);
    lists_t lists = lists_make(of, seed);
    const int64_t part = of->rows * HISA_QUANTILES;
    uint32_t *quantiles = lists_zeroed(of->ranks * part, sizeof *quantiles);
    for (int32_t p = 0; p < of->ranks; ++p) {
        uint64_t *own = lists_to(&side, lists_at(&lists, p, 0), of->rows * of->top_k * (int64_t)sizeof *own);
        uint32_t *out = lists_to(&side, quantiles, part * (int64_t)sizeof *out);
        ck_ok(side.ops->flat_quantiles(side.device, &side.tile, of->top_k, of->top_k, own, out, NULL));
        lists_from(&side, out, quantiles + p * part, part * (int64_t)sizeof *out);
        side.ops->release(side.device, own);
        for (int64_t r = 0; r < of->rows; ++r) {
            check_quantiles(&lists, p, r, quantiles + p * part + r * HISA_QUANTILES);
        }
    }
    check_trim(&side, &lists, quantiles);
    free(quantiles);
    lists_drop(&lists);
    lists_side_drop(&side);
}
