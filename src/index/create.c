/* Creation and destruction of an index. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "base/hash.h"
#include "index/config.h"
#include "index/index.h"

/* Most blocks of a sequence that a rank can store: whichever rank it is, and wherever the sequence starts. */
static int64_t most_local_blocks(const hisa_index_t *index) {
    const hisa_layout_t layout = hisa_shard_layout(&index->shard, 0);
    return hisa_layout_count(&layout, 0, hisa_layout_blocks(&layout, index->capacity));
}

static hisa_status_t lay_out_host(hisa_index_t *index, const hisa_index_config_t *config) {
    hisa_shard_t *shard = &index->shard;
    shard->head_dim = config->head_dim;
    shard->num_heads = config->num_heads;
    shard->block_size = config->block_size;
    shard->num_sequences = config->num_sequences;
    shard->rank = index->comm->rank;
    shard->ranks = index->comm->size;
    shard->stripe = config->stripe == HISA_STRIPE_CONTIGUOUS
                        ? hisa_layout_contiguous_stripe(config->capacity, shard->ranks, config->block_size)
                        : config->stripe;
    shard->deal = hisa_deal_make(shard->stripe, shard->ranks);
    index->capacity = config->capacity;
    index->local_blocks = most_local_blocks(index);
    shard->local_blocks = index->local_blocks;
    const size_t sequences = (size_t)config->num_sequences;
    const size_t ranks = (size_t)shard->ranks;
    index->lengths = calloc(sequences, sizeof *index->lengths);
    index->offsets = calloc(sequences, sizeof *index->offsets);
    index->bases = calloc(sequences, sizeof *index->bases);
    index->counts = calloc(7 * ranks, sizeof *index->counts);
    index->segments = calloc(HISA_LANES * ranks, sizeof *index->segments);
    if (index->lengths == NULL || index->offsets == NULL || index->bases == NULL || index->counts == NULL ||
        index->segments == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "cannot allocate the tables of %d sequences", config->num_sequences);
    }
    return HISA_OK;
}

/* Gives each sequence its run of slots. */
static hisa_status_t deal_slots(hisa_index_t *index, const hisa_index_config_t *config) {
    int64_t next = 0;
    for (int32_t s = 0; s < config->num_sequences; ++s) {
        index->offsets[s] = config->rank_offsets != NULL ? config->rank_offsets[s] : 0;
        index->bases[s] = (int32_t)next;
        const hisa_layout_t layout = hisa_shard_layout(&index->shard, index->offsets[s]);
        next += hisa_layout_count(&layout, index->shard.rank, hisa_layout_blocks(&layout, config->capacity));
        if (next > INT32_MAX / config->block_size) {
            return hisa_fail(HISA_ERR_INVALID_ARGUMENT,
                             "%d sequences of %lld tokens are more than this rank can number", config->num_sequences,
                             (long long)config->capacity);
        }
    }
    index->shard.slots = next;
    return HISA_OK;
}

static hisa_status_t take(hisa_index_t *index, int64_t count, int64_t size, void **memory) {
    int64_t bytes;
    if (!hisa_mul(count, size, &bytes)) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "an index of this size overflows");
    }
    const hisa_status_t status = hisa_index_ops(index)->alloc(index->device, bytes, memory);
    index->bytes += status == HISA_OK ? bytes : 0;
    return status;
}

static hisa_status_t take_store(hisa_index_t *index) {
    hisa_shard_t *shard = &index->shard;
    void *memory[7] = {NULL};
    const int64_t slots = shard->slots;
    const int64_t tokens = slots * shard->block_size;
    const int64_t size[7][2] = {{tokens, shard->head_dim},
                                {tokens, sizeof(float)},
                                {slots, shard->head_dim},
                                {slots, sizeof(float)},
                                {shard->num_sequences, sizeof(int32_t)},
                                {shard->num_sequences, sizeof(int32_t)},
                                {shard->num_sequences, sizeof(int32_t)}};
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < 7 && status == HISA_OK; ++i) {
        status = take(index, size[i][0], size[i][1], &memory[i]);
    }
    /* Also what was taken before a failure: destroy gives it back. */
    shard->store.keys = memory[0];
    shard->store.scales = memory[1];
    shard->store.pooled = memory[2];
    shard->store.pooled_scales = memory[3];
    shard->lengths = memory[4];
    shard->offsets = memory[5];
    shard->bases = memory[6];
    return status;
}

