/* Uses the header that includes nccl.h, and links what it declares. Nothing is created: that takes a device. */
#include <hisa/hisa.h>
#include <hisa/hisa_nccl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int gather(void *context, void *buffer, int64_t bytes, double seconds);

/* Of one rank: its part is all there is. */
static int gather(void *context, void *buffer, int64_t bytes, double seconds) {
    (void)context;
    (void)buffer;
    return bytes >= 0 && seconds >= 0 ? 0 : 1;
}

static void check(hisa_status_t status) {
    if (status != HISA_OK) {
        fprintf(stderr, "%s\n", hisa_last_error());
        exit(2);
    }
}

/* The README's lines. */
static void lend(int rank, int ranks, void *engine, ncclComm_t nccl) {
    hisa_comm_t *control, *comm;
    check(hisa_comm_create_host(rank, ranks, gather, engine, &control));
    hisa_nccl_config_t config;
    hisa_nccl_config_init(&config);
    config.control = control;
    config.nccl = nccl;
    config.split = 1;
    check(hisa_comm_create_nccl(&config, &comm));
    hisa_comm_destroy(comm);
    hisa_comm_destroy(control);
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "lend") == 0) { /* by hand, on a machine with a device */
        lend(0, 1, NULL, NULL);
        return 0;
    }
    hisa_nccl_config_t config;
    hisa_comm_t *none = NULL;
    hisa_nccl_config_init(&config);
    const hisa_status_t status = hisa_comm_create_nccl(&config, &none);
    printf("NCCL %d; without control: %s\n", NCCL_VERSION_CODE, hisa_last_error());
    return status == HISA_ERR_INVALID_ARGUMENT && strstr(hisa_last_error(), "config.control is NULL") != NULL ? 0 : 1;
}
