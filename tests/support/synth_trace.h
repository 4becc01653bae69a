/* Synthetic traces in memory, and the value of a code. */
#ifndef HISA_TESTS_SYNTH_TRACE_H
#define HISA_TESTS_SYNTH_TRACE_H

#include <math.h>

#include "io/synth.h"
#include "support/suite.h"

/* A whole trace in memory. */
typedef struct trace {
    hisa_synth_config_t config;
    uint8_t *keys;
    float *scales;
    uint8_t *q;
    float *weights;
    int32_t *begins;
    int32_t *ends;
    int32_t *needles;
} trace_t;

static inline void *allocate(int64_t count, size_t width) {
    void *memory = calloc((size_t)count + 1, width);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

static inline trace_t trace_allocate(const hisa_synth_config_t *config) {
    const int64_t rows = config->num_rows;
    ck_ok(hisa_synth_check(config));
    return (trace_t){
        .config = *config,
        .keys = allocate(config->num_tokens * config->head_dim, 1),
        .scales = allocate(config->num_tokens, sizeof(float)),
        .q = allocate(rows * config->num_heads * config->head_dim, 1),
        .weights = allocate(rows * config->num_heads, sizeof(float)),
        .begins = allocate(rows, sizeof(int32_t)),
        .ends = allocate(rows, sizeof(int32_t)),
        .needles = allocate(rows * config->num_needles, sizeof(int32_t)),
    };
}

static inline void trace_free(trace_t *trace) {
    free(trace->keys);
    free(trace->scales);
    free(trace->q);
    free(trace->weights);
    free(trace->begins);
    free(trace->ends);
    free(trace->needles);
}

/* Makes the trace in pieces of so many tokens and rows. */
static inline trace_t trace_make(const hisa_synth_config_t *config, int64_t tokens, int64_t rows) {
    trace_t trace = trace_allocate(config);
    for (int64_t i = 0; i < config->num_tokens; i += tokens) {
        const int64_t count = config->num_tokens - i < tokens ? config->num_tokens - i : tokens;
        hisa_synth_keys(config, i, count, trace.keys + i * config->head_dim, trace.scales + i);
    }
    for (int64_t i = 0; i < config->num_rows; i += rows) {
        const int64_t count = config->num_rows - i < rows ? config->num_rows - i : rows;
        const int64_t heads = i * config->num_heads;
        hisa_synth_rows(config, i, count, trace.q + heads * config->head_dim, trace.weights + heads, trace.begins + i,
                        trace.ends + i, trace.needles + i * config->num_needles);
    }
    return trace;
}

/* The value of a code. The table is filled on first use: tests of one program run in one thread. */
static inline float decode(uint8_t code) {
    static float values[256];
    if (values[1] == 0.0f) {
        for (int i = 0; i < 256; ++i) {
            const int exponent = i >> 3 & 15;
            const int mantissa = i & 7;
            const float magnitude =
                exponent == 0 ? ldexpf((float)mantissa, -9) : ldexpf((float)(8 + mantissa), exponent - 10);
            values[i] = (i & 0x80) != 0 ? -magnitude : magnitude;
        }
    }
    return values[code];
}

#endif
