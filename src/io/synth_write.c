/* A synthetic trace as two files. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "io/safetensors.h"
#include "io/synth_internal.h"

/* Bytes of codes made at a time. */
#define PIECE_BYTES ((int64_t)4 << 20)

/* The config as metadata, so that a file says how to make it again. */
enum { NUM_METADATA = 9, VALUE_BYTES = 24 };
typedef struct metadata {
    char values[NUM_METADATA][VALUE_BYTES];
    const char *pairs[2 * NUM_METADATA];
} metadata_t;

static void describe(const hisa_synth_config_t *config, metadata_t *metadata) {
    static const char *const names[NUM_METADATA] = {"generator", "family",      "num_tokens", "num_rows", "head_dim",
                                                    "num_heads", "num_needles", "neighbours", "seed"};
    const int64_t numbers[] = {config->num_tokens, config->num_rows,    config->head_dim,
                               config->num_heads,  config->num_needles, config->neighbours};
    /* The number after "synth" is that of the algorithm: it must change when the bytes do. */
    snprintf(metadata->values[0], VALUE_BYTES, "hisa synth 1");
    snprintf(metadata->values[1], VALUE_BYTES, "%s", config->family == HISA_SYNTH_EXACT ? "exact" : "drift");
    for (int i = 0; i < 6; ++i) {
        snprintf(metadata->values[2 + i], VALUE_BYTES, "%" PRId64, numbers[i]);
    }
    snprintf(metadata->values[8], VALUE_BYTES, "%" PRIu64, config->seed);
    for (size_t i = 0; i < NUM_METADATA; ++i) {
        metadata->pairs[2 * i] = names[i];
        metadata->pairs[2 * i + 1] = metadata->values[i];
    }
}

/* ---------------------------------------------------------------------------------------------- keys */

static hisa_status_t create_keys(const hisa_synth_config_t *config, const metadata_t *metadata, const char *path,
                                 hisa_safetensors_writer_t **writer) {
    const hisa_tensor_spec_t specs[] = {
        {"k", HISA_DTYPE_F8_E4M3, 2, {config->num_tokens, config->head_dim}},
        {"k_scale", HISA_DTYPE_F32, 1, {config->num_tokens}},
    };
    return hisa_safetensors_create(path, specs, 2, metadata->pairs, NUM_METADATA, writer);
}

static hisa_status_t write_keys(const hisa_synth_config_t *config, hisa_safetensors_writer_t *writer) {
    const int64_t dim = config->head_dim;
    const int64_t piece = hisa_min(PIECE_BYTES / dim, config->num_tokens);
    const int64_t width = (int64_t)sizeof(float);
    hisa_status_t status = HISA_OK;
    uint8_t *keys = malloc((size_t)(piece * dim));
    float *scales = malloc((size_t)(piece * width));
    if (keys == NULL || scales == NULL) {
        status = hisa_fail(HISA_ERR_NO_MEMORY, "no memory for %" PRId64 " keys", piece);
        goto cleanup;
    }
    for (int64_t begin = 0; begin < config->num_tokens && status == HISA_OK; begin += piece) {
        const int64_t count = hisa_min(piece, config->num_tokens - begin);
        hisa_synth_keys(config, begin, count, keys, scales);
        status = hisa_safetensors_write(writer, 0, begin * dim, keys, count * dim);
        if (status == HISA_OK) {
            status = hisa_safetensors_write(writer, 1, begin * width, scales, count * width);
        }
    }
cleanup:
    free(keys);
    free(scales);
    return status;
}

/* ---------------------------------------------------------------------------------------------- queries */

/* The tensors of the queries file: elements of a row, width of an element, and memory for a piece. */
enum { Q, WEIGHTS, WINDOW_BEGIN, WINDOW_END, NEEDLES, NUM_TENSORS };
typedef struct columns {
    int count; /* 4 without needles */
    int64_t row_bytes[NUM_TENSORS];
    void *data[NUM_TENSORS];
} columns_t;

static int tensors_of(const hisa_synth_config_t *config) {
    return config->family == HISA_SYNTH_DRIFT && config->num_needles > 0 ? NUM_TENSORS : NUM_TENSORS - 1;
}

