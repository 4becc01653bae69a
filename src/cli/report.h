/* JSON reports: to a file, whole or not at all, or to stdout. */
#ifndef HISA_CLI_REPORT_H
#define HISA_CLI_REPORT_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdio.h>

#include "hisa/hisa.h"

/* Opened on rank 0 before the work begins, so that a path that cannot be written is found first. */
typedef struct cli_report {
    bool to_stdout;
    char *path;      /* owned; where the file shall appear */
    char *temporary; /* owned; NULL where the path is written directly (a device, a pipe) */
    FILE *file;
} cli_report_t;

/* path: a file, "-" for stdout, or NULL: a report that swallows all. Local. */
hisa_status_t cli_report_open(const char *path, cli_report_t *report);

/* Writes the object in one line, or indented, and a newline. NULL stands for memory that ran out while it was made; it
 * is deleted in any case. */
hisa_status_t cli_report_write(cli_report_t *report, cJSON *object, bool indented);

/* Makes the file appear, or fails and leaves nothing. */
hisa_status_t cli_report_commit(cli_report_t *report);

/* Drops what is not committed. A zeroed report is allowed. */
void cli_report_close(cli_report_t *report);

#endif
