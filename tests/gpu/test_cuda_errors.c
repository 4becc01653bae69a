/* Bad input to the CUDA backend: a status and a message before anything is enqueued, with results and workspace
 * untouched. What spoils a process is tried in one of its own: this program, started again with the name of a child. */
#include <sys/wait.h>
#include <unistd.h>

#include "gpu/gpu_support.h"
#include "support/stage.h"

enum { DIM = 128, HEADS = 32, BLOCK = 64, TOKENS = 1000, ROWS = 3, K = 100, FILL = 0x5b };

/* ---------------------------------------------------------------------------------------------- a call */

typedef struct call {
    hisa_index_t *index;
    hisa_select_options_t options;
    hisa_queries_t queries;
    hisa_selection_t selection;
    uint8_t *workspace;
    size_t bytes;
    void *stream;
    stage_t stage;
} call_t;

static call_t call;
/* Host memory: inputs, and what must come back as it was. */
static uint8_t codes[TOKENS * DIM];
static float ones[TOKENS];
static int32_t indices[ROWS * K];
static int32_t counts[ROWS];
static float scores[ROWS * K];
static uint8_t *scratch;

static hisa_index_config_t config_of(void) {
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    config.backend = HISA_BACKEND_CUDA;
    config.head_dim = DIM;
    config.num_heads = HEADS;
    config.block_size = BLOCK;
    config.capacity = TOKENS + 100;
    return config;
}

static void call_open(void) {
    const hisa_index_config_t config = config_of();
    for (int i = 0; i < TOKENS; ++i) {
        ones[i] = 1.0f;
    }
    memset(codes, 0x38, sizeof codes);
    call = (call_t){.options = gpu_options(HISA_MODE_HISA)};
    call.options.top_k = K;
    call.options.top_blocks = 4;
    ck_ok(hisa_index_create(&config, gpu_comm, &call.index));
    call.stage.index = call.index;
    const void *keys = stage_in(&call.stage, codes, sizeof codes);
    const float *scales = stage_in(&call.stage, ones, sizeof ones);
    ck_ok(hisa_index_append(call.index, 0, TOKENS, keys, scales, HISA_KEYS_REPLICATED, NULL));
    hisa_queries_init(&call.queries);
    hisa_selection_init(&call.selection);
    call.queries.num_rows = ROWS;
    call.queries.q = keys;
    call.queries.weights = scales;
    memset(indices, FILL, sizeof indices);
    memset(counts, FILL, sizeof counts);
    memset(scores, FILL, sizeof scores);
    call.selection.indices = stage_in_out(&call.stage, indices, sizeof indices);
    call.selection.counts = stage_in_out(&call.stage, counts, sizeof counts);
    call.selection.scores = stage_in_out(&call.stage, scores, sizeof scores);
    for (int mode = HISA_MODE_HISA; mode <= HISA_MODE_BLOCK; ++mode) { /* room for any call */
        hisa_select_options_t options = call.options;
        size_t bytes = 0;
        options.mode = (hisa_mode_t)mode;
        ck_ok(hisa_select_workspace_size(call.index, &options, ROWS, &bytes));
        call.bytes = bytes > call.bytes ? bytes : call.bytes;
    }
    scratch = allocate((int64_t)call.bytes, 1);
    memset(scratch, FILL, call.bytes);
    call.workspace = stage_in_out(&call.stage, scratch, call.bytes);
}

static void setup(void) {
    gpu_make_comm();
    call_open();
}

static void teardown(void) {
    stage_end(&call.stage);
    hisa_index_destroy(call.index);
    free(scratch);
    gpu_drop_comm();
}

static hisa_status_t select_now(void) {
    return hisa_select(call.index, &call.queries, &call.options, &call.selection, call.workspace, call.bytes,
                       call.stream);
}

static bool filled(const void *memory, size_t bytes) {
    const uint8_t *byte = memory;
    for (size_t i = 0; i < bytes; ++i) {
        if (byte[i] != FILL) {
            return false;
        }
    }
    return true;
}

