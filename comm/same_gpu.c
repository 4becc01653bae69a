#include "comm/same_gpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"

static uint64_t hash_text(uint64_t hash, const char *text) {
    for (; *text != '\0'; ++text) {
        hash = hisa_hash(hash, (unsigned char)*text);
    }
    return hisa_hash(hash, 0);
}

/* NCCL's own variables, read when NCCL reads them, to say beforehand what it will refuse. */
bool hisa_gpu_may_be_shared(void) {
    const char *allowed = getenv("NCCL_MULTI_RANK_GPU_ENABLE");
    return allowed != NULL && strcmp(allowed, "0") != 0;
}

int64_t hisa_gpu_place(const char *bus) {
    const char *told = getenv("NCCL_HOSTID");
    char host[256] = "";
    char boot[64] = "";
    gethostname(host, sizeof host - 1);
    if (told == NULL) {
        FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
        if (file != NULL) {
            if (fgets(boot, sizeof boot, file) == NULL) {
                boot[0] = '\0';
            }
            fclose(file);
        }
    }
    return (int64_t)hash_text(hash_text(hash_text(told != NULL, told != NULL ? told : host), boot), bus);
}

bool hisa_gpu_shared(const int64_t *places, int size, int *first, int *second) {
    for (int i = 0; i < size; ++i) {
        for (int j = i + 1; j < size; ++j) {
            if (places[i] == places[j]) {
                *first = i;
                *second = j;
                return true;
            }
        }
    }
    return false;
}
