/* The reader. A file is hostile until checked: every number in its header is compared with the file before it is used.
 */
#include "io/safetensors.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "io/safetensors_format.h"

/* Largest integer that no other one is rounded to when JSON is read as doubles: 2^53 - 1. */
#define MAX_EXACT 9007199254740991.0

/* An object of the file, a tensor in it, a list in that: no header nests deeper. */
#define MAX_DEPTH 3

/* How a tensor's name stands in messages: cut, so that the cause still fits. */
#define NAMED "%s: tensor '%.48s'"

typedef const hisa_tensor_t *tensor_ref_t;

struct hisa_safetensors {
    char shown[HISA_SHOWN_BYTES];
    void *map; /* NULL for an image that belongs to the caller */
    size_t map_bytes;
    cJSON *header; /* owns the names */
    const unsigned char *data;
    int64_t data_bytes;
    int64_t count;
    hisa_tensor_t *tensors; /* in the order of their data */
    tensor_ref_t *sorted;   /* by name */
};

/* ---------------------------------------------------------------------------------------------- text */

static bool is_nul_escape(const char *text, size_t left) { return left >= 6 && memcmp(text, "\\u0000", 6) == 0; }

/* What cJSON would let pass or stumble over: bytes that are no text, NUL in a string (it would cut a name short),
 * depth. */
static hisa_status_t check_text(const char *shown, const char *text, size_t bytes) {
    if (memchr(text, '\0', bytes) != NULL || !hisa_utf8_valid(text, bytes)) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: the header is not UTF-8 text", shown);
    }
    bool in_string = false;
    int depth = 0;
    for (size_t i = 0; i < bytes; ++i) {
        const char c = text[i];
        if (in_string) {
            if (is_nul_escape(text + i, bytes - i)) {
                return hisa_fail(HISA_ERR_FORMAT, "%s: the header has a NUL in a string, at byte %zu", shown, i);
            }
            i += c == '\\' ? 1 : 0;
            in_string = c != '"';
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > MAX_DEPTH) {
                return hisa_fail(HISA_ERR_FORMAT, "%s: the header is nested too deeply, at byte %zu", shown, i);
            }
        } else if (c == '}' || c == ']') {
            --depth;
        }
    }
    return HISA_OK;
}

/* Reads the header's JSON. The text is copied: cJSON 1.7.15 reads one byte past the end of some malformed input. */
static hisa_status_t parse_text(hisa_safetensors_t *file, const unsigned char *text, size_t bytes) {
    if (bytes == 0 || text[0] != '{') {
        return hisa_fail(HISA_ERR_FORMAT, "%s: the header does not start with '{'", file->shown);
    }
    hisa_status_t status = HISA_OK;
    const char *end = NULL;
    char *copy = malloc(bytes + 1);
    if (copy == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "%s: no memory for a header of %zu bytes", file->shown, bytes);
    }
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    status = check_text(file->shown, copy, bytes);
    if (status != HISA_OK) {
        goto cleanup;
    }
    file->header = cJSON_ParseWithLengthOpts(copy, bytes + 1, &end, 0);
    if (file->header == NULL) {
        const size_t place = end == NULL ? 0 : (size_t)(end - copy);
        status = hisa_fail(HISA_ERR_FORMAT, "%s: the header is not JSON, near byte %zu", file->shown, place);
        goto cleanup;
    }
    end += strspn(end, " ");
    if (end != copy + bytes) {
        status = hisa_fail(HISA_ERR_FORMAT, "%s: the header has more than one JSON object, at byte %zu", file->shown,
                           (size_t)(end - copy));
    }
cleanup:
    free(copy);
    return status;
}

/* ---------------------------------------------------------------------------------------------- metadata */

