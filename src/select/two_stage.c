/* Modes hisa and block across ranks: the owner merge, the one-shot exchange (README.md says how they differ), and what
 * engines do without either, to compare with. */
#include "select/run.h"

#include "base/checked.h"

/* What a row's results are made of once its blocks are merged: kept blocks, a bit a token, and scores if asked for. */
typedef struct picked {
    int32_t *kept;
    uint8_t *bitmap;
    float *selected; /* NULL: not asked for */
} picked_t;

static picked_t picked_of(const hisa_run_t *run) {
    const picked_t picked = {.kept = hisa_run_at(run, run->plan.kept),
                             .bitmap = hisa_run_at(run, run->plan.bitmap),
                             .selected = run->selection->scores != NULL ? hisa_run_at(run, run->plan.selected) : NULL};
    return picked;
}

static hisa_status_t emit(hisa_run_t *run, const picked_t *picked, void *stream) {
    const hisa_output_t output = hisa_run_output(run);
    const hisa_status_t status =
        run->ops->emit(run->index->device, &run->index->shard, &run->lane->tile, run->plan.keep.width, picked->kept,
                       picked->bitmap, picked->selected, &output, stream);
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_EMIT) : status;
}

/* Scores this rank's blocks into its own part of the lists. blocks: NULL if they are not refined before the merge. */
static hisa_status_t score_blocks(hisa_run_t *run, uint64_t *own_list, int32_t *blocks, void *stream) {
    int64_t *scored = &run->index->stats.steps[HISA_STEP_SCORE_BLOCKS].keys_scored;
    const hisa_status_t status =
        run->ops->score_blocks(run->index->device, &run->index->shard, &run->lane->tile, &run->plan.keep,
                               run->plan.list_width, own_list, blocks, scored, stream);
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_SCORE_BLOCKS) : status;
}

static hisa_status_t score_tokens(hisa_run_t *run, int32_t width, const int32_t *kept, const int32_t *work, float *pool,
                                  void *stream) {
    int64_t *scored = &run->index->stats.steps[HISA_STEP_SCORE_TOKENS].keys_scored;
    const hisa_status_t status = run->ops->score_tokens(run->index->device, &run->index->shard, &run->lane->tile, width,
                                                        kept, work, pool, scored, stream);
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_SCORE_TOKENS) : status;
}

/* ---------------------------------------------------------------------------------------------- one-shot */

/* Each rank's own best blocks, a superset of its part of the kept ones, and the scores of their tokens, to all. */
static hisa_status_t gather_own(hisa_run_t *run, uint8_t *lists, int64_t part, int64_t pool_at) {
    const hisa_plan_t *plan = &run->plan;
    const bool tokens = plan->keep.mode == HISA_MODE_HISA;
    uint8_t *own = lists + run->index->shard.rank * part;
    int32_t *own_blocks = tokens ? hisa_run_at(run, plan->work_kept) : NULL;
    hisa_status_t status = score_blocks(run, (uint64_t *)(void *)own, own_blocks, run->stream);
    if (status == HISA_OK && tokens) {
        status = score_tokens(run, plan->list_width, own_blocks, NULL, (float *)(void *)(own + pool_at), run->stream);
    }
    if (status == HISA_OK) {
        status = hisa_run_exchange(run, HISA_STEP_MERGE_BLOCKS);
    }
    if (status == HISA_OK) {
        status = hisa_comm_allgather(run->index->comm, lists, part, run->stream);
        status = hisa_run_exchange_end(run, HISA_STEP_MERGE_BLOCKS, status);
    }
    return status;
}

/* Whether the backend may join the selection and its results. Not for local places; and with several tiles a tile's
 * rows lie in pieces in the results of all, which it would take one by one. */
static bool selects_to_results(const hisa_run_t *run) {
    const hisa_placement_t placement = run->options->placement;
    return run->ops->select_emit != NULL && placement != HISA_PLACE_LOCAL &&
           (placement == HISA_PLACE_OWNER || run->tiles == 1);
}

static hisa_status_t select_tokens(hisa_run_t *run, int64_t row_begin, int64_t rows, const picked_t *picked,
                                   const float *pool) {
    const hisa_shard_t *shard = &run->index->shard;
    const hisa_tile_t *tile = &run->lane->tile;
    hisa_device_t *device = run->index->device;
    const int32_t width = run->plan.keep.width;
    const int32_t *place = hisa_run_at(run, run->plan.place);
    if (selects_to_results(run)) {
        const hisa_output_t output = hisa_run_output(run);
        return run->ops->select_emit(device, shard, tile, width, picked->kept, place, pool, &output, run->stream);
    }
    return run->ops->select_tokens(device, shard, tile, width, run->options->top_k, row_begin, rows, picked->kept,
                                   place, pool, picked->bitmap, picked->selected, run->stream);
}