/* In every mode and exchange: refused alike, nothing touched, and no CUDA error left for the caller to find. */
static void refused(hisa_status_t status, const char *text) {
    const hisa_select_options_t options = call.options;
    const hisa_selection_t selection = call.selection;
    for (int way = 0; way < 6; ++way) {
        call.options.mode = (hisa_mode_t)(way / 2);
        call.options.exchange = way % 2 == 0 ? HISA_EXCHANGE_OWNER : HISA_EXCHANGE_ONESHOT;
        if (call.options.mode == HISA_MODE_BLOCK) {
            call.selection.scores = NULL;
        }
        ck_fails(select_now(), status, text);
        call.selection = selection;
    }
    call.options = options;
    ck_assert_int_eq(cudaPeekAtLastError(), cudaSuccess);
    ck_cuda(cudaDeviceSynchronize());
    stage_back(&call.stage);
    ck_assert_msg(filled(indices, sizeof indices) && filled(counts, sizeof counts) && filled(scores, sizeof scores),
                  "\"%s\": results were written", text);
    ck_assert_msg(filled(scratch, call.bytes), "\"%s\": the workspace was written", text);
}

/* ---------------------------------------------------------------------------------------------- pointers */

START_TEST(the_call_is_right) {
    ck_ok(select_now());
    stage_back(&call.stage);
    for (int i = 0; i < ROWS; ++i) { /* all scores are equal: forced and lowest blocks, lowest tokens of them */
        ck_assert_int_eq(counts[i], K);
        ck_assert_int_eq(indices[i * K], 0);
    }
}
END_TEST

START_TEST(host_pointers) {
    static const int32_t window[ROWS];
    const call_t good = call;
#define ON_HOST(member, memory, name)                                                                                  \
    do {                                                                                                               \
        call.member = (memory);                                                                                        \
        refused(HISA_ERR_INVALID_ARGUMENT, name " is host memory");                                                    \
        call.member = good.member;                                                                                     \
    } while (0)
    ON_HOST(queries.q, codes, "queries.q");
    ON_HOST(queries.weights, ones, "queries.weights");
    ON_HOST(queries.sequence, window, "queries.sequence");
    ON_HOST(queries.window_begin, window, "queries.window_begin");
    ON_HOST(queries.window_end, window, "queries.window_end");
    ON_HOST(selection.indices, indices, "selection.indices");
    ON_HOST(selection.counts, counts, "selection.counts");
    void *host = NULL;
    ck_assert_int_eq(posix_memalign(&host, 256, call.bytes), 0);
    ON_HOST(workspace, host, "workspace");
    free(host);
#undef ON_HOST
    call.selection.scores = scores;
    ck_fails(select_now(), HISA_ERR_INVALID_ARGUMENT, "selection.scores is host memory");
    call.selection.scores = good.selection.scores;
    ck_fails(hisa_index_append(call.index, 0, 16, codes, call.queries.weights, HISA_KEYS_REPLICATED, NULL),
             HISA_ERR_INVALID_ARGUMENT, "keys is host memory");
    ck_fails(hisa_index_append(call.index, 0, 16, call.queries.q, ones, HISA_KEYS_REPLICATED, NULL),
             HISA_ERR_INVALID_ARGUMENT, "key_scales is host memory");
    ck_fails(hisa_index_overwrite(call.index, 0, 0, 1, codes, call.queries.weights, HISA_KEYS_REPLICATED, NULL),
             HISA_ERR_INVALID_ARGUMENT, "keys is host memory");
    int64_t length = 0;
    ck_ok(hisa_index_length(call.index, 0, &length));
    ck_assert_int_eq(length, TOKENS);
    ck_ok(select_now());
}
END_TEST

