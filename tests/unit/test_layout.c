/* The law of ownership against dealing blocks out one by one. */
#include <stdint.h>

#include "layout/layout.h"
#include "support/suite.h"

/* As ck_assert_int_eq, which is slow where it holds: it notes each place it passes. */
#define same(a, b)                                                                                                     \
    do {                                                                                                               \
        const int64_t same_a = (a);                                                                                    \
        const int64_t same_b = (b);                                                                                    \
        if (same_a != same_b) {                                                                                        \
            ck_abort_msg("%s is %lld, %s is %lld", #a, (long long)same_a, #b, (long long)same_b);                      \
        }                                                                                                              \
    } while (0)

#define RANKS_MAX 9
#define BLOCKS 150

static const int64_t stripes[] = {1, 2, 3, 7, 16, 50, 149, 150, 1000};
#define STRIPES ((int)(sizeof stripes / sizeof *stripes))

/* Deals BLOCKS blocks as a person would: stripe blocks to a rank, then the next rank's turn. */
static void deal(const hisa_layout_t *layout, int32_t *owner, int64_t *local) {
    int64_t held[RANKS_MAX] = {0};
    int32_t turn = layout->offset;
    int64_t given = 0;
    for (int b = 0; b < BLOCKS; ++b) {
        owner[b] = turn;
        local[b] = held[turn]++;
        if (++given == layout->stripe) {
            given = 0;
            turn = turn + 1 == layout->ranks ? 0 : turn + 1;
        }
    }
}

/* What kernels compute with. */
static void check_deal(const hisa_layout_t *layout, int32_t rank, int32_t block, int64_t count) {
    const hisa_deal_t deal = hisa_deal_make(layout->stripe, layout->ranks);
    const uint32_t first = hisa_deal_first(layout, rank);
    const bool own = hisa_layout_owner(layout, block) == rank;
    same(hisa_deal_owner(&deal, layout, block), hisa_layout_owner(layout, block));
    same(hisa_deal_count(&deal, first, block), count);
    same(hisa_deal_local(&deal, first, block), own ? count : -1);
    if (own) {
        same(hisa_deal_global(&deal, first, (int32_t)count), block);
    }
}

static void check_blocks(const hisa_layout_t *layout) {
    int32_t owner[BLOCKS];
    int64_t local[BLOCKS];
    int64_t count[RANKS_MAX] = {0};
    deal(layout, owner, local);
    for (int b = 0; b < BLOCKS; ++b) {
        for (int32_t r = 0; r < layout->ranks; ++r) {
            same(hisa_layout_count(layout, r, b), count[r]);
            check_deal(layout, r, b, count[r]);
        }
        same(hisa_layout_owner(layout, b), owner[b]);
        same(hisa_layout_local(layout, b), local[b]);
        same(hisa_layout_global(layout, owner[b], local[b]), b);
        ++count[owner[b]];
    }
}

static void check_tokens(const hisa_layout_t *layout) {
    int32_t owner[BLOCKS];
    int64_t local[BLOCKS];
    int64_t count[RANKS_MAX] = {0};
    deal(layout, owner, local);
    for (int64_t s = 0; s < (int64_t)BLOCKS * layout->block_size; ++s) {
        for (int32_t r = 0; r < layout->ranks; ++r) {
            same(hisa_layout_count_tokens(layout, r, s), count[r]);
        }
        ++count[owner[s / layout->block_size]];
    }
}

START_TEST(test_blocks) {
    const int32_t ranks = _i;
    for (int i = 0; i < STRIPES; ++i) {
        for (int32_t offset = 0; offset < ranks; ++offset) {
            const hisa_layout_t layout = {.stripe = stripes[i], .ranks = ranks, .block_size = 16, .offset = offset};
            check_blocks(&layout);
        }
    }
}
END_TEST

START_TEST(test_tokens) {
    const int32_t ranks = _i;
    for (int i = 0; i < STRIPES; ++i) {
        const hisa_layout_t layout = {
            .stripe = stripes[i], .ranks = ranks, .block_size = 16, .offset = (ranks - 1) * (i % 2)};
        check_tokens(&layout);
    }
}
END_TEST

START_TEST(test_number_of_blocks) {
    for (int32_t size = 16; size <= 256; size *= 2) {
        const hisa_layout_t layout = {.stripe = 1, .ranks = 3, .block_size = size, .offset = 0};
        int64_t blocks = 0;
        for (int64_t length = 0; length < INT64_C(5) * size; ++length) {
            same(hisa_layout_blocks(&layout, length), blocks);
            blocks += length % size == 0 ? 1 : 0; /* token `length` is the first of its block */
        }
    }
}
END_TEST

/* Contiguous: each rank has one range, in order of ranks, and no smaller stripe would hold them all. */
START_TEST(test_contiguous) {
    const int32_t ranks = _i;
    for (int64_t capacity = 1; capacity < 640; ++capacity) {
        hisa_layout_t layout = {.ranks = ranks, .block_size = 16, .offset = 0};
        layout.stripe = hisa_layout_contiguous_stripe(capacity, ranks, 16);
        const int64_t blocks = hisa_layout_blocks(&layout, capacity);
        ck_assert_int_ge(layout.stripe, 1);
        ck_assert_int_ge(layout.stripe * ranks, blocks);
        ck_assert_int_lt((layout.stripe - 1) * ranks, blocks);
        for (int64_t b = 0; b < blocks; ++b) {
            same(hisa_layout_owner(&layout, b), b / layout.stripe);
        }
    }
}
END_TEST

/* Rows are dealt to all ranks without gap or overlap, and evenly. */
START_TEST(test_rows) {
    const int32_t ranks = _i;
    for (int64_t rows = 0; rows < 100; ++rows) {
        same(hisa_layout_row_begin(rows, ranks, 0), 0);
        same(hisa_layout_row_begin(rows, ranks, ranks), rows);
        for (int32_t r = 0; r < ranks; ++r) {
            const int64_t own = hisa_layout_row_begin(rows, ranks, r + 1) - hisa_layout_row_begin(rows, ranks, r);
            ck_assert_int_ge(own, rows / ranks);
            ck_assert_int_le(own, (rows + ranks - 1) / ranks);
        }
    }
}
END_TEST

/* Up to the ends of the ranges: stripes and blocks up to 2^31, where arithmetic in 32 bits would wrap. */
START_TEST(test_large) {
    static const int64_t big[] = {
        1, 2, (INT64_C(1) << 16) + 1, (INT64_C(1) << 30) - 1, (INT64_C(1) << 31) - 1, INT64_C(1) << 31};
    static const int32_t ranks[] = {1, 2, 3, 8, 9, 1024, 65536};
    for (int i = 0; i < 6; ++i) {
        for (int j = 0; j < 7; ++j) {
            for (int k = 0; k < 6; ++k) {
                const hisa_layout_t layout = {
                    .stripe = big[i], .ranks = ranks[j], .block_size = 256, .offset = ranks[j] / 2};
                const int64_t block = big[k];
                const int32_t owner = hisa_layout_owner(&layout, block);
                const int64_t local = hisa_layout_local(&layout, block);
                ck_assert_int_ge(owner, 0);
                ck_assert_int_lt(owner, ranks[j]);
                ck_assert_int_ge(local, 0);
                ck_assert_int_le(local, block);
                same(hisa_layout_global(&layout, owner, local), block);
                same(hisa_layout_count(&layout, owner, block), local);
                same(hisa_layout_count(&layout, owner, block + 1), local + 1);
                int64_t blocks = 0;
                int64_t tokens = 0;
                const int64_t end = block * 256 + 13;
                for (int32_t r = 0; r < ranks[j]; ++r) {
                    if (block < INT32_MAX) {
                        check_deal(&layout, r, (int32_t)block, hisa_layout_count(&layout, r, block));
                    }
                    blocks += hisa_layout_count(&layout, r, block);
                    tokens += hisa_layout_count_tokens(&layout, r, end);
                }
                same(blocks, block);
                same(tokens, end);
            }
        }
    }
    /* The largest capacity that a sequence may have. */
    const int64_t capacity = (INT64_C(1) << 31) - 1 - 16;
    same(hisa_layout_contiguous_stripe(capacity, 1, 16), (INT64_C(1) << 27) - 1);
    same(hisa_layout_contiguous_stripe(capacity, 65536, 16), 2048);
    same(hisa_layout_row_begin(INT64_C(1) << 31, 65536, 65535), (INT64_C(1) << 31) - 32768);
}
END_TEST

START_TEST(test_divisor) {
    static const int64_t more[] = {1, 2, 3, 5, 7, 641, 65535, 65536, 65537, (INT64_C(1) << 30) + 1};
    for (int64_t i = 0; i < 2000; ++i) {
        const int64_t divisor = i < 1000 ? i + 1 : (more[i % 10] * (i * i * i + 1)) % INT32_MAX + 1;
        const hisa_divisor_t by = hisa_divisor_make(divisor);
        for (int64_t j = 0; j < 100; ++j) {
            /* Next to multiples of the divisor, where a quotient that is too large or small shows. */
            const int64_t multiple = INT32_MAX / divisor * (100 - j) / 100 * divisor;
            for (int64_t n = hisa_max(0, multiple - 1); n <= hisa_min(INT32_MAX, multiple + 1); ++n) {
                same(hisa_divide((uint32_t)n, by), n / divisor);
            }
        }
        same(hisa_divide(INT32_MAX, by), INT32_MAX / divisor);
    }
    same(hisa_divide(INT32_MAX, hisa_divisor_make(INT64_C(1) << 31)), 0);
    same(hisa_divide(INT32_MAX, hisa_divisor_make(INT64_MAX)), 0);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("layout");
    TCase *law = tcase_create("law");
    tcase_set_timeout(law, 120);
    tcase_add_loop_test(law, test_blocks, 1, RANKS_MAX + 1);
    tcase_add_loop_test(law, test_tokens, 1, RANKS_MAX + 1);
    tcase_add_test(law, test_number_of_blocks);
    tcase_add_loop_test(law, test_contiguous, 1, RANKS_MAX + 1);
    tcase_add_loop_test(law, test_rows, 1, RANKS_MAX + 1);
    tcase_add_test(law, test_large);
    tcase_add_test(law, test_divisor);
    suite_add_tcase(suite, law);
    return suite_main(suite);
}
