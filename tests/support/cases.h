/* Random small cases: keys of a few sequences with the history that put them there, rows, options, and what the
 * reference says. Everything follows from one seed, so that every rank makes the same case and a failure can be run
 * again. */
#ifndef HISA_TESTS_CASES_H
#define HISA_TESTS_CASES_H

#include <stdbool.h>
#include <stdint.h>

#include "hisa/hisa.h"
#include "oracle/oracle.h"
#include "support/rng.h"

enum { CASE_SEQUENCES = 3 };

typedef enum change_kind { CHANGE_APPEND, CHANGE_TRUNCATE, CHANGE_OVERWRITE } change_kind_t;

/* One call that changes the index. */
typedef struct change {
    change_kind_t kind;
    int32_t sequence;
    int64_t position; /* of its first token; the new length for truncate */
    int64_t tokens;   /* passed with the call */
    uint8_t *keys;    /* [tokens][D], NULL for truncate */
    float *scales;    /* [tokens] */
} change_t;

typedef struct test_case {
    uint64_t seed;
    hisa_index_config_t config;    /* stripe, rank_offsets and threads are left to the run */
    hisa_select_options_t options; /* only mode, m, k, sink and local: what decides the result */
    change_t *changes;             /* [num_changes] */
    int64_t num_changes;
    hisa_oracle_keys_t keys[CASE_SEQUENCES]; /* what the changes leave; pooled. Owned by the case */
    int64_t num_rows;
    uint8_t *q;            /* [num_rows][H][D] */
    float *weights;        /* [num_rows][H] */
    int32_t *sequence;     /* [num_rows] */
    int32_t *window_begin; /* [num_rows] */
    int32_t *window_end;   /* [num_rows] */
    bool default_sequence; /* all sequences are 0, so NULL may be passed; likewise the windows */
    bool default_begin;
    bool default_end;
    int32_t *indices; /* [num_rows][k], of the reference */
    int32_t *counts;  /* [num_rows] */
    float *scores;    /* [num_rows][k]; 0 in mode block, which has none */
} test_case_t;

/* Makes the case of a seed, and what the reference says of it. Asserts on failure. Free it with test_case_free. */
void test_case_make(test_case_t *made, uint64_t seed);
/* The same with head_dim, num_heads and block_size of `shape` (NULL: drawn) and inputs of the narrow family, on which
 * any backend must agree with the reference to the bit. */
void test_case_make_shaped(test_case_t *made, uint64_t seed, const hisa_index_config_t *shape);
void test_case_free(test_case_t *made);

/* Asks the reference and fills in indices, counts and scores (allocated here). */
void test_case_expect(test_case_t *made);

/* Plays the changes on an index made for the case, as this rank has to. */
hisa_status_t test_case_play(const test_case_t *made, hisa_index_t *index, int rank, hisa_keys_on_t keys_on);

/* Rows [first, first + count), with NULL where the default says the same. */
hisa_queries_t test_case_queries(const test_case_t *made, int64_t first, int64_t count);

/* Memory or an assertion; at least one byte, zeroed. */
void *test_alloc(int64_t count, size_t size);

/* Appends, truncates or overwrites by itself: for HISA_KEYS_LOCAL it passes on only the tokens that `rank` owns. */
hisa_status_t test_change_play(hisa_index_t *index, const change_t *change, int32_t head_dim, int32_t block_size,
                               int rank, hisa_keys_on_t keys_on);

#endif
