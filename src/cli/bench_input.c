#include "cli/bench_input.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "backend/e4m3.h"
#include "base/checked.h"
#include "base/error.h"
#include "cli/staging.h"

/* Tokens, or rows, that a thread makes at a time. */
#define PIECE_TOKENS 1024
#define PIECE_ROWS 8

/* More gain nothing: where queries are as small as that, keys are all that counts. */
#define MOST_SETS 64

void bench_input_close(bench_input_t *input) {
    hisa_trace_close(&input->trace);
    free(input->q);
    free(input->weights);
    free(input->windows);
    free(input->sequence);
    *input = (bench_input_t){0};
}

/* ------------------------------------------------------------------------------------------- made up */

/* 64 random bits; splitmix64 (Steele, Lea, Flood 2014). */
static uint64_t draw(uint64_t *state) {
    uint64_t x = *state += 0x9e3779b97f4a7c15U;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

/* A row that looks for nothing: elements are sums of four bytes (about normal, rms 37), one head in eight weighs
 * negatively. A function of the seed and the row alone. */
static void random_row(const hisa_synth_config_t *config, int64_t row, uint8_t *q, float *weights) {
    uint64_t state = config->seed * 0xd1342543de82ef95U + (uint64_t)row * 0x2545f4914f6cdd1dU;
    for (int64_t i = 0; i < (int64_t)config->num_heads * config->head_dim; i += 2) {
        const uint64_t bits = draw(&state);
        for (int j = 0; j < 2; j++) {
            const uint32_t four = (uint32_t)(bits >> (32 * j));
            const int sum = (int)((four & 0xff) + (four >> 8 & 0xff) + (four >> 16 & 0xff) + (four >> 24)) - 510;
            q[i + j] = hisa_e4m3_from_float((float)sum * 0.25F);
        }
    }
    for (int32_t h = 0; h < config->num_heads; h++) {
        const uint64_t bits = draw(&state);
        const float weight = (float)(32 + (bits >> 8) % 96) / 128.0F;
        weights[h] = (bits & 7) == 0 ? -weight : weight;
    }
}

static void make_rows(const bench_source_t *source, bench_input_t *input, int64_t count, int32_t *windows) {
    const hisa_synth_config_t *config = &input->synth;
    const int64_t heads = config->num_heads;
#if defined(HISA_HAVE_OPENMP)
#pragma omp parallel for num_threads(source->threads) schedule(dynamic)
#endif
    for (int64_t begin = 0; begin < count; begin += PIECE_ROWS) {
        const int64_t rows = hisa_min(PIECE_ROWS, count - begin);
        uint8_t *q = input->q + begin * heads * config->head_dim;
        float *weights = input->weights + begin * heads;
        hisa_synth_rows(config, begin, rows, q, weights, windows + begin, windows + count + begin, NULL);
        for (int64_t r = 0; source->random_queries && r < rows; r++) {
            random_row(config, begin + r, q + r * heads * config->head_dim, weights + r * heads);
        }
    }
}

/* Sets that can be had: those that l2_bytes ask for, as long as the needles of all their rows fit. */
static int64_t choose_sets(const bench_source_t *source, const hisa_synth_config_t *config) {
    if (source->sets > 0 || source->l2_bytes == 0) {
        return hisa_max(1, source->sets);
    }
    const int64_t bytes = config->num_rows * config->num_heads * (config->head_dim + (int64_t)sizeof(float));
    int64_t sets = hisa_min(MOST_SETS, 1 + hisa_ceil_div(source->l2_bytes, hisa_max(1, bytes)));
    hisa_synth_config_t all = *config;
    for (; sets > 1; sets--) {
        all.num_rows = config->num_rows * sets;
        if (hisa_synth_check(&all) == HISA_OK) {
            break;
        }
    }
    return sets;
}

static hisa_status_t allocate(bench_input_t *input, int64_t count, bool sequences, int32_t **scratch) {
    const size_t rows = (size_t)count;
    const size_t heads = (size_t)input->synth.num_heads;
    input->q = calloc((rows + 1) * heads, (size_t)input->synth.head_dim);
    input->weights = calloc((rows + 1) * heads, sizeof(float));
    input->windows = calloc(rows + 1, 2 * sizeof(int32_t));
    input->sequence = sequences ? calloc(rows + 1, sizeof(int32_t)) : NULL;
    *scratch = calloc(rows + 1, 2 * sizeof(int32_t));
    if (input->q == NULL || input->weights == NULL || input->windows == NULL || *scratch == NULL ||
        (sequences && input->sequence == NULL)) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for %" PRId64 " synthetic rows", count);
    }
    return HISA_OK;
}

/* Windows of one set: in each sequence those that its rows would have if there were no others. */
static void set_windows(const hisa_synth_config_t *config, bench_input_t *input, int64_t rows, int32_t *scratch) {
    hisa_synth_config_t alone = *config;
    alone.num_rows = input->rows_per_sequence;
    alone.num_needles = 0;
    const int64_t heads = config->num_heads;
    const int64_t part = input->rows_per_sequence;
    int32_t *begins = scratch;
    int32_t *ends = scratch + part;
    /* Only the windows are wanted: the row goes where another one will be written. */
    for (int64_t r = 0; r < part; r++) {
        hisa_synth_rows(&alone, r, 1, input->q + rows * heads * config->head_dim, input->weights + rows * heads,
                        begins + r, ends + r, NULL);
    }
    for (int64_t r = 0; r < rows; r++) {
        input->windows[r] = begins[r % part];
        input->windows[rows + r] = ends[r % part];
        if (input->sequence != NULL) {
            input->sequence[r] = (int32_t)(r / part);
        }
    }
}

