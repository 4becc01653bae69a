#include "support/runs.h"

#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/stage.h"

enum { GUARD = 256, GUARD_BYTE = 0xa5, OUTPUT_BYTE = 0x5b };

/* ---------------------------------------------------------------------------------------------- guarded memory */

static size_t whole_size(size_t size) {
    const size_t guard = GUARD;
    return (size + 3 * guard - 1) / guard * guard;
}

guarded_t guarded_make(size_t size, unsigned char fill) {
    guarded_t memory = {.size = size};
    const size_t whole = whole_size(size);
    memory.base = aligned_alloc(GUARD, whole);
    ck_assert_ptr_nonnull(memory.base);
    memset(memory.base, GUARD_BYTE, whole);
    memory.data = memory.base + GUARD;
    memset(memory.data, fill, size);
    return memory;
}

static bool all_bytes(const unsigned char *bytes, size_t size, unsigned char value) {
    for (size_t i = 0; i < size; ++i) {
        if (bytes[i] != value) {
            return false;
        }
    }
    return true;
}

bool guarded_intact(const guarded_t *memory) {
    const size_t whole = whole_size(memory->size);
    return all_bytes(memory->base, GUARD, GUARD_BYTE) &&
           all_bytes(memory->data + memory->size, whole - GUARD - memory->size, GUARD_BYTE);
}

bool guarded_untouched(const guarded_t *memory, unsigned char fill) {
    return guarded_intact(memory) && all_bytes(memory->data, memory->size, fill);
}

void guarded_free(guarded_t *memory) {
    free(memory->base);
    *memory = (guarded_t){0};
}

/* ---------------------------------------------------------------------------------------------- ways */

