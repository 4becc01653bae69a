/* A build with NCCL on a machine without a device: clear errors, the same on all ranks. */
#include "hisa/hisa_nccl.h"
#include "support/host_gather.h"
#include "support/mpi_suite.h"

START_MPI_TEST(test_no_device) {
    hisa_comm_t *control = mpi_suite_comm();
    hisa_nccl_config_t config;
    hisa_comm_t *none = NULL;
    hisa_nccl_config_init(&config);
    config.control = control;
    const hisa_status_t status = hisa_comm_create_nccl(&config, &none);
    ck_assert_int_eq(status, HISA_ERR_DEVICE);
    ck_assert_ptr_nonnull(strstr(hisa_last_error(), "no CUDA device for NCCL: "));
    mpi_suite_same_outcome(status);
    ck_assert_ptr_null(none);
    ck_ok(hisa_comm_agree(control, HISA_OK, NULL)); /* control is none the worse for it */
    hisa_comm_destroy(control);
}

START_MPI_TEST(test_over_host) {
    host_gather_t gather = {0};
    hisa_comm_t *control = NULL;
    hisa_comm_t *none = NULL;
    ck_ok(hisa_comm_create_host(mpi_suite_rank(), mpi_suite_size(), host_gather, &gather, &control));
    hisa_nccl_config_t config;
    hisa_nccl_config_init(&config);
    config.control = control;
    const hisa_status_t status = hisa_comm_create_nccl(&config, &none);
    ck_assert_int_eq(status, HISA_ERR_DEVICE);
    mpi_suite_same_outcome(status);
    ck_assert_ptr_null(none);
    hisa_comm_destroy(control);
}

/* What is wrong before any device is looked at. */
START_MPI_TEST(test_arguments) {
    hisa_comm_t *control = mpi_suite_comm();
    hisa_nccl_config_t config;
    hisa_comm_t *none = NULL;
    ncclUniqueId id;
    memset(&id, 0, sizeof id);
    const hisa_status_t bad = HISA_ERR_INVALID_ARGUMENT;
    ck_fails(hisa_comm_create_nccl(NULL, &none), bad, "config is NULL");
    hisa_nccl_config_init(NULL);
    hisa_nccl_config_init(&config);
    ck_assert_int_eq(config.device, -1);
    ck_fails(hisa_comm_create_nccl(&config, &none), bad, "config.control is NULL");
    /* One rank alone is wrong: all hear of it. */
    const bool me = mpi_suite_rank() == mpi_suite_size() - 1;
    static const char *const texts[] = {"comm is NULL", "struct_size", "split without"};
    for (int i = 0; i < 3; ++i) {
        hisa_nccl_config_init(&config);
        config.control = control;
        if (me && i == 1) {
            config.struct_size = 16;
        } else if (me && i == 2) {
            config.split = 1;
        }
        const hisa_status_t status = hisa_comm_create_nccl(&config, me && i == 0 ? NULL : &none);
        if (mpi_suite_size() == 1) {
            ck_assert_ptr_nonnull(strstr(hisa_last_error(), texts[i]));
        }
        /* Other ranks may fail for want of a device first: the lowest decides. */
        ck_assert(status == bad || status == HISA_ERR_DEVICE);
        mpi_suite_same_outcome(status);
        ck_assert_ptr_null(none);
    }
    hisa_comm_destroy(control);
}

int main(void) {
    Suite *suite = suite_create("NCCL without a device");
    TCase *tests = tcase_create("no device");
    tcase_add_test(tests, test_no_device);
    tcase_add_test(tests, test_over_host);
    tcase_add_test(tests, test_arguments);
    suite_add_tcase(suite, tests);
    return mpi_suite_main(suite);
}
