/* What a call had to do, worked out beside the measuring: keys by the windows, and what neighbouring rows share. */
#ifndef HISA_CLI_BENCH_WORK_H
#define HISA_CLI_BENCH_WORK_H

#include "cli/bench.h"

/* Means over the rows. */
typedef struct bench_keys {
    double blocks; /* pooled keys in sight */
    double tokens;
    bool exact; /* else `tokens` is a bound: it hangs on which of the blocks that a window cuts are kept */
} bench_keys_t;

/* Keys that a query has to be scored against. Rows without windows see all tokens. */
bench_keys_t bench_count_keys(const hisa_select_options_t *options, int32_t block_size, const cli_rows_t *rows,
                              int64_t tokens);

/* What the library's plan says of the call's exchanges, and its cost model: tiles, lanes and predicted. */
hisa_status_t bench_plan_exchange(const hisa_index_t *index, const hisa_select_options_t *options, int64_t rows,
                                  bench_exchange_t *exchange);

/* The share that was hidden, of a call that took so many seconds: all else of *exchange is known. */
double bench_hidden(const bench_exchange_t *exchange, double call);

/* Compares each row's selection with that of the row before, in the results of the last call of `rows` rows, of which
 * rows_per_sequence follow each other in one sequence. Waits, and copies results to the host. */
hisa_status_t bench_compare_rows(cli_selector_t *selector, int64_t rows, int64_t rows_per_sequence, int32_t block_size,
                                 bench_overlap_t *overlap);

#endif