uint64_t test_seed(uint64_t otherwise) {
    const char *text = getenv("HISA_TEST_SEED");
    return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

int64_t test_cases(int64_t otherwise) {
    const char *text = getenv("HISA_TEST_CASES");
    return text != NULL ? strtoll(text, NULL, 0) : otherwise;
}

int64_t test_calls(int64_t otherwise) {
    const char *text = getenv("HISA_TEST_CALLS");
    return text != NULL ? strtoll(text, NULL, 0) : otherwise;
}

int test_part(int all) {
    const char *text = getenv("HISA_TEST_PART");
    const int part = text != NULL ? atoi(text) : 1; /* NOLINT(cert-err34-c): 0 for what is no number, which is all */
    return part > 1 ? (all + part - 1) / part : all;
}

static void deal_rows(run_t *run, rng_t *rng, int64_t rows, int ranks) {
    const int kind = (int)rng_range(rng, 0, 3);
    const int lucky = (int)rng_range(rng, 0, ranks - 1);
    for (int64_t t = 0; t < rows; ++t) {
        int rank = (int)(t * ranks / rows); /* evenly */
        if (kind == 0) {
            rank = lucky; /* all on one */
        } else if (kind != 1) {
            rank = (int)rng_range(rng, 0, ranks - 1); /* unevenly */
        }
        ++run->rows_per_rank[rank];
    }
}

void run_plain(run_t *run, const test_case_t *made, int ranks) {
    ck_assert_int_le(ranks, RUN_RANKS_MAX);
    *run = (run_t){
        .stripe = 1, .default_offsets = true, .want_counts = true, .want_scores = true, .garbage = 0xff, .repeats = 1};
    run->want_scores = made->options.mode != HISA_MODE_BLOCK;
    run->rows_per_rank[0] = made->num_rows;
}

void run_draw(run_t *run, rng_t *rng, const test_case_t *made, int ranks) {
    static const int64_t stripes[] = {1, 1, 2, 7, HISA_STRIPE_CONTIGUOUS};
    static const int32_t tiles[] = {0, 0, 1, 3, 7};
    run_plain(run, made, ranks);
    run->stripe = stripes[rng_range(rng, 0, 4)];
    run->default_offsets = rng_chance(rng, 30);
    for (int32_t i = 0; i < CASE_SEQUENCES && !run->default_offsets; ++i) {
        run->rank_offsets[i] = (int32_t)rng_range(rng, 0, ranks - 1);
    }
    run->keys_on = rng_chance(rng, 50) ? HISA_KEYS_REPLICATED : HISA_KEYS_LOCAL;
    run->threads = (int)rng_range(rng, 1, 2);
    run->exchange = (hisa_exchange_t)rng_range(rng, HISA_EXCHANGE_AUTO, HISA_EXCHANGE_LISTS);
    run->queries_on = rng_chance(rng, 50) ? HISA_QUERIES_REPLICATED : HISA_QUERIES_SHARDED;
    run->placement = (hisa_placement_t)rng_range(rng, HISA_PLACE_REPLICATED, HISA_PLACE_LOCAL);
    run->tile_rows = tiles[rng_range(rng, 0, 4)];
    run->rows_per_rank[0] = 0;
    deal_rows(run, rng, made->num_rows, ranks);
    run->flags = rng_chance(rng, 30) ? HISA_SELECT_UNCHECKED : 0u;
    run->flags |= rng_chance(rng, 20) ? HISA_SELECT_TIMED : 0u;
    run->pass_rows_per_rank = (run->flags & HISA_SELECT_UNCHECKED) != 0 || rng_chance(rng, 30);
    run->want_counts = run->placement == HISA_PLACE_LOCAL || rng_chance(rng, 80);
    run->want_scores = made->options.mode != HISA_MODE_BLOCK && rng_chance(rng, 70);
    run->spare_rows = rng_chance(rng, 70) ? 0 : rng_range(rng, 1, 40);
    run->garbage = (uint8_t)(rng_chance(rng, 50) ? 0xff : rng_range(rng, 0, 255));
    run->repeats = (int)rng_range(rng, 1, 2);
}

void run_describe(const run_t *run, const test_case_t *made, char *text, size_t size) {
    const hisa_index_config_t *config = &made->config;
    const hisa_select_options_t *options = &made->options;
    snprintf(
        text, size,
        "mode %d, D %d, H %d, B %d, N %lld in %d sequences, %lld rows, m %d, k %d, sink %d, local %d; stripe %lld, "
        "keys_on %d, threads %d, exchange %d, queries_on %d, placement %d, tile %d, flags %u, repeats %d",
        (int)options->mode, config->head_dim, config->num_heads, config->block_size,
        (long long)made->keys[0].num_tokens, config->num_sequences, (long long)made->num_rows, options->top_blocks,
        options->top_k, options->sink_blocks, options->local_blocks, (long long)run->stripe, (int)run->keys_on,
        run->threads, (int)run->exchange, (int)run->queries_on, (int)run->placement, run->tile_rows, run->flags,
        run->repeats);
}

hisa_select_options_t run_options(const run_t *run, const test_case_t *made) {
    hisa_select_options_t options = made->options;
    options.exchange = run->exchange;
    options.queries_on = run->queries_on;
    options.placement = run->placement;
    options.tile_rows = run->tile_rows;
    options.flags = run->flags;
    return options;
}

hisa_status_t run_create_index(const run_t *run, const test_case_t *made, hisa_comm_t *comm, hisa_index_t **index) {
    hisa_index_config_t config = made->config;
    config.stripe = run->stripe;
    config.rank_offsets = run->default_offsets ? NULL : run->rank_offsets;
    config.threads = run->threads;
    hisa_status_t status = hisa_index_create(&config, comm, index);
    if (status == HISA_OK) {
        status = test_case_play(made, *index, hisa_comm_rank(comm), run->keys_on);
    }
    return status;
}

/* ---------------------------------------------------------------------------------------------- check */

static bool say(char *why, size_t why_size, const char *format, ...) __attribute__((format(printf, 3, 4)));

static bool say(char *why, size_t why_size, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(why, why_size, format, arguments);
    va_end(arguments);
    return false;
}

static bool same_bits(float a, float b) {
    uint32_t a_bits = 0;
    uint32_t b_bits = 0;
    memcpy(&a_bits, &a, sizeof a_bits);
    memcpy(&b_bits, &b, sizeof b_bits);
    return a_bits == b_bits;
}

/* What a rank must get of one row: [k] each. Local slots are derived here from the reference's positions. */
typedef struct wanted {
    int32_t *indices;
    float *scores;
    int32_t count;
} wanted_t;

static hisa_status_t want_row(const run_t *run, const test_case_t *made, const hisa_index_t *index, int rank,
                              int64_t row, wanted_t *wanted) {
    const int64_t k = made->options.top_k;
    wanted->count = 0;
    for (int64_t i = 0; i < k; ++i) {
        wanted->indices[i] = -1;
        wanted->scores[i] = 0.0f;
    }
    for (int64_t i = 0; i < made->counts[row]; ++i) {
        const int32_t position = made->indices[row * k + i];
        int owner = rank;
        int64_t place = position;
        if (run->placement == HISA_PLACE_LOCAL) {
            const hisa_status_t status = hisa_index_locate(index, made->sequence[row], position, &owner, &place);
            if (status != HISA_OK) {
                return status;
            }
        }
        if (owner == rank) {
            wanted->indices[wanted->count] = (int32_t)place;
            wanted->scores[wanted->count] = made->scores[row * k + i];
            ++wanted->count;
        }
    }
    return HISA_OK;
}

/* One call's memory. */
typedef struct outputs {
    guarded_t indices;
    guarded_t counts;
    guarded_t scores;
    guarded_t workspace;
} outputs_t;

static bool compare_row(const outputs_t *outputs, const run_t *run, const wanted_t *wanted, int64_t k, int64_t r,
                        char *why, size_t why_size) {
    const int32_t *indices = (const int32_t *)(const void *)outputs->indices.data + r * k;
    const int32_t *counts = (const int32_t *)(const void *)outputs->counts.data;
    const float *scores = (const float *)(const void *)outputs->scores.data + r * k;
    if (run->want_counts && counts[r] != wanted->count) {
        return say(why, why_size, "count %d, expected %d", counts[r], wanted->count);
    }
    for (int64_t i = 0; i < k; ++i) {
        if (indices[i] != wanted->indices[i]) {
            return say(why, why_size, "entry %lld is %d, expected %d", (long long)i, indices[i], wanted->indices[i]);
        }
        if (run->want_scores && !same_bits(scores[i], wanted->scores[i])) {
            return say(why, why_size, "score %lld is %a, expected %a", (long long)i, (double)scores[i],
                       (double)wanted->scores[i]);
        }
    }
    return true;
}

static bool compare_rows(const outputs_t *outputs, const run_t *run, const test_case_t *made, const hisa_index_t *index,
                         int rank, int64_t first, int64_t count, char *why, size_t why_size) {
    const int64_t k = made->options.top_k;
    wanted_t wanted = {test_alloc(k, sizeof(int32_t)), test_alloc(k, sizeof(float)), 0};
    bool well = true;
    for (int64_t r = 0; r < count && well; ++r) {
        char what[160] = "";
        if (want_row(run, made, index, rank, first + r, &wanted) != HISA_OK) {
            well = say(why, why_size, "locate: %s", hisa_last_error());
        } else if (!compare_row(outputs, run, &wanted, k, r, what, sizeof what)) {
            well = say(why, why_size, "row %lld: %s", (long long)first + r, what);
        }
    }
    free(wanted.indices);
    free(wanted.scores);
    return well;
}

static bool check_guards(const outputs_t *outputs, const run_t *run, char *why, size_t why_size) {
    if (!guarded_intact(&outputs->indices) || !guarded_intact(&outputs->counts) || !guarded_intact(&outputs->scores)) {
        return say(why, why_size, "written outside the results");
    }
    if (!guarded_intact(&outputs->workspace)) {
        return say(why, why_size, "written outside the workspace");
    }
    if ((!run->want_counts && !guarded_untouched(&outputs->counts, OUTPUT_BYTE)) ||
        (!run->want_scores && !guarded_untouched(&outputs->scores, OUTPUT_BYTE))) {
        return say(why, why_size, "written to a result that was not asked for");
    }
    return true;
}

/* Rows [*first, *first + *count) that this rank passes, and those that it gets. */
static void place_rows(const run_t *run, const test_case_t *made, int rank, int ranks, int64_t *pass_first,
                       int64_t *pass_count, int64_t *get_first, int64_t *get_count) {
    *pass_first = 0;
    *pass_count = made->num_rows;
    if (run->queries_on == HISA_QUERIES_SHARDED) {
        *pass_count = run->rows_per_rank[rank];
        for (int r = 0; r < rank; ++r) {
            *pass_first += run->rows_per_rank[r];
        }
    }
    *get_first = 0;
    *get_count = made->num_rows;
    if (run->placement == HISA_PLACE_OWNER) {
        *get_first = run->queries_on == HISA_QUERIES_SHARDED ? *pass_first : made->num_rows * rank / ranks;
        *get_count =
            run->queries_on == HISA_QUERIES_SHARDED ? *pass_count : made->num_rows * (rank + 1) / ranks - *get_first;
    }
}

/* Guarded memory with its guards, where the index's backend can write it. */
static void *stage_guarded(stage_t *stage, const guarded_t *memory) {
    return (unsigned char *)stage_in_out(stage, memory->base, whole_size(memory->size)) + GUARD;
}

bool run_check_index(const run_t *run, const test_case_t *made, hisa_comm_t *comm, hisa_index_t *index, char *why,
                     size_t why_size) {
    const int rank = hisa_comm_rank(comm);
    const int64_t k = made->options.top_k;
    int64_t pass_first = 0;
    int64_t pass_count = 0;
    int64_t get_first = 0;
    int64_t get_count = 0;
    place_rows(run, made, rank, hisa_comm_size(comm), &pass_first, &pass_count, &get_first, &get_count);
    hisa_queries_t queries = test_case_queries(made, pass_first, pass_count);
    queries.rows_per_rank = run->pass_rows_per_rank ? run->rows_per_rank : NULL;
    const hisa_select_options_t options = run_options(run, made);
    size_t bytes = 0;
    if (hisa_select_workspace_size(index, &options, made->num_rows + run->spare_rows, &bytes) != HISA_OK) {
        return say(why, why_size, "workspace size: %s", hisa_last_error());
    }
    outputs_t outputs = {.indices = guarded_make((size_t)(get_count * k) * sizeof(int32_t), OUTPUT_BYTE),
                         .counts = guarded_make((size_t)get_count * sizeof(int32_t), OUTPUT_BYTE),
                         .scores = guarded_make((size_t)(get_count * k) * sizeof(float), OUTPUT_BYTE),
                         .workspace = guarded_make(bytes, run->garbage)};
    stage_t stage = {.index = index};
    const hisa_queries_t staged = stage_queries(&stage, &queries);
    hisa_selection_t selection;
    hisa_selection_init(&selection);
    selection.indices = stage_guarded(&stage, &outputs.indices);
    selection.counts = run->want_counts ? stage_guarded(&stage, &outputs.counts) : NULL;
    selection.scores = run->want_scores ? stage_guarded(&stage, &outputs.scores) : NULL;
    void *workspace = stage_guarded(&stage, &outputs.workspace);
    bool well = true;
    for (int i = 0; i < run->repeats && well; ++i) {
        if (hisa_select(index, &staged, &options, &selection, workspace, bytes, NULL) != HISA_OK) {
            well = say(why, why_size, "select: %s", hisa_last_error());
        }
    }
    stage_back(&stage);
    stage_end(&stage);
    well = well && check_guards(&outputs, run, why, why_size) &&
           compare_rows(&outputs, run, made, index, rank, get_first, get_count, why, why_size);
    guarded_free(&outputs.indices);
    guarded_free(&outputs.counts);
    guarded_free(&outputs.scores);
    guarded_free(&outputs.workspace);
    return well;
}

bool run_check(const run_t *run, const test_case_t *made, hisa_comm_t *comm, char *why, size_t why_size) {
    hisa_index_t *index = NULL;
    bool well = true;
    if (run_create_index(run, made, comm, &index) != HISA_OK) {
        well = say(why, why_size, "index: %s", hisa_last_error());
    }
    well = well && run_check_index(run, made, comm, index, why, why_size);
    hisa_index_destroy(index);
    return well;
}
