/* Tiles: which rows, who merges them, and their queries brought together. */
#include "select/run.h"

#include <time.h>

#include "base/checked.h"

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static bool is_timed(const hisa_run_t *run) { return (run->options->flags & HISA_SELECT_TIMED) != 0; }

/* What the time up to a mark is booked under: a step, and whether it was an exchange. */
enum { MARK_EXCHANGE = 0x80 };
_Static_assert((int)HISA_STEP_COUNT <= (int)MARK_EXCHANGE, "a bit beside the step");

static void book(hisa_run_t *run, int mark, double seconds) {
    hisa_step_stats_t *stats = &run->index->stats.steps[mark & ~MARK_EXCHANGE];
    stats->seconds += seconds;
    stats->exchange_seconds += (mark & MARK_EXCHANGE) != 0 ? seconds : 0;
}

/* Begins to measure without booking what came before. */
static hisa_status_t start_clock(hisa_run_t *run) {
    if (run->ops->mark == NULL) {
        run->mark = now();
        return HISA_OK;
    }
    run->marks = 1;
    return run->ops->mark(run->index->device, 0, run->stream);
}

/* Books what the slots hold. Waits for the stream to get there: with a deadline, since peers may be needed for it. */
static hisa_status_t read_clock(hisa_run_t *run) {
    hisa_status_t status = HISA_OK;
    if (run->marks > 0) {
        status = run->ops->record(run->index->device, HISA_EVENT_WAIT, run->stream);
        if (status == HISA_OK) {
            status = hisa_index_wait(run->index, HISA_EVENT_WAIT);
        }
    }
    for (int32_t slot = 1; slot < run->marks && status == HISA_OK; ++slot) {
        double seconds = 0;
        status = run->ops->marked(run->index->device, slot - 1, slot, &seconds);
        book(run, run->mark_step[slot], seconds);
    }
    run->marks = 0;
    return status;
}

static hisa_status_t stop_clock(hisa_run_t *run, int mark) {
    if (run->ops->mark == NULL) {
        const double since = run->mark;
        run->mark = now();
        book(run, mark, run->mark - since);
        return HISA_OK;
    }
    run->mark_step[run->marks] = (uint8_t)mark;
    hisa_status_t status = run->ops->mark(run->index->device, run->marks++, run->stream);
    if (status == HISA_OK && run->marks == HISA_MARKS) {
        status = read_clock(run);
        if (status == HISA_OK) {
            status = start_clock(run);
        }
    }
    return status;
}

static void count_from_here(hisa_run_t *run) {
    run->mark_sent = run->index->comm->bytes_sent;
    run->mark_received = run->index->comm->bytes_received;
}

static void count(hisa_run_t *run, hisa_step_t step) {
    hisa_step_stats_t *stats = &run->index->stats.steps[step];
    stats->bytes_sent += run->index->comm->bytes_sent - run->mark_sent;
    stats->bytes_received += run->index->comm->bytes_received - run->mark_received;
    count_from_here(run);
}

hisa_status_t hisa_run_step(hisa_run_t *run, hisa_step_t step) {
    count(run, step);
    return is_timed(run) ? stop_clock(run, (int)step) : HISA_OK;
}

hisa_status_t hisa_run_exchange(hisa_run_t *run, hisa_step_t step) {
    return is_timed(run) ? stop_clock(run, (int)step) : HISA_OK;
}

hisa_status_t hisa_run_exchange_end(hisa_run_t *run, hisa_step_t step, hisa_status_t status) {
    count(run, step);
    return status == HISA_OK && is_timed(run) ? stop_clock(run, (int)step | MARK_EXCHANGE) : status;
}

hisa_status_t hisa_run_gather_rows(hisa_run_t *run, void *buffer, int64_t bytes, void *stream) {
    for (int32_t p = 0; p < run->index->shard.ranks; ++p) {
        run->recv_bytes[p] = run->lane->segments[p].rows * bytes;
        run->recv_offsets[p] = run->lane->segments[p].tile_begin * bytes;
    }
    return hisa_comm_allgatherv(run->index->comm, buffer, run->recv_bytes, run->recv_offsets, stream);
}