/* One all-gather; then each rank runs what a single one would run. */
hisa_status_t hisa_run_two_stage_oneshot(hisa_run_t *run) {
    const hisa_plan_t *plan = &run->plan;
    const hisa_shard_t *shard = &run->index->shard;
    const int64_t part = hisa_plan_part_bytes(plan, shard->block_size, run->lane->tile.rows);
    const int64_t pool_at = hisa_plan_part_pool(plan, run->lane->tile.rows);
    const bool tokens = plan->keep.mode == HISA_MODE_HISA;
    uint8_t *lists = hisa_run_at(run, plan->lists);
    const picked_t picked = picked_of(run);
    int64_t row_begin;
    int64_t rows;
    hisa_run_oneshot_rows(run, &row_begin, &rows);

    hisa_status_t status = gather_own(run, lists, part, pool_at);
    if (status == HISA_OK) {
        const int64_t place_stride = part / ((int64_t)sizeof(float) * shard->block_size);
        status = run->ops->merge_blocks(run->index->device, shard, &run->lane->tile, &plan->keep,
                                        (const uint64_t *)(const void *)lists, plan->list_width,
                                        part / (int64_t)sizeof(uint64_t), place_stride, row_begin, rows, picked.kept,
                                        hisa_run_at(run, plan->place), picked.bitmap, run->stream);
    }
    if (status == HISA_OK) {
        status = hisa_run_step(run, HISA_STEP_MERGE_BLOCKS);
    }
    if (status == HISA_OK && tokens) {
        status = select_tokens(run, row_begin, rows, &picked, (const float *)(const void *)(lists + pool_at));
    }
    if (status == HISA_OK) {
        status = hisa_run_step(run, HISA_STEP_MERGE_TOKENS);
    }
    return status == HISA_OK && !(tokens && selects_to_results(run)) ? emit(run, &picked, run->stream) : status;
}

/* ---------------------------------------------------------------------------------------------- lists */

/* This rank's best tokens inside the kept blocks that it stores, as a list. */
static hisa_status_t list_own_tokens(hisa_run_t *run, uint64_t *own_tokens) {
    const hisa_plan_t *plan = &run->plan;
    const hisa_shard_t *shard = &run->index->shard;
    const hisa_tile_t *tile = &run->lane->tile;
    hisa_device_t *device = run->index->device;
    int32_t *own = hisa_run_at(run, plan->work_kept);
    int32_t *place = hisa_run_at(run, plan->work);
    float *pool = hisa_run_at(run, plan->pool);
    uint8_t *bitmap = hisa_run_at(run, plan->bitmap);
    float *selected = hisa_run_at(run, plan->selected);
    hisa_status_t status = run->ops->own_blocks(device, shard, tile, plan->keep.width, hisa_run_at(run, plan->kept),
                                                plan->list_width, own, place, run->stream);
    if (status == HISA_OK) {
        status = score_tokens(run, plan->list_width, own, place, pool, run->stream);
    }
    if (status == HISA_OK) {
        status = run->ops->select_tokens(device, shard, tile, plan->list_width, run->options->top_k, 0, tile->rows, own,
                                         place, pool, bitmap, selected, run->stream);
    }
    if (status == HISA_OK) {
        status = run->ops->list_tokens(device, shard, tile, plan->list_width, run->options->top_k, own, bitmap,
                                       selected, plan->token_width, own_tokens, run->stream);
    }
    return status;
}

/* Block lists to all, who all merge them; then lists of tokens likewise. */
hisa_status_t hisa_run_two_stage_lists(hisa_run_t *run) {
    const hisa_plan_t *plan = &run->plan;
    const hisa_shard_t *shard = &run->index->shard;
    const hisa_tile_t *tile = &run->lane->tile;
    const int64_t part = tile->rows * plan->list_width;
    uint64_t *lists = hisa_run_at(run, plan->lists);
    uint64_t *tokens = hisa_run_at(run, plan->tokens);
    hisa_status_t status = score_blocks(run, lists + shard->rank * part, NULL, run->stream);
    if (status == HISA_OK) {
        status = hisa_run_exchange(run, HISA_STEP_MERGE_BLOCKS);
    }
    if (status == HISA_OK) {
        status = hisa_comm_allgather(run->index->comm, lists, part * (int64_t)sizeof *lists, run->stream);
        status = hisa_run_exchange_end(run, HISA_STEP_MERGE_BLOCKS, status);
    }
    if (status == HISA_OK) {
        status = run->ops->merge_blocks(run->index->device, shard, tile, &plan->keep, lists, plan->list_width, part, 0,
                                        0, tile->rows, hisa_run_at(run, plan->kept), NULL, NULL, run->stream);
    }
    if (status == HISA_OK) {
        status = hisa_run_step(run, HISA_STEP_MERGE_BLOCKS);
    }
    if (status == HISA_OK) {
        status = list_own_tokens(run, tokens + shard->rank * tile->rows * plan->token_width);
    }
    return status == HISA_OK ? hisa_run_merge_lists(run, tokens, plan->token_width) : status;
}

