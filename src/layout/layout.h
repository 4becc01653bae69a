/* The law of ownership, and all arithmetic between global and local places. Blocks of a sequence are dealt to ranks in
 * stripes: owner(b) = (b / stripe + offset) mod ranks. A rank numbers its own blocks 0, 1, ... in ascending order. */
#ifndef HISA_LAYOUT_H
#define HISA_LAYOUT_H

#include <stdint.h>

typedef struct hisa_layout {
    int64_t stripe;     /* blocks, at least 1 */
    int32_t ranks;      /* at least 1 */
    int32_t block_size; /* tokens */
    int32_t offset;     /* rank that owns block 0, 0 <= offset < ranks */
} hisa_layout_t;

/* The stripe that gives each rank one contiguous range of a sequence of `capacity` tokens. */
int64_t hisa_layout_contiguous_stripe(int64_t capacity, int32_t ranks, int32_t block_size);

/* Blocks that hold `length` tokens. */
int64_t hisa_layout_blocks(const hisa_layout_t *layout, int64_t length);

int32_t hisa_layout_owner(const hisa_layout_t *layout, int64_t block);

/* Place of a block among its owner's blocks. */
int64_t hisa_layout_local(const hisa_layout_t *layout, int64_t block);

/* The block at local place `local` on `rank`. */
int64_t hisa_layout_global(const hisa_layout_t *layout, int32_t rank, int64_t local);

/* How many of blocks [0, end) rank owns. Those of [begin, end) have local places [count(begin), count(end)). */
int64_t hisa_layout_count(const hisa_layout_t *layout, int32_t rank, int64_t end);

/* How many of positions [0, end) rank owns. */
int64_t hisa_layout_count_tokens(const hisa_layout_t *layout, int32_t rank, int64_t end);

/* Rows [begin, end) of `rows` that are dealt to `rank` as merge owner when queries are replicated. */
int64_t hisa_layout_row_begin(int64_t rows, int32_t ranks, int32_t rank);

#endif