/* Everything that one rank does alone. A half-built index is left for the caller to destroy. */
static hisa_status_t build(const hisa_index_config_t *config, hisa_comm_t *comm, hisa_index_t **index) {
    const hisa_backend_ops_t *ops;
    hisa_status_t status = hisa_index_config_check(config, comm->size);
    if (status == HISA_OK && comm->ops->control_only && comm->size > 1) {
        status = hisa_fail(HISA_ERR_UNSUPPORTED,
                           "communicator %s is for control only: an index of %d ranks needs one that moves data",
                           comm->ops->name, comm->size);
    }
    if (status == HISA_OK) {
        status = hisa_backend_find(config->backend, &ops);
    }
    if (status == HISA_OK && config->backend == HISA_BACKEND_AUTO && comm->size > 1 &&
        ops->device_memory != comm->ops->device_memory) {
        status = hisa_backend_find(HISA_BACKEND_CPU, &ops); /* the best that these ranks can share */
    }
    if (status != HISA_OK) {
        return status;
    }
    if (ops->device_memory != comm->ops->device_memory && comm->size > 1) {
        return hisa_fail(HISA_ERR_UNSUPPORTED, "backend %s and communicator %s do not share memory", ops->name,
                         comm->ops->name);
    }
    hisa_index_t *fresh = calloc(1, sizeof *fresh);
    if (fresh == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "cannot allocate an index");
    }
    *index = fresh;
    fresh->comm = comm;
    fresh->cost = comm->cost;
    status = lay_out_host(fresh, config);
    if (status == HISA_OK) {
        status = deal_slots(fresh, config);
    }
    if (status == HISA_OK) {
        status = ops->open(config, &fresh->device);
    }
    if (status == HISA_OK) {
        status = take_store(fresh);
    }
    if (status == HISA_OK) {
        void *sizes = NULL;
        status = ops->alloc_host(fresh->device, INT64_C(2) * HISA_LANES * comm->size * (int64_t)sizeof *fresh->sizes,
                                 &sizes);
        fresh->sizes = sizes;
    }
    const int64_t bytes = config->num_sequences * (int64_t)sizeof(int32_t);
    if (status == HISA_OK) {
        status = ops->from_host(fresh->device, fresh->shard.offsets, fresh->offsets, bytes, NULL);
    }
    if (status == HISA_OK) {
        status = ops->from_host(fresh->device, fresh->shard.bases, fresh->bases, bytes, NULL);
    }
    return status;
}

static int64_t bits_of(double value) {
    int64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* What must be equal on all ranks. */
static hisa_status_t agree(const hisa_index_config_t *config, hisa_comm_t *comm, const hisa_index_t *index,
                           hisa_status_t status) {
    uint64_t offsets = 0;
    const bool built = status == HISA_OK && index != NULL;
    for (int32_t s = 0; built && s < config->num_sequences; ++s) {
        offsets = hisa_hash(offsets, index->offsets[s]);
    }
    const hisa_agree_value_t values[] = {
        {"config.struct_size", (int64_t)config->struct_size},
        {"backend", built ? (int64_t)hisa_index_ops(index)->kind : 0},
        {"arithmetic", built ? (int64_t)hisa_index_ops(index)->arithmetic(index->device) : 0},
        {"head_dim", config->head_dim},
        {"num_heads", config->num_heads},
        {"block_size", config->block_size},
        {"num_sequences", config->num_sequences},
        {"capacity", config->capacity},
        {"stripe", config->stripe},
        {"rank_offsets (hash)", (int64_t)offsets},
        {"the communicator's latency (bits)", bits_of(comm->cost.latency)},
        {"the communicator's bandwidth (bits)", bits_of(comm->cost.bandwidth)},
    };
    return hisa_comm_agree_values(comm, status, values, sizeof values / sizeof values[0], 0, NULL);
}

hisa_status_t hisa_index_create(const hisa_index_config_t *config, hisa_comm_t *comm, hisa_index_t **index) {
    if (comm == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    }
    hisa_index_t *fresh = NULL;
    static const hisa_index_config_t none = {0};
    hisa_status_t status;
    if (config == NULL || index == NULL) {
        status = hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s is NULL", config == NULL ? "config" : "index");
    } else {
        status = build(config, comm, &fresh);
    }
    status = agree(config != NULL ? config : &none, comm, fresh, status);
    if (status != HISA_OK || index == NULL) { /* the latter implies the former */
        hisa_index_destroy(fresh);
        return status;
    }
    *index = fresh;
    return HISA_OK;
}

void hisa_index_destroy(hisa_index_t *index) {
    if (index == NULL) {
        return;
    }
    if (index->device != NULL) {
        const hisa_backend_ops_t *ops = hisa_index_ops(index);
        hisa_shard_t *shard = &index->shard;
        void *const memory[] = {shard->store.keys, shard->store.scales, shard->store.pooled, shard->store.pooled_scales,
                                shard->lengths,    shard->offsets,      shard->bases};
        for (size_t i = 0; i < sizeof memory / sizeof memory[0]; ++i) {
            ops->release(index->device, memory[i]);
        }
        ops->release_host(index->device, index->sizes);
        ops->close(index->device);
    }
    free(index->lengths);
    free(index->offsets);
    free(index->bases);
    free(index->counts);
    free(index->segments);
    free(index);
}
