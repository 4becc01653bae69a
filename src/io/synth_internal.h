/* What the parts of the trace generator share. Private to src/io. Nothing here keeps state: every number is a function
 * of the config, the stream it belongs to and its place, so that any token or row can be made by itself. */
#ifndef HISA_IO_SYNTH_INTERNAL_H
#define HISA_IO_SYNTH_INTERNAL_H

#include "io/synth.h"

/* Longest key of the library. */
#define HISA_SYNTH_MAX_DIM 256

/* What a number is drawn for: one stream each, so that no two uses share numbers. */
typedef enum hisa_synth_stream {
    HISA_DRAW_TOPIC_OF_SEGMENT = 1,
    HISA_DRAW_TOPIC,
    HISA_DRAW_TOKEN,
    HISA_DRAW_NEEDLE,
    HISA_DRAW_NEEDLE_SLOT,
    HISA_DRAW_NEEDLE_PLACE,
    HISA_DRAW_WANTED,
    HISA_DRAW_HEAD,
    HISA_DRAW_WEIGHT,
    HISA_DRAW_WINDOW,
    HISA_DRAW_RUN,
    HISA_DRAW_PATTERN,
    HISA_DRAW_SCALE
} hisa_synth_stream_t;

/* The golden ratio in 64 bits: successive multiples are spread evenly. */
#define HISA_GOLDEN 0x9e3779b97f4a7c15U

/* The finaliser of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014): a bijection
 * of 64 bits whose outputs on a counter pass for random. */
static inline uint64_t hisa_scramble(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

/* Key of the numbers of one place of a stream. */
static inline uint64_t hisa_key(const hisa_synth_config_t *config, hisa_synth_stream_t stream, int64_t place) {
    const uint64_t own = hisa_scramble(config->seed + HISA_GOLDEN * (uint64_t)stream);
    return hisa_scramble(own + HISA_GOLDEN * (uint64_t)place);
}

/* Number `index` of a key: 64 random bits. */
static inline uint64_t hisa_draw(uint64_t key, int64_t index) {
    return hisa_scramble(key + HISA_GOLDEN * (uint64_t)(index + 1));
}

/* A number below size, which is at least 1 and far below 2^64. */
static inline int64_t hisa_below(uint64_t bits, int64_t size) { return (int64_t)(bits % (uint64_t)size); }

/* End of the causal window of a row: its position + 1, from 1 to N. And the least end of rows [row, M). */
int64_t hisa_synth_row_end(const hisa_synth_config_t *config, int64_t row);
int64_t hisa_synth_least_end(const hisa_synth_config_t *config, int64_t row);

/* Where the needles are. Strata of slots, one needle a slot: stratum i < n-1 holds the i-th needle of every row; the
 * last needle of rows [0, half) lies in stratum n-1, that of the others in a stratum behind them, at positions that
 * only they see. Within a stratum rows take slots in the order of a permutation r -> (multiplier * r + shift) mod rows,
 * which is as easily undone: a token's row and a row's tokens both cost O(1). */
typedef struct hisa_needle_plan {
    int64_t needles; /* n, 0: none */
    int64_t rows;    /* M */
    int64_t half;    /* rows whose last needle lies in front; M where there is no stratum behind */
    int64_t front_slots;
    int64_t front_width; /* positions of a slot of the strata in front, which start at 0 */
    int64_t back_begin;
    int64_t back_width;
    int64_t multiplier[3]; /* for strata of M, of half and of M - half rows */
    int64_t inverse[3];
} hisa_needle_plan_t;

void hisa_needle_plan(const hisa_synth_config_t *config, hisa_needle_plan_t *plan);

/* Position of needle i (0 <= i < n) of a row; ascending in i. */
int64_t hisa_needle_position(const hisa_synth_config_t *config, const hisa_needle_plan_t *plan, int64_t row, int64_t i);

/* The row whose needle stands at the position, -1 if none does. */
int64_t hisa_needle_row(const hisa_synth_config_t *config, const hisa_needle_plan_t *plan, int64_t position);

/* The two families, as in hisa_synth_keys and hisa_synth_rows. */
void hisa_drift_keys(const hisa_synth_config_t *config, int64_t begin, int64_t count, uint8_t *keys, float *scales);
void hisa_drift_row(const hisa_synth_config_t *config, int64_t row, uint8_t *q, float *weights);
void hisa_exact_keys(const hisa_synth_config_t *config, int64_t begin, int64_t count, uint8_t *keys, float *scales);
void hisa_exact_row(const hisa_synth_config_t *config, int64_t row, uint8_t *q, float *weights);
void hisa_exact_window(const hisa_synth_config_t *config, int64_t row, int32_t *begin, int32_t *end);

#endif
