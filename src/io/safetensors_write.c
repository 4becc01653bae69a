/* The writer. The file grows under a name of its own beside the target, in the space reserved for it, and is renamed
 * over the target at the end: a reader sees the old file or the new one, never a part. */
#include "io/safetensors.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"
#include "io/safetensors_format.h"

/* The header is padded to this, so that data that starts with the widest dtype is aligned. */
#define ALIGNMENT 8

/* A name in use belongs to another writer of this process, or to one that was killed: the next one is tried. */
#define NAME_ATTEMPTS 1000

typedef struct extent {
    int64_t offset; /* in the file once the header is made, among the data before */
    int64_t bytes;
} extent_t;

struct hisa_safetensors_writer {
    char shown[HISA_SHOWN_BYTES];
    char *path;      /* the target, symbolic links resolved */
    char *temporary; /* NULL until it exists */
    int fd;          /* -1: none */
    bool failed;     /* a write went wrong: the file must not appear */
    int count;
    extent_t *extents; /* [count], in the order of the specs */
};

/* ---------------------------------------------------------------------------------------------- what to write */

static hisa_status_t check_spec(const char *shown, const hisa_tensor_spec_t *specs, int place) {
    const hisa_tensor_spec_t *spec = &specs[place];
    if (spec->name == NULL || !hisa_utf8_valid(spec->name, strlen(spec->name)) ||
        strcmp(spec->name, HISA_SAFETENSORS_METADATA) == 0) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s: tensor %d has no name that can be written", shown, place);
    }
    for (int i = 0; i < place; ++i) {
        if (strcmp(specs[i].name, spec->name) == 0) {
            return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s: two tensors are named '%.48s'", shown, spec->name);
        }
    }
    if (hisa_dtype_info(spec->dtype) == NULL || spec->dims < 0 || spec->dims > HISA_TENSOR_MAX_DIMS) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s: tensor '%.48s' has a dtype or rank that cannot be written",
                         shown, spec->name);
    }
    return HISA_OK;
}

/* Offsets among the data: wider dtypes first, as the format's reference does, so that no tensor needs padding. */
static hisa_status_t place_tensors(hisa_safetensors_writer_t *writer, const hisa_tensor_spec_t *specs,
                                   int64_t *data_bytes) {
    for (int i = 0; i < writer->count; ++i) {
        int64_t bytes = hisa_dtype_info(specs[i].dtype)->bytes;
        for (int j = 0; j < specs[i].dims; ++j) {
            if (!hisa_mul(bytes, specs[i].shape[j], &bytes)) {
                return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s: tensor '%.48s' has a negative or overflowing shape",
                                 writer->shown, specs[i].name);
            }
        }
        writer->extents[i].bytes = bytes;
    }
    *data_bytes = 0;
    for (int64_t width = ALIGNMENT; width >= 1; width /= 2) {
        for (int i = 0; i < writer->count; ++i) {
            if (hisa_dtype_info(specs[i].dtype)->bytes != width) {
                continue;
            }
            writer->extents[i].offset = *data_bytes;
            if (!hisa_add(*data_bytes, writer->extents[i].bytes, data_bytes)) {
                return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s: the tensors' sizes overflow", writer->shown);
            }
        }
    }
    return HISA_OK;
}

/* ---------------------------------------------------------------------------------------------- header */

/* Appends an integer in full digits: cJSON would print a large one as 1e+15, which is no size to other readers. */
static bool add_integer(cJSON *list, int64_t value) {
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRId64, value);
    cJSON *item = cJSON_CreateRaw(digits);
    if (item == NULL || !cJSON_AddItemToArray(list, item)) {
        cJSON_Delete(item);
        return false;
    }
    return true;
}

static bool add_tensor(cJSON *header, const hisa_tensor_spec_t *spec, const extent_t *extent) {
    cJSON *entry = cJSON_AddObjectToObject(header, spec->name);
    if (entry == NULL || cJSON_AddStringToObject(entry, "dtype", hisa_dtype_info(spec->dtype)->name) == NULL) {
        return false;
    }
    cJSON *shape = cJSON_AddArrayToObject(entry, "shape");
    bool added = shape != NULL;
    for (int i = 0; added && i < spec->dims; ++i) {
        added = add_integer(shape, spec->shape[i]);
    }
    cJSON *offsets = added ? cJSON_AddArrayToObject(entry, "data_offsets") : NULL;
    return offsets != NULL && add_integer(offsets, extent->offset) &&
           add_integer(offsets, extent->offset + extent->bytes);
}

