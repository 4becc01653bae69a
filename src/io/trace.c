#include "io/trace.h"

#include <float.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/error.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "traces are used as mapped, and the format is little-endian"
#endif

#define ANY ((int64_t)-1)

static const char *keys_name(const hisa_trace_t *trace) { return hisa_safetensors_name(trace->keys_file); }
static const char *queries_name(const hisa_trace_t *trace) { return hisa_safetensors_name(trace->queries_file); }

/* ---------------------------------------------------------------------------------------------- opening */

typedef struct expected {
    const char *name;
    hisa_dtype_t dtype;
    const char *dtype_name;
    bool optional;
    int dims;
    int64_t shape[3]; /* ANY: not fixed */
    const char *meaning;
} expected_t;

/* Finds a tensor and checks dtype, rank, fixed sizes and alignment. *tensor is NULL for an optional one that is
 * missing. */
static hisa_status_t find(const hisa_safetensors_t *file, const expected_t *expected, const hisa_tensor_t **tensor) {
    const char *name = hisa_safetensors_name(file);
    const hisa_tensor_t *found = hisa_safetensors_find(file, expected->name);
    *tensor = found;
    if (found == NULL) {
        return expected->optional ? HISA_OK : hisa_fail(HISA_ERR_FORMAT, "%s: no tensor '%s'", name, expected->name);
    }
    if (found->dtype != expected->dtype) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: tensor '%s' is %.16s, not %s", name, expected->name, found->dtype_name,
                         expected->dtype_name);
    }
    if (found->dims != expected->dims) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: tensor '%s' has %d dimensions, not %d: %s", name, expected->name,
                         found->dims, expected->dims, expected->meaning);
    }
    for (int i = 0; i < expected->dims; ++i) {
        if (expected->shape[i] != ANY && found->shape[i] != expected->shape[i]) {
            return hisa_fail(HISA_ERR_FORMAT,
                             "%s: tensor '%s' has size %" PRId64 " in dimension %d, not %" PRId64 ": %s", name,
                             expected->name, found->shape[i], i, expected->shape[i], expected->meaning);
        }
    }
    const bool wide = expected->dtype != HISA_DTYPE_F8_E4M3;
    if (wide && found->bytes > 0 && (uintptr_t)found->data % sizeof(float) != 0) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: tensor '%s' is not aligned to 4 bytes", name, expected->name);
    }
    return HISA_OK;
}

static hisa_status_t open_keys(hisa_trace_t *trace) {
    const hisa_tensor_t *k = NULL;
    const hisa_tensor_t *scales = NULL;
    hisa_status_t status =
        find(trace->keys_file,
             &(expected_t){"k", HISA_DTYPE_F8_E4M3, "F8_E4M3", false, 2, {ANY, ANY}, "[tokens, head dim]"}, &k);
    if (status != HISA_OK) {
        return status;
    }
    if (k->shape[0] < 1 || k->shape[0] > INT32_MAX) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: tensor 'k' has %" PRId64 " tokens, not 1 to %d", keys_name(trace),
                         k->shape[0], INT32_MAX);
    }
    if (k->shape[1] < 16 || k->shape[1] > 256 || k->shape[1] % 16 != 0) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: tensor 'k' has head dim %" PRId64 ", not a multiple of 16 up to 256",
                         keys_name(trace), k->shape[1]);
    }
    status = find(trace->keys_file,
                  &(expected_t){"k_scale", HISA_DTYPE_F32, "F32", false, 1, {k->shape[0]}, "[tokens of 'k']"}, &scales);
    if (status != HISA_OK) {
        return status;
    }
    trace->num_tokens = k->shape[0];
    trace->head_dim = (int32_t)k->shape[1];
    trace->keys = k->data;
    trace->key_scales = scales->data;
    return HISA_OK;
}

static hisa_status_t open_queries(hisa_trace_t *trace) {
    const hisa_tensor_t *q = NULL;
    const hisa_tensor_t *weights = NULL;
    hisa_status_t status = find(trace->queries_file,
                                &(expected_t){"q",
                                              HISA_DTYPE_F8_E4M3,
                                              "F8_E4M3",
                                              false,
                                              3,
                                              {ANY, ANY, trace->head_dim},
                                              "[rows, heads, head dim of the keys]"},
                                &q);
    if (status != HISA_OK) {
        return status;
    }
    if (q->shape[1] < 1 || q->shape[1] > 128) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: tensor 'q' has %" PRId64 " heads, not 1 to 128", queries_name(trace),
                         q->shape[1]);
    }
    status =
        find(trace->queries_file,
             &(expected_t){
                 "weights", HISA_DTYPE_F32, "F32", false, 2, {q->shape[0], q->shape[1]}, "[rows of 'q', heads of 'q']"},
             &weights);
    if (status != HISA_OK) {
        return status;
    }
    trace->num_rows = q->shape[0];
    trace->num_heads = (int32_t)q->shape[1];
    trace->q = q->data;
    trace->weights = weights->data;
    return HISA_OK;
}