void hisa_run_oneshot_rows(const hisa_run_t *run, int64_t *begin, int64_t *rows) {
    const hisa_segment_t *own = &run->lane->segments[run->index->shard.rank];
    const bool all = run->options->placement != HISA_PLACE_OWNER;
    *begin = all ? 0 : own->tile_begin;
    *rows = all ? run->lane->tile.rows : own->rows;
}

hisa_output_t hisa_run_output(const hisa_run_t *run) {
    const hisa_output_t output = {.placement = run->options->placement,
                                  .top_k = run->options->top_k,
                                  .segments = run->lane->segments,
                                  .n_segments = run->index->shard.ranks,
                                  .indices = run->selection->indices,
                                  .counts = run->selection->counts,
                                  .scores = run->selection->scores};
    return output;
}

/* The segments of the lane's tile: of each owner's rows the same share, so that every tile spreads the merging over all
 * ranks. */
static void cut_tile(hisa_run_t *run) {
    const int32_t self = run->index->shard.rank;
    const bool sharded = run->options->queries_on == HISA_QUERIES_SHARDED;
    const bool owner = run->options->placement == HISA_PLACE_OWNER;
    hisa_lane_t *lane = run->lane;
    int64_t next = 0;
    for (int32_t p = 0; p < run->index->shard.ranks; ++p) {
        const int64_t begin = run->owner_rows[p] * lane->place / run->tiles;
        const int64_t rows = run->owner_rows[p] * (lane->place + 1) / run->tiles - begin;
        hisa_segment_t *segment = &lane->segments[p];
        segment->tile_begin = next;
        segment->rows = rows;
        segment->query_begin = begin + (sharded ? 0 : run->owner_begin[p]);
        segment->source_begin = sharded ? next : segment->query_begin;
        segment->output_begin = begin + (owner ? 0 : run->owner_begin[p]);
        if (owner && p != self) {
            segment->output_begin = -1;
        }
        next += rows;
    }
    lane->tile = (hisa_tile_t){.rows = next,
                               .row = hisa_run_at(run, run->plan.row),
                               .q = sharded ? hisa_run_at(run, run->plan.q) : run->queries->q,
                               .weights = sharded ? hisa_run_at(run, run->plan.weights) : run->queries->weights,
                               .prepared = hisa_run_at(run, run->plan.prepared),
                               .scratch = run->workspace + run->plan.scratch};
}

static int64_t q_bytes(const hisa_run_t *run) {
    return (int64_t)run->index->shard.num_heads * run->index->shard.head_dim;
}

static int64_t weight_bytes(const hisa_run_t *run) { return run->index->shard.num_heads * (int64_t)sizeof(float); }

hisa_status_t hisa_run_copy(hisa_run_t *run, void *stream) {
    const hisa_shard_t *shard = &run->index->shard;
    const hisa_segment_t *own = &run->lane->segments[shard->rank];
    hisa_device_t *device = run->index->device;
    uint8_t *q = hisa_run_at(run, run->plan.q);
    uint8_t *weights = hisa_run_at(run, run->plan.weights);
    cut_tile(run);
    if (run->options->queries_on != HISA_QUERIES_SHARDED) {
        return HISA_OK;
    }
    hisa_status_t status = HISA_OK;
    if (own->rows > 0) {
        status = run->ops->copy(device, q + own->tile_begin * q_bytes(run),
                                (const uint8_t *)run->queries->q + own->query_begin * q_bytes(run),
                                own->rows * q_bytes(run), stream);
    }
    if (status == HISA_OK && own->rows > 0) {
        status = run->ops->copy(device, weights + own->tile_begin * weight_bytes(run),
                                (const uint8_t *)run->queries->weights + own->query_begin * weight_bytes(run),
                                own->rows * weight_bytes(run), stream);
    }
    return status == HISA_OK ? run->ops->make_rows(device, shard, run->queries, own, 1, hisa_run_at(run, run->plan.row),
                                                   run->lane->tile.prepared, stream)
                             : status;
}

