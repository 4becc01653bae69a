#include "backend/cpu/topk.h"

#include <string.h>

/* Radix selection, from the highest digit down: a histogram of the digit among values that share the digits settled so
 * far tells the next digit of the k-th largest. Ten or eleven bits a digit keep the histogram in the first-level cache.
 */
uint32_t hisa_kth_u32(const uint32_t *key, int64_t n, int64_t k, int64_t *above) {
    static const int shifts[3] = {21, 10, 0};
    static const uint32_t masks[3] = {0x7FF, 0x7FF, 0x3FF};
    uint32_t prefix = 0;
    uint32_t settled = 0; /* bits of prefix that are known */
    int64_t larger = 0;
    for (int digit = 0; digit < 3; ++digit) {
        int64_t histogram[2048] = {0};
        for (int64_t i = 0; i < n; ++i) {
            if ((key[i] & settled) == prefix) {
                ++histogram[key[i] >> shifts[digit] & masks[digit]];
            }
        }
        uint32_t value = masks[digit];
        while (larger + histogram[value] < k) {
            larger += histogram[value];
            --value;
        }
        prefix |= value << shifts[digit];
        settled |= masks[digit] << shifts[digit];
    }
    *above = larger;
    return prefix;
}

uint64_t hisa_kth_u64(const uint64_t *rank, int64_t n, int64_t k) {
    uint64_t prefix = 0;
    uint64_t settled = 0;
    int64_t larger = 0;
    for (int shift = 56; shift >= 0; shift -= 8) {
        int64_t histogram[256] = {0};
        for (int64_t i = 0; i < n; ++i) {
            if ((rank[i] & settled) == prefix) {
                ++histogram[rank[i] >> shift & 0xFF];
            }
        }
        uint64_t value = 0xFF;
        while (larger + histogram[value] < k) {
            larger += histogram[value];
            --value;
        }
        prefix |= value << shift;
        settled |= (uint64_t)0xFF << shift;
    }
    return prefix;
}

/* Ordered runs to begin with, so that the first rounds of merging are not spent on single values. */
enum { RUN = 16 };

static void sort_run(uint64_t *value, int64_t n) {
    for (int64_t i = 1; i < n; ++i) {
        const uint64_t moved = value[i];
        int64_t j = i;
        for (; j > 0 && value[j - 1] > moved; --j) {
            value[j] = value[j - 1];
        }
        value[j] = moved;
    }
}

static void merge_runs(const uint64_t *a, int64_t na, const uint64_t *b, int64_t nb, uint64_t *out) {
    while (na > 0 && nb > 0) {
        if (*b < *a) {
            *out++ = *b++;
            --nb;
        } else {
            *out++ = *a++;
            --na;
        }
    }
    memcpy(out, na > 0 ? a : b, (size_t)(na + nb) * sizeof *out);
}

void hisa_sort_u64(uint64_t *value, uint64_t *scratch, int64_t n) {
    for (int64_t i = 0; i < n; i += RUN) {
        sort_run(value + i, n - i < RUN ? n - i : RUN);
    }
    uint64_t *from = value;
    uint64_t *to = scratch;
    for (int64_t run = RUN; run < n; run *= 2) {
        for (int64_t i = 0; i < n; i += 2 * run) {
            const int64_t na = n - i < run ? n - i : run;
            const int64_t nb = n - i - na < run ? n - i - na : run;
            merge_runs(from + i, na, from + i + na, nb, to + i);
        }
        uint64_t *const swap = from;
        from = to;
        to = swap;
    }
    if (from != value) {
        memcpy(value, from, (size_t)n * sizeof *value);
    }
}
