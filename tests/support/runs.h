/* Ways of running a case that must not change its result, and the check that they did not. */
#ifndef HISA_TESTS_RUNS_H
#define HISA_TESTS_RUNS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hisa/hisa.h"
#include "support/cases.h"

enum { RUN_RANKS_MAX = 64 };

/* One way. Equal on all ranks. */
typedef struct run {
    int64_t stripe;
    int32_t rank_offsets[CASE_SEQUENCES];
    bool default_offsets; /* pass NULL: all 0 */
    hisa_keys_on_t keys_on;
    int threads;
    hisa_exchange_t exchange;
    hisa_queries_on_t queries_on;
    hisa_placement_t placement;
    int32_t tile_rows;
    uint32_t flags;
    int64_t rows_per_rank[RUN_RANKS_MAX]; /* sum: the case's rows */
    bool pass_rows_per_rank;
    bool want_counts;
    bool want_scores;
    int64_t spare_rows; /* the workspace is sized for so many more rows than there are */
    uint8_t garbage;    /* what the workspace is filled with before the call */
    int repeats;        /* calls in a row; results of the last are checked */
} run_t;

/* Draws a way for `ranks` ranks. */
void run_draw(run_t *run, rng_t *rng, const test_case_t *made, int ranks);

/* The plainest way: stripe 1, defaults everywhere, counts and scores wanted. */
void run_plain(run_t *run, const test_case_t *made, int ranks);

/* One line that tells what is run, for failures. */
void run_describe(const run_t *run, const test_case_t *made, char *text, size_t size);

/* The options of case and run together. */
hisa_select_options_t run_options(const run_t *run, const test_case_t *made);

/* An index for the case, made the run's way and filled. Collective. */
hisa_status_t run_create_index(const run_t *run, const test_case_t *made, hisa_comm_t *comm, hisa_index_t **index);

/* Collective: one or more selections on a filled index, in guarded memory, compared with the reference: the rows that
 * this rank must get by the placement, to the bit. True if all is well; otherwise `why` says what is not. */
bool run_check_index(const run_t *run, const test_case_t *made, hisa_comm_t *comm, hisa_index_t *index, char *why,
                     size_t why_size);

/* Collective: creates, fills, checks, destroys. Goes through the same collective calls on all ranks unless hisa fails.
 */
bool run_check(const run_t *run, const test_case_t *made, hisa_comm_t *comm, char *why, size_t why_size);

/* ---------------------------------------------------------------------------------------------- guarded memory */

/* Memory between two zones of known bytes, filled with a byte. */
typedef struct guarded {
    unsigned char *base;
    unsigned char *data; /* 256-byte aligned */
    size_t size;
} guarded_t;

guarded_t guarded_make(size_t size, unsigned char fill);
/* False if a byte outside was changed. */
bool guarded_intact(const guarded_t *memory);
/* False if a byte inside differs from `fill`, or guarded_intact is false. */
bool guarded_untouched(const guarded_t *memory, unsigned char fill);
void guarded_free(guarded_t *memory);

/* Seed, number of cases and calls in a row, by HISA_TEST_SEED, HISA_TEST_CASES and HISA_TEST_CALLS or else the defaults
 * given. */
uint64_t test_seed(uint64_t otherwise);
int64_t test_cases(int64_t otherwise);
int64_t test_calls(int64_t otherwise);

/* How many of `all` ways of running a case are to be run: one in HISA_TEST_PART, by default all. At least one. */
int test_part(int all);

#endif