static bool add_metadata(cJSON *header, const char *const *metadata, int n_metadata) {
    if (n_metadata == 0) {
        return true;
    }
    cJSON *entry = cJSON_AddObjectToObject(header, HISA_SAFETENSORS_METADATA);
    bool added = entry != NULL;
    for (size_t i = 0; added && i < (size_t)n_metadata; ++i) {
        added = cJSON_AddStringToObject(entry, metadata[2 * i], metadata[2 * i + 1]) != NULL;
    }
    return added;
}

static hisa_status_t check_metadata(const char *shown, const char *const *metadata, int n_metadata) {
    for (size_t i = 0; i < (size_t)n_metadata; ++i) {
        for (size_t j = 2 * i; j < 2 * i + 2; ++j) {
            if (metadata[j] == NULL || !hisa_utf8_valid(metadata[j], strlen(metadata[j]))) {
                return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s: metadata %zu is not text", shown, i);
            }
        }
        for (size_t j = 0; j < i; ++j) {
            if (strcmp(metadata[2 * i], metadata[2 * j]) == 0) {
                return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s: metadata has '%.48s' twice", shown, metadata[2 * i]);
            }
        }
    }
    return HISA_OK;
}

/* The header's JSON in malloc'd memory, NULL without memory. */
static char *print_header(const hisa_safetensors_writer_t *writer, const hisa_tensor_spec_t *specs,
                          const char *const *metadata, int n_metadata) {
    char *text = NULL;
    cJSON *header = cJSON_CreateObject();
    bool added = header != NULL && add_metadata(header, metadata, n_metadata);
    for (int i = 0; added && i < writer->count; ++i) {
        added = add_tensor(header, &specs[i], &writer->extents[i]);
    }
    if (added) {
        text = cJSON_PrintUnformatted(header);
    }
    cJSON_Delete(header);
    return text;
}

/* ---------------------------------------------------------------------------------------------- the file */

static hisa_status_t fail_write(hisa_safetensors_writer_t *writer, const char *doing, int error) {
    writer->failed = true;
    if (error == ENOSPC || error == EDQUOT) {
        return hisa_fail(HISA_ERR_IO, "%s: no space left to %s", writer->shown, doing);
    }
    return hisa_fail(HISA_ERR_IO, "%s: cannot %s: %s", writer->shown, doing, strerror(error));
}

static hisa_status_t write_all(hisa_safetensors_writer_t *writer, const void *data, int64_t bytes, int64_t offset) {
    const char *from = data;
    while (bytes > 0) {
        /* One call moves at most 2 GB less a page, whatever is asked for. */
        const ssize_t written = pwrite(writer->fd, from, (size_t)bytes, (off_t)offset);
        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written <= 0) {
            return fail_write(writer, "write", written == 0 ? EIO : errno);
        }
        from += written;
        bytes -= written;
        offset += written;
    }
    return HISA_OK;
}

/* Takes the file's disk space now, so that a full disk is found before any work is done. */
static hisa_status_t reserve(hisa_safetensors_writer_t *writer, int64_t bytes) {
    char doing[64];
    snprintf(doing, sizeof doing, "reserve %" PRId64 " bytes", bytes);
    int error = 0;
    do {
        error = posix_fallocate(writer->fd, 0, (off_t)bytes);
    } while (error == EINTR);
    if (error == EOPNOTSUPP || error == EINVAL) {
        /* The file system reserves nothing; writing will tell. */
        error = ftruncate(writer->fd, (off_t)bytes) == 0 ? 0 : errno;
    }
    return error == 0 ? HISA_OK : fail_write(writer, doing, error);
}

/* Sets writer->path. A symbolic link stands for what it points to. A target that is there must be a regular file: to
 * rename over a device such as /dev/null would replace it. */
