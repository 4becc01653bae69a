#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>

/* The only state that is not in an object: a failed creation leaves no object that could hold its message. */
static _Thread_local char last_error[HISA_ERROR_BYTES];

hisa_status_t hisa_fail(hisa_status_t status, const char *format, ...) {
    /* By way of a second buffer: an argument may be the old message. */
    char text[HISA_ERROR_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    size_t i = 0;
    for (; text[i] != '\0'; ++i) {
        const unsigned char c = (unsigned char)text[i];
        last_error[i] = (c < 0x20 || c == 0x7f) ? ' ' : text[i];
    }
    last_error[i] = '\0';
    return status;
}

const char *hisa_last_error(void) { return last_error; }

const char *hisa_status_string(hisa_status_t status) {
    switch (status) {
#define HISA_STATUS_CASE(name, code, text)                                                                             \
    case name:                                                                                                         \
        return text;
        HISA_STATUS_MAP(HISA_STATUS_CASE)
#undef HISA_STATUS_CASE
    }
    return "unknown status";
}

void hisa_version(int *major, int *minor, int *patch) {
    if (major != NULL) {
        *major = HISA_VERSION_MAJOR;
    }
    if (minor != NULL) {
        *minor = HISA_VERSION_MINOR;
    }
    if (patch != NULL) {
        *patch = HISA_VERSION_PATCH;
    }
}
