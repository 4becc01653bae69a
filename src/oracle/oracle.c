#include "oracle/oracle.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

enum {
    E4M3_NAN = 0x7f,
    E4M3_LARGEST = 0x7e, /* 448 */
    E4M3_CODES = 256,
    MAX_HEAD_DIM = 256,
    MAX_HEADS = 128,
    TILE = 32 /* tokens scored side by side, so that the compiler may vectorise over them; no sum runs across them */
};

static const float SMALLEST_POOLED_SCALE = 1e-10f;

/* ---------------------------------------------------------------------------------------------- e4m3 */

/* One sign bit, four exponent bits with bias 7, three mantissa bits. Exponent 0 has no hidden bit. No infinities; all
 * ones is NaN. */
float hisa_oracle_e4m3_to_float(uint8_t code) {
    const int sign = code >> 7;
    const int exponent = (code >> 3) & 15;
    const int mantissa = code & 7;
    float magnitude = 0.0f;
    if (exponent == 15 && mantissa == 7) {
        magnitude = NAN;
    } else if (exponent == 0) {
        magnitude = ldexpf((float)mantissa, -6 - 3);
    } else {
        magnitude = ldexpf((float)(8 + mantissa), exponent - 7 - 3);
    }
    return sign != 0 ? -magnitude : magnitude;
}

uint8_t hisa_oracle_e4m3_from_float(float x) {
    if (isnan(x)) {
        return E4M3_NAN;
    }
    const int sign = signbit(x) != 0 ? 0x80 : 0;
    const double magnitude = fabs((double)x);
    /* Magnitudes rise with their codes: the last one that is not above x and its successor are the neighbours of x. */
    int below = 0;
    int end = E4M3_LARGEST + 1;
    while (end - below > 1) {
        const int middle = (below + end) / 2;
        if ((double)hisa_oracle_e4m3_to_float((uint8_t)middle) <= magnitude) {
            below = middle;
        } else {
            end = middle;
        }
    }
    if (below == E4M3_LARGEST) {
        return (uint8_t)(sign | E4M3_LARGEST);
    }
    const int above = below + 1;
    const double down = magnitude - (double)hisa_oracle_e4m3_to_float((uint8_t)below);
    const double up = (double)hisa_oracle_e4m3_to_float((uint8_t)above) - magnitude;
    const int even = below % 2 == 0 ? below : above;
    const int nearest = down < up ? below : (up < down ? above : even);
    return (uint8_t)(sign | nearest);
}

static void fill_values(float values[E4M3_CODES]) {
    for (int code = 0; code < E4M3_CODES; ++code) {
        values[code] = hisa_oracle_e4m3_to_float((uint8_t)code);
    }
}

/* ---------------------------------------------------------------------------------------------- pooled keys */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t block_count(const hisa_oracle_keys_t *keys) {
    return (keys->num_tokens + keys->block_size - 1) / keys->block_size;
}

static void pool_block(hisa_oracle_keys_t *keys, const float values[E4M3_CODES], int64_t block) {
    const int64_t dim = keys->head_dim;
    const int64_t begin = block * keys->block_size;
    const int64_t end = smaller(begin + keys->block_size, keys->num_tokens);
    float mean[MAX_HEAD_DIM];
    float largest = 0.0f;
    for (int64_t d = 0; d < dim; ++d) {
        float sum = 0.0f;
        for (int64_t s = begin; s < end; ++s) {
            sum += keys->scales[s] * values[keys->keys[s * dim + d]];
        }
        mean[d] = sum / (float)(end - begin);
        if (fabsf(mean[d]) > largest) { /* false for NaN */
            largest = fabsf(mean[d]);
        }
    }
    float scale = largest / 448.0f;
    if (scale < SMALLEST_POOLED_SCALE) {
        scale = SMALLEST_POOLED_SCALE;
    }
    for (int64_t d = 0; d < dim; ++d) {
        keys->pooled[block * dim + d] = hisa_oracle_e4m3_from_float(mean[d] / scale);
    }
    keys->pooled_scale[block] = scale;
}

static hisa_status_t check_keys(const hisa_oracle_keys_t *keys) {
    if (keys->num_tokens < 0 || keys->num_tokens > INT32_MAX || keys->block_size < 1 || keys->head_dim < 1 ||
        keys->head_dim > MAX_HEAD_DIM || keys->num_heads < 1 || keys->num_heads > MAX_HEADS) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "reference: %lld tokens, D %d, H %d, B %d",
                         (long long)keys->num_tokens, keys->head_dim, keys->num_heads, keys->block_size);
    }
    return HISA_OK;
}