static hisa_status_t resolve_target(hisa_safetensors_writer_t *writer, const char *path) {
    struct stat info;
    const size_t length = strlen(path);
    if (length == 0 || path[length - 1] == '/') {
        return hisa_fail(HISA_ERR_IO, "%s: cannot write: the path names no file", writer->shown);
    }
    if (lstat(path, &info) != 0) {
        /* Where the directory is missing too, the creation of the temporary file says so. */
        writer->path = strdup(path);
    } else {
        writer->path = S_ISLNK(info.st_mode) ? realpath(path, NULL) : strdup(path);
        if (writer->path != NULL && stat(writer->path, &info) == 0 && !S_ISREG(info.st_mode)) {
            return hisa_fail(HISA_ERR_IO, "%s: cannot write: %s", writer->shown,
                             S_ISDIR(info.st_mode) ? "it is a directory" : "it is not a regular file");
        }
    }
    if (writer->path == NULL) {
        return hisa_fail(errno == ENOMEM ? HISA_ERR_NO_MEMORY : HISA_ERR_IO, "%s: cannot write: %s", writer->shown,
                         strerror(errno));
    }
    return HISA_OK;
}

/* Opens a file of its own in the target's directory. Its name does not grow with the target's, which may be at the
 * limit. */
static hisa_status_t open_temporary(hisa_safetensors_writer_t *writer) {
    const char *slash = strrchr(writer->path, '/');
    const size_t directory = slash == NULL ? 0 : (size_t)(slash - writer->path) + 1;
    const size_t bytes = directory + 64;
    char *name = malloc(bytes);
    if (name == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "%s: no memory", writer->shown);
    }
    for (int attempt = 0; attempt < NAME_ATTEMPTS; ++attempt) {
        snprintf(name, bytes, "%.*s.hisa-%ld-%d.tmp", (int)directory, writer->path, (long)getpid(), attempt);
        writer->fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (writer->fd >= 0) {
            writer->temporary = name;
            return HISA_OK;
        }
        if (errno != EEXIST) {
            break;
        }
    }
    const int error = errno;
    free(name);
    return fail_write(writer, "create a file in its directory", error);
}

/* Writes the length, the header and the padding, and moves the extents behind them. */
static hisa_status_t write_header(hisa_safetensors_writer_t *writer, const char *text, int64_t data_bytes) {
    const int64_t length = (int64_t)strlen(text);
    const int64_t padded = hisa_ceil_div(length, ALIGNMENT) * ALIGNMENT;
    int64_t total = 0;
    if (padded > HISA_SAFETENSORS_MAX_HEADER || !hisa_add(data_bytes, HISA_SAFETENSORS_PREFIX + padded, &total)) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s: the header or the file is too long", writer->shown);
    }
    unsigned char prefix[HISA_SAFETENSORS_PREFIX];
    for (int i = 0; i < HISA_SAFETENSORS_PREFIX; ++i) {
        prefix[i] = (unsigned char)((uint64_t)padded >> (8 * i) & 0xff);
    }
    static const char spaces[] = "        ";
    hisa_status_t status = reserve(writer, total);
    if (status == HISA_OK) {
        status = write_all(writer, prefix, HISA_SAFETENSORS_PREFIX, 0);
    }
    if (status == HISA_OK) {
        status = write_all(writer, text, length, HISA_SAFETENSORS_PREFIX);
    }
    if (status == HISA_OK) {
        status = write_all(writer, spaces, padded - length, HISA_SAFETENSORS_PREFIX + length);
    }
    for (int i = 0; i < writer->count; ++i) {
        writer->extents[i].offset += HISA_SAFETENSORS_PREFIX + padded;
    }
    return status;
}

static hisa_status_t check_arguments(const char *shown, const hisa_tensor_spec_t *specs, int n_specs,
                                     const char *const *metadata, int n_metadata) {
    if (n_specs < 0 || n_metadata < 0 || (specs == NULL && n_specs > 0) || (metadata == NULL && n_metadata > 0)) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "%s: no tensors or no metadata given", shown);
    }
    hisa_status_t status = check_metadata(shown, metadata, n_metadata);
    for (int i = 0; status == HISA_OK && i < n_specs; ++i) {
        status = check_spec(shown, specs, i);
    }
    return status;
}

