/* Numbers that look random and are the same on every machine and rank: splitmix64. */
#ifndef HISA_TESTS_RNG_H
#define HISA_TESTS_RNG_H

#include <stdbool.h>
#include <stdint.h>

typedef struct rng {
    uint64_t state;
} rng_t;

static inline uint64_t rng_next(rng_t *rng) {
    rng->state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = rng->state;
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* low to high, both included. */
static inline int64_t rng_range(rng_t *rng, int64_t low, int64_t high) {
    return high <= low ? low : low + (int64_t)(rng_next(rng) % (uint64_t)(high - low + 1));
}

static inline bool rng_chance(rng_t *rng, int percent) { return rng_range(rng, 0, 99) < percent; }

/* 0 included to 1 excluded. */
static inline float rng_unit(rng_t *rng) { return (float)(rng_next(rng) >> 40) * 0x1p-24f; }

#endif
