#ifndef HISA_SELECT_OPTIONS_H
#define HISA_SELECT_OPTIONS_H

#include "hisa/hisa.h"

/* Checks options by themselves and against a block size. Local. */
hisa_status_t hisa_select_options_check(const hisa_select_options_t *options, int32_t block_size);

#endif
