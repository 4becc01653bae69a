/* Synthetic index traces of any size. Any token or row can be made by itself: the same config gives the same bytes
 * however the ranges are cut, on every machine. */
#ifndef HISA_IO_SYNTH_H
#define HISA_IO_SYNTH_H

#include "hisa/hisa.h"

typedef enum hisa_synth_family {
    /* Topics that drift along the sequence, neighbours alike; each query looks for a few of the topics it has passed
     * and for `needles` planted single tokens, which match it far better than their surroundings. */
    HISA_SYNTH_DRIFT = 0,
    /* Every dot product, head sum and block mean exact in f32 whatever the order of summation, so that all backends
     * must agree to the bit; ties abound, at the thresholds too; w < 0, w = 0 and all-zero plateaus occur, as do
     * identical blocks. */
    HISA_SYNTH_EXACT = 1
} hisa_synth_family_t;

typedef struct hisa_synth_config {
    hisa_synth_family_t family;
    int64_t num_tokens;  /* N */
    int64_t num_rows;    /* M: by default rows end evenly spread over the second half of the sequence, the last at N */
    int32_t head_dim;    /* D */
    int32_t num_heads;   /* H */
    int32_t num_needles; /* n: needles of a row (drift only), planted inside its window */
    int32_t neighbours;  /* consecutive rows that stand at consecutive positions (and so overlap), at least 1 */
    uint64_t seed;
} hisa_synth_config_t;

/* DRIFT, N 131072, M 256, H 64, D 128, 4 needles, 1 neighbour, seed 1. */
void hisa_synth_config_init(hisa_synth_config_t *config);

/* HISA_ERR_INVALID_ARGUMENT with the cause. */
hisa_status_t hisa_synth_check(const hisa_synth_config_t *config);

/* Tokens [begin, begin + count): keys [count][D] e4m3, scales [count]. */
void hisa_synth_keys(const hisa_synth_config_t *config, int64_t begin, int64_t count, uint8_t *keys, float *scales);

/* Rows [begin, begin + count): q [count][H][D] e4m3, weights [count][H], windows [count]; needles [count][n],
 * ascending, or NULL. */
void hisa_synth_rows(const hisa_synth_config_t *config, int64_t begin, int64_t count, uint8_t *q, float *weights,
                     int32_t *window_begin, int32_t *window_end, int32_t *needles);

/* Writes both files in pieces of bounded size. */
hisa_status_t hisa_synth_write(const hisa_synth_config_t *config, const char *keys_path, const char *queries_path);

#endif