START_TEST(misaligned) {
    const call_t good = call;
    call.queries.q = (const uint8_t *)good.queries.q + 8;
    refused(HISA_ERR_INVALID_ARGUMENT, "queries.q is not 16-byte aligned");
    call.queries.q = good.queries.q;
    call.queries.weights = good.queries.weights + 1;
    refused(HISA_ERR_INVALID_ARGUMENT, "queries.weights is not 16-byte aligned");
    call.queries.weights = good.queries.weights;
    call.selection.indices = (int32_t *)(void *)((uint8_t *)good.selection.indices + 1);
    refused(HISA_ERR_INVALID_ARGUMENT, "selection.indices is not 4-byte aligned");
    call.selection.indices = good.selection.indices;
    call.workspace = good.workspace + 128;
    refused(HISA_ERR_WORKSPACE, "not 256-byte aligned");
    call.workspace = good.workspace;
    const uint8_t *keys = good.queries.q;
    ck_fails(hisa_index_append(call.index, 0, 16, keys + 4, good.queries.weights, HISA_KEYS_REPLICATED, NULL),
             HISA_ERR_INVALID_ARGUMENT, "keys is not 16-byte aligned");
    ck_ok(select_now());
}
END_TEST

START_TEST(small_workspace) {
    const size_t bytes = call.bytes;
    call.bytes = 0;
    ck_fails(select_now(), HISA_ERR_WORKSPACE, "has 0 bytes");
    for (int way = 0; way < 6; ++way) {
        call.options.mode = (hisa_mode_t)(way / 2);
        call.options.exchange = way % 2 == 0 ? HISA_EXCHANGE_OWNER : HISA_EXCHANGE_ONESHOT;
        call.selection.scores = NULL;
        ck_ok(hisa_select_workspace_size(call.index, &call.options, ROWS, &call.bytes));
        --call.bytes;
        ck_fails(select_now(), HISA_ERR_WORKSPACE, "rows need");
    }
    call.bytes = bytes;
    uint8_t *workspace = call.workspace;
    call.workspace = NULL;
    ck_fails(select_now(), HISA_ERR_WORKSPACE, "NULL");
    call.workspace = workspace;
    stage_back(&call.stage);
    ck_assert(filled(indices, sizeof indices) && filled(scratch, call.bytes));
}
END_TEST

/* Windows out of range cannot be seen from the host: they are cut to the sequence, and touch nothing else. */
START_TEST(windows_out_of_range) {
    const int32_t begins[ROWS] = {-5, 1000000, INT32_MIN};
    const int32_t ends[ROWS] = {1000000, 2000000, INT32_MAX};
    call.options.mode = HISA_MODE_FLAT;
    call.queries.window_begin = stage_in(&call.stage, begins, sizeof begins);
    call.queries.window_end = stage_in(&call.stage, ends, sizeof ends);
    ck_ok(select_now());
    stage_back(&call.stage);
    ck_assert_int_eq(counts[0], K);
    ck_assert_int_eq(counts[1], 0);
    ck_assert_int_eq(counts[2], K);
    for (int i = 0; i < K; ++i) { /* all scores are equal */
        ck_assert_int_eq(indices[i], i);
        ck_assert_int_eq(indices[K + i], -1);
        ck_assert_int_eq(indices[2 * K + i], i);
    }
}
END_TEST

START_TEST(other_devices) {
    int devices = 0;
    ck_cuda(cudaGetDeviceCount(&devices));
    if (devices < 2) {
        printf("a stream and memory of another device: one device here: skipped\n");
        return;
    }
    void *memory = NULL;
    cudaStream_t stream = NULL;
    ck_cuda(cudaSetDevice(1));
    ck_cuda(cudaStreamCreate(&stream));
    ck_cuda(cudaMalloc(&memory, sizeof codes));
    ck_cuda(cudaSetDevice(0));
    call.stream = stream;
    refused(HISA_ERR_INVALID_ARGUMENT, "the stream is of device 1");
    ck_fails(hisa_index_truncate(call.index, 0, 10, stream), HISA_ERR_INVALID_ARGUMENT, "the stream is of device 1");
    call.stream = NULL;
    const void *q = call.queries.q;
    call.queries.q = memory;
    refused(HISA_ERR_INVALID_ARGUMENT, "queries.q is memory of device 1");
    call.queries.q = q;
    ck_ok(select_now());
    ck_cuda(cudaFree(memory));
    ck_cuda(cudaStreamDestroy(stream));
}
END_TEST

