/* How the CUDA backend cuts the work of rows that stay: whatever the shape, each batch meets each tile once. */
#include "backend/cuda/rows_item.h"

#include <stdlib.h>

#include "support/suite.h"

static const int64_t some_batches[] = {1, 2, 3, 9, 65, 66, 67, 132, 133, 512};
static const int32_t some_tiles[] = {1, 2, 3, 5, 8, 34, 50, 131};
static const uint32_t some_thread_blocks[] = {1, 2, 3, 78, 132, 144};

#define COUNT(array) (int)(sizeof(array) / sizeof(array)[0])

static bool is_none(hisa_rows_item_t item) { return item.batch < 0; }

/* All items in order: each is inside, and no tile of a batch is met twice or left out. Its tiles: as many as an item
 * has, at the most, `most`; and never more than one more than any item before had. */
static void check_cut(int64_t batches, int32_t tiles, uint32_t thread_blocks) {
    unsigned char *met = calloc((size_t)(batches * tiles), 1);
    ck_assert_ptr_nonnull(met);
    const int32_t most = (tiles + 1) / 2;
    int32_t least = tiles;
    int64_t number = 0;
    int64_t left = batches * tiles;
    for (;; ++number) {
        const hisa_rows_item_t item = hisa_rows_item(batches, tiles, thread_blocks, number);
        if (is_none(item)) {
            break;
        }
        const int32_t own = item.tile_end - item.tile_begin;
        ck_assert_int_lt(item.batch, batches);
        ck_assert_int_ge(item.tile_begin, 0);
        ck_assert_int_le(item.tile_end, tiles);
        ck_assert_int_ge(own, 1);
        ck_assert_int_le(own, most);
        ck_assert_int_le(own, least + 1);
        least = own < least ? own : least;
        for (int32_t t = item.tile_begin; t < item.tile_end; ++t) {
            ck_assert_int_eq(met[item.batch * tiles + t]++, 0);
            --left;
        }
        /* Nobody is left with much: twice a thread block's share of what is still to be done, or of a single batch. */
        ck_assert_int_le(own, 2 + 2 * hisa_max(left + own, tiles) / thread_blocks);
    }
    for (int64_t i = 0; i < batches * tiles; ++i) {
        ck_assert_msg(met[i] == 1, "%lld batches, %d tiles, %u thread blocks: batch %lld does not meet tile %lld",
                      (long long)batches, tiles, thread_blocks, (long long)(i / tiles), (long long)(i % tiles));
    }
    for (int64_t beyond = number; beyond < number + 3 * (int64_t)thread_blocks; ++beyond) {
        ck_assert(is_none(hisa_rows_item(batches, tiles, thread_blocks, beyond)));
    }
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
    for (hisa_rows_item_t item = first; !is_none(item); item = hisa_rows_item(512, tiles, 132, ++number)) {
        ck_assert_int_lt(item.tile_begin, item.tile_end);
        ck_assert(item.batch > last.batch || item.tile_begin >= last.tile_end || number == 0);
        last = item;
    }
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
