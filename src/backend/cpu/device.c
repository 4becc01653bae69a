/* Opening, memory, and the table. */
#include <stdlib.h>
#include <string.h>
#if defined(HISA_HAVE_OPENMP)
#include <omp.h>
#endif

#include "backend/cpu/cpu.h"
#include "base/checked.h"
#include "base/error.h"

enum { ALIGNMENT = 256 };

int hisa_cpu_thread(void) {
#if defined(HISA_HAVE_OPENMP)
    return omp_get_thread_num();
#else
    return 0;
#endif
}

void hisa_cpu_use_isa(hisa_device_t *device, const hisa_cpu_isa_t *isa) { ((hisa_cpu_t *)device)->isa = isa; }

static hisa_status_t cpu_alloc(hisa_device_t *device, int64_t bytes, void **memory) {
    (void)device;
    int64_t rounded;
    void *fresh = NULL;
    if (hisa_add(bytes, ALIGNMENT - 1, &rounded)) {
        fresh = aligned_alloc(ALIGNMENT, (size_t)hisa_max(ALIGNMENT, rounded / ALIGNMENT * ALIGNMENT));
    }
    if (fresh == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "cannot allocate %lld bytes", (long long)bytes);
    }
    memset(fresh, 0, (size_t)bytes);
    *memory = fresh;
    return HISA_OK;
}

static void cpu_release(hisa_device_t *device, void *memory) {
    (void)device;
    free(memory);
}

static hisa_status_t cpu_copy(hisa_device_t *device, void *to, const void *from, int64_t bytes, void *stream) {
    (void)device;
    (void)stream;
    if (bytes > 0) {
        memmove(to, from, (size_t)bytes);
    }
    return HISA_OK;
}

static hisa_status_t cpu_synchronize(hisa_device_t *device, void *stream) {
    (void)device;
    (void)stream;
    return HISA_OK;
}

/* Nothing tells host memory from other memory. */
static hisa_status_t cpu_check_memory(hisa_device_t *device, const char *name, const void *memory, int alignment) {
    (void)device;
    (void)name;
    (void)memory;
    (void)alignment;
    return HISA_OK;
}

static hisa_status_t cpu_check_stream(hisa_device_t *device, void *stream, const char *uncapturable) {
    (void)device;
    (void)stream;
    (void)uncapturable;
    return HISA_OK;
}

static int64_t cpu_arithmetic(const hisa_device_t *device) {
    (void)device;
    return HISA_ARITHMETIC_F32;
}

static hisa_status_t cpu_set_length(hisa_device_t *device, const hisa_shard_t *shard, int32_t sequence, int64_t length,
                                    void *stream) {
    (void)device;
    (void)stream;
    shard->lengths[sequence] = (int32_t)length;
    return HISA_OK;
}

static int64_t cpu_scratch_bytes(const hisa_device_t *device, int64_t rows, int32_t width, int32_t top_k,
                                 int64_t blocks, int32_t ranks, bool flat) {
    const hisa_cpu_t *cpu = hisa_cpu_of(device);
    if (flat) {
        return hisa_cpu_flat_scratch(rows, top_k, ranks, cpu->block_size, cpu->threads);
    }
    int64_t bytes = hisa_cpu_score_blocks_scratch(rows, blocks, cpu->threads);
    bytes = hisa_max(bytes, hisa_cpu_merge_blocks_scratch(width, ranks, cpu->threads));
    bytes = hisa_max(bytes, hisa_cpu_score_tokens_scratch(rows, width));
    return hisa_max(bytes, hisa_cpu_select_tokens_scratch(width, cpu->block_size, cpu->threads));
}

static int thread_count(int asked) {
#if defined(HISA_HAVE_OPENMP)
    return asked > 0 ? asked : omp_get_max_threads();
#else
    (void)asked;
    return 1;
#endif
}

static void cpu_close(hisa_device_t *device) {
    hisa_cpu_t *cpu = (hisa_cpu_t *)device;
    if (cpu != NULL) {
        free(cpu->lane_memory);
        free(cpu->lanes);
        free(cpu);
    }
}