/* Rows of all sets come from one configuration, whose keys hold the needles of all; their windows are those of a set by
 * itself, as sets stand for calls at one and the same place. */
static hisa_status_t make_input(const bench_source_t *source, bench_input_t *input) {
    const hisa_synth_config_t *config = &source->synth;
    const int32_t sequences = source->options->sequences;
    hisa_status_t status = hisa_synth_check(config);
    if (status != HISA_OK) {
        return status;
    }
    const int64_t rows = config->num_rows;
    input->sets = choose_sets(source, config);
    input->synth = *config;
    if (!hisa_mul(rows, input->sets, &input->synth.num_rows)) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "%" PRId64 " sets of %" PRId64 " rows do not fit in memory", input->sets,
                         rows);
    }
    status = hisa_synth_check(&input->synth);
    int32_t *scratch = NULL;
    if (status == HISA_OK) {
        status = allocate(input, input->synth.num_rows, sequences > 1, &scratch);
    }
    if (status == HISA_OK) {
        input->rows_per_sequence = hisa_max(1, rows / sequences);
        input->tokens = config->num_tokens;
        const bool alone = input->sets == 1 && sequences == 1;
        if (!alone) {
            set_windows(config, input, rows, scratch);
        }
        make_rows(source, input, input->synth.num_rows, alone ? input->windows : scratch);
        input->rows = (cli_rows_t){.count = rows,
                                   .num_heads = config->num_heads,
                                   .head_dim = config->head_dim,
                                   .q = input->q,
                                   .weights = input->weights,
                                   .sequence = input->sequence,
                                   .window_begin = input->windows,
                                   .window_end = input->windows + rows};
    }
    free(scratch);
    return status;
}

/* ------------------------------------------------------------------------------------------- either */

hisa_status_t bench_input_open(cli_session_t *session, const bench_source_t *source, bench_input_t *input) {
    *input = (bench_input_t){0};
    if (source->options->keys == NULL) {
        return cli_session_agree(session, make_input(source, input));
    }
    const hisa_status_t status = cli_trace_open(session, source->options, &input->trace);
    if (status == HISA_OK) {
        input->rows = cli_trace_rows(&input->trace);
        input->tokens = input->trace.num_tokens;
        input->sets = 1;
        if (source->rows_given) {
            input->rows.count = hisa_min(input->rows.count, source->synth.num_rows);
        }
        input->rows_per_sequence = hisa_max(1, input->rows.count);
    }
    return status;
}

cli_rows_t bench_input_set(const bench_input_t *input, int64_t set) {
    cli_rows_t rows = input->rows;
    rows.q += set * rows.count * rows.num_heads * rows.head_dim;
    rows.weights += set * rows.count * rows.num_heads;
    return rows;
}

/* Tokens [begin, begin + count) of a synthetic sequence. */
static void make_keys(const bench_source_t *source, const bench_input_t *input, int64_t begin, int64_t count,
                      uint8_t *keys, float *scales) {
    const int64_t dim = input->synth.head_dim;
    (void)source; /* without OpenMP */
#if defined(HISA_HAVE_OPENMP)
#pragma omp parallel for num_threads(source->threads) schedule(dynamic)
#endif
    for (int64_t at = 0; at < count; at += PIECE_TOKENS) {
        hisa_synth_keys(&input->synth, begin + at, hisa_min(PIECE_TOKENS, count - at), keys + at * dim, scales + at);
    }
}

static hisa_status_t fill_synthetic(const cli_session_t *session, const bench_source_t *source,
                                    const bench_input_t *input, hisa_index_t *index) {
    const int64_t asked = source->options->append_chunk;
    const int64_t chunk = hisa_min(input->tokens, asked > 0 ? asked : CLI_APPEND_CHUNK);
    uint8_t *keys = calloc((size_t)chunk, (size_t)input->synth.head_dim);
    float *scales = calloc((size_t)chunk, sizeof *scales);
    hisa_status_t status = HISA_OK;
    if (keys == NULL || scales == NULL) {
        status = hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for %" PRId64 " synthetic keys", chunk);
    }
    cli_progress_t progress;
    cli_progress_begin(&progress, session, "make and append keys", input->tokens);
    for (int64_t at = 0; at < input->tokens && status == HISA_OK; at += chunk) {
        const int64_t count = hisa_min(chunk, input->tokens - at);
        make_keys(source, input, at, count, keys, scales);
        for (int32_t s = 0; s < source->options->sequences && status == HISA_OK; s++) {
            status = cli_staged_append(index, s, count, keys, scales);
        }
        cli_progress_update(&progress, at + count);
    }
    cli_progress_end(&progress);
    free(keys);
    free(scales);
    return status;
}

hisa_status_t bench_input_fill(const cli_session_t *session, const bench_source_t *source, const bench_input_t *input,
                               hisa_index_t *index) {
    return source->options->keys != NULL ? cli_index_fill(session, source->options, &input->trace, index)
                                         : fill_synthetic(session, source, input, index);
}

void bench_input_keys(const bench_source_t *source, const bench_input_t *input, int64_t count, uint8_t *keys,
                      float *scales) {
    if (source->options->keys == NULL) {
        make_keys(source, input, 0, count, keys, scales);
        return;
    }
    memcpy(keys, input->trace.keys, (size_t)(count * input->rows.head_dim));
    memcpy(scales, input->trace.key_scales, (size_t)count * sizeof *scales);
}
