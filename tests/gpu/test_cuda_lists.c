/* The steps of mode flat across ranks by themselves, on lists that no scan of a few thousand tokens would give: many
 * ranks, rows and entries, equal scores, NaN, lists that are empty. Against the CPU's. */
#include "backend/order.h"
#include "base/checked.h"
#include "gpu/gpu_support.h"
#include "support/rng.h"

enum { HEADS = 32, BLOCK = 128 };

/* What a case is about. Ranks' lists have up to `most` entries a row, of `keys` different keys (0: any float's). */
typedef struct lists_case {
    const char *what;
    int32_t ranks;
    int64_t rows;
    int32_t top_k;
    int32_t most;
    uint32_t keys;
} lists_case_t;

static const lists_case_t cases[] = {
    {"fewer than k in all", 3, 200, 1000, 300, 0},
    {"a few thousand a row", 4, 300, 2048, 2048, 0},
    {"the same, equal keys", 4, 300, 2048, 2048, 5},
    {"few rows of eight ranks", 8, 7, 2048, 2048, 0},
    {"the same, one key", 8, 7, 2048, 2048, 1},
    {"many rows of eight ranks", 8, 150, 2048, 2048, 40},
    {"more rows than are merged at a time", 16, 1300, 64, 64, 0},
    {"more than fit on chip", 5, 5, 9000, 9000, 30},
    {"many ranks", 200, 4, 500, 500, 0},
    {"one rank", 1, 150, 500, 500, 3},
    {"k 1", 4, 300, 1, 1, 2},
};
enum { CASES = sizeof cases / sizeof cases[0] };

/* A backend's device, and a shard of as many ranks as the case has. */
typedef struct side {
    hisa_index_t *index;
    const hisa_backend_ops_t *ops;
    hisa_device_t *device;
    hisa_shard_t shard;
    hisa_tile_t tile;
} side_t;

static side_t side_make(const trace_t *trace, hisa_backend_t backend, const lists_case_t *c) {
    hisa_index_t *index = gpu_index(trace, backend, BLOCK, 0);
    side_t side = {.index = index, .ops = hisa_index_ops(index), .device = index->device, .shard = index->shard};
    side.shard.ranks = c->ranks;
    side.tile.rows = c->rows;
    const int64_t bytes =
        side.ops->scratch_bytes(side.device, c->rows, 1, c->top_k, hisa_ceil_div(c->top_k, BLOCK), c->ranks, true);
    ck_ok(side.ops->alloc(side.device, bytes, &side.tile.scratch));
    return side;
}

static void side_drop(side_t *side) {
    side->ops->release(side->device, side->tile.scratch);
    hisa_index_destroy(side->index);
}

static void *to_side(const side_t *side, const void *host, int64_t bytes) {
    void *memory;
    ck_ok(side->ops->alloc(side->device, bytes, &memory));
    ck_ok(side->ops->from_host(side->device, memory, host, bytes, NULL));
    return memory;
}

static void from_side(const side_t *side, void *memory, void *host, int64_t bytes) {
    ck_ok(side->ops->to_host(side->device, host, memory, bytes, NULL));
    ck_ok(side->ops->synchronize(side->device, NULL));
    side->ops->release(side->device, memory);
}

