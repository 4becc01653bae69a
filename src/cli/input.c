#include "cli/input.h"

#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "base/error.h"
#include "cli/staging.h"

/* FNV-1a, 64 bit (http://www.isthe.com/chongo/tech/comp/fnv/): good enough to tell two files apart by accident. */
#define FNV_OFFSET UINT64_C(0xcbf29ce484222325)
#define FNV_PRIME UINT64_C(0x100000001b3)

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes) {
    const unsigned char *byte = data;
    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ byte[i]) * FNV_PRIME;
    }
    return hash;
}

/* A hash of samples spread over an array: reading all of it on every rank only to compare would cost more than it
 * finds. */
static uint64_t hash_samples(uint64_t hash, const void *data, int64_t bytes) {
    enum { SAMPLES = 64, SAMPLE_BYTES = 256 };
    if (data == NULL || bytes <= (int64_t)SAMPLES * SAMPLE_BYTES) {
        return hash_bytes(hash, data, data == NULL ? 0 : (size_t)bytes);
    }
    const int64_t step = (bytes - SAMPLE_BYTES) / (SAMPLES - 1);
    for (int64_t i = 0; i < SAMPLES; i++) {
        hash = hash_bytes(hash, (const char *)data + i * step, SAMPLE_BYTES);
    }
    return hash;
}

hisa_queries_t cli_rows_slice(const cli_rows_t *rows, int64_t begin, int64_t count) {
    hisa_queries_t queries;
    hisa_queries_init(&queries);
    queries.num_rows = count;
    queries.q = rows->q + begin * rows->num_heads * rows->head_dim;
    queries.weights = rows->weights + begin * rows->num_heads;
    queries.sequence = rows->sequence == NULL ? NULL : rows->sequence + begin;
    queries.window_begin = rows->window_begin == NULL ? NULL : rows->window_begin + begin;
    queries.window_end = rows->window_end == NULL ? NULL : rows->window_end + begin;
    return queries;
}

hisa_status_t cli_agree_options(cli_session_t *session, const cli_options_t *options) {
    const hisa_select_options_t *select = &options->select;
    const uint64_t dealt = hash_bytes(FNV_OFFSET, options->rows_per_rank,
                                      (size_t)options->rows_per_rank_count * sizeof *options->rows_per_rank);
    const hisa_agree_value_t values[] = {
        {"--backend", options->backend},
        {"--mode", select->mode},
        {"--block-size", options->block_size},
        {"--top-blocks", select->top_blocks},
        {"--top-k", select->top_k},
        {"--sink-blocks", select->sink_blocks},
        {"--local-blocks", select->local_blocks},
        {"--stripe", options->stripe},
        {"--exchange", select->exchange},
        {"--queries-on", select->queries_on},
        {"--append-chunk", options->append_chunk},
        {"--tile-rows", select->tile_rows},
        {"entries of --rows-per-rank", options->rows_per_rank_count},
        {"the hash of --rows-per-rank", (int64_t)dealt},
        {"whether --keys is given", options->keys != NULL},
        {"whether --queries is given", options->queries != NULL},
    };
    return cli_session_agree_values(session, HISA_OK, values, sizeof values / sizeof values[0]);
}

/* ------------------------------------------------------------------------------------------- the trace */

static int64_t file_bytes(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 ? (int64_t)info.st_size : -1;
}

static hisa_status_t agree_on_trace(cli_session_t *session, const cli_options_t *options, const hisa_trace_t *trace) {
    uint64_t keys = hash_samples(FNV_OFFSET, trace->keys, trace->num_tokens * trace->head_dim);
    keys = hash_samples(keys, trace->key_scales, trace->num_tokens * (int64_t)sizeof(float));
    const int64_t weights = trace->num_rows * trace->num_heads;
    const int64_t per_row = trace->num_rows * (int64_t)sizeof(int32_t);
    uint64_t queries = hash_samples(FNV_OFFSET, trace->q, weights * trace->head_dim);
    queries = hash_samples(queries, trace->weights, weights * (int64_t)sizeof(float));
    queries = hash_samples(queries, trace->window_begin, per_row);
    queries = hash_samples(queries, trace->window_end, per_row);
    queries = hash_samples(queries, trace->needles, per_row * trace->num_needles);
    const hisa_agree_value_t values[] = {
        {"the number of tokens (N)", trace->num_tokens},
        {"the number of queries (M)", trace->num_rows},
        {"the number of heads (H)", trace->num_heads},
        {"the head dimension (D)", trace->head_dim},
        {"the number of needles", trace->num_needles},
        {"whether cu_seqlen_ks is there", trace->window_begin != NULL},
        {"whether cu_seqlen_ke is there", trace->window_end != NULL},
        {"the size of the keys file", file_bytes(options->keys)},
        {"the size of the queries file", file_bytes(options->queries)},
        {"a hash of the keys file", (int64_t)keys},
        {"a hash of the queries file", (int64_t)queries},
    };
    return cli_session_agree_values(session, HISA_OK, values, sizeof values / sizeof values[0]);
}