/* ---------------------------------------------------------------------------------------------- creation */

START_TEST(bad_devices) {
    hisa_index_config_t config = config_of();
    hisa_index_t *index = NULL;
    config.device = 1000;
    ck_fails(hisa_index_create(&config, gpu_comm, &index), HISA_ERR_INVALID_ARGUMENT, "device 1000");
    config.device = -2;
    ck_fails(hisa_index_create(&config, gpu_comm, &index), HISA_ERR_INVALID_ARGUMENT, "device is -2");
    ck_assert_ptr_null(index);
}
END_TEST

/* The caller's memory is as free afterwards as before. */
START_TEST(out_of_memory) {
    hisa_index_config_t config = config_of();
    hisa_index_t *index = NULL;
    size_t before = 0;
    size_t after = 0;
    size_t all = 0;
    config.capacity = INT32_MAX - 1000;
    config.head_dim = 256;
    ck_cuda(cudaMemGetInfo(&before, &all));
    ck_assert_msg(all < (size_t)config.capacity * 256, "a device of %zu bytes", all);
    ck_fails(hisa_index_create(&config, gpu_comm, &index), HISA_ERR_NO_MEMORY, "device memory");
    ck_assert_ptr_null(index);
    ck_assert_int_eq(cudaPeekAtLastError(), cudaSuccess);
    /* The keys fit, what follows does not: what was taken is given back. */
    config.head_dim = 128;
    config.num_sequences = 1;
    config.capacity = (int64_t)(before / (128 + 4 + 1));
    void *most = NULL;
    const size_t keys = (size_t)config.capacity * 128;
    if (config.capacity < INT32_MAX - 1000 && before > keys + (64u << 20)) {
        ck_cuda(cudaMalloc(&most, before - keys - (64u << 20)));
        ck_fails(hisa_index_create(&config, gpu_comm, &index), HISA_ERR_NO_MEMORY, "device memory");
        ck_cuda(cudaFree(most));
    }
    ck_cuda(cudaMemGetInfo(&after, &all));
    ck_assert_msg(after + (32u << 20) > before, "%zu bytes free before, %zu after", before, after);
}
END_TEST

