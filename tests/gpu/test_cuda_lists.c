/* The steps of mode flat across ranks by themselves, where the CUDA backend has ways of its own: merging is held to the
 * CPU's, trimming to what it promises. */
#include "support/lists.h"

#include "backend/order.h"
#include "base/checked.h"
#include "gpu/gpu_support.h"

/* What flat_merge gives of rows [begin, ..). */
typedef struct merged {
    int32_t *positions;
    float *selected;
    uint64_t *threshold;
} merged_t;

static merged_t merge(const lists_side_t *side, const lists_t *lists, const uint64_t *entries, int64_t n,
                      const int64_t *offsets, bool packed, int64_t begin, bool scores) {
    const lists_case_t *of = lists->of;
    const int64_t cells = of->rows * of->top_k;
    merged_t host = {lists_zeroed(cells, sizeof(int32_t)), lists_zeroed(cells, sizeof(float)),
                     lists_zeroed(of->rows, sizeof(uint64_t))};
    int32_t *positions = lists_to(side, host.positions, cells * (int64_t)sizeof *positions);
    float *selected = lists_to(side, host.selected, cells * (int64_t)sizeof *selected);
    uint64_t *threshold = lists_to(side, host.threshold, of->rows * (int64_t)sizeof *threshold);
    uint64_t *from = lists_to(side, entries, hisa_max(1, n) * (int64_t)sizeof *entries);
    int32_t *counts = lists_to(side, lists->count, of->ranks * of->rows * (int64_t)sizeof *counts);
    ck_ok(side->ops->flat_merge(side->device, &side->shard, &side->tile, of->top_k, of->top_k, from, offsets,
                                packed ? counts : NULL, begin, of->rows - begin, positions, scores ? selected : NULL,
                                threshold, NULL));
    lists_from(side, positions, host.positions, cells * (int64_t)sizeof *positions);
    lists_from(side, selected, host.selected, cells * (int64_t)sizeof *selected);
    lists_from(side, threshold, host.threshold, of->rows * (int64_t)sizeof *threshold);
    side->ops->release(side->device, from);
    side->ops->release(side->device, counts);
    return host;
}

static void merged_drop(merged_t *merged) {
    free(merged->positions);
    free(merged->selected);
    free(merged->threshold);
}

/* As many entries reach the row's threshold as were selected. */
static void threshold_splits(const lists_t *lists, const merged_t *got, int64_t r) {
    const lists_case_t *of = lists->of;
    int32_t selected = 0;
    int32_t reach = 0;
    for (int32_t i = 0; i < of->top_k; ++i) {
        selected += got->positions[r * of->top_k + i] >= 0 ? 1 : 0;
    }
    for (int32_t p = 0; p < of->ranks; ++p) {
        for (int32_t i = 0; i < lists->count[p * of->rows + r]; ++i) {
            reach += lists_at(lists, p, r)[i] >= got->threshold[r] ? 1 : 0;
        }
    }
    ck_assert_msg(reach == selected, "%s: row %d: %d entries reach the threshold, %d are selected", of->what, (int)r,
                  reach, selected);
}

START_TEST(merging) {
    const lists_case_t *of = &lists_cases[_i];
    const int64_t cells = of->rows * of->top_k;
    const int64_t begin = of->rows / 5; /* of the rows that are merged */
    lists_side_t cpu = lists_side_make(HISA_BACKEND_CPU, of);
    lists_side_t cuda = lists_side_make(HISA_BACKEND_CUDA, of);
    lists_t lists = lists_make(of, 20261128 + (uint64_t)_i);
    uint64_t *packed = lists_zeroed(of->ranks * cells, sizeof *packed);
    int64_t *offsets = lists_zeroed(of->ranks, sizeof *offsets);
    for (int way = 0; way < 2; ++way) { /* packed, and at their full width */
        int64_t n = 0;
        for (int32_t p = 0; p < of->ranks; ++p) {
            offsets[p] = way == 0 ? n : p * cells + begin * of->top_k;
            n += lists_pack(&lists, p, begin, of->rows, packed + n);
        }
        n = way == 0 ? n : of->ranks * cells;
        const uint64_t *entries = way == 0 ? packed : lists.entry;
        merged_t wanted = merge(&cpu, &lists, entries, n, offsets, way == 0, begin, true);
        merged_t got = merge(&cuda, &lists, entries, n, offsets, way == 0, begin, true);
        merged_t bare = merge(&cuda, &lists, entries, n, offsets, way == 0, begin, false);
        for (int64_t r = 0; r < of->rows; ++r) {
            const int64_t at = r * of->top_k;
            const size_t k = (size_t)of->top_k;
            ck_assert_msg(memcmp(wanted.positions + at, got.positions + at, k * sizeof(int32_t)) == 0 &&
                              memcmp(got.positions + at, bare.positions + at, k * sizeof(int32_t)) == 0 &&
                              memcmp(wanted.selected + at, got.selected + at, k * sizeof(float)) == 0,
                          "%s, %s: row %d differs from the CPU's", of->what, way == 0 ? "packed" : "full width",
                          (int)r);
            if (r >= begin) {
                threshold_splits(&lists, &got, r);
            }
        }
        merged_drop(&wanted);
        merged_drop(&got);
        merged_drop(&bare);
    }
    free(packed);
    free(offsets);
    lists_drop(&lists);
    lists_side_drop(&cpu);
    lists_side_drop(&cuda);
}
END_TEST

START_TEST(trimming) { lists_check_trimming(&lists_cases[_i], HISA_BACKEND_CUDA, 20261129 + (uint64_t)_i); }
END_TEST

int main(void) {
    Suite *suite = suite_create("cuda_lists");
    TCase *tests = tcase_create("lists");
    tcase_add_loop_test(tests, merging, 0, lists_cases_count);
    tcase_add_loop_test(tests, trimming, 0, lists_cases_count);
    suite_add_tcase(suite, tests);
    return gpu_main(suite);
}