/* Checks this rank's part of the values. */
static hisa_status_t check_here(const cli_session_t *session, const hisa_trace_t *trace) {
    const int64_t rows = trace->num_rows;
    const int64_t tokens = trace->num_tokens;
    hisa_status_t status =
        hisa_trace_check_rows(trace, rows * session->rank / session->size, rows * (session->rank + 1) / session->size);
    const int64_t end = tokens * (session->rank + 1) / session->size;
    for (int64_t at = tokens * session->rank / session->size; at < end && status == HISA_OK; at += CLI_APPEND_CHUNK) {
        const int64_t stop = hisa_min(end, at + CLI_APPEND_CHUNK);
        status = hisa_trace_check_keys(trace, at, stop);
        hisa_trace_drop_keys(trace, at, stop);
    }
    return status;
}

hisa_status_t cli_trace_open(cli_session_t *session, const cli_options_t *options, hisa_trace_t *trace) {
    memset(trace, 0, sizeof *trace);
    hisa_status_t status = hisa_trace_open(options->keys, options->queries, trace);
    if (status == HISA_OK) {
        status = check_here(session, trace);
    }
    status = cli_session_agree(session, status);
    if (status == HISA_OK) {
        status = agree_on_trace(session, options, trace);
    }
    if (status != HISA_OK) {
        hisa_trace_close(trace);
    }
    return status;
}

cli_rows_t cli_trace_rows(const hisa_trace_t *trace) {
    return (cli_rows_t){.count = trace->num_rows,
                        .num_heads = trace->num_heads,
                        .head_dim = trace->head_dim,
                        .q = trace->q,
                        .weights = trace->weights,
                        .window_begin = trace->window_begin,
                        .window_end = trace->window_end};
}

/* ------------------------------------------------------------------------------------------- the index */

hisa_status_t cli_index_create(const cli_session_t *session, const cli_options_t *options, hisa_comm_t *comm,
                               int32_t head_dim, int32_t num_heads, int64_t capacity, hisa_index_t **index) {
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    config.backend = options->backend;
    config.threads = session->threads;
    config.head_dim = head_dim;
    config.num_heads = num_heads;
    config.block_size = options->block_size;
    config.capacity = capacity;
    config.num_sequences = options->sequences;
    config.stripe = options->stripe;
    return hisa_index_create(&config, comm, index);
}

hisa_status_t cli_index_fill(const cli_session_t *session, const cli_options_t *options, const hisa_trace_t *trace,
                             hisa_index_t *index) {
    const int64_t chunk = options->append_chunk > 0 ? options->append_chunk : CLI_APPEND_CHUNK;
    hisa_status_t status = HISA_OK;
    int64_t dropped = 0;
    cli_progress_t progress;
    cli_progress_begin(&progress, session, "append keys", trace->num_tokens);
    for (int64_t at = 0; at < trace->num_tokens && status == HISA_OK; at += chunk) {
        const int64_t stop = hisa_min(trace->num_tokens, at + chunk);
        status = cli_staged_append(index, 0, stop - at, trace->keys + at * trace->head_dim, trace->key_scales + at);
        /* Many small chunks share a page, and a call for each would cost more than the append. */
        if (stop - dropped >= CLI_APPEND_CHUNK || stop == trace->num_tokens) {
            hisa_trace_drop_keys(trace, dropped, stop);
            dropped = stop;
        }
        cli_progress_update(&progress, stop);
    }
    cli_progress_end(&progress);
    return status;
}