hisa_status_t hisa_oracle_pool(hisa_oracle_keys_t *keys) {
    keys->pooled = NULL;
    keys->pooled_scale = NULL;
    const hisa_status_t status = check_keys(keys);
    if (status != HISA_OK) {
        return status;
    }
    const int64_t blocks = block_count(keys);
    /* One more than needed, as a sequence without tokens is no failure. */
    keys->pooled = malloc((size_t)(blocks * keys->head_dim + 1));
    keys->pooled_scale = malloc((size_t)(blocks + 1) * sizeof *keys->pooled_scale);
    if (keys->pooled == NULL || keys->pooled_scale == NULL) {
        hisa_oracle_free(keys);
        return hisa_fail(HISA_ERR_NO_MEMORY, "reference: no memory for %lld pooled keys", (long long)blocks);
    }
    float values[E4M3_CODES];
    fill_values(values);
    for (int64_t b = 0; b < blocks; ++b) {
        pool_block(keys, values, b);
    }
    return HISA_OK;
}

void hisa_oracle_free(hisa_oracle_keys_t *keys) {
    if (keys != NULL) {
        free(keys->pooled);
        free(keys->pooled_scale);
        keys->pooled = NULL;
        keys->pooled_scale = NULL;
    }
}

/* ---------------------------------------------------------------------------------------------- scores */

/* A query row, decoded. */
typedef struct row {
    int64_t dim;
    int64_t heads;
    const float *weights;
    float values[E4M3_CODES];
    float q[MAX_HEADS * MAX_HEAD_DIM]; /* [H][D] */
} row_t;

/* Scores of `count` <= TILE keys. */
static void score_tile(const row_t *row, const uint8_t *codes, const float *scales, int64_t count, float *scores) {
    float key[MAX_HEAD_DIM][TILE];
    float sum[TILE] = {0};
    for (int64_t d = 0; d < row->dim; ++d) {
        for (int64_t s = 0; s < TILE; ++s) {
            key[d][s] = s < count ? row->values[codes[s * row->dim + d]] : 0.0f;
        }
    }
    for (int64_t h = 0; h < row->heads; ++h) {
        float dot[TILE] = {0};
        for (int64_t d = 0; d < row->dim; ++d) {
            const float q = row->q[h * row->dim + d];
            for (int64_t s = 0; s < TILE; ++s) {
                dot[s] += q * key[d][s];
            }
        }
        for (int64_t s = 0; s < TILE; ++s) {
            sum[s] += row->weights[h] * (dot[s] > 0.0f ? dot[s] : 0.0f);
        }
    }
    for (int64_t s = 0; s < count; ++s) {
        scores[s] = scales[s] * sum[s];
    }
}

/* Scores of keys [begin, end) of an array of keys, tokens or pooled ones. */
static void score_keys(const row_t *row, const uint8_t *codes, const float *scales, int64_t begin, int64_t end,
                       float *scores) {
    for (int64_t s = begin; s < end; s += TILE) {
        score_tile(row, codes + s * row->dim, scales + s, smaller(TILE, end - s), scores + (s - begin));
    }
}

/* ---------------------------------------------------------------------------------------------- order */

typedef struct item {
    float score;
    int32_t place; /* position of a token, or number of a block */
    bool first;    /* a block that is always kept: before all that are not, in ascending place */
} item_t;

/* The total order of README.md. */
static int compare_by_order(const void *left, const void *right) {
    const item_t *a = left;
    const item_t *b = right;
    if (a->first != b->first) {
        return a->first ? -1 : 1;
    }
    if (!a->first) {
        const bool a_nan = isnan(a->score);
        const bool b_nan = isnan(b->score);
        if (a_nan != b_nan) {
            return a_nan ? 1 : -1;
        }
        if (a->score > b->score) {
            return -1;
        }
        if (a->score < b->score) {
            return 1;
        }
    }
    return (a->place > b->place) - (a->place < b->place);
}

static int compare_by_place(const void *left, const void *right) {
    const item_t *a = left;
    const item_t *b = right;
    return (a->place > b->place) - (a->place < b->place);
}

/* ---------------------------------------------------------------------------------------------- selection */

/* What one selection works on. */
typedef struct task {
    const hisa_oracle_keys_t *keys;
    const hisa_select_options_t *options;
    int64_t ks;
    int64_t ke;
    row_t *row;
    item_t *blocks; /* those in sight, at most block_count(keys) */
    item_t *tokens; /* candidates, then the selection: at most ke - ks */
    float *scores;  /* scratch, the larger of both */
} task_t;

/* The blocks in sight, in the order in which they are kept. Returns how many. */
static int64_t order_blocks(const task_t *task) {
    const hisa_oracle_keys_t *keys = task->keys;
    const int64_t size = keys->block_size;
    const int64_t begin = task->ks / size;
    const int64_t end = task->ks < task->ke ? (task->ke + size - 1) / size : begin;
    score_keys(task->row, keys->pooled, keys->pooled_scale, begin, end, task->scores);
    for (int64_t b = begin; b < end; ++b) {
        const bool sink = b - begin < task->options->sink_blocks;
        const bool local = end - b <= task->options->local_blocks;
        task->blocks[b - begin] = (item_t){task->scores[b - begin], (int32_t)b, sink || local};
    }
    qsort(task->blocks, (size_t)(end - begin), sizeof *task->blocks, compare_by_order);
    return end - begin;
}

