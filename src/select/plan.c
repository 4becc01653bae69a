#include "select/plan.h"

#include "base/checked.h"
#include "base/error.h"
#include "select/policy.h"

enum { ALIGNMENT = 256, PART_ALIGNMENT = 1024 /* a block of scores at the largest B */ };

static int64_t round_up(int64_t bytes, int64_t alignment) { return hisa_ceil_div(bytes, alignment) * alignment; }

int64_t hisa_plan_part_pool(const hisa_plan_t *plan, int64_t rows) {
    return round_up(rows * plan->list_width * (int64_t)sizeof(uint64_t), ALIGNMENT);
}

int64_t hisa_plan_part_bytes(const hisa_plan_t *plan, int32_t block_size, int64_t rows) {
    const int64_t scores = plan->keep.mode == HISA_MODE_HISA ? rows * plan->list_width * block_size : 0;
    return round_up(hisa_plan_part_pool(plan, rows) + scores * (int64_t)sizeof(float), PART_ALIGNMENT);
}

/* Widths of the lists: no row keeps more blocks, nor has more tokens, than there are. */
static void set_widths(const hisa_index_t *index, const hisa_select_options_t *options, hisa_plan_t *plan) {
    const int64_t size = index->shard.block_size;
    const int64_t blocks = hisa_ceil_div(index->capacity, size);
    int64_t width = options->top_blocks;
    if (options->mode == HISA_MODE_BLOCK) {
        /* Only the first and the last block in sight can be cut by the window. */
        width = hisa_ceil_div(options->top_k, size) + 2;
    }
    width = hisa_min(width, blocks);
    plan->keep = (hisa_keep_t){.mode = options->mode,
                               .width = (int32_t)width,
                               .sink_blocks = (int32_t)hisa_min(options->sink_blocks, blocks),
                               .local_blocks = (int32_t)hisa_min(options->local_blocks, blocks),
                               .top_k = options->top_k};
    plan->list_width = (int32_t)hisa_min(width, index->local_blocks);
    if (options->mode == HISA_MODE_FLAT) {
        plan->list_width = (int32_t)hisa_min(options->top_k, index->local_blocks * size);
    }
    plan->token_width = (int32_t)hisa_min(options->top_k, plan->list_width * size);
}

/* Bytes that one more row in a tile adds to the lists and the pool, of a lane if there are several. */
static int64_t row_bytes(const hisa_index_t *index, const hisa_select_options_t *options, const hisa_plan_t *plan) {
    const int64_t ranks = index->shard.ranks;
    const bool owner = plan->exchange == HISA_EXCHANGE_OWNER;
    const bool dealt = options->queries_on == HISA_QUERIES_REPLICATED; /* else all rows may be one rank's */
    if (plan->keep.mode == HISA_MODE_FLAT) {
        const int64_t received = owner && dealt ? 1 : ranks; /* lists of a row; by one-shot among them its own */
        return (received + (owner ? 1 : 0)) * plan->list_width * (int64_t)sizeof(uint64_t) +
               (int64_t)plan->keep.top_k * 8;
    }
    const int64_t scores = index->shard.block_size * (int64_t)sizeof(float);
    if (plan->single) {
        return plan->keep.width * ((int64_t)sizeof(int32_t) + scores);
    }
    if (plan->lists_of_tokens) {
        const int64_t entries = plan->list_width + plan->token_width;
        return ranks * entries * (int64_t)sizeof(uint64_t) + plan->list_width * scores + (int64_t)plan->keep.top_k * 8;
    }
    int64_t blocks = ranks * plan->list_width;
    if (owner) { /* the pool: of own rows, and of others' rows what is kept here */
        blocks = plan->list_width + (dealt ? hisa_ceil_div(plan->keep.width, ranks) : plan->keep.width);
    }
    return ranks * plan->list_width * (int64_t)sizeof(uint64_t) + blocks * scores;
}

