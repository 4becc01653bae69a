/* Safetensors files: read by memory map, written whole or not at all. Local, no communication. */
#ifndef HISA_IO_SAFETENSORS_H
#define HISA_IO_SAFETENSORS_H

#include "hisa/hisa.h"

#define HISA_TENSOR_MAX_DIMS 8

typedef enum hisa_dtype { HISA_DTYPE_F8_E4M3, HISA_DTYPE_F32, HISA_DTYPE_I32, HISA_DTYPE_OTHER } hisa_dtype_t;

/* A tensor of an open file. Everything it points to lives until the file is closed. */
typedef struct hisa_tensor {
    const char *name;
    hisa_dtype_t dtype;
    const char *dtype_name; /* as the file spells it, known or not */
    int dims;
    int64_t shape[HISA_TENSOR_MAX_DIMS];
    int64_t bytes;
    const void *data; /* at its offset in the map: aligned only as the file happens to be; row-major, little-endian */
} hisa_tensor_t;

typedef struct hisa_safetensors hisa_safetensors_t;

/* Maps the file and checks every word of its header: length, JSON, duplicate names, dtypes, shapes whose product
 * overflows or does not fit the offsets, offsets beyond the file, overlaps and holes. HISA_ERR_IO or HISA_ERR_FORMAT
 * with a message that begins with the path. */
hisa_status_t hisa_safetensors_open(const char *path, hisa_safetensors_t **file);

/* The same over a file image in memory, which the caller keeps until the close. `name` stands for the path in messages.
 */
hisa_status_t hisa_safetensors_parse(const void *image, size_t bytes, const char *name, hisa_safetensors_t **file);

/* NULL is allowed. */
void hisa_safetensors_close(hisa_safetensors_t *file);

/* The path or name it was opened by, as messages show it (the end of a very long one). Lives until the close. */
const char *hisa_safetensors_name(const hisa_safetensors_t *file);

int64_t hisa_safetensors_count(const hisa_safetensors_t *file);
const hisa_tensor_t *hisa_safetensors_at(const hisa_safetensors_t *file, int64_t place);

/* NULL if there is none of that name. */
const hisa_tensor_t *hisa_safetensors_find(const hisa_safetensors_t *file, const char *name);

/* Writing: a temporary file beside `path` takes its place on commit, so that a failure leaves no partial file and an
 * older file untouched. Disk space is reserved at creation, so that a full disk is found before any work is done. */
typedef struct hisa_tensor_spec {
    const char *name;
    hisa_dtype_t dtype; /* not OTHER */
    int dims;
    int64_t shape[HISA_TENSOR_MAX_DIMS];
} hisa_tensor_spec_t;

typedef struct hisa_safetensors_writer hisa_safetensors_writer_t;

/* `metadata`: n_metadata key/value string pairs for __metadata__ ({key0, value0, key1, ...}), may be NULL with 0. */
hisa_status_t hisa_safetensors_create(const char *path, const hisa_tensor_spec_t *specs, int n_specs,
                                      const char *const *metadata, int n_metadata, hisa_safetensors_writer_t **writer);

/* Writes bytes [offset, offset + bytes) of tensor `place` (its place in specs). Any order; what is not written is zero.
 */
hisa_status_t hisa_safetensors_write(hisa_safetensors_writer_t *writer, int place, int64_t offset, const void *data,
                                     int64_t bytes);

/* Makes the file appear under its path, or fails and leaves nothing behind. The writer is gone either way. */
hisa_status_t hisa_safetensors_commit(hisa_safetensors_writer_t *writer);

/* Drops the file. NULL is allowed. */
void hisa_safetensors_abandon(hisa_safetensors_writer_t *writer);

#endif
