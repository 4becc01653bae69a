/* The exact family: why every sum is exact.
 *   - Keys are -1, 0, 1; queries have at most 8 elements +-1 a head; weights are multiples of 0.5 up to 1; scales are
 * 0.5, 1 or 2. So a dot is a whole number up to 8, a head sum a multiple of 0.5 up to 1024, and the scale shifts it.
 *   - The scales of any 4 tokens from a multiple of 4 on are 0.5, 0.5, 1, 2 in some order: a block's sum is a multiple
 * of 0.5 up to its tokens, at most 256. Pooled codes are so 0 or at least 448 * 0.5 / 256 = 0.875, multiples of 2^-4.
 *   - Hence 8 of them times 128 heads and weights stay below 2^24 steps of 2^-5.
 * What is left to round are single operations: the mean of a partial block, / 448, / p_scale, the code, * p_scale. */
#include <string.h>

#include "base/checked.h"
#include "io/synth_internal.h"

#define CODE_ZERO 0x00
#define CODE_ONE 0x38
#define CODE_MINUS_ONE 0xb8

/* The largest block, and the smallest: blocks of every size between are made of whole runs. */
#define LARGEST 256
#define RUN 16

/* Three of four large blocks are copies of one of so few; their runs, copies of one of so few patterns. */
#define POOLED_BLOCKS 5
#define POOLED_PATTERNS 12

#define MOST_NONZERO 8

/* The pattern of the run that holds a position: pattern 0 is all zeros. */
static int64_t run_pattern(const hisa_synth_config_t *config, int64_t position) {
    const int64_t block = position / LARGEST;
    const int64_t run = position % LARGEST / RUN;
    const uint64_t bits = hisa_key(config, HISA_DRAW_RUN, block);
    if ((bits & 3) == 0) {
        return POOLED_PATTERNS + position / RUN;
    }
    const int64_t content = -1 - hisa_below(bits >> 2, POOLED_BLOCKS);
    return hisa_below(hisa_draw(hisa_key(config, HISA_DRAW_RUN, content), run), POOLED_PATTERNS);
}

/* 0.5, 0.5, 1, 2 in the order that the pattern has for these four tokens. */
static float token_scale(const hisa_synth_config_t *config, int64_t pattern, int64_t token) {
    const uint64_t bits = hisa_draw(hisa_key(config, HISA_DRAW_SCALE, pattern), token / 4);
    const int64_t place = token % 4;
    const int64_t two = hisa_below(bits, 4);
    const int64_t one = (two + 1 + hisa_below(bits >> 2, 3)) % 4;
    return place == two ? 2.0f : place == one ? 1.0f : 0.5f;
}

void hisa_exact_keys(const hisa_synth_config_t *config, int64_t begin, int64_t count, uint8_t *keys, float *scales) {
    static const uint8_t codes[4] = {CODE_ZERO, CODE_ONE, CODE_MINUS_ONE, CODE_ZERO};
    const int64_t dim = config->head_dim;
    for (int64_t i = 0; i < count; ++i) {
        const int64_t pattern = run_pattern(config, begin + i);
        const int64_t token = (begin + i) % RUN;
        const uint64_t key = hisa_key(config, HISA_DRAW_PATTERN, pattern);
        scales[i] = token_scale(config, pattern, token);
        for (int64_t d = 0; d < dim; ++d) {
            const uint64_t bits = hisa_draw(key, token * HISA_SYNTH_MAX_DIM / 32 + d / 32) >> (2 * (d % 32));
            keys[i * dim + d] = pattern == 0 ? CODE_ZERO : codes[bits & 3];
        }
    }
}

/* What is special about a row: rows come in sixteens. */
enum { ROW_NEGATIVE = 3, ROW_NO_WEIGHT = 7, ROW_NO_QUERY = 11, ROW_NOT_POSITIVE = 13, ROW_KINDS = 16 };

/* In halves: -2 to 2. */
static int32_t head_weight(uint64_t bits, int64_t kind) {
    switch (kind) {
    case ROW_NEGATIVE:
        return -1 - (int32_t)hisa_below(bits, 2);
    case ROW_NO_WEIGHT:
        return 0;
    case ROW_NOT_POSITIVE:
        return -(int32_t)hisa_below(bits, 3);
    default:
        return (int32_t)hisa_below(bits, 5) - 2;
    }
}

void hisa_exact_row(const hisa_synth_config_t *config, int64_t row, uint8_t *q, float *weights) {
    const int64_t dim = config->head_dim;
    const int64_t kind = row % ROW_KINDS;
    memset(q, CODE_ZERO, (size_t)(config->num_heads * dim));
    for (int64_t head = 0; head < config->num_heads; ++head) {
        const int64_t place = row * config->num_heads + head;
        const uint64_t key = hisa_key(config, HISA_DRAW_HEAD, place);
        const int64_t nonzero = kind == ROW_NO_QUERY ? 0 : hisa_below(hisa_draw(key, 0), MOST_NONZERO + 1);
        for (int64_t i = 1; i <= nonzero; ++i) {
            const uint64_t bits = hisa_draw(key, i);
            q[head * dim + hisa_below(bits >> 1, dim)] = (bits & 1) != 0 ? CODE_ONE : CODE_MINUS_ONE;
        }
        weights[head] = (float)head_weight(hisa_key(config, HISA_DRAW_WEIGHT, place), kind) / 2.0f;
    }
}

/* Every kind of window in eight rows: the whole sequence, an empty one, two cut anywhere, a short one, three causal
 * ones. Each sixteen rows the kinds move on by one, so that they meet every kind of row. */
void hisa_exact_window(const hisa_synth_config_t *config, int64_t row, int32_t *begin, int32_t *end) {
    const int64_t tokens = config->num_tokens;
    const uint64_t key = hisa_key(config, HISA_DRAW_WINDOW, row);
    const int64_t a = hisa_below(hisa_draw(key, 0), tokens + 1);
    const int64_t b = hisa_below(hisa_draw(key, 1), tokens + 1);
    int64_t from = 0;
    int64_t to = hisa_synth_row_end(config, row);
    switch ((row + row / ROW_KINDS) % 8) {
    case 0:
        to = tokens;
        break;
    case 1:
        from = to = a;
        break;
    case 2:
    case 3:
        from = hisa_min(a, b);
        to = hisa_max(a, b);
        break;
    case 4:
        from = a;
        to = hisa_min(a + 1 + b % 40, tokens);
        break;
    default:
        break;
    }
    *begin = (int32_t)from;
    *end = (int32_t)to;
}
