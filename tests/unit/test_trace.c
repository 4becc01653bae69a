/* Index traces: what the two files must hold, and how a wrong value is named. */
#include <float.h>
#include <math.h>

#include "io/trace.h"
#include "support/image.h"
#include "support/suite.h"

enum { N = 300, D = 16, M = 3, H = 2, NEEDLES = 2 };

/* A trace to spoil: specs and values of both files. */
typedef struct sample {
    char folder[FOLDER_BYTES];
    char keys_path[FOLDER_BYTES * 2];
    char queries_path[FOLDER_BYTES * 2];
    hisa_tensor_spec_t keys_specs[2];
    hisa_tensor_spec_t queries_specs[5];
    uint8_t keys[N * D];
    float scales[N];
    uint8_t q[M * H * D];
    float weights[M * H];
    int32_t ks[M];
    int32_t ke[M];
    int32_t needles[M * NEEDLES];
} sample_t;

static void sample_make(sample_t *sample) {
    *sample = (sample_t){
        .keys_specs = {{"k", HISA_DTYPE_F8_E4M3, 2, {N, D}}, {"k_scale", HISA_DTYPE_F32, 1, {N}}},
        .queries_specs = {{"q", HISA_DTYPE_F8_E4M3, 3, {M, H, D}},
                          {"weights", HISA_DTYPE_F32, 2, {M, H}},
                          {"cu_seqlen_ks", HISA_DTYPE_I32, 1, {M}},
                          {"cu_seqlen_ke", HISA_DTYPE_I32, 1, {M}},
                          {"needles", HISA_DTYPE_I32, 2, {M, NEEDLES}}},
        .weights = {1.0f, -FLT_MAX, 0.0f, FLT_TRUE_MIN, -0.0f, 2.0f},
        .ks = {0, 5, N},
        .ke = {N, 5, N},
        .needles = {0, N - 1, 3, -1, -1, -1},
    };
    /* All codes but the NaNs. */
    for (int i = 0; i < N * D; ++i) {
        sample->keys[i] = (uint8_t)((i % 127) | (i & 0x80));
    }
    for (int i = 0; i < N; ++i) {
        sample->scales[i] = i % 2 == 0 ? FLT_TRUE_MIN : FLT_MAX;
    }
    folder_make(sample->folder);
    folder_path(sample->folder, "keys", sample->keys_path);
    folder_path(sample->folder, "queries", sample->queries_path);
}

static int64_t spec_bytes(const hisa_tensor_spec_t *spec) {
    int64_t bytes = spec->dtype == HISA_DTYPE_F8_E4M3 ? 1 : 4;
    for (int i = 0; i < spec->dims; ++i) {
        bytes *= spec->shape[i];
    }
    return bytes;
}

/* Values are written as far as the spec has room for them. */
static void write_file(const char *path, const hisa_tensor_spec_t *specs, int count, const void *const *data,
                       const size_t *sizes) {
    hisa_safetensors_writer_t *writer = NULL;
    ck_ok(hisa_safetensors_create(path, specs, count, NULL, 0, &writer));
    for (int i = 0; i < count; ++i) {
        const int64_t bytes = spec_bytes(&specs[i]);
        ck_ok(hisa_safetensors_write(writer, i, 0, data[i], bytes < (int64_t)sizes[i] ? bytes : (int64_t)sizes[i]));
    }
    ck_ok(hisa_safetensors_commit(writer));
}

static hisa_status_t sample_open(const sample_t *sample, int queries_tensors, hisa_trace_t *trace) {
    const void *const keys_data[] = {sample->keys, sample->scales};
    const size_t keys_sizes[] = {sizeof sample->keys, sizeof sample->scales};
    const void *const queries_data[] = {sample->q, sample->weights, sample->ks, sample->ke, sample->needles};
    const size_t queries_sizes[] = {sizeof sample->q, sizeof sample->weights, sizeof sample->ks, sizeof sample->ke,
                                    sizeof sample->needles};
    write_file(sample->keys_path, sample->keys_specs, 2, keys_data, keys_sizes);
    write_file(sample->queries_path, sample->queries_specs, queries_tensors, queries_data, queries_sizes);
    return hisa_trace_open(sample->keys_path, sample->queries_path, trace);
}

