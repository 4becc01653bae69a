#ifndef HISA_SELECT_POLICY_H
#define HISA_SELECT_POLICY_H

#include "index/index.h"

/* OWNER or ONESHOT for a call of `rows` rows over all ranks: what options say, or else the cheaper by the cost model.
 */
hisa_exchange_t hisa_policy_choose(const hisa_index_t *index, const hisa_select_options_t *options, int64_t rows);

#endif
