#include <hisa/hisa.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 20000, M = 4, H = 64, D = 128, K = 2048 };
static uint8_t keys[N * D], q[M * H * D]; /* e4m3 codes */
static float scales[N], weights[M * H];
static int32_t indices[M * K], counts[M];

static void check(hisa_status_t status) {
    if (status != HISA_OK) {
        fprintf(stderr, "%s: %s\n", hisa_status_string(status), hisa_last_error());
        exit(1);
    }
}

static void fill(uint8_t *codes, float *factors, int count, int codes_per_factor) {
    static uint32_t state = 1;
    for (int i = 0; i < count; ++i) {
        state = state * 1664525u + 1013904223u;
        codes[i] = (uint8_t)((state >> 24 & 0x80) + (state >> 16) % 0x48); /* below 4 in magnitude, of either sign */
        factors[i / codes_per_factor] = 1.0f;
    }
}

int main(void) {
    fill(keys, scales, N * D, D);
    fill(q, weights, M * H * D, D);

    hisa_comm_t *comm;
    check(hisa_comm_create_self(&comm));
    hisa_index_config_t config;
    hisa_index_config_init(&config);   /* 64 heads, 128 elements, blocks of 128 tokens */
    config.backend = HISA_BACKEND_CPU; /* all arrays below are host memory */
    config.capacity = N;
    hisa_index_t *index;
    check(hisa_index_create(&config, comm, &index));
    check(hisa_index_append(index, 0, N, keys, scales, HISA_KEYS_REPLICATED, NULL));

    hisa_queries_t queries;
    hisa_queries_init(&queries);
    queries.num_rows = M;
    queries.q = q;
    queries.weights = weights;
    hisa_select_options_t options;
    hisa_select_options_init(&options); /* the best 64 blocks, in them the best 2048 tokens */
    hisa_selection_t selection;
    hisa_selection_init(&selection);
    selection.indices = indices;
    selection.counts = counts;
    size_t bytes;
    check(hisa_select_workspace_size(index, &options, M, &bytes));
    void *workspace = aligned_alloc(256, (bytes + 255) / 256 * 256);
    check(hisa_select(index, &queries, &options, &selection, workspace, bytes, NULL));
    printf("query 0: %d of %d tokens, the first at position %d\n", counts[0], N, indices[0]);

    free(workspace);
    hisa_index_destroy(index);
    hisa_comm_destroy(comm);
    return 0;
}
