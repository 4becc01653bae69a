/* hisa info: what this build has, and what this machine offers. */
#include <stdio.h>
#include <stdlib.h>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "base/error.h"
#include "cli/command.h"

typedef struct info_arguments {
    cli_options_t options;
} info_arguments_t;

/* NOLINTNEXTLINE(readability-non-const-parameter): argp's signature */
static error_t parse(int key, char *arg, struct argp_state *state) {
    (void)arg;
    info_arguments_t *arguments = state->input;
    if (key == ARGP_KEY_INIT) {
        cli_options_pass_on(state, 1, &arguments->options);
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_child children[] = {{&cli_general_argp, 0, NULL, 0}, {0}};
static const struct argp parser = {
    .parser = parse,
    .doc = "Prints the version, the build's options, and the backends and communicators that it has.",
    .children = children,
};

#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define COMPILER "gcc " __VERSION__
#else
#define COMPILER "unknown"
#endif

#ifdef HISA_HAVE_MPI
#define HAS_MPI true
#else
#define HAS_MPI false
#endif
#ifdef HISA_HAVE_OPENMP
#define HAS_OPENMP true
#else
#define HAS_OPENMP false
#endif
#ifdef HISA_HAVE_CUDA
#define HAS_CUDA true
#else
#define HAS_CUDA false
#endif
#ifdef HISA_HAVE_NCCL
#define HAS_NCCL true
#else
#define HAS_NCCL false
#endif

static void print_feature(const char *name, bool has) { printf("%-14s %s\n", name, has ? "yes" : "no"); }

hisa_status_t cli_info(cli_session_t *session, int argc, char **argv) {
    info_arguments_t arguments;
    cli_options_init(&arguments.options);
    bool go = false;
    const hisa_status_t status = cli_command_begin(session, &parser, argc, argv, &arguments, &arguments.options, &go);
    if (go && session->rank == 0) {
        int major = 0;
        int minor = 0;
        int patch = 0;
        hisa_version(&major, &minor, &patch);
        printf("%-14s %d.%d.%d\n", "version", major, minor, patch);
        printf("%-14s %s\n", "compiler", COMPILER);
        print_feature("MPI", HAS_MPI);
        print_feature("OpenMP", HAS_OPENMP);
        print_feature("CUDA", HAS_CUDA);
        print_feature("NCCL", HAS_NCCL);
        printf("%-14s cpu (%s)%s\n", "backends", hisa_cpu_isa_name(), HAS_CUDA ? ", cuda" : "");
#ifdef HISA_HAVE_CUDA
        char device[HISA_ERROR_BYTES];
        hisa_cuda_describe(device, sizeof device);
        printf("%-14s %s\n", "CUDA device", device);
#endif
        printf("%-14s self%s%s\n", "communicators", HAS_MPI ? ", mpi" : "", HAS_NCCL ? ", nccl" : "");
        printf("%-14s %s, ranks %d, threads a rank %d\n", "this run", hisa_comm_name(session->comm), session->size,
               session->threads);
    }
    cli_options_free(&arguments.options);
    return status;
}
