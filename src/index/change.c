/* Changes of an index (append, truncate, overwrite) and questions to it. The pooled key of a block is recomputed
 * whenever the block changes, here and nowhere else. */
#include "base/checked.h"
#include "base/error.h"
#include "base/hash.h"
#include "index/index.h"

hisa_status_t hisa_index_check(const hisa_index_t *index, int32_t sequence) {
    if (index == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "index is NULL");
    }
    if (sequence < 0 || sequence >= index->shard.num_sequences) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "sequence %d is not in [0, %d)", sequence,
                         index->shard.num_sequences);
    }
    return HISA_OK;
}

static hisa_span_t span_of(const hisa_index_t *index, int32_t sequence, int64_t begin, int64_t end, int64_t length) {
    const hisa_span_t span = {.offset = index->offsets[sequence],
                              .base = index->bases[sequence],
                              .begin = begin,
                              .end = end,
                              .length = length};
    return span;
}

/* Changes that lengths do not show, as they go into the hash that select compares across ranks. Appends are not among
 * them: ranks may cut them differently. */
enum { TRUNCATE = 1, OVERWRITE };

static void record(hisa_index_t *index, int kind, int32_t sequence, int64_t begin, int64_t end) {
    index->changes = hisa_hash(hisa_hash(hisa_hash(hisa_hash(index->changes, kind), sequence), begin), end);
}

/* A change is known to the host at once, and happens on the device in stream order: a graph's replay would make it
 * again, at the old place, without the host. */
static hisa_status_t check_stream(const hisa_index_t *index, void *stream) {
    return hisa_index_ops(index)->check_stream(index->device, stream, "a change of an index cannot be part of a graph");
}

/* Writes the tokens of a span and refreshes what is pooled from them. */
static hisa_status_t write_span(hisa_index_t *index, const hisa_span_t *span, const void *keys, const float *key_scales,
                                hisa_keys_on_t keys_on, void *stream) {
    const hisa_backend_ops_t *ops = hisa_index_ops(index);
    const hisa_layout_t layout = hisa_shard_layout(&index->shard, span->offset);
    const int64_t own = hisa_layout_count_tokens(&layout, index->shard.rank, span->end) -
                        hisa_layout_count_tokens(&layout, index->shard.rank, span->begin);
    if (keys_on != HISA_KEYS_REPLICATED && keys_on != HISA_KEYS_LOCAL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "keys_on is %d: use HISA_KEYS_*", (int)keys_on);
    }
    /* A rank that owns none of the tokens may have no array of them. */
    if ((keys == NULL || key_scales == NULL) && own > 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s is NULL", keys == NULL ? "keys" : "key_scales");
    }
    hisa_status_t status = check_stream(index, stream);
    if (status != HISA_OK) {
        return status;
    }
    status =
        ops->write_tokens(index->device, &index->shard, span, keys, key_scales, keys_on == HISA_KEYS_LOCAL, stream);
    if (status == HISA_OK) {
        status = ops->pool_blocks(index->device, &index->shard, span, stream);
    }
    return status;
}

static hisa_status_t set_length(hisa_index_t *index, int32_t sequence, int64_t length, void *stream) {
    const hisa_status_t status =
        hisa_index_ops(index)->set_length(index->device, &index->shard, sequence, length, stream);
    if (status == HISA_OK) {
        index->lengths[sequence] = length;
    }
    return status;
}

hisa_status_t hisa_index_append(hisa_index_t *index, int32_t sequence, int64_t num_tokens, const void *keys,
                                const float *key_scales, hisa_keys_on_t keys_on, void *stream) {
    hisa_status_t status = hisa_index_check(index, sequence);
    if (status != HISA_OK) {
        return status;
    }
    const int64_t length = index->lengths[sequence];
    if (num_tokens < 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "num_tokens is %lld", (long long)num_tokens);
    }
    if (num_tokens > index->capacity - length) {
        return hisa_fail(HISA_ERR_CAPACITY, "sequence %d holds %lld of %lld tokens: %lld more do not fit", sequence,
                         (long long)length, (long long)index->capacity, (long long)num_tokens);
    }
    if (num_tokens == 0) {
        return HISA_OK;
    }
    const hisa_span_t span = span_of(index, sequence, length, length + num_tokens, length + num_tokens);
    status = write_span(index, &span, keys, key_scales, keys_on, stream);
    if (status == HISA_OK) {
        status = set_length(index, sequence, span.length, stream);
    }
    return status;
}

