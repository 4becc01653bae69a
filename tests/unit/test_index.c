/* The index by itself: configuration, append, truncate, overwrite, the law of ownership as the caller sees it. */
#include "support/cases.h"
#include "support/suite.h"

enum { DIM = 16, TOKENS = 100 };
static const hisa_status_t BAD = HISA_ERR_INVALID_ARGUMENT;

static hisa_comm_t *comm;
static uint8_t keys[TOKENS * DIM];
static float scales[TOKENS];

static void setup(void) {
    ck_ok(hisa_comm_create_self(&comm));
    for (int s = 0; s < TOKENS; ++s) {
        memset(keys + s * DIM, 0x30 + s % 16, DIM);
        scales[s] = 1.0f;
    }
}

static void teardown(void) { hisa_comm_destroy(comm); }

static hisa_index_config_t small_config(void) {
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    config.backend = HISA_BACKEND_CPU;
    config.head_dim = DIM;
    config.num_heads = 2;
    config.block_size = 16;
    config.num_sequences = 2;
    config.capacity = TOKENS;
    return config;
}

static hisa_index_t *small_index(void) {
    const hisa_index_config_t config = small_config();
    hisa_index_t *index = NULL;
    ck_ok(hisa_index_create(&config, comm, &index));
    ck_assert_ptr_nonnull(index);
    return index;
}

static int64_t length_of(const hisa_index_t *index, int32_t sequence) {
    int64_t length = -1;
    int64_t local = -1;
    ck_ok(hisa_index_length(index, sequence, &length));
    ck_ok(hisa_index_local_length(index, sequence, &local));
    ck_assert_int_eq(length, local); /* one rank stores all */
    return length;
}

START_TEST(defaults) {
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    ck_assert_uint_eq(config.struct_size, sizeof config);
    ck_assert_int_eq(config.backend, HISA_BACKEND_AUTO);
    ck_assert_int_eq(config.device, -1);
    ck_assert_int_eq(config.threads, 0);
    ck_assert_int_eq(config.head_dim, 128);
    ck_assert_int_eq(config.num_heads, 64);
    ck_assert_int_eq(config.block_size, 128);
    ck_assert_int_eq(config.num_sequences, 1);
    ck_assert_int_eq(config.stripe, 1);
    ck_assert_ptr_null(config.rank_offsets);
    hisa_select_options_t options;
    hisa_select_options_init(&options);
    ck_assert_uint_eq(options.struct_size, sizeof options);
    ck_assert_int_eq(options.mode, HISA_MODE_HISA);
    ck_assert_int_eq(options.exchange, HISA_EXCHANGE_AUTO);
    ck_assert_int_eq(options.queries_on, HISA_QUERIES_REPLICATED);
    ck_assert_int_eq(options.placement, HISA_PLACE_REPLICATED);
    ck_assert_int_eq(options.top_blocks, 64);
    ck_assert_int_eq(options.top_k, 2048);
    ck_assert_int_eq(options.sink_blocks, 1);
    ck_assert_int_eq(options.local_blocks, 1);
    ck_assert_int_eq(options.tile_rows, 0);
    ck_assert_uint_eq(options.flags, 0);
    hisa_queries_t queries;
    memset(&queries, 0x5b, sizeof queries);
    hisa_queries_init(&queries);
    ck_assert_uint_eq(queries.struct_size, sizeof queries);
    ck_assert_int_eq(queries.num_rows, 0);
    ck_assert(queries.q == NULL && queries.weights == NULL && queries.sequence == NULL);
    ck_assert(queries.window_begin == NULL && queries.window_end == NULL && queries.rows_per_rank == NULL);
    hisa_selection_t selection;
    memset(&selection, 0x5b, sizeof selection);
    hisa_selection_init(&selection);
    ck_assert_uint_eq(selection.struct_size, sizeof selection);
    ck_assert(selection.indices == NULL && selection.counts == NULL && selection.scores == NULL);
}
END_TEST

static void refuse(const hisa_index_config_t *config, const char *text) {
    hisa_index_t *index = (hisa_index_t *)(void *)keys;
    ck_fails(hisa_index_create(config, comm, &index), BAD, text);
    ck_assert_ptr_eq(index, (void *)keys); /* written on success only */
}

START_TEST(bad_shape) {
    hisa_index_config_t config = small_config();
    static const int32_t dims[] = {-16, 0, 8, 17, 24, 272, 1 << 30};
    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; ++i) {
        config.head_dim = dims[i];
        refuse(&config, "head_dim");
    }
    config = small_config();
    static const int32_t heads[] = {-1, 0, 129};
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; ++i) {
        config.num_heads = heads[i];
        refuse(&config, "num_heads");
    }
    config = small_config();
    static const int32_t sizes[] = {-16, 0, 8, 17, 48, 255, 512};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; ++i) {
        config.block_size = sizes[i];
        refuse(&config, "block_size");
    }
}
END_TEST

