#include "cli/gpu_peak.h"

#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/cuda.h"
#include "base/error.h"

#if defined(HISA_HAVE_CUBLASLT)
#include <cublasLt.h>
#include <dlfcn.h>
#endif

#define RUNS 12 /* the best counts: a ceiling */
#define WARMUP 3

/* Far more than L2 holds. */
#define COPY_BYTES ((size_t)1 << 30)

#define MATRIX INT64_C(8192)
#define WORKSPACE_BYTES ((size_t)32 << 20)

/* ------------------------------------------------------------------------------------------- memory */

static hisa_status_t time_copy(cli_gpu_t *gpu, void *to, const void *from, double *best) {
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < WARMUP + RUNS && status == HISA_OK; i++) {
        double seconds = 0;
        status = cli_gpu_mark(gpu, 0);
        if (status == HISA_OK) {
            status = hisa_cuda_status(
                cudaMemcpyAsync(to, from, COPY_BYTES, cudaMemcpyDeviceToDevice, (cudaStream_t)gpu->stream), "copying");
        }
        if (status == HISA_OK) {
            status = cli_gpu_mark(gpu, 1);
        }
        if (status == HISA_OK) {
            status = cli_gpu_seconds(gpu, 0, 1, &seconds);
        }
        if (status == HISA_OK && i >= WARMUP && seconds > 0 && 2.0 * (double)COPY_BYTES / seconds > *best) {
            *best = 2.0 * (double)COPY_BYTES / seconds;
        }
    }
    return status;
}

static hisa_status_t measure_copy(cli_gpu_t *gpu, cli_gpu_peak_t *peak) {
    void *memory[2] = {NULL, NULL};
    hisa_status_t status = hisa_cuda_status(cudaMalloc(&memory[0], COPY_BYTES), "cudaMalloc");
    if (status == HISA_OK) {
        status = hisa_cuda_status(cudaMalloc(&memory[1], COPY_BYTES), "cudaMalloc");
    }
    if (status == HISA_OK) {
        status = hisa_cuda_status(cudaMemsetAsync(memory[0], 0x35, COPY_BYTES, (cudaStream_t)gpu->stream), "filling");
    }
    if (status == HISA_OK) {
        status = time_copy(gpu, memory[1], memory[0], &peak->copy);
    }
    for (int i = 0; i < 2; i++) {
        if (memory[i] != NULL) {
            cudaFree(memory[i]);
        }
    }
    return status;
}

/* ------------------------------------------------------------------------------------------- matrix product */

#if defined(HISA_HAVE_CUBLASLT)

/* Loaded when it is wanted: the command must run where it is not installed. X(name): the functions used. */
#define FUNCTIONS(X)                                                                                                   \
    X(Create)                                                                                                          \
    X(Destroy)                                                                                                         \
    X(Matmul)                                                                                                          \
    X(MatmulAlgoGetHeuristic)                                                                                          \
    X(MatmulDescCreate)                                                                                                \
    X(MatmulDescDestroy)                                                                                               \
    X(MatmulDescSetAttribute)                                                                                          \
    X(MatmulPreferenceCreate)                                                                                          \
    X(MatmulPreferenceDestroy)                                                                                         \
    X(MatmulPreferenceSetAttribute)                                                                                    \
    X(MatrixLayoutCreate)                                                                                              \
    X(MatrixLayoutDestroy)

typedef struct lt {
/* NOLINTNEXTLINE(bugprone-macro-parentheses): a name that is declared takes none */
#define DECLARE(name) __typeof__(cublasLt##name)(*name);
    FUNCTIONS(DECLARE)
#undef DECLARE
} lt_t;

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

