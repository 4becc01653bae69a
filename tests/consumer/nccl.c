/* Uses the header that includes nccl.h, and links what it declares. Nothing is created: that takes a device. */
#include <hisa/hisa_nccl.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    hisa_nccl_config_t config;
    hisa_comm_t *none = NULL;
    hisa_nccl_config_init(&config);
    const hisa_status_t status = hisa_comm_create_nccl(&config, &none);
    printf("NCCL %d; without control: %s\n", NCCL_VERSION_CODE, hisa_last_error());
    return status == HISA_ERR_INVALID_ARGUMENT && strstr(hisa_last_error(), "config.control is NULL") != NULL ? 0 : 1;
}