START_TEST(scorers) {
    hisa_index_config_t config = config_of();
    hisa_index_t *index = NULL;
    setenv(HISA_CUDA_SCORER_VARIABLE, "fastest", 1);
    ck_fails(hisa_index_create(&config, gpu_comm, &index), HISA_ERR_INVALID_ARGUMENT, "HISA_CUDA_SCORER is 'fastest'");
    config.head_dim = 16; /* wgmma's kernels take 128 alone */
    gpu_use_scorer(HISA_CUDA_SCORER_WGMMA);
    ck_fails(hisa_index_create(&config, gpu_comm, &index), HISA_ERR_UNSUPPORTED, "HISA_CUDA_SCORER=wgmma");
    ck_assert_ptr_null(index);
    gpu_use_scorer(HISA_CUDA_SCORER_F32);
    ck_ok(hisa_index_create(&config, gpu_comm, &index));
    /* Read at creation, and then no more. */
    setenv(HISA_CUDA_SCORER_VARIABLE, "fastest", 1);
    ck_ok(select_now());
    gpu_use_scorer(HISA_CUDA_SCORERS);
    hisa_index_destroy(index);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- processes of their own
 */

/* A kernel of the caller's that writes where it may not: from then on every CUDA call of this process fails. */
static void spoil(void) {
    hisa_cuda_launch_set_length((int32_t *)(uintptr_t)64, 1, NULL);
    if (cudaDeviceSynchronize() == cudaSuccess) {
        printf("the illegal access went unnoticed\n");
        exit(3);
    }
}

static bool says_earlier(hisa_status_t status, const char *what) {
    const bool well = status == HISA_ERR_DEVICE && strstr(hisa_last_error(), "work enqueued earlier") != NULL;
    printf("%s: %s: %s\n", what, hisa_status_string(status), hisa_last_error());
    return well;
}

START_TEST(child_spoilt) {
    const hisa_index_config_t config = config_of();
    hisa_index_config_t any = config;
    hisa_index_t *index = NULL;
    gpu_make_comm();
    call_open();
    any.backend = HISA_BACKEND_AUTO;
    ck_cuda(cudaDeviceSynchronize());
    spoil();
    bool well = says_earlier(select_now(), "select");
    well = says_earlier(
               hisa_index_append(call.index, 0, 1, call.queries.q, call.queries.weights, HISA_KEYS_REPLICATED, NULL),
               "append") &&
           well;
    well = says_earlier(hisa_index_create(&config, gpu_comm, &index), "create") && well;
    well = says_earlier(hisa_index_create(&any, gpu_comm, &index), "create, any backend") && well;
    ck_assert(well);
    ck_assert_ptr_null(index);
    hisa_index_destroy(call.index); /* must end, whatever the device says */
    hisa_comm_destroy(gpu_comm);
}
END_TEST

START_TEST(child_no_device) {
    hisa_index_config_t config = config_of();
    hisa_index_t *index = NULL;
    gpu_make_comm();
    ck_fails(hisa_index_create(&config, gpu_comm, &index), HISA_ERR_UNSUPPORTED, "no device");
    printf("%s\n", hisa_last_error());
    ck_assert_ptr_null(index);
    config.backend = HISA_BACKEND_AUTO; /* does without */
    ck_ok(hisa_index_create(&config, gpu_comm, &index));
    ck_assert_int_eq(hisa_index_backend(index), HISA_BACKEND_CPU);
    hisa_index_destroy(index);
    gpu_drop_comm();
}
END_TEST

static void run_child(const char *environment, const char *name) {
    char path[4096] = "";
    char command[4300];
    ck_assert_int_gt(readlink("/proc/self/exe", path, sizeof path - 1), 0);
    fflush(stdout);
    snprintf(command, sizeof command, "env %s '%s' %s", environment, path, name);
    const int status = system(command); /* NOLINT(cert-env33-c): this program itself */
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: status %d", command, status);
}

START_TEST(earlier_work) { run_child("", "spoilt"); }
END_TEST

START_TEST(no_device) { run_child("CUDA_VISIBLE_DEVICES=", "no-device"); }
END_TEST

int main(int argc, char **argv) {
    if (argc == 2) {
        Suite *alone = suite_create(argv[1]);
        TCase *child = tcase_create(argv[1]);
        if (strcmp(argv[1], "spoilt") == 0) {
            tcase_add_test(child, child_spoilt);
        } else {
            tcase_add_test(child, child_no_device);
        }
        suite_add_tcase(alone, child);
        setenv("CK_FORK", "no", 1);
        unsetenv("CK_RUN_CASE");
        return suite_main(alone);
    }
    Suite *suite = suite_create("cuda_errors");
    TCase *small = tcase_create("small");
    tcase_add_checked_fixture(small, setup, teardown);
    tcase_add_test(small, the_call_is_right);
    tcase_add_test(small, host_pointers);
    tcase_add_test(small, misaligned);
    tcase_add_test(small, small_workspace);
    tcase_add_test(small, windows_out_of_range);
    tcase_add_test(small, bad_devices);
    tcase_add_test(small, scorers);
    suite_add_tcase(suite, small);
    TCase *large = tcase_create("large");
    tcase_add_checked_fixture(large, setup, teardown);
    tcase_add_test(large, other_devices);
    tcase_add_test(large, out_of_memory);
    tcase_add_test(large, earlier_work);
    tcase_add_test(large, no_device);
    suite_add_tcase(suite, large);
    return gpu_main(suite);
}
