/* Keys and queries whose every sum is exact in an accumulator of 12 bits: what a tensor core that adds fp8 products
 * keeps is no more than some 13 below the largest. So all backends must agree to the bit, on token and on block scores.
 *   - The first half of a key is the same for all tokens of a block: 0, +-0.5 or +-1. The second half is its own, whole
 *     numbers up to 4, and the token after it (positions 2i, 2i + 1, of equal scale) has its negative. Scales are 0.5,
 *     1 or 2. So the mean of a block of an even number of tokens is zero in the second half, and in the first a common
 *     factor times 0, +-0.5 or +-1: pooled codes are 0, +-224 and +-448, or only zeros.
 *   - Queries are whole numbers up to 2. A token's dot is a multiple of 0.5 and at most 5 D, a pooled one a multiple of
 *     224 = 7 * 32 and at most 448 D: 11 and 12 bits at D = 256.
 *   - Weights are multiples of 0.25 up to 1, so head sums stay within 20 bits.
 * Sequences must be of even length. Blocks and tokens come in copies, and zero plateaus occur. */
#ifndef HISA_TESTS_NARROW_H
#define HISA_TESTS_NARROW_H

#include "support/rng.h"
#include "support/synth_trace.h"

/* Draws token `position` of a sequence into keys [..][dim] and scales, where all tokens before it already are. */
void narrow_token(rng_t *rng, int64_t dim, int64_t block_size, int64_t position, uint8_t *keys, float *scales);

/* An element of a query. */
uint8_t narrow_query(rng_t *rng);

/* A whole trace; rows and windows are of as many kinds as the exact family's. config->family must be EXACT and
 * num_tokens even. */
trace_t narrow_trace(const hisa_synth_config_t *config, int64_t block_size);

#endif
