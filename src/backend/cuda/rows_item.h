/* How work of rows that stay is cut (hopper_rows.cuh): batches of rows by ranges of tiles of keys, as numbered items
 * that thread blocks take in order. C as well as device code, so that it is tested without a device. */
#ifndef HISA_CUDA_ROWS_ITEM_H
#define HISA_CUDA_ROWS_ITEM_H

#include "base/checked.h"

typedef struct hisa_rows_item {
    int64_t batch; /* -1: no such item */
    int32_t tile_begin;
    int32_t tile_end;
} hisa_rows_item_t;

/* Item number `item` (from 0) of `batches` batches by `tiles` tiles, for a kernel of so many thread blocks; none from
 * the number on that is as high as there are items. Thread blocks take items as they come: rows that see little are
 * soon done, and which ones these are nobody knows beforehand. Items are large at first, since rows that stay need not
 * be loaded again, and get smaller towards the end: batches are cut in two; of the last ones half as many as there are
 * thread blocks in four, the last half of these in eight, and so on down to a tile. (Not whole at first, as then no two
 * thread blocks begin with the same rows, and all of these come from HBM.) */
HISA_INLINE hisa_rows_item_t hisa_rows_item(int64_t batches, int32_t tiles, uint32_t thread_blocks, int64_t item) {
    const hisa_rows_item_t none = {-1, 0, 0};
    int64_t left = batches;
    for (int32_t pieces = tiles < 2 ? tiles : 2; left > 0; pieces = 2 * pieces < tiles ? 2 * pieces : tiles) {
        const int64_t behind = pieces == tiles ? 0 : thread_blocks / (uint32_t)pieces;
        const int64_t here = hisa_max(0, left - behind);
        if (item < here * pieces) {
            const int32_t batch = (int32_t)item / pieces;
            const int32_t piece = (int32_t)item - batch * pieces;
            const hisa_rows_item_t cut = {batches - left + batch, tiles * piece / pieces, tiles * (piece + 1) / pieces};
            return cut;
        }
        item -= here * pieces;
        left -= here;
    }
    return none;
}

#endif
