/* The error record of the calling thread. The bottom of the house: everything may include it. */
#ifndef HISA_BASE_ERROR_H
#define HISA_BASE_ERROR_H

#include "hisa/hisa.h"

/* Longest message kept, terminator included. */
#define HISA_ERROR_BYTES 240

/* Records a message (printf style, cut at HISA_ERROR_BYTES, control characters made blanks so that it stays one line)
 * for hisa_last_error() and returns `status`, so that a failure reads `return hisa_fail(HISA_ERR_..., "...")`. Call it
 * where the failure is first decided; callers further up pass the status on untouched. */
hisa_status_t hisa_fail(hisa_status_t status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