hisa_status_t hisa_safetensors_create(const char *path, const hisa_tensor_spec_t *specs, int n_specs,
                                      const char *const *metadata, int n_metadata, hisa_safetensors_writer_t **writer) {
    if (path == NULL || writer == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "safetensors: NULL argument");
    }
    char shown[HISA_SHOWN_BYTES];
    hisa_show_path(path, shown);
    hisa_status_t status = check_arguments(shown, specs, n_specs, metadata, n_metadata);
    if (status != HISA_OK) {
        return status;
    }
    char *text = NULL;
    int64_t data_bytes = 0;
    hisa_safetensors_writer_t *made = calloc(1, sizeof *made);
    if (made == NULL) {
        return hisa_fail(HISA_ERR_NO_MEMORY, "%s: no memory", shown);
    }
    memcpy(made->shown, shown, sizeof shown);
    made->fd = -1;
    made->count = n_specs;
    made->extents = calloc((size_t)n_specs + 1, sizeof *made->extents);
    if (made->extents == NULL) {
        status = hisa_fail(HISA_ERR_NO_MEMORY, "%s: no memory for %d tensors", shown, n_specs);
        goto cleanup;
    }
    status = place_tensors(made, specs, &data_bytes);
    if (status != HISA_OK) {
        goto cleanup;
    }
    text = print_header(made, specs, metadata, n_metadata);
    if (text == NULL) {
        status = hisa_fail(HISA_ERR_NO_MEMORY, "%s: no memory for the header", shown);
        goto cleanup;
    }
    status = resolve_target(made, path);
    if (status == HISA_OK) {
        status = open_temporary(made);
    }
    if (status == HISA_OK) {
        status = write_header(made, text, data_bytes);
    }
    if (status == HISA_OK) {
        *writer = made;
        made = NULL;
    }
cleanup:
    cJSON_free(text);
    hisa_safetensors_abandon(made);
    return status;
}

hisa_status_t hisa_safetensors_write(hisa_safetensors_writer_t *writer, int place, int64_t offset, const void *data,
                                     int64_t bytes) {
    if (writer == NULL || place < 0 || place >= writer->count || (data == NULL && bytes > 0)) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "safetensors: no such writer, tensor or data");
    }
    int64_t end = 0;
    if (!hisa_add(offset, bytes, &end) || end > writer->extents[place].bytes) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT,
                         "%s: bytes [%" PRId64 ", +%" PRId64 ") are not within tensor %d of %" PRId64 " bytes",
                         writer->shown, offset, bytes, place, writer->extents[place].bytes);
    }
    return write_all(writer, data, bytes, writer->extents[place].offset + offset);
}

/* fsync before the rename: a file system may take data now and find later that it cannot keep them (delayed allocation,
 * quota, network), and the name must not pass to a file that was lost so. It costs one wait a file. */
static hisa_status_t put_in_place(hisa_safetensors_writer_t *writer) {
    if (fsync(writer->fd) != 0 && errno != EINVAL) {
        return fail_write(writer, "write", errno);
    }
    const int closed = close(writer->fd);
    writer->fd = -1;
    if (closed != 0 && errno != EINTR) {
        return fail_write(writer, "write", errno);
    }
    if (rename(writer->temporary, writer->path) != 0) {
        return fail_write(writer, "put the file in place", errno);
    }
    free(writer->temporary);
    writer->temporary = NULL;
    return HISA_OK;
}

hisa_status_t hisa_safetensors_commit(hisa_safetensors_writer_t *writer) {
    if (writer == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "safetensors: no writer to commit");
    }
    const hisa_status_t status =
        writer->failed ? hisa_fail(HISA_ERR_IO, "%s: an earlier write failed", writer->shown) : put_in_place(writer);
    hisa_safetensors_abandon(writer);
    return status;
}

void hisa_safetensors_abandon(hisa_safetensors_writer_t *writer) {
    if (writer == NULL) {
        return;
    }
    if (writer->fd >= 0) {
        close(writer->fd);
    }
    if (writer->temporary != NULL) {
        unlink(writer->temporary);
    }
    free(writer->temporary);
    free(writer->path);
    free(writer->extents);
    free(writer);
}
