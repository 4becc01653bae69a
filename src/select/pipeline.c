/* The owner merge of all tiles: the exchanges of one tile run under the computing of its neighbours.
 *
 * A tile's phases come one after the other (run.h). Those that compute go on the caller's stream, those that exchange
 * on the backend's second one, and a phase whose predecessor is on the other stream waits there for its event. Three
 * tiles are under way; beat i enqueues
 *
 *     caller's stream   exchange stream   host
 *     SIZES i                             .
 *     TOKENS i                            .
 *     SELECT i-1 -----> SPREAD i-1        .
 *     MERGE i+1 ------> KEPT i+1          .
 *     EMIT i-1                            .
 *     COPY i+2 -------> GATHER i+2        .
 *     .                 SCORES i <------- waits for what SIZES i wrote
 *     SCORE i+2 ------> LISTS i+2
 *
 * from the top down. SCORES i waits for TOKENS i and, being on the same stream, for the short exchanges before it.
 *
 * Why in this order:
 * - the token scores of i travel (SCORES i, most of the bytes) under SCORE i+2 and TOKENS i+1, the dearest kernels;
 * - LISTS i+2 has all of TOKENS i+1 to travel, KEPT i+1 and GATHER i+2 the rest of beat i;
 * - when the host waits for sizes, the device has all from TOKENS i to COPY i+2 still to do. The host waits for nothing
 *   else, so it is never more than a beat ahead, and the device is not idle for want of a launch;
 * - what is short and holds up an exchange (SELECT, MERGE, COPY) comes before what is long.
 *
 * All ranks run through the same list, so they issue the same exchanges in the same order. EMIT waits for the tile's
 * SPREAD, the last exchange of all in the last beat: at the end the caller's stream has waited for all of the second
 * one. Tile i+2 takes the place of i-1 in the workspace from COPY i+2 on, after EMIT i-1, on the caller's stream; what
 * exchanges had to do with that place has been waited for by then.
 *
 * With a single tile under way (one is enough; a backend without streams; a timed call, where a step's time is to be
 * its own) the phases run in order, on the caller's stream alone. */
#include "select/run.h"

static const struct {
    int ahead; /* tile i + ahead */
    hisa_phase_t phase;
} beat[] = {{0, HISA_PHASE_SIZES},  {0, HISA_PHASE_TOKENS}, {-1, HISA_PHASE_SELECT}, {-1, HISA_PHASE_SPREAD},
            {1, HISA_PHASE_MERGE},  {1, HISA_PHASE_KEPT},   {-1, HISA_PHASE_EMIT},   {2, HISA_PHASE_COPY},
            {2, HISA_PHASE_GATHER}, {0, HISA_PHASE_SCORES}, {2, HISA_PHASE_SCORE},   {2, HISA_PHASE_LISTS}};

enum { FIRST_AHEAD = 2, LAST_BEHIND = 1 };

typedef struct pipeline {
    hisa_run_t *run;
    const hisa_way_t *way;
    int32_t lanes;
    void *exchange; /* the stream of exchanges: the caller's with a single lane */
} pipeline_t;

_Static_assert(HISA_LANES *HISA_PHASES <= HISA_EVENT_WAIT, "an event for each phase of each lane");

static bool exchanges(hisa_phase_t phase) {
    return phase == HISA_PHASE_GATHER || phase == HISA_PHASE_LISTS || phase == HISA_PHASE_KEPT ||
           phase == HISA_PHASE_SCORES || phase == HISA_PHASE_SPREAD;
}

static bool has(const pipeline_t *pipeline, hisa_phase_t phase) {
    return pipeline->way->phase[phase] != NULL &&
           (phase != HISA_PHASE_GATHER || pipeline->run->options->queries_on == HISA_QUERIES_SHARDED);
}

static int32_t event_of(const pipeline_t *pipeline, hisa_phase_t phase) {
    const int32_t lane = (int32_t)(pipeline->run->lane - pipeline->run->lanes);
    return lane * HISA_PHASES + (int32_t)phase;
}

