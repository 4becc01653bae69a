/* What the reader and the writer of safetensors files share: the facts of the format. Private to src/io. */
#ifndef HISA_IO_SAFETENSORS_FORMAT_H
#define HISA_IO_SAFETENSORS_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "io/safetensors.h"

/* A file is the header's length as a little-endian u64, the header (a JSON object, padded with spaces) and the data. */
#define HISA_SAFETENSORS_PREFIX 8
#define HISA_SAFETENSORS_MAX_HEADER 100000000
#define HISA_SAFETENSORS_METADATA "__metadata__"

typedef struct hisa_dtype_info {
    const char *name;
    int64_t bytes; /* of one element */
    hisa_dtype_t dtype;
} hisa_dtype_info_t;

/* NULL for a name that the format (0.4) does not know, and for HISA_DTYPE_OTHER. */
const hisa_dtype_info_t *hisa_dtype_by_name(const char *name);
const hisa_dtype_info_t *hisa_dtype_info(hisa_dtype_t dtype);

/* Whether the bytes are UTF-8 (no surrogates, no overlong forms, nothing past U+10FFFF). */
bool hisa_utf8_valid(const char *text, size_t bytes);

/* A path as messages show it: whole, or its end if it is so long that the cause would be cut off. */
#define HISA_SHOWN_BYTES 104
void hisa_show_path(const char *path, char shown[HISA_SHOWN_BYTES]);

#endif
