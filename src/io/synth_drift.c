/* The drift family. Keys follow topics that blend into each other along the sequence, under noise; queries look for
 * topics and for their needles. Everything is integer arithmetic up to the quantisation, whose few float steps are
 * single IEEE operations: the bytes are the same on every machine.
 *
 * Magnitudes, in units of 1/64 (rms over elements; D elements each): topic 52, token noise 78, so a key matches its own
 * topic at about 0.55. A needle's elements are 700 +- 191, in signs that only its row knows: a quarter of the row's
 * heads have the same signs at 160 +- 78. Its score so stands several times above the best of the topics, while in the
 * mean of 128 tokens it leaves 5.5 an element, which is what any topic has in a random direction by chance (52 /
 * sqrt(D)).
 *
 * Two rows' signs agree in half of their elements, give or take sqrt(D) / 2: with D 16 a row may so score another row's
 * needle as high as its own. */
#include <stdbool.h>
#include <string.h>

#include "base/checked.h"
#include "io/synth_internal.h"

/* Tokens of a segment, over which one topic turns into the next; less in a short sequence, so that it has topics too.
 */
#define SEGMENT 1024
#define LEAST_SEGMENT 16
#define FEWEST_SEGMENTS 8

/* Value of the least integer step: keys come out at magnitudes of a few units, as real ones do. */
#define UNIT 0.015625f

#define E4M3_MAX 448.0f
#define NEEDLE_KEY 700
#define NEEDLE_QUERY 160
#define NEEDLE_HEADS 4 /* every fourth head looks for needles */
#define MOST_WANTED 4

/* ---------------------------------------------------------------------------------------------- numbers */

/* D numbers in [-255, 255], triangular around 0 (rms 104): sums of two bytes. D is a multiple of 16. */
static void draw_triangular(uint64_t key, int32_t dim, int32_t *out) {
    for (int32_t i = 0; i < dim; i += 4) {
        const uint64_t bits = hisa_draw(key, i);
        for (int32_t j = 0; j < 4; ++j) {
            const uint64_t pair = bits >> (16 * j);
            out[i + j] = (int32_t)(pair & 0xff) + (int32_t)(pair >> 8 & 0xff) - 255;
        }
    }
}

/* The e4m3 code nearest to x, ties to even, for |x| that rounds to 448 at most. */
static uint8_t encode_e4m3(float x) {
    uint32_t bits = 0;
    memcpy(&bits, &x, sizeof bits);
    const uint32_t sign = bits >> 24 & 0x80;
    bits &= 0x7fffffff;
    /* Normal codes: round 23 bits of mantissa to 3, take the bias from 127 to 7. */
    const uint32_t normal = ((bits + 0x7ffff + (bits >> 20 & 1)) >> 20) - ((127 - 7) << 3);
    /* Below 2^-6 codes are multiples of 2^-9, which is the last place of 2^14: adding that rounds. */
    float magnitude = 0.0f;
    memcpy(&magnitude, &bits, sizeof magnitude);
    const float shifted = magnitude + 16384.0f;
    uint32_t shifted_bits = 0;
    memcpy(&shifted_bits, &shifted, sizeof shifted_bits);
    const uint32_t subnormal = shifted_bits & 0xff;
    const uint32_t code = bits < 0x3c800000 ? subnormal : normal;
    return (uint8_t)(sign | (code > 0x7e ? 0x7e : code));
}

/* Codes of x, whose largest element gets +-448, and the scale that undoes that. */
static float quantise(const int32_t *x, int32_t dim, uint8_t *codes) {
    int32_t largest = 1;
    for (int32_t i = 0; i < dim; ++i) {
        const int32_t magnitude = x[i] < 0 ? -x[i] : x[i];
        largest = magnitude > largest ? magnitude : largest;
    }
    const float factor = E4M3_MAX / (float)largest;
    for (int32_t i = 0; i < dim; ++i) {
        codes[i] = encode_e4m3((float)x[i] * factor);
    }
    return (float)largest * UNIT / E4M3_MAX;
}

/* ---------------------------------------------------------------------------------------------- topics */

static int64_t segment_tokens(const hisa_synth_config_t *config) {
    int64_t tokens = SEGMENT;
    while (tokens > LEAST_SEGMENT && config->num_tokens / tokens < FEWEST_SEGMENTS) {
        tokens /= 2;
    }
    return tokens;
}

/* Elements of the topic of a segment, in [-127, 127]. There are half as many topics as segments: what was talked of
 * once comes back. */
static void segment_topic(const hisa_synth_config_t *config, int64_t segment, int32_t *out) {
    const int64_t topics = config->num_tokens / segment_tokens(config) / 2 + 2;
    const int64_t topic = hisa_below(hisa_key(config, HISA_DRAW_TOPIC_OF_SEGMENT, segment), topics);
    draw_triangular(hisa_key(config, HISA_DRAW_TOPIC, topic), config->head_dim, out);
    for (int32_t i = 0; i < config->head_dim; ++i) {
        out[i] /= 2;
    }
}

/* ---------------------------------------------------------------------------------------------- needles */

