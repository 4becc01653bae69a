/* The law of ownership, and all arithmetic between global and local places. Blocks of a sequence are dealt to ranks in
 * stripes: owner(b) = (b / stripe + offset) mod ranks. A rank numbers its own blocks 0, 1, ... in ascending order.
 * Inline, so that device code shares it. */
#ifndef HISA_LAYOUT_H
#define HISA_LAYOUT_H

#include <stdint.h>

#include "base/checked.h"
#include "base/divisor.h"

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
    const int32_t turn = rank - layout->offset;
    return turn < 0 ? turn + layout->ranks : turn;
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

/* -- the same without divisions, of which each costs a kernel some hundred cycles --
 *
 * `first` is the first block of the rank whose local places are meant. In 32 bits: a sequence has fewer than 2^31 - 1
 * tokens, so fewer blocks. Stripes may be longer. */

typedef struct hisa_deal {
    hisa_divisor_t by_stripe;
    hisa_divisor_t by_round; /* a round: a stripe for each rank */
    uint32_t stripe;         /* up to 2^31 */
    uint32_t others;         /* blocks of a round that are not the rank's own; modulo 2^32 */
} hisa_deal_t;

HISA_INLINE hisa_deal_t hisa_deal_make(int64_t stripe, int32_t ranks) {
    hisa_deal_t deal;
    deal.by_stripe = hisa_divisor_make(stripe);
    deal.by_round = hisa_divisor_make(stripe * ranks);
    deal.stripe = (uint32_t)stripe;
    deal.others = (uint32_t)(stripe * (ranks - 1));
    return deal;
}

/* The first block that is the rank's own; INT32_MAX stands for all that no sequence has. */
HISA_INLINE uint32_t hisa_deal_first(const hisa_layout_t *layout, int32_t rank) {
    return (uint32_t)hisa_min(INT32_MAX, hisa_layout_turn(layout, rank) * layout->stripe);
}

/* hisa_layout_global. */
HISA_INLINE int32_t hisa_deal_global(const hisa_deal_t *deal, uint32_t first, int32_t local) {
    return (int32_t)((uint32_t)local + first + hisa_divide((uint32_t)local, deal->by_stripe) * deal->others);
}

/* hisa_layout_local, or -1 if another rank owns the block. */
HISA_INLINE int32_t hisa_deal_local(const hisa_deal_t *deal, uint32_t first, int32_t block) {
    const uint32_t round = hisa_divide((uint32_t)block, deal->by_round);
    const uint32_t inside = (uint32_t)block - round * (deal->stripe + deal->others) - first; /* wraps before `first` */
    return inside < deal->stripe ? (int32_t)(round * deal->stripe + inside) : -1;
}

/* hisa_layout_owner. */
HISA_INLINE int32_t hisa_deal_owner(const hisa_deal_t *deal, const hisa_layout_t *layout, int32_t block) {
    const uint32_t round = hisa_divide((uint32_t)block, deal->by_round);
    const uint32_t turn = hisa_divide((uint32_t)block, deal->by_stripe) - round * (uint32_t)layout->ranks;
    const int32_t owner = (int32_t)turn + layout->offset;
    return owner < layout->ranks ? owner : owner - layout->ranks;
}

/* hisa_layout_count. */
HISA_INLINE int32_t hisa_deal_count(const hisa_deal_t *deal, uint32_t first, int32_t end) {
    const uint32_t round = hisa_divide((uint32_t)end, deal->by_round);
    const uint32_t rest = (uint32_t)end - round * (deal->stripe + deal->others);
    const uint32_t inside = rest > first ? rest - first : 0;
    return (int32_t)(round * deal->stripe + (inside < deal->stripe ? inside : deal->stripe));
}

/* Rows [begin, end) of `rows` that are dealt to `rank` as merge owner when queries are replicated. */
HISA_INLINE int64_t hisa_layout_row_begin(int64_t rows, int32_t ranks, int32_t rank) { return rows * rank / ranks; }

#endif
