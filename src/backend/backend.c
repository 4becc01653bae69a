#include "backend/backend.h"

#include "base/error.h"

hisa_status_t hisa_backend_find(hisa_backend_t choice, const hisa_backend_ops_t **ops) {
    switch (choice) {
    case HISA_BACKEND_AUTO:
    case HISA_BACKEND_CPU:
        *ops = &hisa_backend_cpu;
#if defined(HISA_HAVE_CUDA)
        if (choice == HISA_BACKEND_AUTO) {
            const hisa_status_t present = hisa_cuda_present();
            if (present == HISA_ERR_DEVICE) { /* a device that fails is not one that is absent */
                return present;
            }
            *ops = present == HISA_OK ? &hisa_backend_cuda : &hisa_backend_cpu;
        }
#endif
        return HISA_OK;
    case HISA_BACKEND_CUDA:
#if defined(HISA_HAVE_CUDA)
        *ops = &hisa_backend_cuda;
        return hisa_cuda_present();
#else
        return hisa_fail(HISA_ERR_UNSUPPORTED, "backend cuda is not part of this build of hisa");
#endif
    }
    return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "backend %d is not one of HISA_BACKEND_*", (int)choice);
}
