/* The total order of selection, as integers. Higher score first, equal scores by lower position, -0 equal to +0, NaN
 * last: the order of scores is that of `key`, the order of (score, position) pairs that of `rank`, larger first. Ranks
 * of different positions differ, so a threshold on ranks splits any set exactly. */
#ifndef HISA_BACKEND_ORDER_H
#define HISA_BACKEND_ORDER_H

#include <stdint.h>
#include <string.h>

#include "base/inline.h"

#define HISA_KEY_NAN 0u
/* Above the key of every float: a block that is kept whatever its score. */
#define HISA_KEY_FORCED 0xFFFFFFFFu
/* Below the rank of every pair: no entry. */
#define HISA_RANK_NONE ((uint64_t)0)

HISA_INLINE uint32_t hisa_key_from_score(float score) {
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    /* Branch-free, so that loops over scores vectorise. -0 becomes +0 first. */
    bits = bits == 0x80000000u ? 0u : bits;
    const uint32_t ordered = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return (bits & 0x7FFFFFFFu) > 0x7F800000u ? HISA_KEY_NAN : ordered;
}

/* The inverse, up to what the order does not tell apart: -0 comes back as +0, every NaN as the quiet NaN. */
HISA_INLINE float hisa_score_from_key(uint32_t key) {
    uint32_t bits = (key & 0x80000000u) != 0 ? key & 0x7FFFFFFFu : ~key;
    bits = key == HISA_KEY_NAN ? 0x7FC00000u : bits;
    float score;
    memcpy(&score, &bits, sizeof score);
    return score;
}

HISA_INLINE uint64_t hisa_rank_make(uint32_t key, int32_t position) {
    return (uint64_t)key << 32 | (uint32_t) ~(uint32_t)position;
}
HISA_INLINE uint32_t hisa_rank_key(uint64_t rank) { return (uint32_t)(rank >> 32); }
HISA_INLINE int32_t hisa_rank_position(uint64_t rank) { return (int32_t) ~(uint32_t)rank; }

#endif
