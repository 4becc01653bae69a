/* How the CUDA backend cuts the work of rows that stay: whatever the shape, each batch meets each tile once. */
#include "backend/cuda/rows_item.h"

#include <stdlib.h>

#include "support/suite.h"

static const int64_t some_batches[] = {1, 2, 3, 9, 65, 66, 67, 132, 133, 512};
static const int32_t some_tiles[] = {1, 2, 3, 5, 8, 34, 50, 131};
static const uint32_t some_thread_blocks[] = {1, 2, 3, 78, 132, 144};

#define COUNT(array) (int)(sizeof(array) / sizeof(array)[0])

static bool is_none(hisa_rows_item_t item) { return item.batch < 0; }

/* What is wrong with an item, in plain conditions, as Check keeps account of each assertion that it sees. An item is
 * inside, has at the most half of the tiles, no more than one more than any item before it (`least`), and is not much:
 * twice a thread block's share of what is still to be done, `left`, or of a single batch. */
static const char *fault_of(hisa_rows_item_t item, int64_t batches, int32_t tiles, uint32_t thread_blocks,
                            int32_t least, int64_t left) {
    const int32_t own = item.tile_end - item.tile_begin;
    if (item.batch >= batches || item.tile_begin < 0 || item.tile_end > tiles || own < 1) {
        return "is not inside";
    }
    if (own > (tiles + 1) / 2 || own > least + 1) {
        return "is too large";
    }
    return own > 2 + 2 * hisa_max(left, tiles) / thread_blocks ? "is too large for so late" : NULL;
}

/* All items in order: no tile of a batch is met twice, or left out. */
static void check_cut(int64_t batches, int32_t tiles, uint32_t thread_blocks) {
    unsigned char *met = calloc((size_t)(batches * tiles), 1);
    ck_assert_ptr_nonnull(met);
    int32_t least = tiles;
    int64_t number = 0;
    int64_t left = batches * tiles;
    const char *fault = NULL;
    for (; fault == NULL; ++number) {
        const hisa_rows_item_t item = hisa_rows_item(batches, tiles, thread_blocks, number);
        if (is_none(item)) {
            break;
        }
        fault = fault_of(item, batches, tiles, thread_blocks, least, left);
        for (int32_t t = item.tile_begin; t < item.tile_end && fault == NULL; ++t) {
            fault = met[item.batch * tiles + t]++ != 0 ? "meets a tile again" : NULL;
        }
        const int32_t own = item.tile_end - item.tile_begin;
        least = own < least ? own : least;
        left -= own;
    }
    for (int64_t beyond = number; beyond < number + 3 * (int64_t)thread_blocks && fault == NULL; ++beyond) {
        fault = is_none(hisa_rows_item(batches, tiles, thread_blocks, beyond)) ? NULL : "comes after none";
    }
    ck_assert_msg(fault == NULL && left == 0,
                  "%lld batches, %d tiles, %u thread blocks: item %lld %s, %lld tiles are not met", (long long)batches,
                  tiles, thread_blocks, (long long)number - 1, fault != NULL ? fault : "is the last", (long long)left);
    free(met);
}

START_TEST(test_each_once) {
    for (int b = 0; b < COUNT(some_batches); ++b) {
        for (int t = 0; t < COUNT(some_tiles); ++t) {
            check_cut(some_batches[b], some_tiles[t], some_thread_blocks[_i]);
        }
    }
}
END_TEST

/* The longest sequence there can be, of 2^31 tokens: the products fit. */
START_TEST(test_longest) {
    const int32_t tiles = 1 << 17;
    const hisa_rows_item_t first = hisa_rows_item(512, tiles, 132, 0);
    ck_assert_int_eq(first.batch, 0);
    ck_assert_int_eq(first.tile_begin, 0);
    ck_assert_int_eq(first.tile_end, tiles / 2);
    int64_t number = 0;
    hisa_rows_item_t last = first;
    bool ascend = true;
    for (hisa_rows_item_t item = first; !is_none(item); item = hisa_rows_item(512, tiles, 132, ++number)) {
        ascend = ascend && item.tile_begin < item.tile_end &&
                 (item.batch > last.batch || item.tile_begin >= last.tile_end || number == 0);
        last = item;
    }
    ck_assert(ascend);
    ck_assert_int_eq(last.batch, 511);
    ck_assert_int_eq(last.tile_end, tiles);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("rows_item");
    TCase *tests = tcase_create("items");
    tcase_add_loop_test(tests, test_each_once, 0, COUNT(some_thread_blocks));
    tcase_add_test(tests, test_longest);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