static int compare_strings(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static hisa_status_t check_metadata(const char *shown, const cJSON *metadata) {
    if (!cJSON_IsObject(metadata)) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: " HISA_SAFETENSORS_METADATA " is not an object", shown);
    }
    const size_t count = (size_t)cJSON_GetArraySize(metadata);
    const char **keys = malloc((count + 1) * sizeof *keys);
    if (keys == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "%s: no memory for the metadata", shown);
    }
    hisa_status_t status = HISA_OK;
    size_t used = 0;
    const cJSON *entry = NULL;
    cJSON_ArrayForEach(entry, metadata) {
        if (!cJSON_IsString(entry)) {
            status = hisa_fail(HISA_ERR_FORMAT, "%s: " HISA_SAFETENSORS_METADATA " '%.48s' is not a string", shown,
                               entry->string);
            goto cleanup;
        }
        keys[used++] = entry->string;
    }
    qsort(keys, used, sizeof *keys, compare_strings);
    for (size_t i = 1; i < used; ++i) {
        if (strcmp(keys[i - 1], keys[i]) == 0) {
            status = hisa_fail(HISA_ERR_FORMAT, "%s: " HISA_SAFETENSORS_METADATA " has '%.48s' twice", shown, keys[i]);
            goto cleanup;
        }
    }
cleanup:
    free(keys);
    return status;
}

/* ---------------------------------------------------------------------------------------------- tensors */

static bool read_whole(const cJSON *item, int64_t *value) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0.0 && item->valuedouble <= MAX_EXACT)) {
        return false;
    }
    *value = (int64_t)item->valuedouble;
    return (double)*value == item->valuedouble;
}

typedef struct fields {
    const cJSON *dtype;
    const cJSON *shape;
    const cJSON *offsets;
} fields_t;

/* The three members of a tensor's object, each once and nothing else. */
static hisa_status_t read_fields(const char *shown, const cJSON *entry, fields_t *fields) {
    if (!cJSON_IsObject(entry)) {
        return hisa_fail(HISA_ERR_FORMAT, NAMED ": not an object", shown, entry->string);
    }
    const cJSON *member = NULL;
    cJSON_ArrayForEach(member, entry) {
        const cJSON **field = strcmp(member->string, "dtype") == 0          ? &fields->dtype
                              : strcmp(member->string, "shape") == 0        ? &fields->shape
                              : strcmp(member->string, "data_offsets") == 0 ? &fields->offsets
                                                                            : NULL;
        if (field == NULL) {
            return hisa_fail(HISA_ERR_FORMAT, NAMED ": unknown member '%.32s'", shown, entry->string, member->string);
        }
        if (*field != NULL) {
            return hisa_fail(HISA_ERR_FORMAT, NAMED ": has %s twice", shown, entry->string, member->string);
        }
        *field = member;
    }
    const char *missing = fields->dtype == NULL     ? "dtype"
                          : fields->shape == NULL   ? "shape"
                          : fields->offsets == NULL ? "data_offsets"
                                                    : NULL;
    if (missing != NULL) {
        return hisa_fail(HISA_ERR_FORMAT, NAMED ": has no %s", shown, entry->string, missing);
    }
    return HISA_OK;
}

static hisa_status_t read_shape(const char *shown, const cJSON *shape, hisa_tensor_t *tensor) {
    if (!cJSON_IsArray(shape)) {
        return hisa_fail(HISA_ERR_FORMAT, NAMED ": shape is not a list", shown, tensor->name);
    }
    const cJSON *size = NULL;
    cJSON_ArrayForEach(size, shape) {
        if (tensor->dims == HISA_TENSOR_MAX_DIMS) {
            return hisa_fail(HISA_ERR_FORMAT, NAMED ": more than %d dimensions", shown, tensor->name,
                             HISA_TENSOR_MAX_DIMS);
        }
        if (!read_whole(size, &tensor->shape[tensor->dims])) {
            return hisa_fail(HISA_ERR_FORMAT, NAMED ": shape[%d] is not a whole number below 2^53", shown, tensor->name,
                             tensor->dims);
        }
        ++tensor->dims;
    }
    return HISA_OK;
}

