/* hisa_audit: modes hisa and block measured against flat. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/error.h"
#include "index/index.h"

enum { MODES = 3, MEASURES = 3, CHUNK_ROWS = 64 };

/* Flat first: the others are measured against it. */
static const hisa_mode_t mode_of[MODES] = {HISA_MODE_FLAT, HISA_MODE_HISA, HISA_MODE_BLOCK};

typedef struct audit {
    hisa_index_t *index;
    const hisa_queries_t *queries;
    hisa_select_options_t options;
    void *stream;
    hisa_audit_row_fn row_fn;
    void *context;
    int64_t total_rows;
    int64_t *rank_rows; /* [ranks], the index's scratch */
    int64_t chunk_cap;  /* rows of a chunk, over all ranks */
    /* Backend memory of one chunk. */
    void *workspace;
    size_t workspace_bytes;
    int32_t *indices[MODES];
    int32_t *counts[MODES];
    float *flat_scores;
    /* The same on the host. */
    int32_t *host_indices[MODES];
    int32_t *host_counts[MODES];
    float *host_scores;
    /* [2 modes][MEASURES][total_rows], -1 for rows without candidates. */
    double *value;
} audit_t;

enum { RECALL, MASS, IOU };

static double *values_of(const audit_t *audit, int mode, int measure) {
    return audit->value + ((mode - 1) * MEASURES + measure) * audit->total_rows;
}

static void release(audit_t *audit) {
    const hisa_backend_ops_t *ops = hisa_index_ops(audit->index);
    ops->release(audit->index->device, audit->workspace);
    ops->release(audit->index->device, audit->flat_scores);
    for (int m = 0; m < MODES; ++m) {
        ops->release(audit->index->device, audit->indices[m]);
        ops->release(audit->index->device, audit->counts[m]);
        free(audit->host_indices[m]);
        free(audit->host_counts[m]);
    }
    free(audit->host_scores);
    free(audit->value);
}

static hisa_status_t take(audit_t *audit, int64_t count, int64_t size, void **memory) {
    return hisa_index_ops(audit->index)->alloc(audit->index->device, count * size, memory);
}

/* Memory for chunks of chunk_cap rows. */
static hisa_status_t take_buffers(audit_t *audit) {
    const int64_t rows = audit->chunk_cap;
    const int64_t entries = rows * audit->options.top_k;
    void *memory = NULL;
    hisa_status_t status = HISA_OK;
    for (int m = 0; m < MODES && status == HISA_OK; ++m) {
        size_t bytes = 0;
        audit->options.mode = mode_of[m];
        status = hisa_select_workspace_size(audit->index, &audit->options, rows, &bytes);
        audit->workspace_bytes = bytes > audit->workspace_bytes ? bytes : audit->workspace_bytes;
        if (status == HISA_OK) {
            status = take(audit, entries, sizeof(int32_t), &memory);
            audit->indices[m] = status == HISA_OK ? memory : NULL;
        }
        if (status == HISA_OK) {
            status = take(audit, rows, sizeof(int32_t), &memory);
            audit->counts[m] = status == HISA_OK ? memory : NULL;
        }
        audit->host_indices[m] = malloc((size_t)entries * sizeof(int32_t) + 1);
        audit->host_counts[m] = malloc((size_t)rows * sizeof(int32_t) + 1);
        if (status == HISA_OK && (audit->host_indices[m] == NULL || audit->host_counts[m] == NULL)) {
            status = hisa_fail(HISA_ERR_NO_MEMORY, "cannot allocate the audit's results");
        }
    }
    if (status == HISA_OK) {
        status = take(audit, entries, sizeof(float), &memory);
        audit->flat_scores = status == HISA_OK ? memory : NULL;
    }
    if (status == HISA_OK) {
        status = take(audit, (int64_t)audit->workspace_bytes, 1, &audit->workspace);
    }
    audit->host_scores = malloc((size_t)entries * sizeof(float) + 1);
    audit->value = calloc((size_t)audit->total_rows * 2 * MEASURES + 1, sizeof *audit->value);
    if (status == HISA_OK && (audit->host_scores == NULL || audit->value == NULL)) {
        status = hisa_fail(HISA_ERR_NO_MEMORY, "cannot allocate the audit's figures");
    }
    return status;
}

