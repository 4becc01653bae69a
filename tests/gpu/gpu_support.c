#include "gpu/gpu_support.h"

#include "support/runs.h"
#include "support/stage.h"

enum { SKIPPED = 77, SPARE_TOKENS = 1000 }; /* blocks without tokens at the end */

hisa_comm_t *gpu_comm;
hisa_status_t (*gpu_comm_create)(hisa_comm_t **comm) = hisa_comm_create_self;
bool gpu_comm_kept = false;

/* What HISA_CUDA_SCORER said when the suite began; HISA_CUDA_SCORERS: nothing, so all of them. */
static hisa_cuda_scorer_t wanted = HISA_CUDA_SCORERS;

void gpu_make_comm(void) {
    ck_ok(gpu_comm_create(&gpu_comm));
    gpu_use_scorer(HISA_CUDA_SCORERS);
}

void gpu_drop_comm(void) {
    if (!gpu_comm_kept) {
        hisa_comm_destroy(gpu_comm);
    }
    gpu_comm = NULL;
}

bool gpu_present(void) {
    char text[256];
    hisa_cuda_describe(text, sizeof text);
    printf("%s\n", text);
    fflush(stdout);
    return hisa_cuda_present() == HISA_OK;
}

int gpu_main(Suite *suite) {
    if (!gpu_present()) {
        printf("skipped\n");
        srunner_free(srunner_create(suite));
        return SKIPPED;
    }
    const char *name = getenv(HISA_CUDA_SCORER_VARIABLE);
    if (name != NULL && name[0] != '\0') {
        hisa_index_config_t usual;
        int major = 0;
        int minor = 0;
        hisa_index_config_init(&usual);
        const hisa_status_t status = hisa_cuda_capability(0, &major, &minor) == cudaSuccess
                                         ? hisa_cuda_choose_scorer(name, &usual, major, minor, &wanted)
                                         : HISA_ERR_DEVICE;
        if (status != HISA_OK) {
            printf("%s\n", hisa_last_error());
            srunner_free(srunner_create(suite));
            return status == HISA_ERR_UNSUPPORTED ? SKIPPED : EXIT_FAILURE;
        }
        printf("scorer %s alone\n", name);
        fflush(stdout);
    }
    setenv("CK_FORK", "no", 1);
    return suite_main(suite);
}

bool gpu_wants_scorer(hisa_cuda_scorer_t scorer) { return wanted == HISA_CUDA_SCORERS || wanted == scorer; }

void gpu_use_scorer(hisa_cuda_scorer_t scorer) {
    if (scorer == HISA_CUDA_SCORERS) {
        unsetenv(HISA_CUDA_SCORER_VARIABLE);
    } else {
        setenv(HISA_CUDA_SCORER_VARIABLE, hisa_cuda_scorer_name(scorer), 1);
    }
}

bool gpu_try_scorer(hisa_cuda_scorer_t scorer, int32_t head_dim, int32_t num_heads, int32_t block_size) {
    if (!gpu_wants_scorer(scorer)) {
        return false;
    }
    hisa_index_config_t config;
    int device = 0;
    int major = 0;
    int minor = 0;
    hisa_index_config_init(&config);
    config.head_dim = head_dim;
    config.num_heads = num_heads;
    config.block_size = block_size;
    ck_cuda(cudaGetDevice(&device));
    ck_cuda(hisa_cuda_capability(device, &major, &minor));
    if (!hisa_cuda_scorer_available(scorer, &config, major, minor)) {
        printf("scorer %s: not for D %d, H %d, B %d here: skipped\n", hisa_cuda_scorer_name(scorer), head_dim,
               num_heads, block_size);
        fflush(stdout);
        return false;
    }
    gpu_use_scorer(scorer);
    return true;
}

/* ---------------------------------------------------------------------------------------------- results */

results_t results_make(int64_t rows, const hisa_select_options_t *options) {
    const int64_t k = options->top_k;
    return (results_t){.rows = rows,
                       .k = k,
                       .indices = allocate(rows * k, sizeof(int32_t)),
                       .counts = allocate(rows, sizeof(int32_t)),
                       .scores = options->mode == HISA_MODE_BLOCK ? NULL : allocate(rows * k, sizeof(float))};
}

void results_free(results_t *results) {
    free(results->indices);
    free(results->counts);
    free(results->scores);
}

void results_same(const results_t *a, int64_t first, const results_t *b, const char *what) {
    const int64_t k = a->k;
    for (int64_t r = 0; r < b->rows; ++r) {
        const int32_t *indices = a->indices + (first + r) * k;
        if (a->counts[first + r] != b->counts[r] ||
            memcmp(indices, b->indices + r * k, (size_t)k * sizeof *indices) != 0) {
            int64_t i = 0;
            while (i < k - 1 && indices[i] == b->indices[r * k + i]) {
                ++i;
            }
            ck_abort_msg("%s: row %lld: %d and %d tokens; entry %lld is %d and %d", what, (long long)(first + r),
                         a->counts[first + r], b->counts[r], (long long)i, indices[i], b->indices[r * k + i]);
        }
        if (a->scores == NULL) {
            continue;
        }
        const float *scores = a->scores + (first + r) * k;
        for (int64_t i = 0; i < k; ++i) {
            if (memcmp(&scores[i], &b->scores[r * k + i], sizeof *scores) != 0) {
                ck_abort_msg("%s: row %lld: score %lld (position %d) is %a and %a", what, (long long)(first + r),
                             (long long)i, indices[i], (double)scores[i], (double)b->scores[r * k + i]);
            }
        }
    }
}

