#ifndef HISA_SELECT_POLICY_H
#define HISA_SELECT_POLICY_H

#include "index/index.h"

/* What the cost model knows: equal on all ranks of an index, so that all choose alike. Times in seconds. */
typedef struct hisa_policy {
    int32_t ranks;
    int64_t local_blocks; /* most blocks of a sequence that a rank stores */
    int32_t block_size;
    int32_t num_heads;
    int32_t head_dim;
    hisa_comm_cost_t comm;
    double flop_rate; /* as in hisa_backend_ops_t */
    double candidate_rate;
    double host_wait;
    double tile_cost;
    double tile_share;
} hisa_policy_t;

void hisa_policy_of(const hisa_index_t *index, hisa_policy_t *policy);

/* What the collectives of a call of `rows` rows over all ranks take by themselves, in so many tiles. Any exchange but
 * AUTO. */
double hisa_policy_exchange_seconds(const hisa_policy_t *policy, const hisa_select_options_t *options,
                                    hisa_exchange_t exchange, int64_t rows, int64_t tiles);

/* What a call of `rows` rows over all ranks takes by OWNER or ONESHOT, without what both exchanges have in common. */
double hisa_policy_seconds(const hisa_policy_t *policy, const hisa_select_options_t *options, hisa_exchange_t exchange,
                           int64_t rows);

/* The cheaper of the two; ONESHOT where they are equal. */
hisa_exchange_t hisa_policy_cheaper(const hisa_policy_t *policy, const hisa_select_options_t *options, int64_t rows);

/* The fewest rows of a call that go by owner merge, at most max_rows + 1: from there on all do. */
int64_t hisa_policy_switch(const hisa_policy_t *policy, const hisa_select_options_t *options, int64_t max_rows);

/* Rows of a tile of an owner merge that runs exchanges under scoring: what one tile more costs against the bytes of the
 * last one, which nothing hides. Never fewer for more rows; at least 1 if rows is. */
int64_t hisa_policy_tile(const hisa_policy_t *policy, const hisa_select_options_t *options, int64_t rows);

/* For a call of `rows` rows over all ranks: what options say, or else the cheaper of OWNER and ONESHOT. */
hisa_exchange_t hisa_policy_choose(const hisa_index_t *index, const hisa_select_options_t *options, int64_t rows);

#endif