/* One mode over this rank's rows [begin, begin + rows), results of all ranks' rows to the host. */
static hisa_status_t select_chunk(audit_t *audit, int m, int64_t begin, int64_t rows, int64_t chunk_rows) {
    const hisa_backend_ops_t *ops = hisa_index_ops(audit->index);
    hisa_device_t *device = audit->index->device;
    const int64_t heads = audit->index->shard.num_heads;
    hisa_queries_t queries = *audit->queries;
    hisa_selection_t selection;
    hisa_selection_init(&selection);
    queries.num_rows = rows;
    queries.rows_per_rank = NULL;
    if (rows > 0) {
        queries.q = (const uint8_t *)queries.q + begin * heads * audit->index->shard.head_dim;
        queries.weights += begin * heads;
        queries.sequence = queries.sequence != NULL ? queries.sequence + begin : NULL;
        queries.window_begin = queries.window_begin != NULL ? queries.window_begin + begin : NULL;
        queries.window_end = queries.window_end != NULL ? queries.window_end + begin : NULL;
    }
    selection.indices = audit->indices[m];
    selection.counts = audit->counts[m];
    selection.scores = mode_of[m] == HISA_MODE_FLAT ? audit->flat_scores : NULL;
    audit->options.mode = mode_of[m];
    hisa_status_t status = hisa_select(audit->index, &queries, &audit->options, &selection, audit->workspace,
                                       audit->workspace_bytes, audit->stream);
    const int64_t entries = chunk_rows * audit->options.top_k;
    if (status == HISA_OK) {
        status = hisa_index_synchronize(audit->index, audit->stream); /* a copy would wait without a deadline */
    }
    if (status == HISA_OK) {
        status = ops->to_host(device, audit->host_indices[m], selection.indices, entries * (int64_t)sizeof(int32_t),
                              audit->stream);
    }
    if (status == HISA_OK) {
        status = ops->to_host(device, audit->host_counts[m], selection.counts, chunk_rows * (int64_t)sizeof(int32_t),
                              audit->stream);
    }
    if (status == HISA_OK && selection.scores != NULL) {
        status =
            ops->to_host(device, audit->host_scores, selection.scores, entries * (int64_t)sizeof(float), audit->stream);
    }
    return status;
}

/* Measures of one row; both lists ascend. */
static void measure(const int32_t *flat, const float *score, int64_t n_flat, const int32_t *other, int64_t n_other,
                    double *recall, double *mass, double *iou) {
    int64_t both = 0;
    double kept = 0.0;
    double all = 0.0;
    int64_t j = 0;
    for (int64_t i = 0; i < n_flat; ++i) {
        const double gain = score[i] > 0.0f ? (double)score[i] : 0.0;
        all += gain;
        while (j < n_other && other[j] < flat[i]) {
            ++j;
        }
        if (j < n_other && other[j] == flat[i]) {
            ++both;
            kept += gain;
        }
    }
    *recall = (double)both / (double)n_flat;
    *mass = all > 0.0 ? kept / all : 1.0;
    *iou = (double)both / (double)(n_flat + n_other - both);
}

/* Row `at` of the chunk, which is row `row` of all. */
static void measure_row(const audit_t *audit, int64_t at, int64_t row) {
    const int64_t k = audit->options.top_k;
    const int32_t *list[MODES];
    int64_t n[MODES];
    for (int m = 0; m < MODES; ++m) {
        list[m] = audit->host_indices[m] + at * k;
        n[m] = audit->host_counts[m][at];
    }
    for (int m = 1; m < MODES; ++m) {
        double *recall = values_of(audit, m, RECALL) + row;
        double *mass = values_of(audit, m, MASS) + row;
        double *iou = values_of(audit, m, IOU) + row;
        *recall = *mass = *iou = -1.0;
        if (n[0] > 0) {
            measure(list[0], audit->host_scores + at * k, n[0], list[m], n[m], recall, mass, iou);
        }
    }
    if (audit->row_fn != NULL) {
        audit->row_fn(audit->context, row, list[0], n[0], list[1], n[1], list[2], n[2]);
    }
}

/* First row of chunk c of `chunks`, of a rank's rows: equal shares, but begun at a multiple of 4 rows, whose weights
 * are 16-byte aligned, as the CUDA backend wants them, for any number of heads. */
static int64_t chunk_begin(int64_t rows, int64_t c, int64_t chunks) {
    return c == chunks ? rows : rows * c / chunks / 4 * 4;
}

/* All rows, in chunks to which each rank gives an equal share of its own (sharded) or which are a range (replicated).
 */
