/* Prints how many MiB are in use, by whomever, on all GPUs together: run_fault.sh compares. What this program's own
 * contexts take is in it each time. Fails without a message where there is no GPU. */
#include <cuda_runtime_api.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    int devices = 0;
    int64_t used = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        return EXIT_FAILURE;
    }
    for (int device = 0; device < devices; ++device) {
        size_t available = 0;
        size_t total = 0;
        cudaError_t error = cudaSetDevice(device);
        error = error == cudaSuccess ? cudaMemGetInfo(&available, &total) : error;
        if (error != cudaSuccess) {
            fprintf(stderr, "gpu_memory: device %d: %s\n", device, cudaGetErrorString(error));
            return EXIT_FAILURE;
        }
        used += (int64_t)(total - available);
    }
    printf("%lld\n", (long long)(used >> 20));
    return EXIT_SUCCESS;
}