START_TEST(test_opens) {
    sample_t sample;
    sample_make(&sample);
    hisa_trace_t trace;
    ck_ok(sample_open(&sample, 5, &trace));
    ck_assert_int_eq(trace.num_tokens, N);
    ck_assert_int_eq(trace.num_rows, M);
    ck_assert_int_eq(trace.head_dim, D);
    ck_assert_int_eq(trace.num_heads, H);
    ck_assert_int_eq(trace.num_needles, NEEDLES);
    ck_ok(hisa_trace_check_keys(&trace, 0, N));
    ck_ok(hisa_trace_check_rows(&trace, 0, M));
    ck_ok(hisa_trace_check_keys(&trace, N, N));
    ck_fails(hisa_trace_check_keys(&trace, 0, N + 1), HISA_ERR_INVALID_ARGUMENT, "[0, 301) are not tokens of 300");
    ck_fails(hisa_trace_check_keys(&trace, -1, 0), HISA_ERR_INVALID_ARGUMENT, "not tokens");
    ck_fails(hisa_trace_check_rows(&trace, 2, 1), HISA_ERR_INVALID_ARGUMENT, "not rows of 3");
    /* Dropped pages read the same again. */
    hisa_trace_drop_keys(&trace, 0, N / 2);
    hisa_trace_drop_keys(&trace, N / 2, N);
    hisa_trace_drop_keys(&trace, 0, N + 1);
    ck_assert_mem_eq(trace.keys, sample.keys, sizeof sample.keys);
    ck_assert_mem_eq(trace.key_scales, sample.scales, sizeof sample.scales);
    ck_assert_mem_eq(trace.q, sample.q, sizeof sample.q);
    ck_assert_mem_eq(trace.weights, sample.weights, sizeof sample.weights);
    ck_assert_mem_eq(trace.window_begin, sample.ks, sizeof sample.ks);
    ck_assert_mem_eq(trace.window_end, sample.ke, sizeof sample.ke);
    ck_assert_mem_eq(trace.needles, sample.needles, sizeof sample.needles);
    hisa_trace_close(&trace);
    ck_assert_ptr_null(trace.keys_file);
    hisa_trace_close(&trace);
    folder_remove(sample.folder);
}
END_TEST

START_TEST(test_optional_tensors) {
    sample_t sample;
    sample_make(&sample);
    hisa_trace_t trace;
    ck_ok(sample_open(&sample, 2, &trace));
    ck_assert_ptr_null(trace.window_begin);
    ck_assert_ptr_null(trace.window_end);
    ck_assert_ptr_null(trace.needles);
    ck_assert_int_eq(trace.num_needles, 0);
    ck_ok(hisa_trace_check_rows(&trace, 0, M));
    hisa_trace_close(&trace);
    /* A begin without an end: the end is N. */
    ck_ok(sample_open(&sample, 3, &trace));
    ck_ok(hisa_trace_check_rows(&trace, 0, M));
    hisa_trace_close(&trace);
    for (int i = 0; i < 5; ++i) {
        sample.queries_specs[i].shape[0] = 0;
    }
    ck_ok(sample_open(&sample, 5, &trace));
    ck_assert_int_eq(trace.num_rows, 0);
    ck_ok(hisa_trace_check_rows(&trace, 0, 0));
    hisa_trace_close(&trace);
    folder_remove(sample.folder);
}
END_TEST

/* A spoilt spec: of the keys file (0) or the queries file (1). */
typedef struct wrong {
    int file;
    int tensor;
    hisa_tensor_spec_t spec;
    const char *message;
} wrong_t;

