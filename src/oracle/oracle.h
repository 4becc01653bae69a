/* The plain reference: what README.md says, in loops that a reader can check against the formulas, sharing no code with
 * the backends. Slow. Sums run over d, over heads and over tokens in ascending order, in f32, each product and each sum
 * rounded: the order that the CPU backend promises, so that the two agree to the bit on any input. */
#ifndef HISA_ORACLE_H
#define HISA_ORACLE_H

#include "hisa/hisa.h"

/* One sequence, all of it. */
typedef struct hisa_oracle_keys {
    int64_t num_tokens;
    int32_t head_dim;
    int32_t num_heads;
    int32_t block_size;
    const uint8_t *keys; /* [num_tokens][D] */
    const float *scales; /* [num_tokens] */
    uint8_t *pooled;     /* [blocks][D] e4m3, by hisa_oracle_pool */
    float *pooled_scale; /* [blocks] */
} hisa_oracle_keys_t;

/* Fills in pooled and pooled_scale (allocated here) from the other members. */
hisa_status_t hisa_oracle_pool(hisa_oracle_keys_t *keys);
void hisa_oracle_free(hisa_oracle_keys_t *keys);

/* The code of an e4m3 number nearest to x, ties to even, saturated at +-448, NaN to 0x7f; and the value of a code. */
uint8_t hisa_oracle_e4m3_from_float(float x);
float hisa_oracle_e4m3_to_float(uint8_t code);

/* One row: q [H][D], w [H], window [ks, ke) within the sequence. Of options only mode, top_blocks, top_k, sink_blocks
 * and local_blocks are used. indices [k] and scores [k] (may be NULL; mode block: must be) are padded with -1 and 0;
 * *count entries are not padding. A score of -0 is given as +0 and any NaN as NAN, as the order does not tell them
 * apart. */
hisa_status_t hisa_oracle_select(const hisa_oracle_keys_t *keys, const hisa_select_options_t *options, const uint8_t *q,
                                 const float *w, int64_t ks, int64_t ke, int32_t *indices, float *scores,
                                 int32_t *count);

#endif
