#ifndef HISA_INDEX_CONFIG_H
#define HISA_INDEX_CONFIG_H

#include "hisa/hisa.h"

/* Checks a configuration for a group of `ranks`: ranges only, whatever the backend. Local. */
hisa_status_t hisa_index_config_check(const hisa_index_config_t *config, int32_t ranks);

#endif