/* ---------------------------------------------------------------------------------------------- owner merge */

/* The phases of pipeline.c: run.h says what each is for. */

static hisa_status_t phase_score(hisa_run_t *run, void *stream) {
    const int64_t part = run->lane->tile.rows * run->plan.list_width;
    uint64_t *lists = hisa_run_at(run, run->plan.lists);
    const hisa_status_t status = hisa_run_load(run, stream);
    return status == HISA_OK ? score_blocks(run, lists + run->index->shard.rank * part, NULL, stream) : status;
}

/* Each rank's lists to the rows' owners. */
static hisa_status_t phase_lists(hisa_run_t *run, void *stream) {
    const hisa_shard_t *shard = &run->index->shard;
    const hisa_segment_t *own = &run->lane->segments[shard->rank];
    const int64_t list_bytes = run->plan.list_width * (int64_t)sizeof(uint64_t);
    const int64_t part = run->lane->tile.rows * list_bytes;
    uint8_t *lists = hisa_run_at(run, run->plan.lists);
    for (int32_t p = 0; p < shard->ranks; ++p) {
        run->send_bytes[p] = run->lane->segments[p].rows * list_bytes;
        run->send_offsets[p] = shard->rank * part + run->lane->segments[p].tile_begin * list_bytes;
        run->recv_bytes[p] = own->rows * list_bytes;
        run->recv_offsets[p] = p * part + own->tile_begin * list_bytes;
    }
    hisa_status_t status = hisa_run_exchange(run, HISA_STEP_MERGE_BLOCKS);
    if (status == HISA_OK) {
        status = hisa_comm_alltoallv(run->index->comm, lists, run->send_bytes, run->send_offsets, lists,
                                     run->recv_bytes, run->recv_offsets, stream);
    }
    return hisa_run_exchange_end(run, HISA_STEP_MERGE_BLOCKS, status);
}

static hisa_status_t phase_merge(hisa_run_t *run, void *stream) {
    const hisa_plan_t *plan = &run->plan;
    const hisa_shard_t *shard = &run->index->shard;
    const hisa_segment_t *own = &run->lane->segments[shard->rank];
    const picked_t picked = picked_of(run);
    return run->ops->merge_blocks(run->index->device, shard, &run->lane->tile, &plan->keep,
                                  hisa_run_at(run, plan->lists), plan->list_width,
                                  run->lane->tile.rows * plan->list_width, 0, own->tile_begin, own->rows, picked.kept,
                                  NULL, picked.bitmap, stream);
}

static hisa_status_t phase_kept(hisa_run_t *run, void *stream) {
    hisa_status_t status = hisa_run_exchange(run, HISA_STEP_MERGE_BLOCKS);
    if (status == HISA_OK) {
        status = hisa_run_gather_rows(run, hisa_run_at(run, run->plan.kept),
                                      run->plan.keep.width * (int64_t)sizeof(int32_t), stream);
    }
    status = hisa_run_exchange_end(run, HISA_STEP_MERGE_BLOCKS, status);
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_MERGE_BLOCKS) : status;
}

/* Every rank knows the kept blocks and who owns them, so sizes and places of the scores need no exchange. */
static hisa_status_t phase_sizes(hisa_run_t *run, void *stream) {
    const hisa_plan_t *plan = &run->plan;
    const hisa_status_t status =
        run->ops->plan_tokens(run->index->device, &run->index->shard, &run->lane->tile, run->lane->segments,
                              plan->keep.width, hisa_run_at(run, plan->kept), plan->pool_receive,
                              hisa_run_at(run, plan->work), hisa_run_at(run, plan->place), run->lane->sizes, stream);
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_MERGE_BLOCKS) : status;
}

static hisa_status_t phase_tokens(hisa_run_t *run, void *stream) {
    const hisa_plan_t *plan = &run->plan;
    return score_tokens(run, plan->keep.width, hisa_run_at(run, plan->kept), hisa_run_at(run, plan->work),
                        hisa_run_at(run, plan->pool), stream);
}

