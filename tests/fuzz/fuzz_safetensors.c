/* One input of the safetensors reader: parse it, and touch all that an accepted one hands out. */
#include <stdlib.h>
#include <string.h>

#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A broken promise is a crash, which is what the fuzzer looks for. */
static void promise(int kept) {
    if (!kept) {
        abort();
    }
}

static void touch(const hisa_safetensors_t *file, const hisa_tensor_t *tensor, const uint8_t *begin,
                  const uint8_t *end) {
    const volatile uint8_t *bytes = tensor->data;
    promise(tensor->dims >= 0 && tensor->dims <= HISA_TENSOR_MAX_DIMS && tensor->bytes >= 0);
    promise(bytes >= begin && tensor->bytes <= end - bytes);
    if (tensor->bytes > 0) {
        (void)bytes[0];
        (void)bytes[tensor->bytes - 1];
    }
    promise(strlen(tensor->dtype_name) < SIZE_MAX);
    promise(hisa_safetensors_find(file, tensor->name) == tensor);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    hisa_safetensors_t *file = NULL;
    const hisa_status_t status = hisa_safetensors_parse(data, size, "input", &file);
    if (status != HISA_OK) {
        promise(file == NULL && strncmp(hisa_last_error(), "input: ", 7) == 0);
        return 0;
    }
    int64_t bytes = 0;
    for (int64_t i = 0; i < hisa_safetensors_count(file); ++i) {
        const hisa_tensor_t *tensor = hisa_safetensors_at(file, i);
        touch(file, tensor, data, data + size);
        bytes += tensor->bytes;
    }
    promise(bytes <= (int64_t)size - 8);
    hisa_safetensors_close(file);
    return 0;
}
