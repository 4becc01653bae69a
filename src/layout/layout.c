#include "layout/layout.h"

#include "base/checked.h"

int64_t hisa_layout_contiguous_stripe(int64_t capacity, int32_t ranks, int32_t block_size) {
    return hisa_max(1, hisa_ceil_div(hisa_ceil_div(capacity, block_size), ranks));
}

int64_t hisa_layout_blocks(const hisa_layout_t *layout, int64_t length) {
    return hisa_ceil_div(length, layout->block_size);
}

/* A rank's turn in the dealing order: the rank that owns block 0 has turn 0. */
static int64_t turn_of(const hisa_layout_t *layout, int32_t rank) {
    return (rank - layout->offset + layout->ranks) % layout->ranks;
}

int32_t hisa_layout_owner(const hisa_layout_t *layout, int64_t block) {
    return (int32_t)((block / layout->stripe + layout->offset) % layout->ranks);
}

int64_t hisa_layout_local(const hisa_layout_t *layout, int64_t block) {
    const int64_t round = block / layout->stripe / layout->ranks;
    return round * layout->stripe + block % layout->stripe;
}

int64_t hisa_layout_global(const hisa_layout_t *layout, int32_t rank, int64_t local) {
    const int64_t round = local / layout->stripe;
    return (round * layout->ranks + turn_of(layout, rank)) * layout->stripe + local % layout->stripe;
}

int64_t hisa_layout_count(const hisa_layout_t *layout, int32_t rank, int64_t end) {
    const int64_t round = end / layout->stripe / layout->ranks;
    const int64_t rest = end - round * layout->stripe * layout->ranks;
    const int64_t begin = turn_of(layout, rank) * layout->stripe;
    return round * layout->stripe + hisa_min(layout->stripe, hisa_max(0, rest - begin));
}

int64_t hisa_layout_count_tokens(const hisa_layout_t *layout, int32_t rank, int64_t end) {
    const int64_t whole = end / layout->block_size;
    int64_t tokens = hisa_layout_count(layout, rank, whole) * layout->block_size;
    if (end % layout->block_size != 0 && hisa_layout_owner(layout, whole) == rank) {
        tokens += end % layout->block_size;
    }
    return tokens;
}

int64_t hisa_layout_row_begin(int64_t rows, int32_t ranks, int32_t rank) { return rows * rank / ranks; }