static hisa_status_t record(const pipeline_t *pipeline, hisa_phase_t phase, void *stream) {
    const hisa_run_t *run = pipeline->run;
    return run->ops->record == NULL ? HISA_OK : run->ops->record(run->index->device, event_of(pipeline, phase), stream);
}

/* Lets the stream wait for the tile's phase before this one, if that is on the other stream. */
static hisa_status_t follow(const pipeline_t *pipeline, hisa_phase_t phase, void *stream) {
    int before = (int)phase - 1;
    while (before >= 0 && !has(pipeline, (hisa_phase_t)before)) {
        --before;
    }
    if (pipeline->exchange == pipeline->run->stream || before < 0 ||
        exchanges((hisa_phase_t)before) == exchanges(phase)) {
        return HISA_OK;
    }
    return pipeline->run->ops->await(pipeline->run->index->device, event_of(pipeline, (hisa_phase_t)before), stream);
}

static hisa_status_t take(const pipeline_t *pipeline, int64_t place, hisa_phase_t phase) {
    hisa_run_t *run = pipeline->run;
    void *stream = exchanges(phase) ? pipeline->exchange : run->stream;
    if (place < 0 || place >= run->tiles || !has(pipeline, phase)) {
        return HISA_OK;
    }
    run->lane = &run->lanes[place % pipeline->lanes];
    run->lane->place = place;
    hisa_status_t status = HISA_OK;
    if (phase == HISA_PHASE_SCORES) {
        status = hisa_index_wait(run->index, event_of(pipeline, HISA_PHASE_SIZES));
    }
    if (status == HISA_OK) {
        status = follow(pipeline, phase, stream);
    }
    if (status == HISA_OK) {
        status = pipeline->way->phase[phase](run, stream);
    }
    if (status == HISA_OK && (pipeline->exchange != run->stream || phase == HISA_PHASE_SIZES)) {
        status = record(pipeline, phase, stream);
    }
    return status;
}

static hisa_status_t in_order(const pipeline_t *pipeline) {
    hisa_status_t status = HISA_OK;
    for (int64_t place = 0; place < pipeline->run->tiles; ++place) {
        for (int phase = 0; phase < HISA_PHASES && status == HISA_OK; ++phase) {
            status = take(pipeline, place, (hisa_phase_t)phase);
        }
    }
    return status;
}

static hisa_status_t in_beats(const pipeline_t *pipeline) {
    hisa_status_t status = HISA_OK;
    for (int64_t i = -FIRST_AHEAD; i < pipeline->run->tiles + LAST_BEHIND; ++i) {
        for (size_t b = 0; b < sizeof beat / sizeof beat[0] && status == HISA_OK; ++b) {
            status = take(pipeline, i + beat[b].ahead, beat[b].phase);
        }
    }
    return status;
}

/* Ends what is enqueued, and leaves the caller one stream to wait for, as if all had gone well. */
static hisa_status_t give_up(const pipeline_t *pipeline, hisa_status_t status) {
    const hisa_run_t *run = pipeline->run;
    const hisa_status_t outcome = hisa_comm_fault(run->index->comm, status, 0);
    if (outcome != HISA_ERR_DEVICE &&
        run->ops->record(run->index->device, HISA_EVENT_WAIT, pipeline->exchange) == HISA_OK) {
        run->ops->await(run->index->device, HISA_EVENT_WAIT, run->stream);
    }
    return outcome;
}

hisa_status_t hisa_run_pipeline(hisa_run_t *run, const hisa_way_t *way) {
    pipeline_t pipeline = {.run = run, .way = way, .lanes = 1, .exchange = run->stream};
    if (run->plan.lanes == 1 || (run->options->flags & HISA_SELECT_TIMED) != 0) {
        return in_order(&pipeline);
    }
    pipeline.lanes = run->plan.lanes;
    pipeline.exchange = run->ops->exchange_stream(run->index->device);
    const hisa_status_t status = in_beats(&pipeline);
    return status == HISA_OK ? status : give_up(&pipeline, status);
}