/* ---------------------------------------------------------------------------------------------- traces */

trace_t gpu_drift(int64_t tokens, int64_t rows, int32_t heads, uint64_t seed) {
    const hisa_synth_config_t config = {.family = HISA_SYNTH_DRIFT,
                                        .seed = seed,
                                        .num_tokens = tokens,
                                        .num_rows = rows,
                                        .head_dim = 128,
                                        .num_heads = heads,
                                        .num_needles = 4,
                                        .neighbours = 4};
    return trace_make(&config, tokens, rows);
}

hisa_index_config_t gpu_config(const trace_t *trace, hisa_backend_t backend, int32_t block_size) {
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    config.backend = backend;
    config.head_dim = trace->config.head_dim;
    config.num_heads = trace->config.num_heads;
    config.block_size = block_size;
    config.capacity = trace->config.num_tokens + SPARE_TOKENS;
    return config;
}

void gpu_append(hisa_index_t *index, const trace_t *trace, int64_t begin, int64_t end) {
    const change_t change = {.kind = CHANGE_APPEND,
                             .tokens = end - begin,
                             .keys = trace->keys + begin * trace->config.head_dim,
                             .scales = trace->scales + begin};
    ck_ok(test_change_play(index, &change, trace->config.head_dim, index->shard.block_size, 0, HISA_KEYS_REPLICATED));
}

hisa_index_t *gpu_index(const trace_t *trace, hisa_backend_t backend, int32_t block_size, int64_t chunk) {
    const hisa_index_config_t config = gpu_config(trace, backend, block_size);
    const int64_t n = trace->config.num_tokens;
    const int64_t dim = config.head_dim;
    hisa_index_t *index = NULL;
    ck_ok(hisa_index_create(&config, gpu_comm, &index));
    stage_t stage = {.index = index};
    const uint8_t *keys = stage_in(&stage, trace->keys, (size_t)(n * dim));
    const float *scales = stage_in(&stage, trace->scales, (size_t)n * sizeof *scales);
    const int64_t step = chunk > 0 ? chunk : n;
    for (int64_t s = 0; s < n; s += step) {
        const int64_t tokens = n - s < step ? n - s : step;
        ck_ok(hisa_index_append(index, 0, tokens, keys + s * dim, scales + s, HISA_KEYS_REPLICATED, NULL));
    }
    stage_end(&stage); /* waits for what reads it */
    return index;
}

static hisa_queries_t queries_of(const trace_t *trace, int64_t first, int64_t rows) {
    const int64_t heads = trace->config.num_heads;
    hisa_queries_t queries;
    hisa_queries_init(&queries);
    queries.num_rows = rows;
    queries.q = trace->q + first * heads * trace->config.head_dim;
    queries.weights = trace->weights + first * heads;
    queries.window_begin = trace->begins + first;
    queries.window_end = trace->ends + first;
    return queries;
}

void gpu_select(hisa_index_t *index, const trace_t *trace, const hisa_select_options_t *options, int64_t first,
                int times, results_t *results) {
    const int64_t rows = results->rows;
    const size_t cells = (size_t)(rows * options->top_k);
    const hisa_queries_t queries = queries_of(trace, first, rows);
    size_t bytes = 0;
    ck_ok(hisa_select_workspace_size(index, options, rows, &bytes));
    guarded_t workspace = guarded_make(bytes, 0xff);
    stage_t stage = {.index = index};
    const hisa_queries_t staged = stage_queries(&stage, &queries);
    void *place = stage_in_out(&stage, workspace.data, bytes);
    results_t once = results_make(rows, options);
    stage_t out = {.index = index};
    hisa_selection_t selection;
    hisa_selection_init(&selection);
    selection.indices = stage_in_out(&out, results->indices, cells * sizeof(int32_t));
    selection.counts = stage_in_out(&out, results->counts, (size_t)rows * sizeof(int32_t));
    selection.scores = stage_in_out(&out, results->scores, cells * sizeof(float));
    for (int i = 0; i < times; ++i) {
        ck_ok(hisa_select(index, &staged, options, &selection, place, bytes, NULL));
        stage_back(&out);
        if (i == 0) {
            memcpy(once.indices, results->indices, cells * sizeof(int32_t));
            memcpy(once.counts, results->counts, (size_t)rows * sizeof(int32_t));
            if (once.scores != NULL) {
                memcpy(once.scores, results->scores, cells * sizeof(float));
            }
        } else {
            results_same(&once, 0, results, "called again");
        }
    }
    stage_end(&out);
    stage_end(&stage);
    results_free(&once);
    guarded_free(&workspace);
}

hisa_select_options_t gpu_options(hisa_mode_t mode) {
    hisa_select_options_t options;
    hisa_select_options_init(&options);
    options.mode = mode;
    return options;
}

const char *gpu_mode_name(hisa_mode_t mode) {
    static const char *const names[] = {"hisa", "flat", "block"};
    return names[mode];
}