static hisa_status_t create_queries(const hisa_synth_config_t *config, const metadata_t *metadata, const char *path,
                                    hisa_safetensors_writer_t **writer) {
    const int64_t rows = config->num_rows;
    const hisa_tensor_spec_t specs[NUM_TENSORS] = {
        [Q] = {"q", HISA_DTYPE_F8_E4M3, 3, {rows, config->num_heads, config->head_dim}},
        [WEIGHTS] = {"weights", HISA_DTYPE_F32, 2, {rows, config->num_heads}},
        [WINDOW_BEGIN] = {"cu_seqlen_ks", HISA_DTYPE_I32, 1, {rows}},
        [WINDOW_END] = {"cu_seqlen_ke", HISA_DTYPE_I32, 1, {rows}},
        [NEEDLES] = {"needles", HISA_DTYPE_I32, 2, {rows, config->num_needles}},
    };
    return hisa_safetensors_create(path, specs, tensors_of(config), metadata->pairs, NUM_METADATA, writer);
}

static hisa_status_t write_pieces(const hisa_synth_config_t *config, hisa_safetensors_writer_t *writer,
                                  const columns_t *columns, int64_t piece) {
    for (int64_t begin = 0; begin < config->num_rows; begin += piece) {
        const int64_t count = hisa_min(piece, config->num_rows - begin);
        hisa_synth_rows(config, begin, count, columns->data[Q], columns->data[WEIGHTS], columns->data[WINDOW_BEGIN],
                        columns->data[WINDOW_END], columns->data[NEEDLES]);
        for (int i = 0; i < columns->count; ++i) {
            const int64_t bytes = columns->row_bytes[i];
            const hisa_status_t status =
                hisa_safetensors_write(writer, i, begin * bytes, columns->data[i], count * bytes);
            if (status != HISA_OK) {
                return status;
            }
        }
    }
    return HISA_OK;
}

static hisa_status_t write_queries(const hisa_synth_config_t *config, hisa_safetensors_writer_t *writer) {
    const int64_t heads = config->num_heads;
    const int64_t width = 4; /* of f32 and of i32 */
    const int64_t widest = hisa_max(heads * config->head_dim, width * config->num_needles);
    const int64_t piece = hisa_max(PIECE_BYTES / widest, 1);
    columns_t columns = {
        .count = tensors_of(config),
        .row_bytes = {heads * config->head_dim, heads * width, width, width, config->num_needles * width},
    };
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < columns.count; ++i) {
        columns.data[i] = malloc((size_t)(piece * columns.row_bytes[i]));
        if (columns.data[i] == NULL) {
            status = hisa_fail(HISA_ERR_NO_MEMORY, "no memory for %" PRId64 " rows", piece);
            goto cleanup;
        }
    }
    status = write_pieces(config, writer, &columns, piece);
cleanup:
    for (int i = 0; i < NUM_TENSORS; ++i) {
        free(columns.data[i]);
    }
    return status;
}

/* ---------------------------------------------------------------------------------------------- both */

hisa_status_t hisa_synth_write(const hisa_synth_config_t *config, const char *keys_path, const char *queries_path) {
    hisa_status_t status = hisa_synth_check(config);
    if (status != HISA_OK) {
        return status;
    }
    if (keys_path == NULL || queries_path == NULL || strcmp(keys_path, queries_path) == 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "keys and queries need a file each");
    }
    hisa_safetensors_writer_t *keys = NULL;
    hisa_safetensors_writer_t *queries = NULL;
    metadata_t metadata = {0};
    describe(config, &metadata);
    /* Both are created before either is filled: lack of space is found first. */
    status = create_keys(config, &metadata, keys_path, &keys);
    if (status == HISA_OK) {
        status = create_queries(config, &metadata, queries_path, &queries);
    }
    if (status == HISA_OK) {
        status = write_keys(config, keys);
    }
    if (status == HISA_OK) {
        status = write_queries(config, queries);
    }
    if (status == HISA_OK) {
        status = hisa_safetensors_commit(keys);
        keys = NULL;
    }
    if (status == HISA_OK) {
        status = hisa_safetensors_commit(queries);
        queries = NULL;
    }
    hisa_safetensors_abandon(keys);
    hisa_safetensors_abandon(queries);
    return status;
}
