/* Ranks on one GPU without what NCCL asks for: a clear error on each, within moments. */
#include "hisa/hisa_nccl.h"
#include "support/mpi_suite.h"
#include "support/nccl_rank.h"

START_MPI_TEST(test_same_gpu) {
    mpi_suite_needs(2);
    unsetenv("NCCL_HOSTID");
    unsetenv("NCCL_MULTI_RANK_GPU_ENABLE");
    setenv("NCCL_SOCKET_IFNAME", "lo", 1);
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    hisa_comm_t *control = mpi_suite_comm();
    hisa_nccl_config_t config;
    hisa_comm_t *none = NULL;
    hisa_nccl_config_init(&config);
    config.control = control;
    config.device = 0;
    const hisa_status_t status = hisa_comm_create_nccl(&config, &none);
    ck_assert_msg(status == HISA_ERR_COMM, "%s: %s", hisa_status_string(status), hisa_last_error());
    ck_assert_msg(strstr(hisa_last_error(), "NCCL_HOSTID") != NULL, "%s", hisa_last_error());
    mpi_suite_same_outcome(status);
    ck_assert_ptr_null(none);
    ck_ok(hisa_comm_agree(control, HISA_OK, NULL));
    hisa_comm_destroy(control);
}

int main(void) {
    if (!nccl_rank_has_device()) {
        return 77;
    }
    Suite *suite = suite_create("NCCL ranks on one GPU");
    TCase *tests = tcase_create("same GPU");
    tcase_add_test(tests, test_same_gpu);
    suite_add_tcase(suite, tests);
    return mpi_suite_main(suite);
}
