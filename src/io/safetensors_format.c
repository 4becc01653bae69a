#include "io/safetensors_format.h"

#include <stdio.h>
#include <string.h>

static const hisa_dtype_info_t dtypes[] = {
    {"BOOL", 1, HISA_DTYPE_OTHER},      {"U8", 1, HISA_DTYPE_OTHER},  {"I8", 1, HISA_DTYPE_OTHER},
    {"F8_E5M2", 1, HISA_DTYPE_OTHER},   {"I16", 2, HISA_DTYPE_OTHER}, {"U16", 2, HISA_DTYPE_OTHER},
    {"F8_E4M3", 1, HISA_DTYPE_F8_E4M3}, {"F16", 2, HISA_DTYPE_OTHER}, {"BF16", 2, HISA_DTYPE_OTHER},
    {"I32", 4, HISA_DTYPE_I32},         {"U32", 4, HISA_DTYPE_OTHER}, {"F32", 4, HISA_DTYPE_F32},
    {"F64", 8, HISA_DTYPE_OTHER},       {"I64", 8, HISA_DTYPE_OTHER}, {"U64", 8, HISA_DTYPE_OTHER},
};
enum { NUM_DTYPES = sizeof dtypes / sizeof dtypes[0] };

const hisa_dtype_info_t *hisa_dtype_by_name(const char *name) {
    for (int i = 0; i < NUM_DTYPES; ++i) {
        if (strcmp(dtypes[i].name, name) == 0) {
            return &dtypes[i];
        }
    }
    return NULL;
}

const hisa_dtype_info_t *hisa_dtype_info(hisa_dtype_t dtype) {
    for (int i = 0; i < NUM_DTYPES; ++i) {
        if (dtype != HISA_DTYPE_OTHER && dtypes[i].dtype == dtype) {
            return &dtypes[i];
        }
    }
    return NULL;
}

/* Length of the UTF-8 sequence at text, 0 if there is none. */
static size_t utf8_sequence(const unsigned char *text, size_t left) {
    const unsigned char lead = text[0];
    if (lead < 0x80) {
        return 1;
    }
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || left < length) {
        return 0;
    }
    for (size_t i = 1; i < length; ++i) {
        if ((text[i] & 0xc0) != 0x80) {
            return 0;
        }
    }
    /* The second byte tells overlong forms, surrogates and what lies past U+10FFFF. */
    const bool overlong = (lead == 0xe0 && text[1] < 0xa0) || (lead == 0xf0 && text[1] < 0x90);
    const bool surrogate = lead == 0xed && text[1] >= 0xa0;
    const bool beyond = lead == 0xf4 && text[1] >= 0x90;
    return overlong || surrogate || beyond ? 0 : length;
}

bool hisa_utf8_valid(const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes;) {
        const size_t length = utf8_sequence((const unsigned char *)text + i, bytes - i);
        if (length == 0) {
            return false;
        }
        i += length;
    }
    return true;
}

void hisa_show_path(const char *path, char shown[HISA_SHOWN_BYTES]) {
    const size_t length = strlen(path);
    if (length < HISA_SHOWN_BYTES) {
        memcpy(shown, path, length + 1);
        return;
    }
    const size_t kept = HISA_SHOWN_BYTES - 4;
    snprintf(shown, HISA_SHOWN_BYTES, "...%s", path + length - kept);
}
