/* Ranks that would round scores differently must not share an index. There is one arithmetic on a CPU: the linker lets
 * this program put another name on it (--wrap, CMakeLists.txt). */
#include "index/index.h"
#include "support/mpi_suite.h"

/* The linker gives these names. NOLINTBEGIN(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */
hisa_status_t __real_hisa_backend_find(hisa_backend_t choice, const hisa_backend_ops_t **ops);
hisa_status_t __wrap_hisa_backend_find(hisa_backend_t choice, const hisa_backend_ops_t **ops);
/* NOLINTEND(bugprone-reserved-identifier,cert-dcl37-c,cert-dcl51-cpp) */

/* Calls itself as the CPU backend's table would, but for what it says of its arithmetic. */
static hisa_backend_ops_t other;
static const hisa_backend_ops_t *real;
static bool pretend;

static int64_t other_arithmetic(const hisa_device_t *device) {
    (void)device;
    return HISA_ARITHMETIC_WGMMA;
}

static hisa_status_t other_open(const hisa_index_config_t *config, hisa_device_t **device) {
    const hisa_status_t status = real->open(config, device);
    if (status == HISA_OK) {
        (*device)->ops = &other;
    }
    return status;
}

hisa_status_t __wrap_hisa_backend_find(hisa_backend_t choice, const hisa_backend_ops_t **ops) {
    const hisa_status_t status = __real_hisa_backend_find(choice, &real);
    if (status == HISA_OK && pretend) {
        other = *real;
        other.open = other_open;
        other.arithmetic = other_arithmetic;
        *ops = &other;
        return HISA_OK;
    }
    *ops = real;
    return status;
}

static hisa_status_t create(hisa_comm_t *comm, hisa_index_t **index) {
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    config.backend = HISA_BACKEND_CPU;
    config.head_dim = 16;
    config.num_heads = 1;
    config.block_size = 16;
    config.capacity = 100;
    return hisa_index_create(&config, comm, index);
}

/* On the last rank, on the first, on all: only what is equal everywhere makes an index. */
START_MPI_TEST(agreed) {
    mpi_suite_needs(2);
    hisa_comm_t *comm = mpi_suite_comm();
    static const char *const says[] = {"arithmetic differs between ranks: 0 on rank 0, 3 on rank",
                                       "arithmetic differs between ranks: 3 on rank 0, 0 on rank 1"};
    for (int way = 0; way < 2; ++way) {
        pretend = mpi_suite_rank() == (way == 0 ? mpi_suite_size() - 1 : 0);
        hisa_index_t *index = NULL;
        ck_fails(create(comm, &index), HISA_ERR_MISMATCH, says[way]);
        ck_assert_ptr_null(index);
    }
    for (int way = 0; way < 2; ++way) {
        pretend = way == 1;
        hisa_index_t *index = NULL;
        ck_ok(create(comm, &index));
        ck_assert_int_eq(hisa_index_ops(index)->arithmetic(index->device),
                         pretend ? HISA_ARITHMETIC_WGMMA : HISA_ARITHMETIC_F32);
        hisa_index_destroy(index);
    }
    hisa_comm_destroy(comm);
}

START_MPI_TEST(alone) {
    hisa_comm_t *comm = NULL;
    hisa_index_t *index = NULL;
    ck_ok(hisa_comm_create_self(&comm));
    pretend = true;
    ck_ok(create(comm, &index));
    hisa_index_destroy(index);
    hisa_comm_destroy(comm);
    pretend = false;
}

int main(void) {
    Suite *suite = suite_create("arithmetic");
    TCase *tests = tcase_create("arithmetic");
    tcase_add_test(tests, agreed);
    tcase_add_test(tests, alone);
    suite_add_tcase(suite, tests);
    return mpi_suite_main(suite);
}