static hisa_status_t open_optional(hisa_trace_t *trace) {
    const hisa_tensor_t *begins = NULL;
    const hisa_tensor_t *ends = NULL;
    const hisa_tensor_t *needles = NULL;
    const int64_t rows = trace->num_rows;
    hisa_status_t status =
        find(trace->queries_file,
             &(expected_t){"cu_seqlen_ks", HISA_DTYPE_I32, "I32", true, 1, {rows}, "[rows of 'q']"}, &begins);
    if (status == HISA_OK) {
        status = find(trace->queries_file,
                      &(expected_t){"cu_seqlen_ke", HISA_DTYPE_I32, "I32", true, 1, {rows}, "[rows of 'q']"}, &ends);
    }
    if (status == HISA_OK) {
        status = find(trace->queries_file,
                      &(expected_t){"needles", HISA_DTYPE_I32, "I32", true, 2, {rows, ANY}, "[rows of 'q', needles]"},
                      &needles);
    }
    if (status != HISA_OK) {
        return status;
    }
    if (needles != NULL && needles->shape[1] > INT32_MAX) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: tensor 'needles' has %" PRId64 " columns", queries_name(trace),
                         needles->shape[1]);
    }
    trace->window_begin = begins == NULL ? NULL : begins->data;
    trace->window_end = ends == NULL ? NULL : ends->data;
    trace->num_needles = needles == NULL ? 0 : (int32_t)needles->shape[1];
    trace->needles = trace->num_needles == 0 ? NULL : needles->data;
    return HISA_OK;
}

hisa_status_t hisa_trace_open(const char *keys_path, const char *queries_path, hisa_trace_t *trace) {
    if (keys_path == NULL || queries_path == NULL || trace == NULL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "trace: NULL argument");
    }
    hisa_trace_t made = {0};
    hisa_status_t status = hisa_safetensors_open(keys_path, &made.keys_file);
    if (status == HISA_OK) {
        status = hisa_safetensors_open(queries_path, &made.queries_file);
    }
    if (status == HISA_OK) {
        status = open_keys(&made);
    }
    if (status == HISA_OK) {
        status = open_queries(&made);
    }
    if (status == HISA_OK) {
        status = open_optional(&made);
    }
    if (status != HISA_OK) {
        hisa_trace_close(&made);
        return status;
    }
    *trace = made;
    return HISA_OK;
}

/* ---------------------------------------------------------------------------------------------- values */

/* Looked through at a time: the first pass over a piece only asks whether anything is wrong, in a loop without exits
 * that the compiler vectorises; the place is sought afterwards, in cache. */
#define PIECE ((int64_t)16384)

static bool is_nan_code(uint8_t code) { return (code & 0x7f) == 0x7f; }

/* The first NaN code among count, or -1. */
static int64_t find_nan_code(const uint8_t *codes, int64_t count) {
    for (int64_t begin = 0; begin < count; begin += PIECE) {
        const int64_t end = hisa_min(begin + PIECE, count);
        uint8_t found = 0;
        for (int64_t i = begin; i < end; ++i) {
            found = (uint8_t)(found | is_nan_code(codes[i]));
        }
        for (int64_t i = begin; found && i < end; ++i) {
            if (is_nan_code(codes[i])) {
                return i;
            }
        }
    }
    return -1;
}

/* The first of count that is not within [least, FLT_MAX] (a NaN is not), or -1. */
static int64_t find_outside(const float *values, int64_t count, float least) {
    for (int64_t begin = 0; begin < count; begin += PIECE) {
        const int64_t end = hisa_min(begin + PIECE, count);
        int found = 0;
        for (int64_t i = begin; i < end; ++i) {
            found |= !((values[i] >= least) & (values[i] <= FLT_MAX));
        }
        for (int64_t i = begin; found && i < end; ++i) {
            if (!(values[i] >= least && values[i] <= FLT_MAX)) {
                return i;
            }
        }
    }
    return -1;
}

static hisa_status_t check_range(const char *what, int64_t begin, int64_t end, int64_t size) {
    if (begin < 0 || begin > end || end > size) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "trace: [%" PRId64 ", %" PRId64 ") are not %s of %" PRId64, begin,
                         end, what, size);
    }
    return HISA_OK;
}

