/* Mode flat across ranks. There are no kept blocks: each rank's best tokens compete, after the best of the ranks' k-th
 * scores has dropped what cannot win. */
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

static hisa_status_t scan(hisa_run_t *run, uint64_t *own_list, uint64_t *own_bound) {
    int64_t *scored = &run->index->stats.steps[HISA_STEP_SCORE_TOKENS].keys_scored;
    const hisa_status_t status =
        run->ops->flat_scan(run->index->device, &run->index->shard, &run->tile, run->options->top_k,
                            run->plan.list_width, own_list, own_bound, scored, run->stream);
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_SCORE_TOKENS) : status;
}

/* own_list, counts: this rank's entries, for placement local, which takes those that reach the threshold. */
static hisa_status_t emit(hisa_run_t *run, const winners_t *winners, const uint64_t *own_list, const int32_t *counts) {
    const hisa_output_t output = hisa_run_output(run);
    hisa_status_t status;
    if (run->options->placement == HISA_PLACE_LOCAL) {
        status = run->ops->flat_emit_local(run->index->device, &run->index->shard, &run->tile, run->plan.list_width,
                                           own_list, counts, winners->threshold, &output, run->stream);
    } else {
        status = run->ops->flat_emit(run->index->device, &run->index->shard, &run->tile, winners->positions,
                                     winners->selected, &output, run->stream);
    }
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_EMIT) : status;
}

/* Every rank's list to every rank, at its full width. */
static hisa_status_t oneshot(hisa_run_t *run) {
    const hisa_shard_t *shard = &run->index->shard;
    const int64_t part = run->tile.rows * run->plan.list_width;
    uint64_t *lists = hisa_run_at(run, run->plan.lists);
    uint64_t *own_list = lists + shard->rank * part;
    const winners_t winners = winners_of(run);
    int64_t row_begin;
    int64_t rows;
    hisa_run_oneshot_rows(run, &row_begin, &rows);
    hisa_status_t status = scan(run, own_list, hisa_run_at(run, run->plan.bounds));
    if (status == HISA_OK) {
        status = hisa_comm_allgather(run->index->comm, lists, part * (int64_t)sizeof *lists, run->stream);
    }
    if (status == HISA_OK) {
        for (int32_t p = 0; p < shard->ranks; ++p) {
            run->recv_offsets[p] = p * part + row_begin * run->plan.list_width;
        }
        status = run->ops->flat_merge(run->index->device, shard, &run->tile, run->options->top_k, run->plan.list_width,
                                      lists, run->recv_offsets, NULL, row_begin, rows, winners.positions,
                                      winners.selected, winners.threshold, run->stream);
    }
    if (status == HISA_OK) {
        status = hisa_run_step(run, HISA_STEP_MERGE_TOKENS);
    }
    return status == HISA_OK ? emit(run, &winners, own_list, NULL) : status;
}

/* Drops what cannot win, by the bounds of all ranks, and tells everyone how many entries each rank has left. */
static hisa_status_t trim(hisa_run_t *run, uint64_t *list, uint64_t *bounds, int32_t *counts) {
    const hisa_shard_t *shard = &run->index->shard;
    const int64_t rows = run->tile.rows;
    hisa_status_t status = hisa_comm_allgather(run->index->comm, bounds, rows * (int64_t)sizeof *bounds, run->stream);
    if (status == HISA_OK) {
        status = run->ops->flat_trim(run->index->device, shard, &run->tile, run->plan.list_width, bounds, list,
                                     counts + shard->rank * rows, run->stream);
    }
    if (status == HISA_OK) {
        status = hisa_comm_allgather(run->index->comm, counts, rows * (int64_t)sizeof *counts, run->stream);
    }
    return status;
}