hisa_status_t hisa_index_truncate(hisa_index_t *index, int32_t sequence, int64_t new_length, void *stream) {
    hisa_status_t status = hisa_index_check(index, sequence);
    if (status != HISA_OK) {
        return status;
    }
    const int64_t length = index->lengths[sequence];
    if (new_length < 0 || new_length > length) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "new_length is %lld: sequence %d holds %lld tokens",
                         (long long)new_length, sequence, (long long)length);
    }
    if (new_length == length) {
        return HISA_OK;
    }
    status = check_stream(index, stream);
    if (status == HISA_OK && new_length % index->shard.block_size != 0) {
        const hisa_span_t span = span_of(index, sequence, new_length - 1, new_length, new_length);
        status = hisa_index_ops(index)->pool_blocks(index->device, &index->shard, &span, stream);
    }
    if (status == HISA_OK) {
        status = set_length(index, sequence, new_length, stream);
    }
    if (status == HISA_OK) {
        record(index, TRUNCATE, sequence, new_length, length);
    }
    return status;
}

hisa_status_t hisa_index_overwrite(hisa_index_t *index, int32_t sequence, int64_t first_block, int64_t num_blocks,
                                   const void *keys, const float *key_scales, hisa_keys_on_t keys_on, void *stream) {
    hisa_status_t status = hisa_index_check(index, sequence);
    if (status != HISA_OK) {
        return status;
    }
    const int64_t length = index->lengths[sequence];
    const int64_t size = index->shard.block_size;
    const int64_t blocks = hisa_ceil_div(length, size);
    if (first_block < 0 || num_blocks < 0 || first_block > blocks || num_blocks > blocks - first_block) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "blocks [%lld, +%lld) are not among the %lld of sequence %d",
                         (long long)first_block, (long long)num_blocks, (long long)blocks, sequence);
    }
    if (num_blocks == 0) {
        return HISA_OK;
    }
    const hisa_span_t span =
        span_of(index, sequence, first_block * size, hisa_min(length, (first_block + num_blocks) * size), length);
    status = write_span(index, &span, keys, key_scales, keys_on, stream);
    if (status == HISA_OK) {
        record(index, OVERWRITE, sequence, span.begin, span.end);
    }
    return status;
}

hisa_status_t hisa_index_length(const hisa_index_t *index, int32_t sequence, int64_t *length) {
    const hisa_status_t status = hisa_index_check(index, sequence);
    if (status != HISA_OK) {
        return status;
    }
    if (length == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "length is NULL");
    }
    *length = index->lengths[sequence];
    return HISA_OK;
}

hisa_status_t hisa_index_local_length(const hisa_index_t *index, int32_t sequence, int64_t *length) {
    const hisa_status_t status = hisa_index_check(index, sequence);
    if (status != HISA_OK) {
        return status;
    }
    if (length == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "length is NULL");
    }
    const hisa_layout_t layout = hisa_shard_layout(&index->shard, index->offsets[sequence]);
    *length = hisa_layout_count_tokens(&layout, index->shard.rank, index->lengths[sequence]);
    return HISA_OK;
}

hisa_status_t hisa_index_locate(const hisa_index_t *index, int32_t sequence, int64_t position, int *owner,
                                int64_t *slot) {
    const hisa_status_t status = hisa_index_check(index, sequence);
    if (status != HISA_OK) {
        return status;
    }
    if (position < 0 || position >= index->capacity) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "position %lld is not in [0, %lld)", (long long)position,
                         (long long)index->capacity);
    }
    const hisa_layout_t layout = hisa_shard_layout(&index->shard, index->offsets[sequence]);
    const int64_t block = position / layout.block_size;
    if (owner != NULL) {
        *owner = hisa_layout_owner(&layout, block);
    }
    if (slot != NULL) {
        *slot = hisa_layout_local(&layout, block) * layout.block_size + position % layout.block_size;
    }
    return HISA_OK;
}

hisa_backend_t hisa_index_backend(const hisa_index_t *index) {
    return index != NULL ? hisa_index_ops(index)->kind : HISA_BACKEND_AUTO;
}

int64_t hisa_index_bytes(const hisa_index_t *index) { return index != NULL ? index->bytes : 0; }

hisa_status_t hisa_index_stats(const hisa_index_t *index, hisa_stats_t *stats) {
    if (index == NULL || stats == NULL || stats->struct_size != sizeof *stats) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "index or stats is NULL, or stats->struct_size is not set");
    }
    *stats = index->stats;
    stats->struct_size = sizeof *stats;
    return HISA_OK;
}

hisa_status_t hisa_index_stats_reset(hisa_index_t *index) {
    if (index == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "index is NULL");
    }
    index->stats = (hisa_stats_t){0};
    return HISA_OK;
}

const char *hisa_step_name(hisa_step_t step) {
    switch (step) {
#define HISA_STEP_CASE(name, text)                                                                                     \
    case name:                                                                                                         \
        return text;
        HISA_STEP_MAP(HISA_STEP_CASE)
#undef HISA_STEP_CASE
    case HISA_STEP_COUNT:
        break;
    }
    return "unknown step";
}
