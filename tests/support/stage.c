#include "support/stage.h"

#include <check.h>

#include "index/index.h"
#include "support/suite.h"

static bool on_host(const stage_t *stage) { return !hisa_index_ops(stage->index)->device_memory; }

static void *put(stage_t *stage, const void *host, size_t bytes) {
    ck_assert_int_lt(stage->count, STAGE_MOST);
    const hisa_backend_ops_t *ops = hisa_index_ops(stage->index);
    void **memory = &stage->memory[stage->count];
    ck_ok(ops->alloc(stage->index->device, (int64_t)bytes, memory));
    ck_ok(ops->from_host(stage->index->device, *memory, host, (int64_t)bytes, NULL));
    stage->host[stage->count] = NULL;
    stage->bytes[stage->count] = bytes;
    ++stage->count;
    return *memory;
}

const void *stage_in(stage_t *stage, const void *host, size_t bytes) {
    return host == NULL || on_host(stage) ? host : put(stage, host, bytes);
}

void *stage_in_out(stage_t *stage, void *host, size_t bytes) {
    if (host == NULL || on_host(stage)) {
        return host;
    }
    void *memory = put(stage, host, bytes);
    stage->host[stage->count - 1] = host;
    return memory;
}

void stage_back(stage_t *stage) {
    const hisa_backend_ops_t *ops = hisa_index_ops(stage->index);
    for (int i = 0; i < stage->count; ++i) {
        if (stage->host[i] != NULL) {
            ck_ok(ops->to_host(stage->index->device, stage->host[i], stage->memory[i], (int64_t)stage->bytes[i], NULL));
        }
    }
}

hisa_queries_t stage_queries(stage_t *stage, const hisa_queries_t *queries) {
    hisa_queries_t staged = *queries;
    const size_t rows = (size_t)queries->num_rows;
    const size_t heads = rows * (size_t)stage->index->shard.num_heads;
    staged.q = stage_in(stage, queries->q, heads * (size_t)stage->index->shard.head_dim);
    staged.weights = stage_in(stage, queries->weights, heads * sizeof(float));
    staged.sequence = stage_in(stage, queries->sequence, rows * sizeof(int32_t));
    staged.window_begin = stage_in(stage, queries->window_begin, rows * sizeof(int32_t));
    staged.window_end = stage_in(stage, queries->window_end, rows * sizeof(int32_t));
    return staged;
}

void stage_end(stage_t *stage) {
    for (int i = 0; i < stage->count; ++i) {
        hisa_index_ops(stage->index)->release(stage->index->device, stage->memory[i]);
    }
    stage->count = 0;
}