/* Sets bytes and data from the offsets, which must lie within the data. */
static hisa_status_t read_offsets(const hisa_safetensors_t *file, const cJSON *offsets, hisa_tensor_t *tensor) {
    int64_t begin = 0;
    int64_t end = 0;
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 ||
        !read_whole(cJSON_GetArrayItem(offsets, 0), &begin) || !read_whole(cJSON_GetArrayItem(offsets, 1), &end)) {
        return hisa_fail(HISA_ERR_FORMAT, NAMED ": data_offsets is not two whole numbers below 2^53", file->shown,
                         tensor->name);
    }
    if (begin > end) {
        return hisa_fail(HISA_ERR_FORMAT, NAMED ": data_offsets begin at %" PRId64 ", after their end %" PRId64,
                         file->shown, tensor->name, begin, end);
    }
    if (end > file->data_bytes) {
        return hisa_fail(HISA_ERR_FORMAT,
                         NAMED ": data_offsets [%" PRId64 ", %" PRId64 "] run beyond the file, which has %" PRId64
                               " bytes of data",
                         file->shown, tensor->name, begin, end, file->data_bytes);
    }
    tensor->bytes = end - begin;
    tensor->data = file->data + begin;
    return HISA_OK;
}

static hisa_status_t check_size(const char *shown, const hisa_tensor_t *tensor, int64_t element) {
    int64_t bytes = element;
    for (int i = 0; i < tensor->dims; ++i) {
        if (!hisa_mul(bytes, tensor->shape[i], &bytes)) {
            return hisa_fail(HISA_ERR_FORMAT, NAMED ": the product of its shape overflows", shown, tensor->name);
        }
    }
    if (bytes != tensor->bytes) {
        return hisa_fail(HISA_ERR_FORMAT, NAMED ": dtype and shape make %" PRId64 " bytes, data_offsets %" PRId64,
                         shown, tensor->name, bytes, tensor->bytes);
    }
    return HISA_OK;
}

static hisa_status_t read_tensor(const hisa_safetensors_t *file, const cJSON *entry, hisa_tensor_t *tensor) {
    fields_t fields = {NULL, NULL, NULL};
    hisa_status_t status = read_fields(file->shown, entry, &fields);
    if (status != HISA_OK) {
        return status;
    }
    *tensor = (hisa_tensor_t){.name = entry->string, .dtype = HISA_DTYPE_OTHER};
    tensor->dtype_name = cJSON_GetStringValue(fields.dtype);
    if (tensor->dtype_name == NULL) {
        return hisa_fail(HISA_ERR_FORMAT, NAMED ": dtype is not a string", file->shown, tensor->name);
    }
    status = read_shape(file->shown, fields.shape, tensor);
    if (status == HISA_OK) {
        status = read_offsets(file, fields.offsets, tensor);
    }
    const hisa_dtype_info_t *dtype = hisa_dtype_by_name(tensor->dtype_name);
    if (status == HISA_OK && dtype != NULL) {
        tensor->dtype = dtype->dtype;
        status = check_size(file->shown, tensor, dtype->bytes);
    }
    return status;
}

/* ---------------------------------------------------------------------------------------------- the whole */

static int compare_places(const void *left, const void *right) {
    const hisa_tensor_t *a = left;
    const hisa_tensor_t *b = right;
    const uintptr_t begin_a = (uintptr_t)a->data;
    const uintptr_t begin_b = (uintptr_t)b->data;
    if (begin_a != begin_b) {
        return begin_a < begin_b ? -1 : 1;
    }
    /* An empty tensor stands before the one that starts where it does. */
    return a->bytes < b->bytes ? -1 : a->bytes > b->bytes;
}

static int compare_names(const void *left, const void *right) {
    const hisa_tensor_t *const *a = left;
    const hisa_tensor_t *const *b = right;
    return strcmp((*a)->name, (*b)->name);
}

