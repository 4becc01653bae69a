/* Mode flat across ranks. There are no kept blocks: each rank's best tokens compete, after quantiles of the ranks'
 * scores have told what cannot win. */
#include "select/run.h"

/* What a row's results are made of. */
typedef struct winners {
    int32_t *positions;
    float *selected; /* NULL: not asked for */
    uint64_t *threshold;
} winners_t;

static winners_t winners_of(const hisa_run_t *run) {
    const winners_t winners = {.positions = hisa_run_at(run, run->plan.positions),
                               .selected = run->selection->scores != NULL ? hisa_run_at(run, run->plan.selected) : NULL,
                               .threshold = hisa_run_at(run, run->plan.threshold)};
    return winners;
}

static hisa_status_t scan(hisa_run_t *run, uint64_t *own_list, void *stream) {
    int64_t *scored = &run->index->stats.steps[HISA_STEP_SCORE_TOKENS].keys_scored;
    const hisa_status_t status =
        run->ops->flat_scan(run->index->device, &run->index->shard, &run->lane->tile, run->options->top_k,
                            run->plan.list_width, own_list, scored, stream);
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_SCORE_TOKENS) : status;
}

/* own_list, counts, width: this rank's entries, for placement local, which takes those that reach the threshold. */
static hisa_status_t emit(hisa_run_t *run, const winners_t *winners, const uint64_t *own_list, const int32_t *counts,
                          int32_t width, void *stream) {
    const hisa_output_t output = hisa_run_output(run);
    hisa_status_t status;
    if (run->options->placement == HISA_PLACE_LOCAL) {
        status = run->ops->flat_emit_local(run->index->device, &run->index->shard, &run->lane->tile, width, own_list,
                                           counts, winners->threshold, &output, stream);
    } else {
        status = run->ops->flat_emit(run->index->device, &run->index->shard, &run->lane->tile, winners->positions,
                                     winners->selected, &output, stream);
    }
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_EMIT) : status;
}

hisa_status_t hisa_run_merge_lists(hisa_run_t *run, uint64_t *lists, int32_t width) {
    const hisa_shard_t *shard = &run->index->shard;
    const int64_t part = run->lane->tile.rows * width;
    const winners_t winners = winners_of(run);
    int64_t row_begin;
    int64_t rows;
    hisa_run_oneshot_rows(run, &row_begin, &rows);
    hisa_status_t status = hisa_run_exchange(run, HISA_STEP_MERGE_TOKENS);
    if (status == HISA_OK) {
        status = hisa_comm_allgather(run->index->comm, lists, part * (int64_t)sizeof *lists, run->stream);
        status = hisa_run_exchange_end(run, HISA_STEP_MERGE_TOKENS, status);
    }
    if (status == HISA_OK) {
        for (int32_t p = 0; p < shard->ranks; ++p) {
            run->recv_offsets[p] = p * part + row_begin * width;
        }
        status = run->ops->flat_merge(run->index->device, shard, &run->lane->tile, run->options->top_k, width, lists,
                                      run->recv_offsets, NULL, row_begin, rows, winners.positions, winners.selected,
                                      winners.threshold, run->stream);
    }
    if (status == HISA_OK) {
        status = hisa_run_step(run, HISA_STEP_MERGE_TOKENS);
    }
    return status == HISA_OK ? emit(run, &winners, lists + shard->rank * part, NULL, width, run->stream) : status;
}

/* Every rank's list to every rank, at its full width. */
hisa_status_t hisa_run_flat_oneshot(hisa_run_t *run) {
    const int64_t part = run->lane->tile.rows * run->plan.list_width;
    uint64_t *lists = hisa_run_at(run, run->plan.lists);
    const hisa_status_t status = scan(run, lists + run->index->shard.rank * part, run->stream);
    return status == HISA_OK ? hisa_run_merge_lists(run, lists, run->plan.list_width) : status;
}