hisa_status_t hisa_trace_check_keys(const hisa_trace_t *trace, int64_t begin, int64_t end) {
    const hisa_status_t status = check_range("tokens", begin, end, trace->num_tokens);
    if (status != HISA_OK) {
        return status;
    }
    const int64_t dim = trace->head_dim;
    const int64_t code = find_nan_code(trace->keys + begin * dim, (end - begin) * dim);
    if (code >= 0) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: k[%" PRId64 "][%" PRId64 "] is NaN (code 0x%02x)", keys_name(trace),
                         begin + code / dim, code % dim, (unsigned)trace->keys[begin * dim + code]);
    }
    /* The least positive number there is: "at least this" is "greater than 0" in one comparison. */
    const int64_t scale = find_outside(trace->key_scales + begin, end - begin, FLT_TRUE_MIN);
    if (scale >= 0) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: k_scale[%" PRId64 "] is %g: it must be finite and greater than 0",
                         keys_name(trace), begin + scale, (double)trace->key_scales[begin + scale]);
    }
    return HISA_OK;
}

static hisa_status_t check_window(const hisa_trace_t *trace, int64_t row) {
    const int64_t begin = trace->window_begin == NULL ? 0 : trace->window_begin[row];
    const int64_t end = trace->window_end == NULL ? trace->num_tokens : trace->window_end[row];
    if (begin < 0) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: cu_seqlen_ks[%" PRId64 "] is %" PRId64 ": it must be at least 0",
                         queries_name(trace), row, begin);
    }
    if (end > trace->num_tokens) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: cu_seqlen_ke[%" PRId64 "] is %" PRId64 ", beyond the %" PRId64 " tokens",
                         queries_name(trace), row, end, trace->num_tokens);
    }
    if (begin > end) {
        return hisa_fail(HISA_ERR_FORMAT,
                         "%s: cu_seqlen_ks[%" PRId64 "] is %" PRId64 ", greater than the window's end %" PRId64,
                         queries_name(trace), row, begin, end);
    }
    return HISA_OK;
}

static hisa_status_t check_needles(const hisa_trace_t *trace, int64_t begin, int64_t end) {
    const int64_t columns = trace->num_needles;
    for (int64_t i = begin * columns; i < end * columns; ++i) {
        const int32_t needle = trace->needles[i];
        if (needle < -1 || needle >= trace->num_tokens) {
            return hisa_fail(HISA_ERR_FORMAT,
                             "%s: needles[%" PRId64 "][%" PRId64 "] is %" PRId32 ": it must be -1 or below %" PRId64,
                             queries_name(trace), i / columns, i % columns, needle, trace->num_tokens);
        }
    }
    return HISA_OK;
}

hisa_status_t hisa_trace_check_rows(const hisa_trace_t *trace, int64_t begin, int64_t end) {
    hisa_status_t status = check_range("rows", begin, end, trace->num_rows);
    if (status != HISA_OK) {
        return status;
    }
    const int64_t heads = trace->num_heads;
    const int64_t row = heads * trace->head_dim;
    const int64_t code = find_nan_code(trace->q + begin * row, (end - begin) * row);
    if (code >= 0) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: q[%" PRId64 "][%" PRId64 "][%" PRId64 "] is NaN (code 0x%02x)",
                         queries_name(trace), begin + code / row, code % row / trace->head_dim, code % trace->head_dim,
                         (unsigned)trace->q[begin * row + code]);
    }
    const int64_t weight = find_outside(trace->weights + begin * heads, (end - begin) * heads, -FLT_MAX);
    if (weight >= 0) {
        return hisa_fail(HISA_ERR_FORMAT, "%s: weights[%" PRId64 "][%" PRId64 "] is %g: it must be finite",
                         queries_name(trace), begin + weight / heads, weight % heads,
                         (double)trace->weights[begin * heads + weight]);
    }
    for (int64_t i = begin; status == HISA_OK && i < end; ++i) {
        status = check_window(trace, i);
    }
    return status == HISA_OK ? check_needles(trace, begin, end) : status;
}

/* ---------------------------------------------------------------------------------------------- the end */

/* Both ends are rounded down to pages, so that ranges dropped one after the other leave no page between them; a page
 * that is dropped too early is only read again. */
static void drop(const void *data, int64_t begin, int64_t end) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = ((uintptr_t)data + (uintptr_t)begin) / page * page;
    const uintptr_t last = ((uintptr_t)data + (uintptr_t)end) / page * page;
    if (last > first) {
        /* Advice: where it fails, the pages stay. */
        (void)madvise((void *)first, last - first, MADV_DONTNEED);
    }
}

void hisa_trace_drop_keys(const hisa_trace_t *trace, int64_t begin, int64_t end) {
    if (begin < 0 || begin >= end || end > trace->num_tokens) {
        return;
    }
    drop(trace->keys, begin * trace->head_dim, end * trace->head_dim);
    drop(trace->key_scales, begin * (int64_t)sizeof(float), end * (int64_t)sizeof(float));
}

void hisa_trace_close(hisa_trace_t *trace) {
    if (trace == NULL) {
        return;
    }
    hisa_safetensors_close(trace->keys_file);
    hisa_safetensors_close(trace->queries_file);
    *trace = (hisa_trace_t){0};
}