/* Entries to the rows' owners. On return run->recv_offsets counts entries: where each rank's begin in `receive`. */
static hisa_status_t exchange(hisa_run_t *run, const uint64_t *list, const int32_t *counts, uint64_t *receive) {
    const hisa_shard_t *shard = &run->index->shard;
    const int64_t size = (int64_t)sizeof *list;
    hisa_status_t status =
        run->ops->flat_sizes(run->index->device, shard, &run->tile, run->segments, counts, run->sizes, run->stream);
    if (status == HISA_OK) {
        status = hisa_run_note_sizes(run);
    }
    if (status == HISA_OK) {
        status = hisa_run_wait_sizes(run);
    }
    if (status != HISA_OK) {
        return status;
    }
    int64_t send = 0;
    int64_t recv = 0;
    for (int32_t p = 0; p < shard->ranks; ++p) {
        run->send_bytes[p] = run->sizes[p] * size;
        run->send_offsets[p] = send;
        run->recv_bytes[p] = run->sizes[shard->ranks + p] * size;
        run->recv_offsets[p] = recv;
        send += run->send_bytes[p];
        recv += run->recv_bytes[p];
    }
    status = run->ops->copy(run->index->device, (uint8_t *)receive + run->recv_offsets[shard->rank],
                            (const uint8_t *)list + run->send_offsets[shard->rank], run->send_bytes[shard->rank],
                            run->stream);
    if (status == HISA_OK) {
        status = hisa_comm_alltoallv(run->index->comm, list, run->send_bytes, run->send_offsets, receive,
                                     run->recv_bytes, run->recv_offsets, run->stream);
    }
    for (int32_t p = 0; p < shard->ranks; ++p) {
        run->recv_offsets[p] /= size;
    }
    return status;
}

static hisa_status_t spread(hisa_run_t *run, const winners_t *winners) {
    hisa_status_t status = HISA_OK;
    if (run->options->placement == HISA_PLACE_LOCAL) {
        status = hisa_run_gather_rows(run, winners->threshold, (int64_t)sizeof *winners->threshold);
    } else if (run->options->placement == HISA_PLACE_REPLICATED) {
        status =
            hisa_run_gather_rows(run, winners->positions, run->options->top_k * (int64_t)sizeof *winners->positions);
        if (status == HISA_OK && winners->selected != NULL) {
            status =
                hisa_run_gather_rows(run, winners->selected, run->options->top_k * (int64_t)sizeof *winners->selected);
        }
    }
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_MERGE_TOKENS) : status;
}

static hisa_status_t owner_merge(hisa_run_t *run) {
    const hisa_shard_t *shard = &run->index->shard;
    const hisa_segment_t *own = &run->segments[shard->rank];
    uint64_t *list = hisa_run_at(run, run->plan.lists);
    uint64_t *bounds = hisa_run_at(run, run->plan.bounds);
    int32_t *counts = hisa_run_at(run, run->plan.counts);
    uint64_t *receive = hisa_run_at(run, run->plan.receive);
    const winners_t winners = winners_of(run);
    hisa_status_t status = scan(run, list, bounds + shard->rank * run->tile.rows);
    if (status == HISA_OK) {
        status = trim(run, list, bounds, counts);
    }
    if (status == HISA_OK) {
        status = exchange(run, list, counts, receive);
    }
    if (status == HISA_OK) {
        status = run->ops->flat_merge(run->index->device, shard, &run->tile, run->options->top_k, run->plan.list_width,
                                      receive, run->recv_offsets, counts, own->tile_begin, own->rows, winners.positions,
                                      winners.selected, winners.threshold, run->stream);
    }
    if (status == HISA_OK) {
        status = spread(run, &winners);
    }
    return status == HISA_OK ? emit(run, &winners, list, counts + shard->rank * run->tile.rows) : status;
}

/* One rank: what it found is the result, and a place among its own tokens is the position, whatever the placement. */
static hisa_status_t single(hisa_run_t *run) {
    uint64_t *list = hisa_run_at(run, run->plan.lists);
    uint64_t *bounds = hisa_run_at(run, run->plan.bounds); /* of its own entries none is below */
    const hisa_output_t output = hisa_run_output(run);
    hisa_status_t status = scan(run, list, bounds);
    if (status == HISA_OK) {
        status = run->ops->flat_emit_local(run->index->device, &run->index->shard, &run->tile, run->plan.list_width,
                                           list, NULL, bounds, &output, run->stream);
    }
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_EMIT) : status;
}

hisa_status_t hisa_run_flat(hisa_run_t *run) {
    /* Who asks for an exchange by name gets its way even on one rank. */
    if (run->index->shard.ranks == 1 && run->options->exchange == HISA_EXCHANGE_AUTO) {
        return single(run);
    }
    return run->plan.exchange == HISA_EXCHANGE_ONESHOT ? oneshot(run) : owner_merge(run);
}
