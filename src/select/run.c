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

/* Begins to measure without booking what came before. */
static hisa_status_t start_clock(hisa_run_t *run) {
    if (run->ops->mark == NULL) {
        run->mark = now();
        return HISA_OK;
    }
    run->marks = 1;
    return run->ops->mark(run->index->device, 0, run->stream);
}

/* Books what the slots hold. Waits for the stream to get there. */
static hisa_status_t read_clock(hisa_run_t *run) {
    hisa_status_t status = HISA_OK;
    for (int32_t slot = 1; slot < run->marks && status == HISA_OK; ++slot) {
        double seconds = 0;
        status = run->ops->marked(run->index->device, slot - 1, slot, &seconds);
        run->index->stats.steps[run->mark_step[slot]].seconds += seconds;
    }
    run->marks = 0;
    return status;
}

static hisa_status_t stop_clock(hisa_run_t *run, hisa_step_t step) {
    if (run->ops->mark == NULL) {
        const double mark = run->mark;
        run->mark = now();
        run->index->stats.steps[step].seconds += run->mark - mark;
        return HISA_OK;
    }
    run->mark_step[run->marks] = (uint8_t)step;
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

hisa_status_t hisa_run_step(hisa_run_t *run, hisa_step_t step) {
    hisa_step_stats_t *stats = &run->index->stats.steps[step];
    stats->bytes_sent += run->index->comm->bytes_sent - run->mark_sent;
    stats->bytes_received += run->index->comm->bytes_received - run->mark_received;
    count_from_here(run);
    return is_timed(run) ? stop_clock(run, step) : HISA_OK;
}

hisa_status_t hisa_run_note_sizes(hisa_run_t *run) {
    return run->ops->record == NULL ? HISA_OK : run->ops->record(run->index->device, HISA_EVENT_WAIT, run->stream);
}

hisa_status_t hisa_run_wait_sizes(hisa_run_t *run) { return hisa_index_wait(run->index, HISA_EVENT_WAIT); }

hisa_status_t hisa_run_gather_rows(hisa_run_t *run, void *buffer, int64_t bytes) {
    for (int32_t p = 0; p < run->index->shard.ranks; ++p) {
        run->recv_bytes[p] = run->segments[p].rows * bytes;
        run->recv_offsets[p] = run->segments[p].tile_begin * bytes;
    }
    return hisa_comm_allgatherv(run->index->comm, buffer, run->recv_bytes, run->recv_offsets, run->stream);
}

void hisa_run_oneshot_rows(const hisa_run_t *run, int64_t *begin, int64_t *rows) {
    const hisa_segment_t *own = &run->segments[run->index->shard.rank];
    const bool all = run->options->placement != HISA_PLACE_OWNER;
    *begin = all ? 0 : own->tile_begin;
    *rows = all ? run->tile.rows : own->rows;
}

hisa_output_t hisa_run_output(const hisa_run_t *run) {
    const hisa_output_t output = {.placement = run->options->placement,
                                  .top_k = run->options->top_k,
                                  .segments = run->segments,
                                  .n_segments = run->index->shard.ranks,
                                  .indices = run->selection->indices,
                                  .counts = run->selection->counts,
                                  .scores = run->selection->scores};
    return output;
}

/* The segments of tile `place` of `tiles`: of each owner's rows the same share, so that every tile spreads the merging
 * over all ranks. */
static void cut_tile(hisa_run_t *run, int64_t place, int64_t tiles) {
    const int32_t self = run->index->shard.rank;
    const bool sharded = run->options->queries_on == HISA_QUERIES_SHARDED;
    const bool owner = run->options->placement == HISA_PLACE_OWNER;
    int64_t next = 0;
    for (int32_t p = 0; p < run->index->shard.ranks; ++p) {
        const int64_t begin = run->owner_rows[p] * place / tiles;
        const int64_t rows = run->owner_rows[p] * (place + 1) / tiles - begin;
        hisa_segment_t *segment = &run->segments[p];
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
    run->tile.rows = next;
}

/* Sharded queries: each rank's rows of the tile to every rank. */
static hisa_status_t gather_queries(hisa_run_t *run) {
    const hisa_shard_t *shard = &run->index->shard;
    const hisa_segment_t *own = &run->segments[shard->rank];
    const int64_t q_bytes = (int64_t)shard->num_heads * shard->head_dim;
    const int64_t w_bytes = shard->num_heads * (int64_t)sizeof(float);
    hisa_device_t *device = run->index->device;
    uint8_t *q = hisa_run_at(run, run->plan.q);
    uint8_t *weights = hisa_run_at(run, run->plan.weights);
    hisa_row_t *row = hisa_run_at(run, run->plan.row);
    hisa_status_t status = HISA_OK;
    if (own->rows > 0) {
        status = run->ops->copy(device, q + own->tile_begin * q_bytes,
                                (const uint8_t *)run->queries->q + own->query_begin * q_bytes, own->rows * q_bytes,
                                run->stream);
    }
    if (status == HISA_OK && own->rows > 0) {
        status = run->ops->copy(device, weights + own->tile_begin * w_bytes,
                                (const uint8_t *)run->queries->weights + own->query_begin * w_bytes,
                                own->rows * w_bytes, run->stream);
    }
    if (status == HISA_OK) {
        status = run->ops->make_rows(device, shard, run->queries, own, 1, row, run->stream);
    }
    if (status == HISA_OK) {
        status = hisa_run_gather_rows(run, q, q_bytes);
    }
    if (status == HISA_OK) {
        status = hisa_run_gather_rows(run, weights, w_bytes);
    }
    if (status == HISA_OK) {
        status = hisa_run_gather_rows(run, row, (int64_t)sizeof *row);
    }
    run->tile.q = q;
    run->tile.weights = (const float *)(const void *)weights;
    return status;
}

static hisa_status_t load_tile(hisa_run_t *run) {
    const hisa_shard_t *shard = &run->index->shard;
    hisa_status_t status;
    run->tile.row = hisa_run_at(run, run->plan.row);
    run->tile.prepared = hisa_run_at(run, run->plan.prepared);
    run->tile.scratch = hisa_run_at(run, run->plan.scratch);
    if (run->options->queries_on == HISA_QUERIES_SHARDED) {
        status = gather_queries(run);
    } else {
        run->tile.q = run->queries->q;
        run->tile.weights = run->queries->weights;
        status = run->ops->make_rows(run->index->device, shard, run->queries, run->segments, shard->ranks,
                                     hisa_run_at(run, run->plan.row), run->stream);
    }
    if (status == HISA_OK) {
        status = run->ops->prepare_queries(run->index->device, shard, &run->tile, run->stream);
    }
    return status;
}

static hisa_status_t run_tile(hisa_run_t *run) {
    if (run->options->mode == HISA_MODE_FLAT) {
        return hisa_run_flat(run);
    }
    return run->plan.single ? hisa_run_single(run) : hisa_run_two_stage(run);
}

hisa_status_t hisa_run_tiles(hisa_run_t *run) {
    const int64_t tiles = hisa_ceil_div(run->total_rows, run->plan.tile_rows);
    hisa_status_t status = is_timed(run) ? start_clock(run) : HISA_OK;
    count_from_here(run);
    for (int64_t place = 0; place < tiles && status == HISA_OK; ++place) {
        cut_tile(run, place, tiles);
        status = load_tile(run);
        if (status == HISA_OK) {
            status = hisa_run_step(run, HISA_STEP_GATHER_QUERIES);
        }
        if (status == HISA_OK) {
            status = run_tile(run);
        }
    }
    return status == HISA_OK ? read_clock(run) : status;
}
