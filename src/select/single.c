/* Modes hisa and block on one rank, where nothing is exchanged and the backend joins steps: what two_stage.c gives, in
 * as few operations as it takes. */
#include "select/run.h"

static hisa_status_t keep_blocks(hisa_run_t *run, int32_t *kept, uint8_t *bitmap) {
    int64_t *scored = &run->index->stats.steps[HISA_STEP_SCORE_BLOCKS].keys_scored;
    const hisa_status_t status = run->ops->keep_blocks(run->index->device, &run->index->shard, &run->lane->tile,
                                                       &run->plan.keep, kept, bitmap, scored, run->stream);
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_SCORE_BLOCKS) : status;
}

static hisa_status_t score_tokens(hisa_run_t *run, const int32_t *kept, float *pool) {
    int64_t *scored = &run->index->stats.steps[HISA_STEP_SCORE_TOKENS].keys_scored;
    const hisa_status_t status = run->ops->score_tokens(run->index->device, &run->index->shard, &run->lane->tile,
                                                        run->plan.keep.width, kept, NULL, pool, scored, run->stream);
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_SCORE_TOKENS) : status;
}

static hisa_status_t mode_hisa(hisa_run_t *run) {
    int32_t *kept = hisa_run_at(run, run->plan.kept);
    float *pool = hisa_run_at(run, run->plan.pool);
    const hisa_output_t output = hisa_run_output(run);
    hisa_status_t status = keep_blocks(run, kept, NULL);
    if (status == HISA_OK) {
        status = score_tokens(run, kept, pool);
    }
    if (status == HISA_OK) {
        status = run->ops->select_emit(run->index->device, &run->index->shard, &run->lane->tile, run->plan.keep.width,
                                       kept, NULL, pool, &output, run->stream);
    }
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_MERGE_TOKENS) : status;
}

static hisa_status_t mode_block(hisa_run_t *run) {
    int32_t *kept = hisa_run_at(run, run->plan.kept);
    uint8_t *bitmap = hisa_run_at(run, run->plan.bitmap);
    const hisa_output_t output = hisa_run_output(run);
    hisa_status_t status = keep_blocks(run, kept, bitmap);
    if (status == HISA_OK) {
        status = run->ops->emit(run->index->device, &run->index->shard, &run->lane->tile, run->plan.keep.width, kept,
                                bitmap, NULL, &output, run->stream);
    }
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_EMIT) : status;
}

hisa_status_t hisa_run_single(hisa_run_t *run) {
    return run->plan.keep.mode == HISA_MODE_BLOCK ? mode_block(run) : mode_hisa(run);
}
