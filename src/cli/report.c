#include "cli/report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

static hisa_status_t failed(const cli_report_t *report, const char *what) {
    const int code = errno;
    return hisa_fail(HISA_ERR_IO, "%s: %s: %s", report->path, what, strerror(code));
}

/* A temporary file beside the path. mkstemp makes it private; a report gets the mode that fopen would give. */
static hisa_status_t open_temporary(cli_report_t *report) {
    if (asprintf(&report->temporary, "%s.XXXXXX", report->path) < 0) {
        report->temporary = NULL;
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for a path");
    }
    const int descriptor = mkstemp(report->temporary);
    if (descriptor < 0) {
        const hisa_status_t status = failed(report, "cannot create a file beside it");
        free(report->temporary);
        report->temporary = NULL;
        return status;
    }
    const mode_t mask = umask(0);
    umask(mask);
    if (fchmod(descriptor, 0666 & ~mask) != 0) {
        const hisa_status_t status = failed(report, "cannot set its mode");
        close(descriptor);
        return status;
    }
    report->file = fdopen(descriptor, "w");
    if (report->file == NULL) {
        const hisa_status_t status = failed(report, "cannot open");
        close(descriptor);
        return status;
    }
    return HISA_OK;
}

hisa_status_t cli_report_open(const char *path, cli_report_t *report) {
    *report = (cli_report_t){0};
    if (path == NULL) {
        return HISA_OK;
    }
    if (strcmp(path, "-") == 0) {
        report->to_stdout = true;
        return HISA_OK;
    }
    report->path = strdup(path);
    if (report->path == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for a path");
    }
    struct stat info;
    hisa_status_t status = HISA_OK;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode)) {
        report->file = fopen(path, "w");
        status = report->file != NULL ? HISA_OK : failed(report, "cannot open");
    } else {
        status = open_temporary(report);
    }
    if (status != HISA_OK) {
        cli_report_close(report);
    }
    return status;
}

hisa_status_t cli_report_write(cli_report_t *report, cJSON *object, bool indented) {
    FILE *file = report->to_stdout ? stdout : report->file;
    char *text = NULL;
    hisa_status_t status = HISA_OK;
    if (file != NULL) {
        text = object == NULL ? NULL : indented ? cJSON_Print(object) : cJSON_PrintUnformatted(object);
        if (text == NULL) {
            status = hisa_fail(HISA_ERR_NO_MEMORY, "out of memory for a JSON report");
        } else if (fprintf(file, "%s\n", text) < 0 && !report->to_stdout) {
            status = failed(report, "cannot write");
        } else if (report->to_stdout) {
            fflush(stdout); /* who reads along has what is finished, whatever becomes of the rest */
        }
    }
    cJSON_free(text);
    cJSON_Delete(object);
    return status;
}

hisa_status_t cli_report_commit(cli_report_t *report) {
    if (report->file == NULL) {
        return HISA_OK;
    }
    FILE *file = report->file;
    report->file = NULL;
    hisa_status_t status = HISA_OK;
    if (fclose(file) != 0) {
        status = failed(report, "cannot write");
    } else if (report->temporary != NULL) {
        if (rename(report->temporary, report->path) != 0) {
            status = failed(report, "cannot put it in place");
        } else {
            free(report->temporary);
            report->temporary = NULL;
        }
    }
    return status;
}

void cli_report_close(cli_report_t *report) {
    if (report->file != NULL) {
        fclose(report->file);
    }
    if (report->temporary != NULL) {
        unlink(report->temporary);
    }
    free(report->temporary);
    free(report->path);
    *report = (cli_report_t){0};
}