static const wrong_t wrongs[] = {
    {0, 0, {"kk", HISA_DTYPE_F8_E4M3, 2, {N, D}}, "keys: no tensor 'k'"},
    {0, 0, {"k", HISA_DTYPE_F32, 2, {N, D}}, "keys: tensor 'k' is F32, not F8_E4M3"},
    {0, 0, {"k", HISA_DTYPE_F8_E4M3, 1, {N * D}}, "keys: tensor 'k' has 1 dimensions, not 2"},
    {0, 0, {"k", HISA_DTYPE_F8_E4M3, 2, {0, D}}, "keys: tensor 'k' has 0 tokens"},
    {0, 0, {"k", HISA_DTYPE_F8_E4M3, 2, {N, 0}}, "keys: tensor 'k' has head dim 0, not a multiple of 16"},
    {0, 0, {"k", HISA_DTYPE_F8_E4M3, 2, {N, 24}}, "keys: tensor 'k' has head dim 24, not a multiple of 16"},
    {0, 0, {"k", HISA_DTYPE_F8_E4M3, 2, {N, 272}}, "keys: tensor 'k' has head dim 272, not a multiple of 16 up to 256"},
    {0, 0, {"k", HISA_DTYPE_F8_E4M3, 2, {N, 32}}, "queries: tensor 'q' has size 16 in dimension 2, not 32"},
    {0, 1, {"k_scales", HISA_DTYPE_F32, 1, {N}}, "keys: no tensor 'k_scale'"},
    {0, 1, {"k_scale", HISA_DTYPE_I32, 1, {N}}, "keys: tensor 'k_scale' is I32, not F32"},
    {0, 1, {"k_scale", HISA_DTYPE_F32, 2, {N, 1}}, "keys: tensor 'k_scale' has 2 dimensions, not 1"},
    {0, 1, {"k_scale", HISA_DTYPE_F32, 1, {N - 1}}, "keys: tensor 'k_scale' has size 299 in dimension 0, not 300"},
    {1, 0, {"p", HISA_DTYPE_F8_E4M3, 3, {M, H, D}}, "queries: no tensor 'q'"},
    {1, 0, {"q", HISA_DTYPE_I32, 3, {M, H, D}}, "queries: tensor 'q' is I32, not F8_E4M3"},
    {1, 0, {"q", HISA_DTYPE_F8_E4M3, 2, {M, D}}, "queries: tensor 'q' has 2 dimensions, not 3"},
    {1, 0, {"q", HISA_DTYPE_F8_E4M3, 3, {M, 0, D}}, "queries: tensor 'q' has 0 heads, not 1 to 128"},
    {1, 0, {"q", HISA_DTYPE_F8_E4M3, 3, {M, 129, D}}, "queries: tensor 'q' has 129 heads, not 1 to 128"},
    {1, 1, {"weights", HISA_DTYPE_F8_E4M3, 2, {M, H}}, "queries: tensor 'weights' is F8_E4M3, not F32"},
    {1, 1, {"weights", HISA_DTYPE_F32, 2, {M, H + 1}}, "queries: tensor 'weights' has size 3 in dimension 1, not 2"},
    {1, 1, {"weights", HISA_DTYPE_F32, 2, {M + 1, H}}, "queries: tensor 'weights' has size 4 in dimension 0, not 3"},
    {1, 2, {"cu_seqlen_ks", HISA_DTYPE_F32, 1, {M}}, "queries: tensor 'cu_seqlen_ks' is F32, not I32"},
    {1, 2, {"cu_seqlen_ks", HISA_DTYPE_I32, 1, {M + 1}}, "queries: tensor 'cu_seqlen_ks' has size 4 in dimension 0"},
    {1, 3, {"cu_seqlen_ke", HISA_DTYPE_I32, 2, {M, 1}}, "queries: tensor 'cu_seqlen_ke' has 2 dimensions, not 1"},
    {1, 4, {"needles", HISA_DTYPE_I32, 2, {1, NEEDLES}}, "queries: tensor 'needles' has size 1 in dimension 0"},
};
enum { NUM_WRONGS = sizeof wrongs / sizeof wrongs[0] };

START_TEST(test_refuses_tensors) {
    const wrong_t *wrong = &wrongs[_i];
    sample_t sample;
    sample_make(&sample);
    if (wrong->file == 0) {
        sample.keys_specs[wrong->tensor] = wrong->spec;
    } else {
        sample.queries_specs[wrong->tensor] = wrong->spec;
    }
    hisa_trace_t trace = {0};
    ck_fails(sample_open(&sample, 5, &trace), HISA_ERR_FORMAT, wrong->message);
    ck_assert_ptr_null(trace.keys_file);
    folder_remove(sample.folder);
}
END_TEST

START_TEST(test_refuses_misaligned) {
    sample_t sample;
    sample_make(&sample);
    const image_t image = image_make("{\"k\":{\"dtype\":\"F8_E4M3\",\"shape\":[1,16],\"data_offsets\":[0,16]},"
                                     "\"k_scale\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[16,20]}}",
                                     20);
    size_t length = image.size - 28;
    ck_assert_uint_ne(length % 4, 0);
    hisa_trace_t trace = {0};
    ck_ok(sample_open(&sample, 5, &trace));
    hisa_trace_close(&trace);
    image_save(sample.keys_path, image.bytes, image.size);
    ck_fails(hisa_trace_open(sample.keys_path, sample.queries_path, &trace), HISA_ERR_FORMAT,
             "keys: tensor 'k_scale' is not aligned to 4 bytes");
    free(image.bytes);
    folder_remove(sample.folder);
}
END_TEST

START_TEST(test_missing_file) {
    sample_t sample;
    sample_make(&sample);
    hisa_trace_t trace = {0};
    ck_fails(hisa_trace_open(sample.keys_path, sample.queries_path, &trace), HISA_ERR_IO, "keys: cannot open");
    ck_ok(sample_open(&sample, 5, &trace));
    hisa_trace_close(&trace);
    ck_fails(hisa_trace_open(sample.keys_path, "/nowhere/q", &trace), HISA_ERR_IO, "/nowhere/q: cannot open");
    ck_fails(hisa_trace_open(NULL, sample.queries_path, &trace), HISA_ERR_INVALID_ARGUMENT, "NULL");
    folder_remove(sample.folder);
}
END_TEST

