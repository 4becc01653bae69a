/* What bench selects from and for: keys and sets of queries, of a trace or made up. */
#ifndef HISA_CLI_BENCH_INPUT_H
#define HISA_CLI_BENCH_INPUT_H

#include "cli/input.h"
#include "io/synth.h"

/* Where input comes from. */
typedef struct bench_source {
    const cli_options_t *options; /* --keys and --queries, --append-chunk, sequences */
    hisa_synth_config_t synth;    /* num_rows: of a set; num_tokens: of each sequence */
    bool rows_given;              /* a trace: take num_rows rows of it, not all */
    bool random_queries;          /* synthetic: queries that look for nothing, each by itself */
    int64_t sets;                 /* synthetic: sets of queries; 0: enough to outgrow l2_bytes, if there is room */
    int64_t l2_bytes;             /* 0: one set will do */
    int threads;
} bench_source_t;

typedef struct bench_input {
    hisa_trace_t trace; /* zeroed if synthetic */
    uint8_t *q;         /* synthetic: owned, as are the arrays below */
    float *weights;
    int32_t *windows;          /* begins, then ends */
    int32_t *sequence;         /* NULL for one sequence */
    cli_rows_t rows;           /* of the first set; other sets have q and weights behind it, and all else alike */
    int64_t rows_per_sequence; /* rows of a sequence follow each other */
    int64_t tokens;            /* of a sequence */
    int64_t sets;
    hisa_synth_config_t synth; /* what the keys are made by */
} bench_input_t;

/* Collective; agreed. The caller closes it, also after a failure. */
hisa_status_t bench_input_open(cli_session_t *session, const bench_source_t *source, bench_input_t *input);
void bench_input_close(bench_input_t *input);

/* Rows of a set. */
cli_rows_t bench_input_set(const bench_input_t *input, int64_t set);

/* Appends the keys; all sequences get the same ones. Local. */
hisa_status_t bench_input_fill(const cli_session_t *session, const bench_source_t *source, const bench_input_t *input,
                               hisa_index_t *index);

/* The first `count` tokens: keys [count][D], scales [count]. */
void bench_input_keys(const bench_source_t *source, const bench_input_t *input, int64_t count, uint8_t *keys,
                      float *scales);

#endif