/* Token scores by position to the rows' owners. */
static hisa_status_t phase_scores(hisa_run_t *run, void *stream) {
    const int32_t ranks = run->index->shard.ranks;
    const int64_t block_bytes = run->index->shard.block_size * (int64_t)sizeof(float);
    const int64_t *sizes = run->lane->sizes;
    float *pool = hisa_run_at(run, run->plan.pool);
    int64_t send = run->plan.pool_receive;
    int64_t recv = 0;
    for (int32_t p = 0; p < ranks; ++p) {
        run->send_bytes[p] = sizes[p] * block_bytes;
        run->send_offsets[p] = send * block_bytes;
        run->recv_bytes[p] = sizes[ranks + p] * block_bytes;
        run->recv_offsets[p] = recv * block_bytes;
        send += sizes[p];
        recv += sizes[ranks + p];
    }
    hisa_status_t status = hisa_run_exchange(run, HISA_STEP_MERGE_TOKENS);
    if (status == HISA_OK) {
        status = hisa_comm_alltoallv(run->index->comm, pool, run->send_bytes, run->send_offsets, pool, run->recv_bytes,
                                     run->recv_offsets, stream);
    }
    return hisa_run_exchange_end(run, HISA_STEP_MERGE_TOKENS, status);
}

static hisa_status_t phase_select(hisa_run_t *run, void *stream) {
    const hisa_plan_t *plan = &run->plan;
    const hisa_segment_t *own = &run->lane->segments[run->index->shard.rank];
    const picked_t picked = picked_of(run);
    return run->ops->select_tokens(run->index->device, &run->index->shard, &run->lane->tile, plan->keep.width,
                                   run->options->top_k, own->tile_begin, own->rows, picked.kept,
                                   hisa_run_at(run, plan->place), hisa_run_at(run, plan->pool), picked.bitmap,
                                   picked.selected, stream);
}

/* The owners' results to whoever wants them: a bit a candidate, and the scores only where they are asked for. */
static hisa_status_t phase_spread(hisa_run_t *run, void *stream) {
    const int64_t bitmap_bytes = (int64_t)run->plan.keep.width * run->index->shard.block_size / 8;
    const picked_t picked = picked_of(run);
    hisa_status_t status = HISA_OK;
    if (run->options->placement != HISA_PLACE_OWNER) {
        status = hisa_run_exchange(run, HISA_STEP_MERGE_TOKENS);
        if (status == HISA_OK) {
            status = hisa_comm_begin(run->index->comm);
        }
        if (status == HISA_OK) {
            status = hisa_run_gather_rows(run, picked.bitmap, bitmap_bytes, stream);
        }
        if (status == HISA_OK && picked.selected != NULL) {
            status = hisa_run_gather_rows(run, picked.selected, run->options->top_k * (int64_t)sizeof(float), stream);
        }
        if (status == HISA_OK) {
            status = hisa_comm_end(run->index->comm);
        }
        status = hisa_run_exchange_end(run, HISA_STEP_MERGE_TOKENS, status);
    }
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_MERGE_TOKENS) : status;
}

static hisa_status_t phase_emit(hisa_run_t *run, void *stream) {
    const picked_t picked = picked_of(run);
    return emit(run, &picked, stream);
}

const hisa_way_t hisa_way_hisa = {.phase = {[HISA_PHASE_COPY] = hisa_run_copy,
                                            [HISA_PHASE_GATHER] = hisa_run_gather,
                                            [HISA_PHASE_SCORE] = phase_score,
                                            [HISA_PHASE_LISTS] = phase_lists,
                                            [HISA_PHASE_MERGE] = phase_merge,
                                            [HISA_PHASE_KEPT] = phase_kept,
                                            [HISA_PHASE_SIZES] = phase_sizes,
                                            [HISA_PHASE_TOKENS] = phase_tokens,
                                            [HISA_PHASE_SCORES] = phase_scores,
                                            [HISA_PHASE_SELECT] = phase_select,
                                            [HISA_PHASE_SPREAD] = phase_spread,
                                            [HISA_PHASE_EMIT] = phase_emit}};

/* The merge of blocks is the selection. */
const hisa_way_t hisa_way_block = {.phase = {[HISA_PHASE_COPY] = hisa_run_copy,
                                             [HISA_PHASE_GATHER] = hisa_run_gather,
                                             [HISA_PHASE_SCORE] = phase_score,
                                             [HISA_PHASE_LISTS] = phase_lists,
                                             [HISA_PHASE_MERGE] = phase_merge,
                                             [HISA_PHASE_KEPT] = phase_kept,
                                             [HISA_PHASE_SPREAD] = phase_spread,
                                             [HISA_PHASE_EMIT] = phase_emit}};