/* NULL unless all is there. */
static void *load(lt_t *lt) {
    void *library = dlopen("libcublasLt.so." TEXT(CUBLAS_VER_MAJOR), RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        library = dlopen(HISA_CUBLASLT_PATH, RTLD_NOW | RTLD_LOCAL); /* the toolkit's, of the build */
    }
    if (library == NULL) {
        return NULL;
    }
    bool whole = true;
#define LOAD(name)                                                                                                     \
    *(void **)&lt->name = dlsym(library, "cublasLt" #name);                                                            \
    whole = whole && lt->name != NULL;
    FUNCTIONS(LOAD)
#undef LOAD
    if (!whole) {
        dlclose(library);
        return NULL;
    }
    return library;
}

typedef struct product {
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t description;
    cublasLtMatrixLayout_t in;
    cublasLtMatrixLayout_t out;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t choice;
    void *a; /* e4m3 */
    void *b;
    void *d; /* bf16 */
    void *workspace;
} product_t;

/* Random codes of both signs, 0.25 to 1.9 in magnitude: zeros, or what overflows, would run faster than real data. */
static cudaError_t fill(void *memory, size_t bytes, uint32_t state) {
    uint8_t *codes = malloc(bytes);
    if (codes == NULL) {
        return cudaErrorMemoryAllocation;
    }
    for (size_t i = 0; i < bytes; i++) {
        state = state * 1664525U + 1013904223U;
        codes[i] = (uint8_t)((state >> 24 & 0x80U) | (0x28U + (state >> 16 & 0xffU) % 24U));
    }
    const cudaError_t error = cudaMemcpy(memory, codes, bytes, cudaMemcpyHostToDevice);
    free(codes);
    return error;
}

static hisa_status_t product_memory(product_t *product) {
    const size_t elements = (size_t)(MATRIX * MATRIX);
    const size_t bytes[4] = {elements, elements, 2 * elements, WORKSPACE_BYTES};
    void **const memory[4] = {&product->a, &product->b, &product->d, &product->workspace};
    hisa_status_t status = HISA_OK;
    for (int i = 0; i < 4 && status == HISA_OK; i++) {
        status = hisa_cuda_status(cudaMalloc(memory[i], bytes[i]), "cudaMalloc");
    }
    for (int i = 0; i < 2 && status == HISA_OK; i++) {
        status = hisa_cuda_status(fill(*memory[i], elements, 1 + (uint32_t)i), "filling a matrix");
    }
    return status;
}

/* D = A^T B, the one form that fp8 has: both operands run along the sum. */
static cublasStatus_t product_plan(const lt_t *lt, product_t *product) {
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const int8_t fast = 1; /* sums in the tensor cores' own width, as the scoring kernels have them */
    const uint64_t workspace = WORKSPACE_BYTES;
    int found = 0;
    cublasStatus_t status = lt->Create(&product->handle);
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = lt->MatmulDescCreate(&product->description, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = lt->MatmulDescSetAttribute(product->description, CUBLASLT_MATMUL_DESC_TRANSA, &transposed,
                                            sizeof transposed);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = lt->MatmulDescSetAttribute(product->description, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = lt->MatrixLayoutCreate(&product->in, CUDA_R_8F_E4M3, MATRIX, MATRIX, MATRIX);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = lt->MatrixLayoutCreate(&product->out, CUDA_R_16BF, MATRIX, MATRIX, MATRIX);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = lt->MatmulPreferenceCreate(&product->preference);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status = lt->MatmulPreferenceSetAttribute(product->preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                  &workspace, sizeof workspace);
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
        status =
            lt->MatmulAlgoGetHeuristic(product->handle, product->description, product->in, product->in, product->out,
                                       product->out, product->preference, 1, &product->choice, &found);
    }
    return status == CUBLAS_STATUS_SUCCESS && found == 0 ? CUBLAS_STATUS_NOT_SUPPORTED : status;
}

static void product_free(const lt_t *lt, product_t *product) {
    if (product->preference != NULL) {
        lt->MatmulPreferenceDestroy(product->preference);
    }
    if (product->in != NULL) {
        lt->MatrixLayoutDestroy(product->in);
    }
    if (product->out != NULL) {
        lt->MatrixLayoutDestroy(product->out);
    }
    if (product->description != NULL) {
        lt->MatmulDescDestroy(product->description);
    }
    if (product->handle != NULL) {
        lt->Destroy(product->handle);
    }
    void *const memory[4] = {product->a, product->b, product->d, product->workspace};
    for (int i = 0; i < 4; i++) {
        if (memory[i] != NULL) {
            cudaFree(memory[i]);
        }
    }
}

static cublasStatus_t multiply(const cli_gpu_t *gpu, const lt_t *lt, const product_t *product) {
    const float one = 1;
    const float zero = 0;
    return lt->Matmul(product->handle, product->description, &one, product->a, product->in, product->b, product->in,
                      &zero, product->d, product->out, product->d, product->out, &product->choice.algo,
                      product->workspace, WORKSPACE_BYTES, (cudaStream_t)gpu->stream);
}

/* *refused: cuBLASLt's own verdict, which leaves the product unmeasured and is no error of ours. */
static hisa_status_t time_product(cli_gpu_t *gpu, const lt_t *lt, const product_t *product, double *best,
                                  cublasStatus_t *refused) {
    const double work = 2.0 * (double)MATRIX * (double)MATRIX * (double)MATRIX;
    hisa_status_t status = HISA_OK;
    *refused = CUBLAS_STATUS_SUCCESS;
    for (int i = 0; i < WARMUP + RUNS && status == HISA_OK; i++) {
        double seconds = 0;
        status = cli_gpu_mark(gpu, 0);
        if (status == HISA_OK) {
            *refused = multiply(gpu, lt, product);
            if (*refused != CUBLAS_STATUS_SUCCESS) {
                return HISA_OK;
            }
            status = cli_gpu_mark(gpu, 1);
        }
        if (status == HISA_OK) {
            status = cli_gpu_seconds(gpu, 0, 1, &seconds);
        }
        if (status == HISA_OK && i >= WARMUP && seconds > 0 && work / seconds > *best) {
            *best = work / seconds;
        }
    }
    return status;
}

static hisa_status_t measure_matrix(cli_gpu_t *gpu, cli_gpu_peak_t *peak) {
    lt_t lt;
    void *library = load(&lt);
    if (library == NULL) {
        snprintf(peak->matrix_name, sizeof peak->matrix_name, "not measured: no cuBLASLt %d on this machine",
                 CUBLAS_VER_MAJOR);
        return HISA_OK;
    }
    product_t product = {0};
    cublasStatus_t refused = CUBLAS_STATUS_SUCCESS;
    hisa_status_t status = product_memory(&product);
    if (status == HISA_OK) {
        refused = product_plan(&lt, &product);
        if (refused == CUBLAS_STATUS_SUCCESS) {
            status = time_product(gpu, &lt, &product, &peak->matrix, &refused);
        }
    }
    if (refused == CUBLAS_STATUS_SUCCESS) {
        snprintf(peak->matrix_name, sizeof peak->matrix_name, "cuBLASLt, e4m3 to bf16, %d x %d x %d", (int)MATRIX,
                 (int)MATRIX, (int)MATRIX);
    } else {
        peak->matrix = 0;
        snprintf(peak->matrix_name, sizeof peak->matrix_name, "not measured: cuBLASLt refuses fp8 here (status %d)",
                 (int)refused);
    }
    product_free(&lt, &product);
    dlclose(library);
    return status;
}

#else

static hisa_status_t measure_matrix(cli_gpu_t *gpu, cli_gpu_peak_t *peak) {
    (void)gpu;
    snprintf(peak->matrix_name, sizeof peak->matrix_name, "not measured: this build has no cuBLASLt");
    return HISA_OK;
}

#endif

hisa_status_t cli_gpu_peak(cli_gpu_t *gpu, cli_gpu_peak_t *peak) {
    *peak = (cli_gpu_peak_t){0};
    const hisa_status_t status = measure_copy(gpu, peak);
    return status == HISA_OK ? measure_matrix(gpu, peak) : status;
}