static void set_rows(const hisa_index_t *index, const hisa_select_options_t *options, int64_t rows, hisa_plan_t *plan) {
    const int64_t ranks = index->shard.ranks;
    const hisa_backend_ops_t *ops = hisa_index_ops(index);
    const bool pipelined = ops->exchange_stream != NULL && ranks > 1 && plan->exchange == HISA_EXCHANGE_OWNER;
    int64_t tile = options->tile_rows;
    if (tile == 0) {
        tile = hisa_min(ops->tile_rows, hisa_max(1, ops->tile_budget / row_bytes(index, options, plan)));
        if (pipelined) {
            hisa_policy_t policy;
            hisa_policy_of(index, &policy);
            tile = hisa_min(tile, hisa_policy_tile(&policy, options, rows));
        }
    }
    plan->tile_rows = hisa_max(1, hisa_min(tile, rows));
    /* All of this grows with the rows: fewer of them never need more workspace. */
    plan->lanes = pipelined ? (int32_t)hisa_max(1, hisa_min(HISA_LANES, hisa_ceil_div(rows, plan->tile_rows))) : 1;
    plan->rows_cap = plan->tile_rows + (ranks > 1 ? ranks : 0);
    /* Sharded queries may all be one rank's. */
    plan->own_cap = plan->rows_cap;
    if (options->queries_on == HISA_QUERIES_REPLICATED) {
        plan->own_cap = hisa_min(plan->rows_cap, hisa_ceil_div(plan->tile_rows, ranks) + 2);
    }
}

/* Hands out the workspace piece by piece. */
typedef struct carver {
    int64_t next;
    bool overflow;
} carver_t;

static int64_t carve(carver_t *carver, int64_t count, int64_t size) {
    const int64_t at = carver->next;
    int64_t bytes;
    if (!hisa_mul(count, size, &bytes) || bytes > INT64_MAX / 2 || at > INT64_MAX / 2 - bytes - ALIGNMENT) {
        carver->overflow = true;
        return at;
    }
    carver->next = at + round_up(bytes, ALIGNMENT);
    return at;
}

static void carve_two_stage(const hisa_index_t *index, const hisa_select_options_t *options, carver_t *carver,
                            hisa_plan_t *plan) {
    const int64_t ranks = index->shard.ranks;
    const int64_t size = index->shard.block_size;
    const int64_t rows = plan->rows_cap;
    const bool oneshot = plan->exchange != HISA_EXCHANGE_OWNER;
    if (oneshot) {
        plan->lists = carve(carver, ranks, hisa_plan_part_bytes(plan, index->shard.block_size, rows));
        plan->work_kept = carve(carver, rows * plan->list_width, sizeof(int32_t));
    } else {
        plan->lists = carve(carver, ranks * rows * plan->list_width, sizeof(uint64_t));
        plan->pool_receive = plan->own_cap * plan->keep.width;
    }
    plan->kept = carve(carver, rows * plan->keep.width, sizeof(int32_t));
    plan->place = carve(carver, rows * plan->keep.width, sizeof(int32_t));
    plan->work = carve(carver, oneshot ? 0 : rows * plan->keep.width, sizeof(int32_t));
    if (!oneshot && plan->keep.mode == HISA_MODE_HISA) {
        plan->pool = carve(carver, plan->pool_receive + rows * plan->list_width, size * (int64_t)sizeof(float));
    }
    plan->bitmap = carve(carver, rows * plan->keep.width, size / 8);
    /* Whether a call asks for scores is not known here, so there is always room for them. */
    plan->selected = carve(carver, options->mode == HISA_MODE_HISA ? rows * options->top_k : 0, sizeof(float));
}

static void carve_lists(const hisa_index_t *index, const hisa_select_options_t *options, carver_t *carver,
                        hisa_plan_t *plan) {
    const int64_t ranks = index->shard.ranks;
    const int64_t size = index->shard.block_size;
    const int64_t rows = plan->rows_cap;
    plan->lists = carve(carver, ranks * rows * plan->list_width, sizeof(uint64_t));
    plan->kept = carve(carver, rows * plan->keep.width, sizeof(int32_t));
    plan->work_kept = carve(carver, rows * plan->list_width, sizeof(int32_t));
    plan->work = carve(carver, rows * plan->list_width, sizeof(int32_t));
    plan->pool = carve(carver, rows * plan->list_width, size * (int64_t)sizeof(float));
    plan->bitmap = carve(carver, rows * plan->list_width, size / 8);
    plan->selected = carve(carver, rows * options->top_k, sizeof(float));
    plan->tokens = carve(carver, ranks * rows * plan->token_width, sizeof(uint64_t));
    plan->positions = carve(carver, rows * options->top_k, sizeof(int32_t));
    plan->threshold = carve(carver, rows, sizeof(uint64_t));
}

