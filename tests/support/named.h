/* Cases with a name: each shows one thing that has gone wrong in some selector before. */
#ifndef HISA_TESTS_NAMED_H
#define HISA_TESTS_NAMED_H

#include "support/cases.h"

typedef struct named_case {
    const char *name;
    void (*build)(test_case_t *made); /* complete, with what the reference says */
} named_case_t;

extern const named_case_t named_cases[];
extern const int num_named_cases;

/* A case to fill in: one sequence of `length` tokens, keys 0 and scales 1, queries and weights 1, windows that see
 * everything, mode hisa with k 16, m 4 and no block kept by force. */
void test_case_blank(test_case_t *made, int32_t head_dim, int32_t num_heads, int32_t block_size, int64_t length,
                     int64_t rows);

/* Writable parts of a case under construction. */
uint8_t *test_case_key(const test_case_t *made, int64_t position);
float *test_case_scale(const test_case_t *made, int64_t position);
void test_case_window(test_case_t *made, int64_t row, int64_t begin, int64_t end);

/* Adds a change at the end of the history with copies of tokens [position, position + tokens) as they now stand. */
void test_case_change(test_case_t *made, change_kind_t kind, int64_t position, int64_t tokens);

/* Pools, appends everything at once if there is no history yet, and asks the reference. */
void test_case_finish(test_case_t *made);

/* Forgets what the reference said and asks again: after a change of options. */
void test_case_again(test_case_t *made);

#endif