/* Signs (+1, -1) that the needles of a row and the row itself share. */
static void needle_signs(const hisa_synth_config_t *config, int64_t row, int32_t *out) {
    const uint64_t key = hisa_key(config, HISA_DRAW_NEEDLE, row);
    for (int32_t i = 0; i < config->head_dim; ++i) {
        out[i] = (hisa_draw(key, i / 64) >> (i % 64) & 1) != 0 ? 1 : -1;
    }
}

/* ---------------------------------------------------------------------------------------------- keys */

void hisa_drift_keys(const hisa_synth_config_t *config, int64_t begin, int64_t count, uint8_t *keys, float *scales) {
    const int32_t dim = config->head_dim;
    const int64_t tokens = segment_tokens(config);
    hisa_needle_plan_t plan;
    hisa_needle_plan(config, &plan);
    int32_t topic[HISA_SYNTH_MAX_DIM] = {0};
    int32_t next[HISA_SYNTH_MAX_DIM] = {0};
    int32_t x[HISA_SYNTH_MAX_DIM];
    int64_t current = -1;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t position = begin + i;
        const uint64_t key = hisa_key(config, HISA_DRAW_TOKEN, position);
        const int64_t row = hisa_needle_row(config, &plan, position);
        draw_triangular(key, dim, x);
        if (row >= 0) {
            int32_t signs[HISA_SYNTH_MAX_DIM];
            needle_signs(config, row, signs);
            for (int32_t d = 0; d < dim; ++d) {
                x[d] = signs[d] * NEEDLE_KEY + x[d] * 3 / 4;
            }
        } else {
            if (position / tokens != current) {
                current = position / tokens;
                segment_topic(config, current, topic);
                segment_topic(config, current + 1, next);
            }
            /* How far the next topic has come, in 1/1024, and how loud the token is, 48/64 to 79/64. */
            const int32_t phase = (int32_t)(position % tokens * (SEGMENT / tokens));
            const int32_t loudness = 48 + (int32_t)hisa_below(hisa_draw(key, dim), 32);
            for (int32_t d = 0; d < dim; ++d) {
                const int32_t blend = topic[d] * (SEGMENT - phase) + next[d] * phase;
                x[d] = blend * loudness / (SEGMENT * 64) + x[d] * 3 / 4;
            }
        }
        scales[i] = quantise(x, dim, keys + i * dim);
    }
}

/* ---------------------------------------------------------------------------------------------- rows */

/* Weight of a head in 1/128: needle heads 0.75 to 1.5; of the others one in eight down to -0.25, the rest 0.25 to 1. */
static int32_t head_weight(uint64_t bits, bool for_needles) {
    const int32_t fine = (int32_t)hisa_below(bits >> 8, 96);
    if (for_needles) {
        return 96 + fine;
    }
    return (bits & 7) == 0 ? -(fine / 3) : 32 + fine;
}

/* Looks for 2 to 4 topics: that of its own place and others that it has passed; neighbours look for the same. */
static int wanted_topics(const hisa_synth_config_t *config, int64_t row, int32_t topics[][HISA_SYNTH_MAX_DIM]) {
    const int64_t group = row / config->neighbours;
    const uint64_t key = hisa_key(config, HISA_DRAW_WANTED, group);
    const int64_t own = (hisa_synth_least_end(config, row) - 1) / segment_tokens(config);
    const int count = 2 + (int)hisa_below(hisa_draw(key, 0), MOST_WANTED - 1);
    segment_topic(config, own, topics[0]);
    for (int i = 1; i < count; ++i) {
        segment_topic(config, hisa_below(hisa_draw(key, i), own + 1), topics[i]);
    }
    return count;
}

void hisa_drift_row(const hisa_synth_config_t *config, int64_t row, uint8_t *q, float *weights) {
    const int32_t dim = config->head_dim;
    int32_t topics[MOST_WANTED][HISA_SYNTH_MAX_DIM] = {{0}};
    int32_t signs[HISA_SYNTH_MAX_DIM] = {0};
    int32_t x[HISA_SYNTH_MAX_DIM];
    const int count = wanted_topics(config, row, topics);
    needle_signs(config, row, signs);
    for (int32_t head = 0; head < config->num_heads; ++head) {
        const int64_t place = row * config->num_heads + head;
        const bool for_needles = config->num_needles > 0 && head % NEEDLE_HEADS == 0;
        const int32_t *topic = topics[head % count];
        draw_triangular(hisa_key(config, HISA_DRAW_HEAD, place), dim, x);
        for (int32_t d = 0; d < dim; ++d) {
            /* A needle head keeps the needle's sign in every element: 160 against at most 63 + 15. */
            x[d] = for_needles ? signs[d] * NEEDLE_QUERY + topic[d] / 2 + x[d] / 16 : topic[d] + x[d] / 4;
        }
        const float scale = quantise(x, dim, q + (int64_t)head * dim);
        const int32_t weight = head_weight(hisa_key(config, HISA_DRAW_WEIGHT, place), for_needles);
        /* The weight is exact; the product with the query's scale rounds once. */
        weights[head] = (float)weight / 128.0f * scale;
    }
}
