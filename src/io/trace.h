/* An index trace: the two safetensors files of keys and of queries, with the meaning of their tensors checked.
 * Keys file:    k F8_E4M3 [N, D], k_scale F32 [N].
 * Queries file: q F8_E4M3 [M, H, D], weights F32 [M, H]; optional cu_seqlen_ks, cu_seqlen_ke I32 [M] (0 and N without);
 *               optional needles I32 [M, n]: planted positions, padded with -1 (written by hisa synth). */
#ifndef HISA_IO_TRACE_H
#define HISA_IO_TRACE_H

#include "io/safetensors.h"

typedef struct hisa_trace {
    hisa_safetensors_t *keys_file;
    hisa_safetensors_t *queries_file;
    int64_t num_tokens;          /* N, 1 .. INT32_MAX */
    int64_t num_rows;            /* M, may be 0 */
    int32_t head_dim;            /* D */
    int32_t num_heads;           /* H */
    int32_t num_needles;         /* n, 0 without the tensor */
    const uint8_t *keys;         /* [N][D] e4m3 */
    const float *key_scales;     /* [N] */
    const uint8_t *q;            /* [M][H][D] e4m3 */
    const float *weights;        /* [M][H] */
    const int32_t *window_begin; /* [M] or NULL */
    const int32_t *window_end;   /* [M] or NULL */
    const int32_t *needles;      /* [M][n] or NULL */
} hisa_trace_t;

/* Opens both files and checks dtypes, shapes and that they fit each other and this library (D a multiple of 16 up to
 * 256, H 1 to 128); values are not read. f32 and i32 tensors that a file leaves misaligned are an error
 * (HISA_ERR_FORMAT). */
hisa_status_t hisa_trace_open(const char *keys_path, const char *queries_path, hisa_trace_t *trace);

/* Checks the values of tokens [begin, end): no NaN code in a key, scales finite and > 0. The message names file,
 * tensor, position and value. */
hisa_status_t hisa_trace_check_keys(const hisa_trace_t *trace, int64_t begin, int64_t end);

/* Checks rows [begin, end): no NaN code in q, weights finite, 0 <= ks <= ke <= N, needles -1 or in [0, N). */
hisa_status_t hisa_trace_check_rows(const hisa_trace_t *trace, int64_t begin, int64_t end);

/* Tells the kernel that the pages of tokens [begin, end) will not be read again soon: they are clean and can be
 * dropped. */
void hisa_trace_drop_keys(const hisa_trace_t *trace, int64_t begin, int64_t end);

/* Closes both files and zeroes the struct; allowed on a zeroed one. */
void hisa_trace_close(hisa_trace_t *trace);

#endif