/* One rank: what it found is the result, and a place among its own tokens is the position, whatever the placement. */
hisa_status_t hisa_run_flat_single(hisa_run_t *run) {
    uint64_t *list = hisa_run_at(run, run->plan.lists);
    const hisa_output_t output = hisa_run_output(run);
    hisa_status_t status = scan(run, list, run->stream);
    if (status == HISA_OK) {
        status = run->ops->flat_emit_local(run->index->device, &run->index->shard, &run->lane->tile,
                                           run->plan.list_width, list, NULL, NULL, &output, run->stream);
    }
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_EMIT) : status;
}

/* ---------------------------------------------------------------------------------------------- owner merge */

/* The phases of pipeline.c: run.h says what each is for. */

/* This rank's line of the plan's counts [ranks][rows]. */
static int32_t *own_counts(const hisa_run_t *run) {
    return (int32_t *)hisa_run_at(run, run->plan.counts) + run->index->shard.rank * run->lane->tile.rows;
}

static hisa_status_t phase_score(hisa_run_t *run, void *stream) {
    uint32_t *quantiles = hisa_run_at(run, run->plan.quantiles);
    uint64_t *list = hisa_run_at(run, run->plan.lists);
    const hisa_tile_t *tile = &run->lane->tile;
    hisa_status_t status = hisa_run_load(run, stream);
    if (status == HISA_OK) {
        status = scan(run, list, stream);
    }
    if (status == HISA_OK) {
        status = run->ops->flat_quantiles(run->index->device, tile, run->options->top_k, run->plan.list_width, list,
                                          quantiles + run->index->shard.rank * tile->rows * HISA_QUANTILES, stream);
    }
    return status;
}

/* All ranks' lines, `size` bytes a row, to all. */
static hisa_status_t gather_lines(hisa_run_t *run, void *lines, size_t size, void *stream) {
    const int64_t bytes = run->lane->tile.rows * (int64_t)size;
    hisa_status_t status = hisa_run_exchange(run, HISA_STEP_MERGE_TOKENS);
    if (status == HISA_OK) {
        status = hisa_comm_allgather(run->index->comm, lines, bytes, stream);
    }
    return hisa_run_exchange_end(run, HISA_STEP_MERGE_TOKENS, status);
}

static hisa_status_t phase_quantiles(hisa_run_t *run, void *stream) {
    return gather_lines(run, hisa_run_at(run, run->plan.quantiles), HISA_QUANTILES * sizeof(uint32_t), stream);
}

/* Drops what cannot win. */
static hisa_status_t phase_trim(hisa_run_t *run, void *stream) {
    return run->ops->flat_trim(run->index->device, &run->index->shard, &run->lane->tile, run->plan.list_width,
                               hisa_run_at(run, run->plan.quantiles), hisa_run_at(run, run->plan.lists),
                               own_counts(run), stream);
}

/* How many entries each rank has left of each row. */
static hisa_status_t phase_counts(hisa_run_t *run, void *stream) {
    return gather_lines(run, hisa_run_at(run, run->plan.counts), sizeof(int32_t), stream);
}

static hisa_status_t phase_sizes(hisa_run_t *run, void *stream) {
    return run->ops->flat_sizes(run->index->device, &run->index->shard, &run->lane->tile, run->lane->segments,
                                hisa_run_at(run, run->plan.counts), run->lane->sizes, stream);
}