/* The format allows no overlap and no hole: the tensors, in the order of their data, must touch. */
static hisa_status_t check_cover(const hisa_safetensors_t *file) {
    int64_t covered = 0;
    for (int64_t i = 0; i < file->count; ++i) {
        const hisa_tensor_t *tensor = &file->tensors[i];
        const int64_t begin = (const unsigned char *)tensor->data - file->data;
        if (begin < covered) {
            return hisa_fail(HISA_ERR_FORMAT, NAMED ": its data overlap those of tensor '%.48s'", file->shown,
                             tensor->name, file->tensors[i - 1].name);
        }
        if (begin > covered) {
            return hisa_fail(HISA_ERR_FORMAT, NAMED ": %" PRId64 " bytes before its data belong to no tensor",
                             file->shown, tensor->name, begin - covered);
        }
        covered += tensor->bytes;
    }
    if (covered != file->data_bytes) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: the last %" PRId64 " bytes belong to no tensor", file->shown,
                         file->data_bytes - covered);
    }
    return HISA_OK;
}

static hisa_status_t check_names(const hisa_safetensors_t *file) {
    for (int64_t i = 1; i < file->count; ++i) {
        if (strcmp(file->sorted[i - 1]->name, file->sorted[i]->name) == 0) {
            return hisa_fail(HISA_ERR_FORMAT, NAMED ": occurs twice", file->shown, file->sorted[i]->name);
        }
    }
    return HISA_OK;
}

static hisa_status_t read_entries(hisa_safetensors_t *file) {
    bool has_metadata = false;
    const cJSON *entry = NULL;
    cJSON_ArrayForEach(entry, file->header) {
        hisa_status_t status = HISA_OK;
        if (strcmp(entry->string, HISA_SAFETENSORS_METADATA) != 0) {
            status = read_tensor(file, entry, &file->tensors[file->count++]);
        } else if (has_metadata) {
            status = hisa_fail(HISA_ERR_FORMAT, "%s: " HISA_SAFETENSORS_METADATA " occurs twice", file->shown);
        } else {
            has_metadata = true;
            status = check_metadata(file->shown, entry);
        }
        if (status != HISA_OK) {
            return status;
        }
    }
    return HISA_OK;
}

static hisa_status_t read_header(hisa_safetensors_t *file) {
    const size_t entries = (size_t)cJSON_GetArraySize(file->header);
    file->tensors = calloc(entries + 1, sizeof *file->tensors);
    file->sorted = calloc(entries + 1, sizeof(tensor_ref_t));
    if (file->tensors == NULL || file->sorted == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "%s: no memory for %zu tensors", file->shown, entries);
    }
    hisa_status_t status = read_entries(file);
    if (status != HISA_OK) {
        return status;
    }
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, compare_places);
    for (int64_t i = 0; i < file->count; ++i) {
        file->sorted[i] = &file->tensors[i];
    }
    qsort(file->sorted, (size_t)file->count, sizeof(tensor_ref_t), compare_names);
    status = check_names(file);
    return status == HISA_OK ? check_cover(file) : status;
}

static hisa_status_t parse_image(hisa_safetensors_t *file, const unsigned char *image, size_t bytes) {
    if (bytes < HISA_SAFETENSORS_PREFIX) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: too short for a safetensors file, %zu bytes", file->shown, bytes);
    }
    if (bytes > INT64_MAX) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: too long, %zu bytes", file->shown, bytes);
    }
    uint64_t header = 0;
    for (int i = HISA_SAFETENSORS_PREFIX - 1; i >= 0; --i) {
        header = header << 8 | image[i];
    }
    if (header > HISA_SAFETENSORS_MAX_HEADER) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: a header of %" PRIu64 " bytes is over the format's limit of %d",
                         file->shown, header, HISA_SAFETENSORS_MAX_HEADER);
    }
    if (header > bytes - HISA_SAFETENSORS_PREFIX) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: a header of %" PRIu64 " bytes runs beyond the file of %zu bytes",
                         file->shown, header, bytes);
    }
    file->data = image + HISA_SAFETENSORS_PREFIX + header;
    file->data_bytes = (int64_t)(bytes - HISA_SAFETENSORS_PREFIX - (size_t)header);
    const hisa_status_t status = parse_text(file, image + HISA_SAFETENSORS_PREFIX, (size_t)header);
    return status == HISA_OK ? read_header(file) : status;
}

