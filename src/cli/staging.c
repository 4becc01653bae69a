#include "cli/staging.h"

#include "base/checked.h"
#include "index/index.h"

int cli_staged_on_host(const hisa_index_t *index) { return !hisa_index_ops(index)->device_memory; }

hisa_status_t cli_staged_alloc(hisa_index_t *index, int64_t bytes, void **memory) {
    return hisa_index_ops(index)->alloc(index->device, hisa_max(1, bytes), memory);
}

void cli_staged_release(hisa_index_t *index, void *memory) {
    if (memory != NULL) {
        hisa_index_ops(index)->release(index->device, memory);
    }
}

hisa_status_t cli_staged_fetch(hisa_index_t *index, void *host, const void *memory, int64_t bytes) {
    return hisa_index_ops(index)->to_host(index->device, host, memory, bytes, NULL);
}

hisa_status_t cli_staged_wait(hisa_index_t *index) { return hisa_index_synchronize(index, NULL); }

hisa_status_t cli_staged_put(hisa_index_t *index, const void *host, int64_t bytes, void **memory) {
    void *fresh = NULL;
    hisa_status_t status = cli_staged_alloc(index, bytes, &fresh);
    if (status == HISA_OK) {
        status = hisa_index_ops(index)->from_host(index->device, fresh, host, bytes, NULL);
    }
    if (status != HISA_OK) {
        cli_staged_release(index, fresh);
        return status;
    }
    *memory = fresh;
    return HISA_OK;
}

hisa_status_t cli_staged_append(hisa_index_t *index, int32_t sequence, int64_t tokens, const uint8_t *keys,
                                const float *scales) {
    if (cli_staged_on_host(index)) {
        return hisa_index_append(index, sequence, tokens, keys, scales, HISA_KEYS_REPLICATED, NULL);
    }
    void *staged_keys = NULL;
    void *staged_scales = NULL;
    hisa_status_t status = cli_staged_put(index, keys, tokens * index->shard.head_dim, &staged_keys);
    if (status == HISA_OK) {
        status = cli_staged_put(index, scales, tokens * (int64_t)sizeof *scales, &staged_scales);
    }
    if (status == HISA_OK) {
        status = hisa_index_append(index, sequence, tokens, staged_keys, staged_scales, HISA_KEYS_REPLICATED, NULL);
    }
    if (status == HISA_OK) {
        status = cli_staged_wait(index);
    }
    cli_staged_release(index, staged_keys);
    cli_staged_release(index, staged_scales);
    return status;
}

hisa_status_t cli_staged_queries_create(hisa_index_t *index, const hisa_queries_t *queries,
                                        cli_staged_queries_t *staged) {
    *staged = (cli_staged_queries_t){.index = index, .queries = *queries};
    if (cli_staged_on_host(index) || queries->num_rows == 0) {
        return HISA_OK;
    }
    const int64_t rows = queries->num_rows;
    const int64_t heads = rows * index->shard.num_heads;
    const int64_t row_bytes = rows * (int64_t)sizeof(int32_t);
    const void *const host[5] = {queries->q, queries->weights, queries->sequence, queries->window_begin,
                                 queries->window_end};
    const int64_t bytes[5] = {heads * index->shard.head_dim, heads * (int64_t)sizeof(float), row_bytes, row_bytes,
                              row_bytes};
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < 5 && status == HISA_OK; i++) {
        if (host[i] != NULL) {
            status = cli_staged_put(index, host[i], bytes[i], &staged->memory[i]);
        }
    }
    if (status != HISA_OK) {
        cli_staged_queries_free(staged);
        return status;
    }
    staged->queries.q = staged->memory[0];
    staged->queries.weights = staged->memory[1];
    staged->queries.sequence = staged->memory[2];
    staged->queries.window_begin = staged->memory[3];
    staged->queries.window_end = staged->memory[4];
    return HISA_OK;
}

void cli_staged_queries_free(cli_staged_queries_t *staged) {
    for (int i = 0; i < 5; i++) {
        cli_staged_release(staged->index, staged->memory[i]);
    }
    *staged = (cli_staged_queries_t){0};
}