/* Entries to the rows' owners. */
static hisa_status_t phase_entries(hisa_run_t *run, void *stream) {
    const hisa_shard_t *shard = &run->index->shard;
    const int64_t size = (int64_t)sizeof(uint64_t);
    const int64_t *sizes = run->lane->sizes;
    const uint8_t *list = hisa_run_at(run, run->plan.lists);
    uint8_t *receive = hisa_run_at(run, run->plan.receive);
    int64_t send = 0;
    int64_t recv = 0;
    for (int32_t p = 0; p < shard->ranks; ++p) {
        run->send_bytes[p] = sizes[p] * size;
        run->send_offsets[p] = send;
        run->recv_bytes[p] = sizes[shard->ranks + p] * size;
        run->recv_offsets[p] = recv;
        send += run->send_bytes[p];
        recv += run->recv_bytes[p];
    }
    hisa_status_t status = run->ops->copy(run->index->device, receive + run->recv_offsets[shard->rank],
                                          list + run->send_offsets[shard->rank], run->send_bytes[shard->rank], stream);
    if (status == HISA_OK) {
        status = hisa_run_exchange(run, HISA_STEP_MERGE_TOKENS);
    }
    if (status == HISA_OK) {
        status = hisa_comm_alltoallv(run->index->comm, list, run->send_bytes, run->send_offsets, receive,
                                     run->recv_bytes, run->recv_offsets, stream);
    }
    return hisa_run_exchange_end(run, HISA_STEP_MERGE_TOKENS, status);
}

static hisa_status_t phase_select(hisa_run_t *run, void *stream) {
    const hisa_shard_t *shard = &run->index->shard;
    const hisa_segment_t *own = &run->lane->segments[shard->rank];
    const winners_t winners = winners_of(run);
    int64_t at = 0;
    for (int32_t p = 0; p < shard->ranks; ++p) {
        run->recv_offsets[p] = at; /* in entries */
        at += run->lane->sizes[shard->ranks + p];
    }
    return run->ops->flat_merge(run->index->device, shard, &run->lane->tile, run->options->top_k, run->plan.list_width,
                                hisa_run_at(run, run->plan.receive), run->recv_offsets,
                                hisa_run_at(run, run->plan.counts), own->tile_begin, own->rows, winners.positions,
                                winners.selected, winners.threshold, stream);
}

static hisa_status_t phase_spread(hisa_run_t *run, void *stream) {
    const winners_t winners = winners_of(run);
    const int64_t top_k = run->options->top_k;
    hisa_status_t status = hisa_run_exchange(run, HISA_STEP_MERGE_TOKENS);
    if (status == HISA_OK && run->options->placement == HISA_PLACE_LOCAL) {
        status = hisa_run_gather_rows(run, winners.threshold, (int64_t)sizeof *winners.threshold, stream);
    } else if (status == HISA_OK && run->options->placement == HISA_PLACE_REPLICATED) {
        status = hisa_comm_begin(run->index->comm);
        if (status == HISA_OK) {
            status = hisa_run_gather_rows(run, winners.positions, top_k * (int64_t)sizeof *winners.positions, stream);
        }
        if (status == HISA_OK && winners.selected != NULL) {
            status = hisa_run_gather_rows(run, winners.selected, top_k * (int64_t)sizeof *winners.selected, stream);
        }
        if (status == HISA_OK) {
            status = hisa_comm_end(run->index->comm);
        }
    }
    status = hisa_run_exchange_end(run, HISA_STEP_MERGE_TOKENS, status);
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_MERGE_TOKENS) : status;
}

static hisa_status_t phase_emit(hisa_run_t *run, void *stream) {
    const winners_t winners = winners_of(run);
    return emit(run, &winners, hisa_run_at(run, run->plan.lists), own_counts(run), run->plan.list_width, stream);
}

const hisa_way_t hisa_way_flat = {.phase = {[HISA_PHASE_COPY] = hisa_run_copy,
                                            [HISA_PHASE_GATHER] = hisa_run_gather,
                                            [HISA_PHASE_SCORE] = phase_score,
                                            [HISA_PHASE_LISTS] = phase_quantiles,
                                            [HISA_PHASE_MERGE] = phase_trim,
                                            [HISA_PHASE_KEPT] = phase_counts,
                                            [HISA_PHASE_SIZES] = phase_sizes,
                                            [HISA_PHASE_SCORES] = phase_entries,
                                            [HISA_PHASE_SELECT] = phase_select,
                                            [HISA_PHASE_SPREAD] = phase_spread,
                                            [HISA_PHASE_EMIT] = phase_emit}};