START_TEST(bad_config) {
    hisa_index_config_t config = small_config();
    config.struct_size = 8;
    refuse(&config, "struct_size");
    config = small_config();
    config.num_sequences = 0;
    refuse(&config, "num_sequences");
    config = small_config();
    static const int64_t capacities[] = {INT64_MIN, -1, 0, INT32_MAX - 15, INT64_MAX};
    for (size_t i = 0; i < sizeof capacities / sizeof capacities[0]; ++i) {
        config.capacity = capacities[i];
        refuse(&config, "capacity");
    }
    config = small_config();
    config.capacity = 0; /* a forgotten one */
    refuse(&config, "capacity");
    config = small_config();
    config.stripe = -1;
    refuse(&config, "stripe");
    config = small_config();
    config.threads = -1;
    refuse(&config, "threads");
    config = small_config();
    config.backend = (hisa_backend_t)17;
    refuse(&config, "backend");
    config = small_config();
    static const int32_t offsets[][2] = {{0, 1}, {-1, 0}};
    for (int i = 0; i < 2; ++i) {
        config.rank_offsets = offsets[i];
        refuse(&config, "rank_offsets");
    }
    config = small_config();
    hisa_index_t *index = NULL;
    ck_fails(hisa_index_create(NULL, comm, &index), BAD, "NULL");
    ck_fails(hisa_index_create(&config, NULL, &index), BAD, "NULL");
    ck_fails(hisa_index_create(&config, comm, NULL), BAD, "NULL");
    hisa_index_destroy(NULL);
}
END_TEST

START_TEST(cuda_is_refused) {
    hisa_index_config_t config = small_config();
    config.backend = HISA_BACKEND_CUDA;
    hisa_index_t *index = NULL;
    /* Not built in, or (the tests hide devices from all but the GPU suites) not present. */
    ck_fails(hisa_index_create(&config, comm, &index), HISA_ERR_UNSUPPORTED, "cuda");
    ck_assert_ptr_null(index);
    config.backend = HISA_BACKEND_AUTO;
    ck_ok(hisa_index_create(&config, comm, &index));
    ck_assert_int_ne(hisa_index_backend(index), HISA_BACKEND_AUTO);
    hisa_index_destroy(index);
}
END_TEST

START_TEST(lengths) {
    hisa_index_t *index = small_index();
    ck_assert_int_eq(hisa_index_backend(index), HISA_BACKEND_CPU);
    ck_assert_int_ge(hisa_index_bytes(index), 2 * TOKENS * (DIM + 4));
    ck_assert_int_eq(length_of(index, 0), 0);
    ck_ok(hisa_index_append(index, 1, 33, keys, scales, HISA_KEYS_REPLICATED, NULL));
    ck_assert_int_eq(length_of(index, 0), 0);
    ck_assert_int_eq(length_of(index, 1), 33);
    ck_ok(hisa_index_append(index, 1, 67, keys, scales, HISA_KEYS_LOCAL, NULL));
    ck_assert_int_eq(length_of(index, 1), 100);
    ck_ok(hisa_index_append(index, 1, 0, keys, scales, HISA_KEYS_REPLICATED, NULL));
    ck_assert_int_eq(length_of(index, 1), 100);
    ck_ok(hisa_index_truncate(index, 1, 100, NULL));
    ck_ok(hisa_index_truncate(index, 1, 17, NULL));
    ck_assert_int_eq(length_of(index, 1), 17);
    ck_ok(hisa_index_overwrite(index, 1, 0, 2, keys, scales, HISA_KEYS_REPLICATED, NULL));
    ck_assert_int_eq(length_of(index, 1), 17);
    ck_ok(hisa_index_truncate(index, 1, 0, NULL));
    ck_assert_int_eq(length_of(index, 1), 0);
    ck_ok(hisa_index_synchronize(index, NULL));
    ck_assert_int_eq(hisa_index_synchronize(NULL, NULL), HISA_ERR_INVALID_ARGUMENT);
    hisa_index_destroy(index);
}
END_TEST

START_TEST(bad_appends) {
    hisa_index_t *index = small_index();
    const hisa_keys_on_t all = HISA_KEYS_REPLICATED;
    ck_ok(hisa_index_append(index, 0, 90, keys, scales, all, NULL));
    ck_fails(hisa_index_append(index, 0, 11, keys, scales, all, NULL), HISA_ERR_CAPACITY, "sequence 0");
    ck_fails(hisa_index_append(index, 0, INT64_MAX, keys, scales, all, NULL), HISA_ERR_CAPACITY, "100");
    ck_fails(hisa_index_append(index, 0, -1, keys, scales, all, NULL), BAD, "num_tokens");
    ck_fails(hisa_index_append(index, 2, 1, keys, scales, all, NULL), BAD, "sequence 2");
    ck_fails(hisa_index_append(index, -1, 1, keys, scales, all, NULL), BAD, "sequence -1");
    ck_fails(hisa_index_append(index, 0, 1, NULL, scales, all, NULL), BAD, "keys");
    ck_fails(hisa_index_append(index, 0, 1, keys, NULL, all, NULL), BAD, "key_scales");
    ck_fails(hisa_index_append(index, 0, 1, keys, scales, (hisa_keys_on_t)9, NULL), BAD, "keys_on");
    ck_fails(hisa_index_append(NULL, 0, 1, keys, scales, all, NULL), BAD, "NULL");
    ck_assert_int_eq(length_of(index, 0), 90);
    ck_ok(hisa_index_append(index, 0, 10, keys, scales, all, NULL));
    hisa_index_destroy(index);
}
END_TEST

