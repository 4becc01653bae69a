/* Writing keys into the store, and pooling. */
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/e4m3.h"
#include "base/checked.h"

hisa_status_t hisa_cpu_write_tokens(hisa_device_t *device, const hisa_shard_t *shard, const hisa_span_t *span,
                                    const uint8_t *keys, const float *scales, bool local, void *stream) {
    (void)device;
    (void)stream;
    const hisa_layout_t layout = hisa_shard_layout(shard, span->offset);
    const int64_t size = shard->block_size;
    const int64_t dim = shard->head_dim;
    int64_t taken = 0; /* owned tokens written so far */
    for (int64_t begin = span->begin; begin < span->end;) {
        const int64_t block = begin / size;
        const int64_t end = hisa_min(span->end, (block + 1) * size);
        if (hisa_layout_owner(&layout, block) == shard->rank) {
            const int64_t from = local ? taken : begin - span->begin;
            const int64_t to = (span->base + hisa_layout_local(&layout, block)) * size + begin % size;
            memcpy(shard->store.keys + to * dim, keys + from * dim, (size_t)((end - begin) * dim));
            memcpy(shard->store.scales + to, scales + from, (size_t)(end - begin) * sizeof *scales);
            taken += end - begin;
        }
        begin = end;
    }
    return HISA_OK;
}

/* p_scale = max(max|mean| / 448, 1e-10), p = e4m3(mean / p_scale): README.md. A NaN mean does not count in the maximum
 * and becomes the NaN code. */
static void pool_block(const hisa_shard_t *shard, int64_t slot, int64_t tokens) {
    const int64_t dim = shard->head_dim;
    const uint8_t *keys = shard->store.keys + slot * shard->block_size * dim;
    const float *scales = shard->store.scales + slot * shard->block_size;
    float mean[256] = {0};
    for (int64_t s = 0; s < tokens; ++s) {
        for (int64_t d = 0; d < dim; ++d) {
            mean[d] += scales[s] * hisa_e4m3_to_float(keys[s * dim + d]);
        }
    }
    float largest = 0.0f;
    for (int64_t d = 0; d < dim; ++d) {
        mean[d] /= (float)tokens;
        largest = fabsf(mean[d]) > largest ? fabsf(mean[d]) : largest;
    }
    const float scale = largest / 448.0f > 1e-10f ? largest / 448.0f : 1e-10f;
    for (int64_t d = 0; d < dim; ++d) {
        shard->store.pooled[slot * dim + d] = hisa_e4m3_from_float(mean[d] / scale);
    }
    shard->store.pooled_scales[slot] = scale;
}

hisa_status_t hisa_cpu_pool_blocks(hisa_device_t *device, const hisa_shard_t *shard, const hisa_span_t *span,
                                   void *stream) {
    (void)stream;
    const hisa_layout_t layout = hisa_shard_layout(shard, span->offset);
    const int64_t size = shard->block_size;
    const int64_t end = hisa_layout_count(&layout, shard->rank, hisa_ceil_div(span->end, size));
    const int threads = hisa_cpu_of(device)->threads;
    (void)threads;
#pragma omp parallel for num_threads(threads) if (span->end - span->begin > 4096)
    for (int64_t local = hisa_layout_count(&layout, shard->rank, span->begin / size); local < end; ++local) {
        const int64_t first = hisa_layout_global(&layout, shard->rank, local) * size;
        pool_block(shard, span->base + local, hisa_min(size, span->length - first));
    }
    return HISA_OK;
}
