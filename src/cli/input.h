/* From options to an index full of keys: the trace of the two files, checked and agreed on by all ranks. */
#ifndef HISA_CLI_INPUT_H
#define HISA_CLI_INPUT_H

#include "cli/progress.h"
#include "io/trace.h"

/* Tokens appended at a time unless --append-chunk says otherwise: 8 MB of keys at D 128, which is all of the keys file
 * that has to be in memory at once. */
#define CLI_APPEND_CHUNK 65536

/* Rows of queries in memory. */
typedef struct cli_rows {
    int64_t count;
    int32_t num_heads;
    int32_t head_dim;
    const uint8_t *q;            /* [count][H][D] e4m3 */
    const int32_t *sequence;     /* [count] or NULL */
    const float *weights;        /* [count][H] */
    const int32_t *window_begin; /* [count] or NULL */
    const int32_t *window_end;   /* [count] or NULL */
} cli_rows_t;

/* Rows [begin, begin + count) as the library takes them. */
hisa_queries_t cli_rows_slice(const cli_rows_t *rows, int64_t begin, int64_t count);

/* Collective; agreed. Compares the options of all ranks, and then that each names its input files. */
hisa_status_t cli_agree_options(cli_session_t *session, const cli_options_t *options);

/* Collective; agreed. Opens the trace on each rank and makes sure that all have the same; checks its values, each rank
 * a part. The caller closes it. */
hisa_status_t cli_trace_open(cli_session_t *session, const cli_options_t *options, hisa_trace_t *trace);

cli_rows_t cli_trace_rows(const hisa_trace_t *trace);

/* The index that the options describe, empty, for keys and queries of this shape. Collective over comm; agreed by it.
 */
hisa_status_t cli_index_create(const cli_session_t *session, const cli_options_t *options, hisa_comm_t *comm,
                               int32_t head_dim, int32_t num_heads, int64_t capacity, hisa_index_t **index);

/* Appends all keys of the trace. Local. */
hisa_status_t cli_index_fill(const cli_session_t *session, const cli_options_t *options, const hisa_trace_t *trace,
                             hisa_index_t *index);

#endif
