/* Ranks that have a GPU in common are found before NCCL is asked. */
#include <stdlib.h>

#include "comm/same_gpu.h"
#include "support/suite.h"

START_TEST(test_pairs) {
    int first = -1;
    int second = -1;
    const int64_t apart[] = {5, -1, 0, 7};
    const int64_t some[] = {5, -1, 0, -1}; /* ranks 0 and 2 share with nobody, and must hear of it all the same */
    const int64_t all[] = {3, 3, 3};
    ck_assert(!hisa_gpu_shared(apart, 4, &first, &second));
    ck_assert(!hisa_gpu_shared(apart, 1, &first, &second));
    ck_assert_int_eq(first, -1);
    ck_assert(hisa_gpu_shared(some, 4, &first, &second));
    ck_assert_int_eq(first, 1);
    ck_assert_int_eq(second, 3);
    ck_assert(hisa_gpu_shared(all, 3, &first, &second));
    ck_assert_int_eq(first, 0);
    ck_assert_int_eq(second, 1);
}
END_TEST

START_TEST(test_places) {
    unsetenv("NCCL_HOSTID");
    const int64_t here = hisa_gpu_place("0000:01:00.0");
    ck_assert(hisa_gpu_place("0000:01:00.0") == here);
    ck_assert(hisa_gpu_place("0000:02:00.0") != here);
    setenv("NCCL_HOSTID", "a", 1);
    const int64_t as_a = hisa_gpu_place("0000:01:00.0");
    ck_assert(as_a != here);
    ck_assert(hisa_gpu_place("0000:01:00.0") == as_a);
    setenv("NCCL_HOSTID", "b", 1);
    ck_assert(hisa_gpu_place("0000:01:00.0") != as_a);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("ranks on one GPU");
    TCase *tests = tcase_create("same GPU");
    tcase_add_test(tests, test_pairs);
    tcase_add_test(tests, test_places);
    suite_add_tcase(suite, tests);
    return suite_main(suite);
}
