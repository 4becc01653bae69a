/* Exact thresholds and sorts on integers: time linear (or n log n) whatever the values, no allocation. */
#ifndef HISA_CPU_TOPK_H
#define HISA_CPU_TOPK_H

#include <stdint.h>

/* The k-th largest of n keys, 1 <= k <= n. *above: how many are larger than it. */
uint32_t hisa_kth_u32(const uint32_t *key, int64_t n, int64_t k, int64_t *above);

/* The k-th largest of n ranks, 1 <= k <= n. */
uint64_t hisa_kth_u64(const uint64_t *rank, int64_t n, int64_t k);

/* Sorts ascending; scratch [n]. */
void hisa_sort_u64(uint64_t *value, uint64_t *scratch, int64_t n);

#endif