hisa_status_t hisa_run_gather(hisa_run_t *run, void *stream) {
    hisa_status_t status = hisa_run_exchange(run, HISA_STEP_GATHER_QUERIES);
    if (status == HISA_OK) {
        status = hisa_comm_begin(run->index->comm);
    }
    if (status == HISA_OK) {
        status = hisa_run_gather_rows(run, hisa_run_at(run, run->plan.q), q_bytes(run), stream);
    }
    if (status == HISA_OK) {
        status = hisa_run_gather_rows(run, hisa_run_at(run, run->plan.weights), weight_bytes(run), stream);
    }
    if (status == HISA_OK) {
        status = hisa_run_gather_rows(run, hisa_run_at(run, run->plan.row), (int64_t)sizeof(hisa_row_t), stream);
    }
    if (status == HISA_OK) {
        status = hisa_comm_end(run->index->comm);
    }
    return hisa_run_exchange_end(run, HISA_STEP_GATHER_QUERIES, status);
}

hisa_status_t hisa_run_load(hisa_run_t *run, void *stream) {
    const hisa_shard_t *shard = &run->index->shard;
    hisa_status_t status = HISA_OK;
    if (run->options->queries_on != HISA_QUERIES_SHARDED) {
        status = run->ops->make_rows(run->index->device, shard, run->queries, run->lane->segments, shard->ranks,
                                     hisa_run_at(run, run->plan.row), run->lane->tile.prepared, stream);
    }
    if (status == HISA_OK) {
        status = run->ops->prepare_queries(run->index->device, shard, &run->lane->tile, stream);
    }
    return status == HISA_OK ? hisa_run_step(run, HISA_STEP_GATHER_QUERIES) : status;
}

/* One after the other, without owners: each tile's way is one function. */
static hisa_status_t run_each(hisa_run_t *run, hisa_status_t (*way)(hisa_run_t *run)) {
    hisa_status_t status = HISA_OK;
    run->lane = &run->lanes[0];
    for (int64_t place = 0; place < run->tiles && status == HISA_OK; ++place) {
        run->lane->place = place;
        status = hisa_run_copy(run, run->stream);
        if (status == HISA_OK && run->options->queries_on == HISA_QUERIES_SHARDED) {
            status = hisa_run_gather(run, run->stream);
        }
        if (status == HISA_OK) {
            status = hisa_run_load(run, run->stream);
        }
        if (status == HISA_OK) {
            status = way(run);
        }
    }
    return status;
}

static hisa_status_t run_all(hisa_run_t *run) {
    if (run->plan.single) {
        return run_each(run, run->options->mode == HISA_MODE_FLAT ? hisa_run_flat_single : hisa_run_single);
    }
    if (run->plan.lists_of_tokens) {
        return run_each(run, hisa_run_two_stage_lists);
    }
    if (run->plan.exchange != HISA_EXCHANGE_OWNER) {
        return run_each(run, run->options->mode == HISA_MODE_FLAT ? hisa_run_flat_oneshot : hisa_run_two_stage_oneshot);
    }
    switch (run->options->mode) {
    case HISA_MODE_FLAT:
        return hisa_run_pipeline(run, &hisa_way_flat);
    case HISA_MODE_BLOCK:
        return hisa_run_pipeline(run, &hisa_way_block);
    default:
        return hisa_run_pipeline(run, &hisa_way_hisa);
    }
}

static void bind_lanes(hisa_run_t *run) {
    const int32_t ranks = run->index->shard.ranks;
    for (int32_t i = 0; i < run->plan.lanes; ++i) {
        run->lanes[i].segments = run->index->segments + (int64_t)i * ranks;
        run->lanes[i].sizes = run->index->sizes + INT64_C(2) * i * ranks;
        run->lanes[i].memory = run->workspace + run->plan.lane_begin + i * run->plan.lane_bytes;
    }
}

hisa_status_t hisa_run_tiles(hisa_run_t *run) {
    run->tiles = hisa_ceil_div(run->total_rows, run->plan.tile_rows);
    if (run->tiles > 0) { /* else there may be no workspace */
        bind_lanes(run);
    }
    hisa_status_t status = is_timed(run) ? start_clock(run) : HISA_OK;
    count_from_here(run);
    if (status == HISA_OK) {
        status = run_all(run);
    }
    if (status == HISA_OK) {
        status = read_clock(run);
    }
    /* Peers count on this rank's part of what is under way. */
    return status == HISA_OK ? status : hisa_comm_fault(run->index->comm, status, 0);
}