START_TEST(bad_truncates) {
    hisa_index_t *index = small_index();
    ck_ok(hisa_index_append(index, 0, 40, keys, scales, HISA_KEYS_REPLICATED, NULL));
    ck_fails(hisa_index_truncate(index, 0, 41, NULL), BAD, "new_length");
    ck_fails(hisa_index_truncate(index, 0, -1, NULL), BAD, "new_length");
    ck_fails(hisa_index_truncate(index, 2, 0, NULL), BAD, "sequence 2");
    ck_fails(hisa_index_truncate(NULL, 0, 0, NULL), BAD, "NULL");
    ck_assert_int_eq(length_of(index, 0), 40);
    hisa_index_destroy(index);
}
END_TEST

START_TEST(bad_overwrites) {
    hisa_index_t *index = small_index();
    const hisa_keys_on_t all = HISA_KEYS_REPLICATED;
    ck_ok(hisa_index_append(index, 0, 40, keys, scales, all, NULL)); /* 3 blocks */
    ck_fails(hisa_index_overwrite(index, 0, 3, 1, keys, scales, all, NULL), BAD, "block");
    ck_fails(hisa_index_overwrite(index, 0, 1, 3, keys, scales, all, NULL), BAD, "block");
    ck_fails(hisa_index_overwrite(index, 0, -1, 1, keys, scales, all, NULL), BAD, "block");
    ck_fails(hisa_index_overwrite(index, 0, 1, INT64_MAX, keys, scales, all, NULL), BAD, "block");
    ck_fails(hisa_index_overwrite(index, 0, 0, -1, keys, scales, all, NULL), BAD, "block");
    ck_fails(hisa_index_overwrite(index, 1, 0, 1, keys, scales, all, NULL), BAD, "block"); /* it is empty */
    ck_fails(hisa_index_overwrite(index, 0, 0, 1, NULL, scales, all, NULL), BAD, "keys");
    ck_fails(hisa_index_overwrite(index, 0, 0, 1, keys, NULL, all, NULL), BAD, "key_scales");
    ck_fails(hisa_index_overwrite(index, 7, 0, 1, keys, scales, all, NULL), BAD, "sequence 7");
    ck_fails(hisa_index_overwrite(NULL, 0, 0, 1, keys, scales, all, NULL), BAD, "NULL");
    hisa_index_destroy(index);
}
END_TEST

START_TEST(locate_on_one_rank) {
    hisa_index_t *index = small_index();
    for (int64_t s = 0; s < TOKENS; ++s) { /* whether stored yet or not */
        int owner = -1;
        int64_t slot = -1;
        ck_ok(hisa_index_locate(index, 1, s, &owner, &slot));
        ck_assert_int_eq(owner, 0);
        ck_assert_int_eq(slot, s);
        ck_ok(hisa_index_locate(index, 1, s, NULL, NULL));
    }
    int owner = 0;
    int64_t slot = 0;
    ck_fails(hisa_index_locate(index, 1, -1, &owner, &slot), BAD, "position -1");
    ck_fails(hisa_index_locate(index, 1, TOKENS, &owner, &slot), BAD, "position 100");
    ck_fails(hisa_index_locate(index, 2, 0, &owner, &slot), BAD, "sequence 2");
    ck_fails(hisa_index_locate(NULL, 0, 0, &owner, &slot), BAD, "NULL");
    int64_t length = 0;
    ck_fails(hisa_index_length(index, 2, &length), BAD, "sequence 2");
    ck_fails(hisa_index_length(index, 0, NULL), BAD, "NULL");
    ck_fails(hisa_index_local_length(NULL, 0, &length), BAD, "NULL");
    hisa_index_destroy(index);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("index");
    TCase *tests = tcase_create("index");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_add_test(tests, defaults);
    tcase_add_test(tests, bad_shape);
    tcase_add_test(tests, bad_config);
    tcase_add_test(tests, cuda_is_refused);
    tcase_add_test(tests, lengths);
    tcase_add_test(tests, bad_appends);
    tcase_add_test(tests, bad_truncates);
    tcase_add_test(tests, bad_overwrites);
    tcase_add_test(tests, locate_on_one_rank);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