static void carve_single(const hisa_index_t *index, carver_t *carver, hisa_plan_t *plan) {
    const int64_t blocks = plan->rows_cap * plan->keep.width;
    const int64_t size = index->shard.block_size;
    plan->kept = carve(carver, blocks, sizeof(int32_t));
    if (plan->keep.mode == HISA_MODE_BLOCK) {
        plan->bitmap = carve(carver, blocks, size / 8);
    } else {
        plan->pool = carve(carver, blocks, size * (int64_t)sizeof(float));
    }
}

static void carve_flat(const hisa_index_t *index, const hisa_select_options_t *options, carver_t *carver,
                       hisa_plan_t *plan) {
    const int64_t ranks = index->shard.ranks;
    const int64_t rows = plan->rows_cap;
    const bool oneshot = plan->exchange != HISA_EXCHANGE_OWNER;
    plan->lists = carve(carver, (oneshot ? ranks : 1) * rows * plan->list_width, sizeof(uint64_t));
    plan->quantiles = carve(carver, oneshot ? 0 : ranks * rows * HISA_QUANTILES, sizeof(uint32_t));
    plan->counts = carve(carver, ranks * rows, sizeof(int32_t));
    plan->receive = carve(carver, oneshot ? 0 : ranks * plan->own_cap * plan->list_width, sizeof(uint64_t));
    plan->positions = carve(carver, rows * options->top_k, sizeof(int32_t));
    plan->selected = carve(carver, rows * options->top_k, sizeof(float));
    plan->threshold = carve(carver, rows, sizeof(uint64_t));
}

/* Lists of tokens are merged as in mode flat. */
static int64_t scratch_bytes(const hisa_index_t *index, const hisa_select_options_t *options, const hisa_plan_t *plan) {
    const hisa_backend_ops_t *ops = hisa_index_ops(index);
    const bool flat = options->mode == HISA_MODE_FLAT;
    const int64_t bytes = ops->scratch_bytes(index->device, plan->rows_cap, plan->keep.width, options->top_k,
                                             index->local_blocks, index->shard.ranks, flat);
    return plan->lists_of_tokens
               ? hisa_max(bytes, ops->scratch_bytes(index->device, plan->rows_cap, plan->keep.width, options->top_k,
                                                    index->local_blocks, index->shard.ranks, true))
               : bytes;
}

hisa_status_t hisa_plan_make(const hisa_index_t *index, const hisa_select_options_t *options, hisa_exchange_t exchange,
                             int64_t rows, hisa_plan_t *plan) {
    const hisa_backend_ops_t *ops = hisa_index_ops(index);
    const hisa_shard_t *shard = &index->shard;
    const bool flat = options->mode == HISA_MODE_FLAT;
    carver_t carver = {0};
    *plan = (hisa_plan_t){.exchange = exchange,
                          .lists_of_tokens = exchange == HISA_EXCHANGE_LISTS && options->mode == HISA_MODE_HISA};
    /* Who asks for an exchange by name gets its way even on one rank. */
    plan->single = shard->ranks == 1 && options->exchange == HISA_EXCHANGE_AUTO && (flat || ops->keep_blocks != NULL);
    set_widths(index, options, plan);
    set_rows(index, options, rows, plan);
    plan->scratch = carve(&carver, scratch_bytes(index, options, plan), 1);
    plan->lane_begin = carver.next;
    carver.next = 0;
    plan->row = carve(&carver, plan->rows_cap, sizeof(hisa_row_t));
    if (options->queries_on == HISA_QUERIES_SHARDED) {
        plan->q = carve(&carver, plan->rows_cap * shard->num_heads, shard->head_dim);
        plan->weights = carve(&carver, plan->rows_cap * shard->num_heads, sizeof(float));
    }
    plan->prepared = carve(&carver, ops->queries_bytes(index->device, plan->rows_cap), 1);
    if (flat) {
        carve_flat(index, options, &carver, plan);
    } else if (plan->single) {
        carve_single(index, &carver, plan);
    } else if (plan->lists_of_tokens) {
        carve_lists(index, options, &carver, plan);
    } else {
        carve_two_stage(index, options, &carver, plan);
    }
    plan->lane_bytes = carver.next;
    carver.overflow = carver.overflow || plan->lane_bytes > INT64_MAX / (INT64_C(2) * HISA_LANES);
    plan->bytes = carver.overflow ? 0 : plan->lane_begin + plan->lanes * plan->lane_bytes;
    /* Places in the pool are int32. */
    if (carver.overflow || plan->bytes / shard->block_size > INT32_MAX) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "the workspace of tiles of %lld rows would not fit: set tile_rows",
                         (long long)plan->tile_rows);
    }
    return HISA_OK;
}
