#include "support/narrow.h"

enum { ZERO = 0x00, HALF = 0x30, ONE = 0x38, TWO = 0x40, SIGN = 0x80 };
/* How many different first halves, second halves and blocks come again and again. */
enum { SHARED_PATTERNS = 6, OWN_PATTERNS = 12, COMMON_BLOCKS = 9 };

static const uint8_t integers[] = {ZERO, ONE, TWO, 0x44, 0x48}; /* 0 to 4 */

static uint8_t with_sign(rng_t *rng, uint8_t code) {
    return rng_chance(rng, 50) ? (uint8_t)(code | SIGN) : code; /* -0 too */
}

static void draw_shared(rng_t *rng, int64_t count, uint8_t *key) {
    const int64_t pattern = rng_range(rng, 0, SHARED_PATTERNS);
    rng_t values = {UINT64_C(0x5ba7ed) + (uint64_t)pattern};
    for (int64_t d = 0; d < count; ++d) {
        const int64_t kind = rng_range(&values, 0, 3);
        const uint8_t code = with_sign(&values, kind < 2 ? ZERO : (kind == 2 ? HALF : ONE));
        key[d] = pattern == 0 ? ZERO : code;
    }
}

static void draw_own(rng_t *rng, int64_t count, uint8_t *key) {
    const int64_t kind = rng_range(rng, 0, 3);
    rng_t values = {UINT64_C(0x0b5) + (uint64_t)rng_range(rng, 1, OWN_PATTERNS)};
    rng_t *source = kind < 2 ? &values : rng;
    for (int64_t d = 0; d < count; ++d) {
        key[d] = kind == 3 ? ZERO : with_sign(source, integers[rng_range(source, 0, 4)]);
    }
}

void narrow_token(rng_t *rng, int64_t dim, int64_t block_size, int64_t position, uint8_t *keys, float *scales) {
    static const float powers[] = {0.5f, 1.0f, 2.0f};
    const int64_t half = dim / 2;
    uint8_t *key = keys + position * dim;
    if (position % block_size == 0) {
        draw_shared(rng, half, key);
    } else {
        memcpy(key, key - dim, (size_t)half);
    }
    if (position % 2 == 0) {
        draw_own(rng, dim - half, key + half);
        scales[position] = powers[rng_range(rng, 0, 2)];
        return;
    }
    for (int64_t d = half; d < dim; ++d) {
        key[d] = key[d - dim] ^ SIGN;
    }
    scales[position] = scales[position - 1];
}

uint8_t narrow_query(rng_t *rng) {
    return rng_chance(rng, 50) ? with_sign(rng, ZERO) : with_sign(rng, integers[rng_range(rng, 1, 2)]);
}

/* Rows come in sixteens: all weights negative, none, no query, no weight above 0; the others are ordinary. */
static float draw_weight(rng_t *rng, int64_t row) {
    const float weight = (float)rng_range(rng, -4, 4) * 0.25f;
    switch (row % 16) {
    case 3:
        return -0.25f - 0.25f * (float)rng_range(rng, 0, 3);
    case 7:
        return 0.0f;
    case 13:
        return -fabsf(weight);
    default:
        return weight;
    }
}

trace_t narrow_trace(const hisa_synth_config_t *config, int64_t block_size) {
    trace_t trace = trace_allocate(config);
    const int64_t dim = config->head_dim;
    const int64_t heads = config->num_heads;
    ck_assert_int_eq(config->num_tokens % 2, 0);
    for (int64_t s = 0; s < config->num_tokens;) {
        const int64_t block = s / block_size;
        rng_t choice = {config->seed * UINT64_C(0x9e3779b97f4a7c15) + (uint64_t)block};
        const uint64_t content =
            rng_chance(&choice, 75) ? (uint64_t)rng_range(&choice, 1, COMMON_BLOCKS) : UINT64_C(1000) + (uint64_t)block;
        rng_t rng = {config->seed ^ content * UINT64_C(0xd1342543de82ef95)};
        for (; s < config->num_tokens && s / block_size == block; ++s) {
            narrow_token(&rng, dim, block_size, s, trace.keys, trace.scales);
        }
    }
    hisa_synth_rows(config, 0, config->num_rows, trace.q, trace.weights, trace.begins, trace.ends, trace.needles);
    for (int64_t row = 0; row < config->num_rows; ++row) {
        rng_t rng = {config->seed + UINT64_C(77777) * (uint64_t)(row + 1)};
        for (int64_t i = row * heads * dim; i < (row + 1) * heads * dim; ++i) {
            trace.q[i] = row % 16 == 11 ? ZERO : narrow_query(&rng);
        }
        for (int64_t h = row * heads; h < (row + 1) * heads; ++h) {
            trace.weights[h] = draw_weight(&rng, row);
        }
    }
    return trace;
}
