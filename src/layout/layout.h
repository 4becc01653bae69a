/* The law of ownership, and all arithmetic between global and local places. Blocks of a sequence are dealt to ranks in
 * stripes: owner(b) = (b / stripe + offset) mod ranks. A rank numbers its own blocks 0, 1, ... in ascending order.
 * Inline, so that device code shares it. */
#ifndef HISA_LAYOUT_H
#define HISA_LAYOUT_H

#include <stdint.h>

#include "base/checked.h"

typedef struct hisa_layout {
    int64_t stripe;     /* blocks, at least 1 */
    int32_t ranks;      /* at least 1 */
    int32_t block_size; /* tokens */
    int32_t offset;     /* rank that owns block 0, 0 <= offset < ranks */
} hisa_layout_t;

/* The stripe that gives each rank one contiguous range of a sequence of `capacity` tokens. */
HISA_INLINE int64_t hisa_layout_contiguous_stripe(int64_t capacity, int32_t ranks, int32_t block_size) {
    return hisa_max(1, hisa_ceil_div(hisa_ceil_div(capacity, block_size), ranks));
}

/* Blocks that hold `length` tokens. */
HISA_INLINE int64_t hisa_layout_blocks(const hisa_layout_t *layout, int64_t length) {
    return hisa_ceil_div(length, layout->block_size);
}

HISA_INLINE int32_t hisa_layout_owner(const hisa_layout_t *layout, int64_t block) {
    return (int32_t)((block / layout->stripe + layout->offset) % layout->ranks);
}

/* Place of a block among its owner's blocks. */
HISA_INLINE int64_t hisa_layout_local(const hisa_layout_t *layout, int64_t block) {
    if (layout->ranks == 1) {
        return block; /* as below, without divisions, which kernels feel */
    }
    const int64_t round = block / layout->stripe / layout->ranks;
    return round * layout->stripe + block % layout->stripe;
}

/* A rank's turn in the dealing order: the rank that owns block 0 has turn 0. */
HISA_INLINE int64_t hisa_layout_turn(const hisa_layout_t *layout, int32_t rank) {
    return (rank - layout->offset + layout->ranks) % layout->ranks;
}

/* The block at local place `local` on `rank`. */
HISA_INLINE int64_t hisa_layout_global(const hisa_layout_t *layout, int32_t rank, int64_t local) {
    if (layout->ranks == 1) {
        return local;
    }
    const int64_t round = local / layout->stripe;
    return (round * layout->ranks + hisa_layout_turn(layout, rank)) * layout->stripe + local % layout->stripe;
}

/* How many of blocks [0, end) rank owns. Those of [begin, end) have local places [count(begin), count(end)). */
HISA_INLINE int64_t hisa_layout_count(const hisa_layout_t *layout, int32_t rank, int64_t end) {
    if (layout->ranks == 1) {
        return end;
    }
    const int64_t round = end / layout->stripe / layout->ranks;
    const int64_t rest = end - round * layout->stripe * layout->ranks;
    const int64_t begin = hisa_layout_turn(layout, rank) * layout->stripe;
    return round * layout->stripe + hisa_min(layout->stripe, hisa_max(0, rest - begin));
}

/* How many of positions [0, end) rank owns. */
HISA_INLINE int64_t hisa_layout_count_tokens(const hisa_layout_t *layout, int32_t rank, int64_t end) {
    const int64_t whole = end / layout->block_size;
    int64_t tokens = hisa_layout_count(layout, rank, whole) * layout->block_size;
    if (end % layout->block_size != 0 && hisa_layout_owner(layout, whole) == rank) {
        tokens += end % layout->block_size;
    }
    return tokens;
}

/* Rows [begin, end) of `rows` that are dealt to `rank` as merge owner when queries are replicated. */
HISA_INLINE int64_t hisa_layout_row_begin(int64_t rows, int32_t ranks, int32_t rank) { return rows * rank / ranks; }

#endif