static hisa_status_t make_file(const char *name, hisa_safetensors_t **file) {
    *file = calloc(1, sizeof **file);
    if (*file == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "%s: no memory", name);
    }
    hisa_show_path(name, (*file)->shown);
    return HISA_OK;
}

hisa_status_t hisa_safetensors_parse(const void *image, size_t bytes, const char *name, hisa_safetensors_t **file) {
    if ((image == NULL && bytes > 0) || name == NULL || file == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "safetensors: NULL argument");
    }
    hisa_safetensors_t *made = NULL;
    hisa_status_t status = make_file(name, &made);
    if (status == HISA_OK) {
        status = parse_image(made, image, bytes);
    }
    if (status != HISA_OK) {
        hisa_safetensors_close(made);
        return status;
    }
    *file = made;
    return HISA_OK;
}

/* Maps a regular file; an empty one leaves map NULL. */
static hisa_status_t map_file(hisa_safetensors_t *file, const char *path) {
    hisa_status_t status = HISA_OK;
    struct stat info;
    /* O_NONBLOCK: to open a FIFO must not wait for its writer. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return hisa_fail(HISA_ERR_IO, "%s: cannot open: %s", file->shown, strerror(errno));
    }
    if (fstat(fd, &info) != 0) {
        status = hisa_fail(HISA_ERR_IO, "%s: cannot stat: %s", file->shown, strerror(errno));
        goto cleanup;
    }
    if (!S_ISREG(info.st_mode)) {
        status = hisa_fail(HISA_ERR_IO, "%s: not a regular file", file->shown);
        goto cleanup;
    }
    if (info.st_size > 0) {
        void *map = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            status = hisa_fail(HISA_ERR_IO, "%s: cannot map: %s", file->shown, strerror(errno));
            goto cleanup;
        }
        file->map = map;
        file->map_bytes = (size_t)info.st_size;
    }
cleanup:
    close(fd);
    return status;
}

hisa_status_t hisa_safetensors_open(const char *path, hisa_safetensors_t **file) {
    if (path == NULL || file == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "safetensors: NULL argument");
    }
    hisa_safetensors_t *made = NULL;
    hisa_status_t status = make_file(path, &made);
    if (status == HISA_OK) {
        status = map_file(made, path);
    }
    if (status == HISA_OK) {
        status = parse_image(made, made->map, made->map_bytes);
    }
    if (status != HISA_OK) {
        hisa_safetensors_close(made);
        return status;
    }
    *file = made;
    return HISA_OK;
}

void hisa_safetensors_close(hisa_safetensors_t *file) {
    if (file == NULL) {
        return;
    }
    cJSON_Delete(file->header);
    free(file->tensors);
    free(file->sorted);
    if (file->map != NULL) {
        munmap(file->map, file->map_bytes);
    }
    free(file);
}

const char *hisa_safetensors_name(const hisa_safetensors_t *file) { return file->shown; }

int64_t hisa_safetensors_count(const hisa_safetensors_t *file) { return file->count; }

const hisa_tensor_t *hisa_safetensors_at(const hisa_safetensors_t *file, int64_t place) {
    return place >= 0 && place < file->count ? &file->tensors[place] : NULL;
}

static int compare_name_to(const void *name, const void *tensor) {
    return strcmp(name, (*(const hisa_tensor_t *const *)tensor)->name);
}

const hisa_tensor_t *hisa_safetensors_find(const hisa_safetensors_t *file, const char *name) {
    const hisa_tensor_t *const *found =
        bsearch(name, file->sorted, (size_t)file->count, sizeof(tensor_ref_t), compare_name_to);
    return found == NULL ? NULL : *found;
}