/* Adds the tokens of [begin, end) that are in sight to `count` candidates; returns their new number. */
static int64_t add_tokens(const task_t *task, int64_t begin, int64_t end, int64_t count) {
    for (int64_t s = begin; s < end; ++s) {
        if (s >= task->ks && s < task->ke) {
            task->tokens[count] = (item_t){0.0f, (int32_t)s, false};
            ++count;
        }
    }
    return count;
}

/* The first k of the candidates by score. Returns how many. */
static int64_t select_by_score(const task_t *task, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
        /* Neighbours are scored together; a score depends on its own pair alone, so this is only quicker. */
        int64_t run = 1;
        const int64_t s = task->tokens[i].place;
        while (i + run < count && task->tokens[i + run].place == s + run) {
            ++run;
        }
        score_keys(task->row, task->keys->keys, task->keys->scales, s, s + run, task->scores);
        for (int64_t j = 0; j < run; ++j) {
            task->tokens[i + j].score = task->scores[j];
        }
        i += run - 1;
    }
    qsort(task->tokens, (size_t)count, sizeof *task->tokens, compare_by_order);
    return smaller(count, task->options->top_k);
}

static int64_t select_hisa(const task_t *task) {
    const int64_t size = task->keys->block_size;
    const int64_t kept = smaller(order_blocks(task), task->options->top_blocks);
    int64_t count = 0;
    for (int64_t i = 0; i < kept; ++i) {
        const int64_t begin = task->blocks[i].place * size;
        count = add_tokens(task, begin, begin + size, count);
    }
    return select_by_score(task, count);
}

static int64_t select_flat(const task_t *task) {
    return select_by_score(task, add_tokens(task, task->ks, task->ke, 0));
}

static int64_t select_block(const task_t *task) {
    const int64_t size = task->keys->block_size;
    const int64_t blocks = order_blocks(task);
    int64_t count = 0;
    for (int64_t i = 0; i < blocks && count < task->options->top_k; ++i) {
        const int64_t begin = task->blocks[i].place * size;
        count = add_tokens(task, begin, begin + size, count);
    }
    return smaller(count, task->options->top_k);
}

/* A score as the order sees it, so that results compare as bytes: -0 becomes +0, any NaN the positive quiet one. */
static float plain_score(float score) {
    if (isnan(score)) {
        return NAN;
    }
    return score == 0.0f ? 0.0f : score;
}

static void write_out(const task_t *task, int64_t selected, int32_t *indices, float *scores, int32_t *count) {
    qsort(task->tokens, (size_t)selected, sizeof *task->tokens, compare_by_place);
    for (int64_t i = 0; i < task->options->top_k; ++i) {
        indices[i] = i < selected ? task->tokens[i].place : -1;
        if (scores != NULL) {
            scores[i] = i < selected ? plain_score(task->tokens[i].score) : 0.0f;
        }
    }
    *count = (int32_t)selected;
}

static void decode_row(row_t *row, const hisa_oracle_keys_t *keys, const uint8_t *q, const float *w) {
    row->dim = keys->head_dim;
    row->heads = keys->num_heads;
    row->weights = w;
    fill_values(row->values);
    for (int64_t i = 0; i < row->heads * row->dim; ++i) {
        row->q[i] = hisa_oracle_e4m3_to_float(q[i]);
    }
}

hisa_status_t hisa_oracle_select(const hisa_oracle_keys_t *keys, const hisa_select_options_t *options, const uint8_t *q,
                                 const float *w, int64_t ks, int64_t ke, int32_t *indices, float *scores,
                                 int32_t *count) {
    hisa_status_t status = check_keys(keys);
    if (status != HISA_OK) {
        return status;
    }
    if (ks < 0 || ks > ke || ke > keys->num_tokens || options->top_k < 1 ||
        (options->mode == HISA_MODE_BLOCK && scores != NULL)) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "reference: window [%lld, %lld), top_k %d, mode %d", (long long)ks,
                         (long long)ke, options->top_k, (int)options->mode);
    }
    task_t task = {.keys = keys, .options = options, .ks = ks, .ke = ke};
    /* One more than needed, as an empty window is no failure. */
    const size_t room = (size_t)(ke - ks) + 1;
    task.row = malloc(sizeof *task.row);
    task.blocks = malloc(room * sizeof *task.blocks);
    task.tokens = malloc(room * sizeof *task.tokens);
    task.scores = calloc(room, sizeof *task.scores);
    if (task.row == NULL || task.blocks == NULL || task.tokens == NULL || task.scores == NULL) {
        status = hisa_fail(HISA_ERR_NO_MEMORY, "reference: no memory for %lld candidates", (long long)(ke - ks));
        goto cleanup;
    }
    decode_row(task.row, keys, q, w);
    int64_t selected = 0;
    switch (options->mode) {
    case HISA_MODE_HISA:
        selected = select_hisa(&task);
        break;
    case HISA_MODE_FLAT:
        selected = select_flat(&task);
        break;
    case HISA_MODE_BLOCK:
        selected = select_block(&task);
        break;
    }
    write_out(&task, selected, indices, scores, count);
cleanup:
    free(task.row);
    free(task.blocks);
    free(task.tokens);
    free(task.scores);
    return status;
}