static void *zeroed(int64_t count, size_t size) {
    void *memory = calloc((size_t)count, size);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

static uint32_t any_key(rng_t *rng, uint32_t keys) {
    if (rng_chance(rng, 2)) {
        return HISA_KEY_NAN;
    }
    return hisa_key_from_score(keys == 0 ? rng_unit(rng) * 8 - 2 : (float)rng_range(rng, 1, keys));
}

/* Lists [ranks][rows][top_k] by ascending position, HISA_RANK_NONE at the end, and their counts [ranks][rows]. Some
 * rows have whole lists, some have none. */
static void fill_lists(const lists_case_t *c, rng_t *rng, uint64_t *list, int32_t *counts) {
    for (int32_t p = 0; p < c->ranks; ++p) {
        for (int64_t r = 0; r < c->rows; ++r) {
            uint64_t *own = list + (p * c->rows + r) * c->top_k;
            const int32_t n = (int32_t)(r % 3 == 0 ? c->most : rng_chance(rng, 10) ? 0 : rng_range(rng, 0, c->most));
            int32_t position = (int32_t)rng_range(rng, 0, 5);
            for (int32_t i = 0; i < n; ++i, position += (int32_t)rng_range(rng, 1, 40)) {
                own[i] = hisa_rank_make(any_key(rng, c->keys), position * c->ranks + p);
            }
            counts[p * c->rows + r] = n;
        }
    }
}

/* The lists of rows [begin, end), packed; offsets as flat_merge has them. Returns how many entries there are. */
static int64_t pack(const lists_case_t *c, const uint64_t *list, const int32_t *counts, int64_t begin, int64_t end,
                    uint64_t *packed, int64_t *offsets) {
    int64_t n = 0;
    for (int32_t p = 0; p < c->ranks; ++p) {
        offsets[p] = n;
        for (int64_t r = begin; r < end; ++r) {
            const int32_t count = counts[p * c->rows + r];
            memcpy(packed + n, list + (p * c->rows + r) * c->top_k, (size_t)count * sizeof *packed);
            n += count;
        }
    }
    return n;
}

/* What flat_merge gives of rows [begin, end). */
typedef struct merged {
    int32_t *positions;
    float *selected;
    uint64_t *threshold;
} merged_t;

static merged_t merge(const side_t *side, const lists_case_t *c, const uint64_t *list, int64_t entries,
                      const int64_t *offsets, const int32_t *counts, int64_t begin, int64_t end, bool scores) {
    const int64_t cells = c->rows * c->top_k;
    merged_t host = {zeroed(cells, sizeof(int32_t)), zeroed(cells, sizeof(float)), zeroed(c->rows, sizeof(uint64_t))};
    int32_t *positions = to_side(side, host.positions, cells * (int64_t)sizeof *positions);
    float *selected = to_side(side, host.selected, cells * (int64_t)sizeof *selected);
    uint64_t *threshold = to_side(side, host.threshold, c->rows * (int64_t)sizeof *threshold);
    uint64_t *lists = to_side(side, list, hisa_max(1, entries) * (int64_t)sizeof *list);
    int32_t *own_counts = counts != NULL ? to_side(side, counts, c->ranks * c->rows * (int64_t)sizeof *counts) : NULL;
    ck_ok(side->ops->flat_merge(side->device, &side->shard, &side->tile, c->top_k, c->top_k, lists, offsets, own_counts,
                                begin, end - begin, positions, scores ? selected : NULL, threshold, NULL));
    from_side(side, positions, host.positions, cells * (int64_t)sizeof *positions);
    from_side(side, selected, host.selected, cells * (int64_t)sizeof *selected);
    from_side(side, threshold, host.threshold, c->rows * (int64_t)sizeof *threshold);
    side->ops->release(side->device, lists);
    side->ops->release(side->device, own_counts);
    return host;
}

static void merged_drop(merged_t *merged) {
    free(merged->positions);
    free(merged->selected);
    free(merged->threshold);
}

/* As many entries reach the row's threshold as were selected. */
static void threshold_splits(const lists_case_t *c, const uint64_t *list, const merged_t *got, int64_t r) {
    int32_t selected = 0;
    int32_t reach = 0;
    for (int32_t i = 0; i < c->top_k; ++i) {
        selected += got->positions[r * c->top_k + i] >= 0 ? 1 : 0;
    }
    for (int32_t p = 0; p < c->ranks; ++p) {
        for (int32_t i = 0; i < c->top_k; ++i) {
            const uint64_t entry = list[(p * c->rows + r) * c->top_k + i];
            reach += entry != HISA_RANK_NONE && entry >= got->threshold[r] ? 1 : 0;
        }
    }
    ck_assert_msg(reach == selected, "%s: row %d: %d entries reach the threshold, %d are selected", c->what, (int)r,
                  reach, selected);
}

START_TEST(merging) {
    const lists_case_t *c = &cases[_i];
    const int64_t cells = c->rows * c->top_k;
    const int64_t begin = c->rows / 5; /* of the rows that are merged */
    rng_t rng = {20261128 + (uint64_t)_i};
    trace_t trace = gpu_drift(300, 1, HEADS, 3);
    side_t cpu = side_make(&trace, HISA_BACKEND_CPU, c);
    side_t cuda = side_make(&trace, HISA_BACKEND_CUDA, c);
    uint64_t *list = zeroed(c->ranks * cells, sizeof *list);
    uint64_t *packed = zeroed(c->ranks * cells + 1, sizeof *packed);
    int32_t *counts = zeroed(c->ranks * c->rows, sizeof *counts);
    int64_t *offsets = zeroed(c->ranks, sizeof *offsets);
    fill_lists(c, &rng, list, counts);
    for (int way = 0; way < 2; ++way) { /* packed, and at their full width */
        int64_t entries = c->ranks * cells;
        if (way == 0) {
            entries = pack(c, list, counts, begin, c->rows, packed, offsets);
        } else {
            for (int32_t p = 0; p < c->ranks; ++p) {
                offsets[p] = p * cells + begin * c->top_k;
            }
        }
        const uint64_t *lists = way == 0 ? packed : list;
        const int32_t *by = way == 0 ? counts : NULL;
        merged_t wanted = merge(&cpu, c, lists, entries, offsets, by, begin, c->rows, true);
        merged_t got = merge(&cuda, c, lists, entries, offsets, by, begin, c->rows, true);
        merged_t bare = merge(&cuda, c, lists, entries, offsets, by, begin, c->rows, false);
        for (int64_t r = 0; r < c->rows; ++r) {
            const int64_t at = r * c->top_k;
            const size_t k = (size_t)c->top_k;
            ck_assert_msg(memcmp(wanted.positions + at, got.positions + at, k * sizeof(int32_t)) == 0 &&
                              memcmp(got.positions + at, bare.positions + at, k * sizeof(int32_t)) == 0 &&
                              memcmp(wanted.selected + at, got.selected + at, k * sizeof(float)) == 0,
                          "%s, %s: row %d differs from the CPU's", c->what, way == 0 ? "packed" : "full width", (int)r);
            if (r >= begin) {
                threshold_splits(c, list, &got, r);
            }
        }
        merged_drop(&wanted);
        merged_drop(&got);
        merged_drop(&bare);
    }
    free(list);
    free(packed);
    free(counts);
    free(offsets);
    side_drop(&cpu);
    side_drop(&cuda);
    trace_free(&trace);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("cuda_lists");
    TCase *tests = tcase_create("lists");
    tcase_add_checked_fixture(tests, gpu_make_comm, gpu_drop_comm);
    tcase_add_loop_test(tests, merging, 0, CASES);
    suite_add_tcase(suite, tests);
    return gpu_main(suite);
}
