#include "support/cases.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/narrow.h"
#include "support/stage.h"

enum {
    MAX_CHANGES = 72,
    MAX_WORK = 3000000, /* products of one flat scan over all rows: what makes 10,000 cases a matter of a minute */
    MAX_SHAPED_WORK = 30000000, /* the same for a given shape, of which there are fewer */
    PATTERNS = 12
};

/* Where key and query elements come from. */
typedef enum family {
    FAMILY_EXACT, /* small integers, scales that are powers of two: exact sums, ties everywhere */
    FAMILY_REAL,  /* any code but NaN, any scale */
    FAMILY_NARROW /* narrow.h */
} family_t;

/* What is being drawn. */
typedef struct draw {
    test_case_t *made;
    rng_t rng;
    family_t family;
    bool one_scale;                 /* all scales 1 */
    uint8_t *patterns;              /* [PATTERNS][D]: tokens that come again and again */
    int64_t target[CASE_SEQUENCES]; /* final lengths */
    int64_t length[CASE_SEQUENCES]; /* current lengths */
    uint8_t *keys[CASE_SEQUENCES];  /* [capacity][D] */
    float *scales[CASE_SEQUENCES];  /* [capacity] */
} draw_t;

void *test_alloc(int64_t count, size_t size) {
    ck_assert(count >= 0);
    void *memory = calloc((size_t)(count > 0 ? count : 1), size);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---------------------------------------------------------------------------------------------- elements */

static uint8_t draw_code(draw_t *draw) {
    static const uint8_t integers[] = {0x38, 0x40, 0x44, 0x48}; /* 1, 2, 3, 4 */
    const uint8_t sign = rng_chance(&draw->rng, 50) ? 0x80 : 0;
    if (draw->family == FAMILY_NARROW) {
        return narrow_query(&draw->rng);
    }
    if (draw->family == FAMILY_REAL) {
        return (uint8_t)(sign | rng_range(&draw->rng, 0, 0x7e));
    }
    if (rng_chance(&draw->rng, 50)) {
        return rng_chance(&draw->rng, 10) ? sign : 0; /* zeros of both signs */
    }
    return (uint8_t)(sign | integers[rng_range(&draw->rng, 0, 3)]);
}

static float draw_scale(draw_t *draw) {
    if (draw->one_scale) {
        return 1.0f;
    }
    const int exponent = (int)rng_range(&draw->rng, -3, 3);
    return ldexpf(draw->family == FAMILY_EXACT ? 1.0f : 1.0f + rng_unit(&draw->rng), exponent);
}

static float draw_weight(draw_t *draw) {
    if (draw->family != FAMILY_REAL) {
        return (float)rng_range(&draw->rng, -4, 4) * 0.25f;
    }
    return (rng_unit(&draw->rng) - 0.4f) * ldexpf(1.0f, (int)rng_range(&draw->rng, -6, 2));
}

/* Tokens [begin, end) of a sequence, block by block: copies, plateaus and variety. */
static void draw_tokens(draw_t *draw, int32_t sequence, int64_t begin, int64_t end) {
    const int64_t dim = draw->made->config.head_dim;
    const int64_t block = draw->made->config.block_size;
    uint8_t *keys = draw->keys[sequence];
    float *scales = draw->scales[sequence];
    if (draw->family == FAMILY_NARROW) {
        for (int64_t s = begin; s < end; ++s) {
            if (s % block == 0 && s > 0 && end - s >= block && rng_chance(&draw->rng, 40)) { /* as an earlier block */
                const int64_t source = rng_range(&draw->rng, 0, s / block - 1) * block;
                memcpy(keys + s * dim, keys + source * dim, (size_t)(block * dim));
                memcpy(scales + s, scales + source, (size_t)block * sizeof *scales);
                s += block - 1;
            } else {
                narrow_token(&draw->rng, dim, block, s, keys, scales);
            }
        }
        return;
    }
    for (int64_t s = begin; s < end;) {
        const int64_t stop = least(end, (s / block + 1) * block);
        const int kind = (int)rng_range(&draw->rng, 0, 99);
        const int64_t pattern = rng_range(&draw->rng, 0, PATTERNS - 1);
        const int64_t source = s >= block ? s - block * rng_range(&draw->rng, 1, s / block) : -1;
        for (; s < stop; ++s) {
            if (kind < 25 && source >= 0) { /* as an earlier block */
                memcpy(keys + s * dim, keys + (source + s % block - source % block) * dim, (size_t)dim);
                scales[s] = scales[source + s % block - source % block];
                continue;
            }
            scales[s] = draw_scale(draw);
            if (kind < 35) {
                memset(keys + s * dim, 0, (size_t)dim);
            } else if (kind < 45) { /* one token again and again */
                memcpy(keys + s * dim, draw->patterns + pattern * dim, (size_t)dim);
                scales[s] = 1.0f;
            } else if (kind < 70) {
                const int64_t other = rng_range(&draw->rng, 0, PATTERNS - 1);
                memcpy(keys + s * dim, draw->patterns + other * dim, (size_t)dim);
            } else {
                for (int64_t d = 0; d < dim; ++d) {
                    keys[s * dim + d] = draw_code(draw);
                }
            }
        }
    }
}

/* ---------------------------------------------------------------------------------------------- history */

static change_t *add_change(draw_t *draw, change_kind_t kind, int32_t sequence, int64_t position, int64_t tokens) {
    test_case_t *made = draw->made;
    ck_assert_int_lt(made->num_changes, MAX_CHANGES);
    change_t *change = &made->changes[made->num_changes];
    ++made->num_changes;
    *change = (change_t){.kind = kind, .sequence = sequence, .position = position, .tokens = tokens};
    return change;
}

/* Draws the tokens of a change and keeps a copy: later changes may replace them. */
static void add_tokens(draw_t *draw, change_kind_t kind, int32_t sequence, int64_t position, int64_t tokens) {
    const int64_t dim = draw->made->config.head_dim;
    change_t *change = add_change(draw, kind, sequence, position, tokens);
    draw_tokens(draw, sequence, position, position + tokens);
    change->keys = test_alloc(tokens * dim, 1);
    change->scales = test_alloc(tokens, sizeof *change->scales);
    memcpy(change->keys, draw->keys[sequence] + position * dim, (size_t)(tokens * dim));
    memcpy(change->scales, draw->scales[sequence] + position, (size_t)tokens * sizeof *change->scales);
}

static void add_append(draw_t *draw, int32_t sequence) {
    const int64_t left = draw->target[sequence] - draw->length[sequence];
    const int64_t used = draw->made->num_changes;
    int64_t tokens = left;
    if (used < MAX_CHANGES / 2) {
        switch (rng_range(&draw->rng, 0, 3)) {
        case 0:
            tokens = least(left, rng_range(&draw->rng, 0, 3));
            break;
        case 1:
            tokens = least(left, rng_range(&draw->rng, 1, 2 * draw->made->config.block_size));
            break;
        case 2:
            tokens = rng_range(&draw->rng, 1, left);
            break;
        default:
            break;
        }
    }
    add_tokens(draw, CHANGE_APPEND, sequence, draw->length[sequence], tokens);
    draw->length[sequence] += tokens;
}

static void add_truncate(draw_t *draw, int32_t sequence) {
    const int64_t length = draw->length[sequence];
    const int64_t shortest = rng_chance(&draw->rng, 50) ? 0 : (length > 5 ? length - 5 : 0);
    const int64_t position = rng_range(&draw->rng, shortest, length);
    add_change(draw, CHANGE_TRUNCATE, sequence, position, 0);
    draw->length[sequence] = position;
}

static void add_overwrite(draw_t *draw, int32_t sequence) {
    const int64_t size = draw->made->config.block_size;
    const int64_t length = draw->length[sequence];
    const int64_t blocks = (length + size - 1) / size;
    const int64_t first = rng_range(&draw->rng, 0, blocks - 1);
    const int64_t last = rng_chance(&draw->rng, 60) ? first : rng_range(&draw->rng, first, blocks - 1);
    add_tokens(draw, CHANGE_OVERWRITE, sequence, first * size, least((last + 1) * size, length) - first * size);
}

static void draw_history(draw_t *draw) {
    test_case_t *made = draw->made;
    const int32_t sequences = made->config.num_sequences;
    made->changes = test_alloc(MAX_CHANGES, sizeof *made->changes);
    for (;;) {
        int32_t behind = 0; /* sequences that are not complete yet */
        int32_t pick = 0;
        for (int32_t i = 0; i < sequences; ++i) {
            if (draw->length[i] < draw->target[i]) {
                ++behind;
                if (rng_range(&draw->rng, 1, behind) == 1) {
                    pick = i;
                }
            }
        }
        if (behind == 0) {
            break;
        }
        add_append(draw, pick);
        /* Enough room is left to complete every sequence. */
        if (draw->length[pick] > 0 && made->num_changes < MAX_CHANGES / 2 && rng_chance(&draw->rng, 30)) {
            if (rng_chance(&draw->rng, 50)) {
                add_truncate(draw, pick);
            } else {
                add_overwrite(draw, pick);
            }
        }
    }
    for (int32_t i = 0; i < sequences; ++i) {
        if (draw->length[i] > 0 && rng_chance(&draw->rng, 25)) {
            add_truncate(draw, i); /* and nothing after it: the block that is cut stays cut */
        }
        if (draw->family == FAMILY_NARROW && draw->length[i] % 2 != 0) {
            --draw->length[i];
            add_change(draw, CHANGE_TRUNCATE, i, draw->length[i], 0);
        }
        hisa_oracle_keys_t *keys = &made->keys[i];
        *keys = (hisa_oracle_keys_t){.num_tokens = draw->length[i],
                                     .head_dim = made->config.head_dim,
                                     .num_heads = made->config.num_heads,
                                     .block_size = made->config.block_size,
                                     .keys = draw->keys[i],
                                     .scales = draw->scales[i]};
        ck_assert_int_eq(hisa_oracle_pool(keys), HISA_OK);
    }
}

/* ---------------------------------------------------------------------------------------------- shape and options */

static int64_t draw_length(rng_t *rng) {
    const int kind = (int)rng_range(rng, 0, 99);
    if (kind < 8) {
        return rng_range(rng, 0, 1);
    }
    if (kind < 55) {
        return rng_range(rng, 1, 300);
    }
    return kind < 93 ? rng_range(rng, 100, 1200) : rng_range(rng, 1200, 4000);
}

static void draw_config(draw_t *draw, const hisa_index_config_t *shape) {
    rng_t *rng = &draw->rng;
    hisa_index_config_t *config = &draw->made->config;
    hisa_index_config_init(config);
    config->backend = HISA_BACKEND_CPU;
    config->head_dim = (int32_t)(16 * rng_range(rng, 1, rng_chance(rng, 85) ? 4 : 16));
    const int heads = (int)rng_range(rng, 0, 99);
    config->num_heads = (int32_t)(heads < 70 ? rng_range(rng, 1, 9) : rng_range(rng, 1, heads < 90 ? 40 : 128));
    config->block_size = rng_chance(rng, 60) ? 16 : (int32_t)(16 << rng_range(rng, 0, 4));
    if (shape != NULL) {
        config->head_dim = shape->head_dim;
        config->num_heads = shape->num_heads;
        config->block_size = shape->block_size;
    }
    config->num_sequences = rng_chance(rng, 60) ? 1 : (int32_t)rng_range(rng, 2, CASE_SEQUENCES);
    config->capacity = 1;
    for (int32_t i = 0; i < config->num_sequences; ++i) {
        draw->target[i] = draw_length(rng);
        if (config->capacity < draw->target[i]) {
            config->capacity = draw->target[i];
        }
    }
    if (rng_chance(rng, 70)) {
        config->capacity += rng_range(rng, 1, 3 * config->block_size);
    }
    for (int32_t i = 0; i < config->num_sequences; ++i) {
        draw->keys[i] = test_alloc(config->capacity * config->head_dim, 1);
        draw->scales[i] = test_alloc(config->capacity, sizeof(float));
    }
    draw->patterns = test_alloc(PATTERNS * config->head_dim, 1);
    for (int64_t i = 0; i < PATTERNS * config->head_dim; ++i) {
        draw->patterns[i] = draw_code(draw);
    }
}

static void draw_options(draw_t *draw) {
    rng_t *rng = &draw->rng;
    const hisa_index_config_t *config = &draw->made->config;
    hisa_select_options_t *options = &draw->made->options;
    hisa_select_options_init(options);
    const int mode = (int)rng_range(rng, 0, 99);
    options->mode = mode < 60 ? HISA_MODE_HISA : (mode < 85 ? HISA_MODE_FLAT : HISA_MODE_BLOCK);
    options->sink_blocks = (int32_t)rng_range(rng, 0, 3);
    options->local_blocks = (int32_t)rng_range(rng, 0, 3);
    const int64_t kept = options->sink_blocks + options->local_blocks;
    const int64_t blocks = config->capacity / config->block_size + 2;
    const int64_t fewest = kept > 0 ? kept : 1;
    const int64_t most_k = draw->family == FAMILY_NARROW ? 2100 : 700;
    const int64_t most = rng_chance(rng, 75) ? least(fewest + blocks, fewest + 8) : fewest + 2 * blocks;
    options->top_blocks = (int32_t)rng_range(rng, fewest, most);
    int64_t largest = least(options->top_blocks * config->block_size, most_k);
    if (options->mode != HISA_MODE_HISA) {
        options->top_blocks = rng_chance(rng, 50) ? 0 : options->top_blocks; /* not used, so anything goes */
        largest = least(config->capacity + 20, most_k);
    }
    const int kind = (int)rng_range(rng, 0, 99);
    options->top_k = (int32_t)(kind < 10 ? largest : rng_range(rng, 1, kind < 50 ? least(largest, 40) : largest));
}

/* ---------------------------------------------------------------------------------------------- rows */

static void draw_window(rng_t *rng, int64_t length, int64_t block, int32_t *begin, int32_t *end) {
    int64_t a = rng_range(rng, 0, length);
    int64_t b = rng_range(rng, 0, length);
    switch (rng_range(rng, 0, 8)) {
    case 0: /* empty, anywhere */
        b = a;
        break;
    case 1: /* one token */
        a = least(a, length > 0 ? length - 1 : 0);
        b = least(a + 1, length);
        break;
    case 2: /* whole blocks */
        a = a / block * block;
        b = least((b + block - 1) / block * block, length);
        break;
    case 3: /* causal */
    case 4:
        a = 0;
        break;
    case 5: /* all */
    case 6:
        a = 0;
        b = length;
        break;
    default:
        break;
    }
    *begin = (int32_t)least(a, b);
    *end = (int32_t)(a > b ? a : b);
}

static void draw_weights(draw_t *draw, float *weights) {
    const int kind = (int)rng_range(&draw->rng, 0, 99);
    for (int32_t h = 0; h < draw->made->config.num_heads; ++h) {
        const float weight = draw_weight(draw);
        if (kind < 8) {
            weights[h] = rng_chance(&draw->rng, 50) ? -0.0f : 0.0f;
        } else if (kind < 20) {
            weights[h] = -fabsf(weight);
        } else {
            weights[h] = kind < 35 ? fabsf(weight) : weight;
        }
    }
}

static void draw_rows(draw_t *draw) {
    rng_t *rng = &draw->rng;
    test_case_t *made = draw->made;
    const int64_t heads = made->config.num_heads;
    const int64_t dim = made->config.head_dim;
    const int64_t work = draw->family == FAMILY_NARROW ? MAX_SHAPED_WORK : MAX_WORK;
    const int64_t most = work / (made->config.capacity * heads * dim) + 1;
    made->num_rows = least(most, rng_chance(rng, 5) ? 0 : rng_range(rng, 1, rng_chance(rng, 80) ? 12 : 40));
    made->q = test_alloc(made->num_rows * heads * dim, 1);
    made->weights = test_alloc(made->num_rows * heads, sizeof(float));
    made->sequence = test_alloc(made->num_rows, sizeof(int32_t));
    made->window_begin = test_alloc(made->num_rows, sizeof(int32_t));
    made->window_end = test_alloc(made->num_rows, sizeof(int32_t));
    made->default_sequence = rng_chance(rng, 30);
    made->default_begin = rng_chance(rng, 15);
    made->default_end = rng_chance(rng, 15);
    for (int64_t i = 0; i < made->num_rows * heads * dim; ++i) {
        made->q[i] = draw_code(draw);
    }
    for (int64_t t = 0; t < made->num_rows; ++t) {
        const int32_t last = made->default_sequence ? 0 : made->config.num_sequences - 1;
        made->sequence[t] = (int32_t)rng_range(rng, 0, last);
        const int64_t length = draw->length[made->sequence[t]];
        draw_window(rng, length, made->config.block_size, &made->window_begin[t], &made->window_end[t]);
        made->window_begin[t] = made->default_begin ? 0 : made->window_begin[t];
        made->window_end[t] = made->default_end ? (int32_t)length : made->window_end[t];
        draw_weights(draw, made->weights + t * heads);
    }
}

void test_case_expect(test_case_t *made) {
    const int64_t k = made->options.top_k;
    const int64_t heads = made->config.num_heads;
    const int64_t dim = made->config.head_dim;
    made->indices = test_alloc(made->num_rows * k, sizeof(int32_t));
    made->counts = test_alloc(made->num_rows, sizeof(int32_t));
    made->scores = test_alloc(made->num_rows * k, sizeof(float));
    for (int64_t t = 0; t < made->num_rows; ++t) {
        float *scores = made->options.mode == HISA_MODE_BLOCK ? NULL : made->scores + t * k;
        const hisa_status_t status = hisa_oracle_select(
            &made->keys[made->sequence[t]], &made->options, made->q + t * heads * dim, made->weights + t * heads,
            made->window_begin[t], made->window_end[t], made->indices + t * k, scores, &made->counts[t]);
        ck_assert_msg(status == HISA_OK, "seed %llu: %s", (unsigned long long)made->seed, hisa_last_error());
    }
}

void test_case_make(test_case_t *made, uint64_t seed) { test_case_make_shaped(made, seed, NULL); }

void test_case_make_shaped(test_case_t *made, uint64_t seed, const hisa_index_config_t *shape) {
    *made = (test_case_t){.seed = seed};
    draw_t draw = {.made = made, .rng = {seed}};
    draw.family = rng_chance(&draw.rng, 50) ? FAMILY_EXACT : FAMILY_REAL;
    draw.family = shape != NULL ? FAMILY_NARROW : draw.family;
    draw.one_scale = rng_chance(&draw.rng, 25);
    draw_config(&draw, shape);
    draw_history(&draw);
    draw_options(&draw);
    draw_rows(&draw);
    free(draw.patterns);
    test_case_expect(made);
}

void test_case_free(test_case_t *made) {
    for (int64_t i = 0; i < made->num_changes; ++i) {
        free(made->changes[i].keys);
        free(made->changes[i].scales);
    }
    for (int32_t i = 0; i < made->config.num_sequences; ++i) {
        free((void *)(uintptr_t)made->keys[i].keys);
        free((void *)(uintptr_t)made->keys[i].scales);
        hisa_oracle_free(&made->keys[i]);
    }
    free(made->changes);
    free(made->q);
    free(made->weights);
    free(made->sequence);
    free(made->window_begin);
    free(made->window_end);
    free(made->indices);
    free(made->counts);
    free(made->scores);
}

/* ---------------------------------------------------------------------------------------------- use */

hisa_status_t test_change_play(hisa_index_t *index, const change_t *change, int32_t head_dim, int32_t block_size,
                               int rank, hisa_keys_on_t keys_on) {
    if (change->kind == CHANGE_TRUNCATE) {
        return hisa_index_truncate(index, change->sequence, change->position, NULL);
    }
    uint8_t *keys = test_alloc(change->tokens * head_dim, 1);
    float *scales = test_alloc(change->tokens, sizeof *scales);
    int64_t passed = 0;
    for (int64_t i = 0; i < change->tokens; ++i) {
        int owner = rank;
        if (keys_on == HISA_KEYS_LOCAL) {
            ck_assert_int_eq(hisa_index_locate(index, change->sequence, change->position + i, &owner, NULL), HISA_OK);
        }
        if (owner == rank) {
            memcpy(keys + passed * head_dim, change->keys + i * head_dim, (size_t)head_dim);
            scales[passed] = change->scales[i];
            ++passed;
        }
    }
    stage_t stage = {.index = index};
    const void *staged_keys = stage_in(&stage, keys, (size_t)(change->tokens * head_dim));
    const float *staged_scales = stage_in(&stage, scales, (size_t)change->tokens * sizeof *scales);
    hisa_status_t status = HISA_OK;
    if (change->kind == CHANGE_APPEND) {
        status = hisa_index_append(index, change->sequence, change->tokens, staged_keys, staged_scales, keys_on, NULL);
    } else {
        const int64_t first = change->position / block_size;
        const int64_t blocks = (change->tokens + block_size - 1) / block_size;
        status =
            hisa_index_overwrite(index, change->sequence, first, blocks, staged_keys, staged_scales, keys_on, NULL);
    }
    stage_end(&stage); /* waits for what reads it */
    free(keys);
    free(scales);
    return status;
}

hisa_status_t test_case_play(const test_case_t *made, hisa_index_t *index, int rank, hisa_keys_on_t keys_on) {
    for (int64_t i = 0; i < made->num_changes; ++i) {
        const hisa_status_t status =
            test_change_play(index, &made->changes[i], made->config.head_dim, made->config.block_size, rank, keys_on);
        if (status != HISA_OK) {
            return status;
        }
    }
    return HISA_OK;
}

hisa_queries_t test_case_queries(const test_case_t *made, int64_t first, int64_t count) {
    const int64_t heads = made->config.num_heads;
    hisa_queries_t queries;
    hisa_queries_init(&queries);
    queries.num_rows = count;
    queries.q = made->q + first * heads * made->config.head_dim;
    queries.weights = made->weights + first * heads;
    queries.sequence = made->default_sequence ? NULL : made->sequence + first;
    queries.window_begin = made->default_begin ? NULL : made->window_begin + first;
    queries.window_end = made->default_end ? NULL : made->window_end + first;
    return queries;
}