static hisa_status_t run_chunks(audit_t *audit) {
    const bool sharded = audit->options.queries_on == HISA_QUERIES_SHARDED;
    const int32_t parts = sharded ? audit->index->shard.ranks : 1;
    const int32_t self = sharded ? audit->index->shard.rank : 0;
    int64_t chunks = 0;
    for (int32_t p = 0; p < parts; ++p) {
        chunks = hisa_max(chunks, hisa_ceil_div(audit->rank_rows[p], hisa_max(1, CHUNK_ROWS / parts)));
    }
    hisa_status_t status = HISA_OK;
    for (int64_t c = 0; c < chunks && status == HISA_OK; ++c) {
        int64_t rows = 0;
        for (int32_t p = 0; p < parts; ++p) {
            rows += chunk_begin(audit->rank_rows[p], c + 1, chunks) - chunk_begin(audit->rank_rows[p], c, chunks);
        }
        const int64_t begin = chunk_begin(audit->rank_rows[self], c, chunks);
        const int64_t end = chunk_begin(audit->rank_rows[self], c + 1, chunks);
        for (int m = 0; m < MODES && status == HISA_OK; ++m) {
            status = select_chunk(audit, m, begin, end - begin, rows);
        }
        int64_t at = 0;
        int64_t first = 0;
        for (int32_t p = 0; p < parts && status == HISA_OK; ++p) {
            const int64_t stop = chunk_begin(audit->rank_rows[p], c + 1, chunks);
            for (int64_t r = chunk_begin(audit->rank_rows[p], c, chunks); r < stop; ++r) {
                measure_row(audit, at++, first + r);
            }
            first += audit->rank_rows[p];
        }
    }
    return status;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a;
    const double y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The figure of a measure over rows with candidates; sorts the values. */
static hisa_audit_figure_t figure_of(double *value, int64_t total_rows) {
    hisa_audit_figure_t figure = {.worst_row = -1};
    int64_t n = 0;
    double sum = 0.0;
    for (int64_t r = 0; r < total_rows; ++r) {
        if (value[r] >= 0.0) {
            if (figure.worst_row < 0 || value[r] < figure.worst) {
                figure.worst = value[r];
                figure.worst_row = r;
            }
            sum += value[r];
            value[n++] = value[r];
        }
    }
    if (n > 0) {
        qsort(value, (size_t)n, sizeof *value, by_value);
        figure.mean = sum / (double)n;
        figure.p1 = value[(n + 99) / 100 - 1];
        figure.p10 = value[(n + 9) / 10 - 1];
    }
    return figure;
}

static void write_report(audit_t *audit, hisa_audit_report_t *report) {
    hisa_audit_mode_t *modes[2] = {&report->hisa, &report->block};
    report->rows = audit->total_rows;
    report->rows_empty = 0;
    for (int64_t r = 0; r < audit->total_rows; ++r) {
        report->rows_empty += values_of(audit, 1, RECALL)[r] < 0.0;
    }
    for (int m = 1; m < MODES; ++m) {
        modes[m - 1]->recall = figure_of(values_of(audit, m, RECALL), audit->total_rows);
        modes[m - 1]->mass = figure_of(values_of(audit, m, MASS), audit->total_rows);
        modes[m - 1]->iou = figure_of(values_of(audit, m, IOU), audit->total_rows);
    }
}

/* Checks alone; the rest of the checking is hisa_select's. */
static hisa_status_t check(const hisa_queries_t *queries, const hisa_select_options_t *options,
                           const hisa_audit_report_t *report) {
    if (queries == NULL || options == NULL || report == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "queries, options or report is NULL");
    }
    if (report->struct_size != sizeof *report) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "report->struct_size is not set");
    }
    if (queries->num_rows < 0 || queries->num_rows > INT32_MAX) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "num_rows is %lld", (long long)queries->num_rows);
    }
    return HISA_OK;
}

/* Learns every rank's rows and takes memory, or fails on all ranks. */
static hisa_status_t prepare(audit_t *audit, hisa_status_t status) {
    hisa_comm_t *comm = audit->index->comm;
    const int64_t mine = status == HISA_OK ? audit->queries->num_rows : 0;
    const hisa_agree_value_t values[] = {{"queries_on", audit->options.queries_on}, {"top_k", audit->options.top_k}};
    audit->rank_rows = audit->index->counts + INT64_C(6) * comm->size;
    status = hisa_comm_agree_values(comm, status, values, 2, mine, audit->rank_rows);
    if (status != HISA_OK) {
        return status;
    }
    const bool sharded = audit->options.queries_on == HISA_QUERIES_SHARDED;
    for (int32_t p = 0; p < (sharded ? comm->size : 1); ++p) {
        audit->total_rows += audit->rank_rows[p];
    }
    /* A rank's share is at most CHUNK_ROWS / ranks, or one, and less than four more by where it begins. */
    audit->chunk_cap = sharded ? hisa_max(CHUNK_ROWS, comm->size) + INT64_C(4) * comm->size : CHUNK_ROWS + 4;
    status = take_buffers(audit);
    return hisa_comm_agree(comm, status, hisa_last_error());
}

hisa_status_t hisa_audit(hisa_index_t *index, const hisa_queries_t *queries, const hisa_select_options_t *options,
                         hisa_audit_row_fn row_fn, void *context, void *stream, hisa_audit_report_t *report) {
    if (index == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "index is NULL");
    }
    audit_t audit = {.index = index, .queries = queries, .stream = stream, .row_fn = row_fn, .context = context};
    hisa_status_t status = check(queries, options, report);
    if (status == HISA_OK) {
        audit.options = *options;
        audit.options.placement = HISA_PLACE_REPLICATED;
        audit.options.flags &= ~HISA_SELECT_UNCHECKED;
    }
    status = prepare(&audit, status);
    if (status == HISA_OK) {
        status = run_chunks(&audit);
    }
    if (status == HISA_OK) {
        write_report(&audit, report);
    }
    release(&audit);
    return status;
}
