/* A running hash of integers, to compare state across ranks. Not for secrets. */
#ifndef HISA_BASE_HASH_H
#define HISA_BASE_HASH_H

#include <stdint.h>

/* Mixes a value into a hash (an add and the finaliser of a 64-bit multiplicative hash). */
static inline uint64_t hisa_hash(uint64_t hash, int64_t value) {
    uint64_t x = hash * 0x9E3779B97F4A7C15u + (uint64_t)value + 1;
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93u;
    return x ^ x >> 32;
}

#endif