/* Spoils one value; the message must name it, and the ranges beside it must still pass. */
static void check_key(sample_t *sample, int64_t token, const char *message) {
    hisa_trace_t trace;
    ck_ok(sample_open(sample, 5, &trace));
    ck_fails(hisa_trace_check_keys(&trace, 0, N), HISA_ERR_FORMAT, message);
    ck_assert_int_eq(strncmp(hisa_last_error(), sample->keys_path, strlen(sample->keys_path)), 0);
    ck_fails(hisa_trace_check_keys(&trace, token, token + 1), HISA_ERR_FORMAT, message);
    ck_ok(hisa_trace_check_keys(&trace, 0, token));
    ck_ok(hisa_trace_check_keys(&trace, token + 1, N));
    hisa_trace_close(&trace);
}

START_TEST(test_key_values) {
    static const struct {
        float value;
        const char *text;
    } scales[] = {{0.0f, "is 0:"}, {-0.0f, "is -0:"}, {-1.0f, "is -1:"}, {NAN, "nan:"}, {INFINITY, "is inf:"}};
    sample_t sample;
    sample_make(&sample);
    for (int i = 0; i < N; i += 23) {
        char message[64];
        const uint8_t kept = sample.keys[i * D + i % D];
        sample.keys[i * D + i % D] = i % 2 == 0 ? 0x7f : 0xff;
        snprintf(message, sizeof message, "k[%d][%d] is NaN (code 0x%s)", i, i % D, i % 2 == 0 ? "7f" : "ff");
        check_key(&sample, i, message);
        sample.keys[i * D + i % D] = kept;
    }
    for (int i = 0; i < 5; ++i) {
        char message[64];
        sample.scales[40 * i] = scales[i].value;
        snprintf(message, sizeof message, "k_scale[%d] ", 40 * i);
        check_key(&sample, 40 * i, message);
        ck_assert_ptr_nonnull(strstr(hisa_last_error(), "k_scale"));
        check_key(&sample, 40 * i, scales[i].text);
        sample.scales[40 * i] = 1.0f;
    }
    folder_remove(sample.folder);
}
END_TEST

static void check_row(const sample_t *sample, int64_t row, const char *message) {
    hisa_trace_t trace;
    ck_ok(sample_open(sample, 5, &trace));
    ck_fails(hisa_trace_check_rows(&trace, 0, M), HISA_ERR_FORMAT, message);
    ck_assert_int_eq(strncmp(hisa_last_error(), sample->queries_path, strlen(sample->queries_path)), 0);
    ck_ok(hisa_trace_check_rows(&trace, 0, row));
    ck_ok(hisa_trace_check_rows(&trace, row + 1, M));
    hisa_trace_close(&trace);
}

START_TEST(test_row_values) {
    sample_t sample;
    sample_make(&sample);
    sample_t spoilt = sample;
    spoilt.q[(1 * H + 1) * D + 9] = 0xff;
    check_row(&spoilt, 1, "q[1][1][9] is NaN (code 0xff)");
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const char *const texts[] = {"nan: it must", "is inf: it must", "is -inf: it must"};
    for (int i = 0; i < 3; ++i) {
        spoilt = sample;
        spoilt.weights[2 * H + 1] = bad[i];
        check_row(&spoilt, 2, "weights[2][1] is ");
        check_row(&spoilt, 2, texts[i]);
    }
    spoilt = sample;
    spoilt.ks[1] = 6;
    check_row(&spoilt, 1, "cu_seqlen_ks[1] is 6, greater than the window's end 5");
    spoilt = sample;
    spoilt.ks[0] = -1;
    check_row(&spoilt, 0, "cu_seqlen_ks[0] is -1: it must be at least 0");
    spoilt = sample;
    spoilt.ke[2] = N + 1;
    check_row(&spoilt, 2, "cu_seqlen_ke[2] is 301, beyond the 300 tokens");
    spoilt = sample;
    spoilt.ks[1] = 0;
    spoilt.ke[1] = -1;
    check_row(&spoilt, 1, "cu_seqlen_ks[1] is 0, greater than the window's end -1");
    spoilt = sample;
    spoilt.needles[3] = N;
    check_row(&spoilt, 1, "needles[1][1] is 300: it must be -1 or below 300");
    spoilt.needles[3] = -2;
    check_row(&spoilt, 1, "needles[1][1] is -2: it must be -1 or below 300");
    folder_remove(sample.folder);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("trace");
    TCase *tests = tcase_create("trace");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, test_opens);
    tcase_add_test(tests, test_optional_tensors);
    tcase_add_loop_test(tests, test_refuses_tensors, 0, NUM_WRONGS);
    tcase_add_test(tests, test_refuses_misaligned);
    tcase_add_test(tests, test_missing_file);
    tcase_add_test(tests, test_key_values);
    tcase_add_test(tests, test_row_values);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