static hisa_status_t open_lanes(hisa_cpu_t *cpu) {
    const int64_t panel = (int64_t)cpu->head_dim * HISA_CPU_PANEL;
    const int64_t dots = cpu->groups * HISA_CPU_HEADS * HISA_CPU_PANEL;
    const int64_t floats = panel + dots + INT64_C(2) * HISA_CPU_PANEL;
    void *memory = NULL;
    cpu->lanes = calloc((size_t)cpu->threads, sizeof *cpu->lanes);
    if (cpu->lanes == NULL || cpu_alloc(NULL, cpu->threads * floats * (int64_t)sizeof(float), &memory) != HISA_OK) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "cannot allocate scratch for %d threads", cpu->threads);
    }
    cpu->lane_memory = memory;
    for (int t = 0; t < cpu->threads; ++t) {
        float *at = (float *)memory + t * floats;
        cpu->lanes[t].panel = at;
        cpu->lanes[t].dots = at + panel;
        cpu->lanes[t].scale = at + panel + dots;
        cpu->lanes[t].score = at + panel + dots + HISA_CPU_PANEL;
    }
    return HISA_OK;
}

static hisa_status_t cpu_open(const hisa_index_config_t *config, hisa_device_t **device) {
    hisa_cpu_t *cpu = calloc(1, sizeof *cpu);
    if (cpu == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "cannot allocate the CPU backend");
    }
    cpu->device.ops = &hisa_backend_cpu;
    cpu->isa = hisa_cpu_isa_best();
    cpu->threads = thread_count(config->threads);
    cpu->head_dim = config->head_dim;
    cpu->num_heads = config->num_heads;
    cpu->block_size = config->block_size;
    cpu->groups = hisa_ceil_div(config->num_heads, HISA_CPU_HEADS);
    const hisa_status_t status = open_lanes(cpu);
    if (status != HISA_OK) {
        cpu_close(&cpu->device);
        return status;
    }
    *device = &cpu->device;
    return HISA_OK;
}

const hisa_backend_ops_t hisa_backend_cpu = {
    .name = "cpu",
    .kind = HISA_BACKEND_CPU,
    .device_memory = false,
    .open = cpu_open,
    .close = cpu_close,
    .arithmetic = cpu_arithmetic,
    .flop_rate = 85e9, /* a core of an EPYC 9004: hisa bench --threads 1 */
    .candidate_rate = 330e6,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .alloc_host = cpu_alloc,
    .release_host = cpu_release,
    .copy = cpu_copy,
    .to_host = cpu_copy,
    .from_host = cpu_copy,
    .synchronize = cpu_synchronize,
    .check_memory = cpu_check_memory,
    .check_stream = cpu_check_stream,
    .set_length = cpu_set_length,
    /* Enough rows to share the decoding of a key block, few enough that their queries (32 KB each) stay in cache. */
    .tile_rows = 64,
    .tile_budget = INT64_C(48) << 20,
    .queries_bytes = hisa_cpu_queries_bytes,
    .scratch_bytes = cpu_scratch_bytes,
    .write_tokens = hisa_cpu_write_tokens,
    .pool_blocks = hisa_cpu_pool_blocks,
    .check_rows = hisa_cpu_check_rows,
    .make_rows = hisa_cpu_make_rows,
    .prepare_queries = hisa_cpu_prepare_queries,
    .score_blocks = hisa_cpu_score_blocks,
    .merge_blocks = hisa_cpu_merge_blocks,
    .own_blocks = hisa_cpu_own_blocks,
    .plan_tokens = hisa_cpu_plan_tokens,
    .score_tokens = hisa_cpu_score_tokens,
    .select_tokens = hisa_cpu_select_tokens,
    .list_tokens = hisa_cpu_list_tokens,
    .emit = hisa_cpu_emit,
    .flat_scan = hisa_cpu_flat_scan,
    .flat_quantiles = hisa_cpu_flat_quantiles,
    .flat_trim = hisa_cpu_flat_trim,
    .flat_sizes = hisa_cpu_flat_sizes,
    .flat_merge = hisa_cpu_flat_merge,
    .flat_emit = hisa_cpu_flat_emit,
    .flat_emit_local = hisa_cpu_flat_emit_local,
};
