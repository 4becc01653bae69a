/* hisa info: what this build has, what this machine offers, and what ranks are taken to cost. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "base/error.h"
#include "cli/command.h"
#include "cli/staging.h"
#include "comm/clock.h"
#include "index/index.h"
#include "select/policy.h"

typedef struct info_arguments {
    cli_options_t options;
    bool measure;
} info_arguments_t;

enum { KEY_MEASURE = 0x300 };

/* NOLINTNEXTLINE(readability-non-const-parameter): argp's signature */
static error_t parse(int key, char *arg, struct argp_state *state) {
    (void)arg;
    info_arguments_t *arguments = state->input;
    if (key == ARGP_KEY_INIT) {
        cli_options_pass_on(state, 2, &arguments->options);
        return 0;
    }
    if (key == KEY_MEASURE) {
        arguments->measure = true;
        return 0;
    }
    return ARGP_ERR_UNKNOWN;
}

static const struct argp_option info_options[] = {
    {"measure", KEY_MEASURE, NULL, 0, "Measure what an all-gather among these ranks takes, for --comm-latency", 1},
    {0},
};
static const struct argp_child children[] = {{&cli_run_argp, 0, NULL, 0}, {&cli_general_argp, 0, NULL, 0}, {0}};
static const struct argp parser = {
    .options = info_options,
    .parser = parse,
    .doc = "Prints the version, the build's options, the backends and communicators that it has, and by which figures "
           "--exchange auto chooses among the ranks of this run.",
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

static void print_build(const cli_session_t *session) {
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

/* ------------------------------------------------------------------------------------------- what ranks cost */

/* Calls follow each other without a wait, as a call's exchanges do. Large ones must take longer than the host takes to
 * enqueue them, or the bandwidth comes out as anything: a device link moves 4 MB in less. */
#define MEASURED_CALLS 64
#define SMALL_BYTES 1024
#define LARGE_BYTES (INT64_C(4) << 20)
#define LARGE_BYTES_ON_DEVICE (INT64_C(64) << 20)

/* The least seconds of a call over some series of them, on this rank. Collective. */
static hisa_status_t time_gathers(hisa_index_t *index, void *buffer, int64_t bytes, double *seconds) {
    enum { SERIES = 5 };
    hisa_status_t status = HISA_OK;
    *seconds = 0;
    for (int series = 0; series <= SERIES && status == HISA_OK; series++) { /* the first warms up */
        const double begin = hisa_now();
        for (int i = 0; i < MEASURED_CALLS && status == HISA_OK; i++) {
            status = hisa_comm_allgather(index->comm, buffer, bytes, NULL);
        }
        if (status == HISA_OK) {
            status = cli_staged_wait(index);
        }
        const double each = (hisa_now() - begin) / MEASURED_CALLS;
        *seconds = series <= 1 || each < *seconds ? each : *seconds;
    }
    return status;
}

/* Collective; agreed. */
static hisa_status_t measure(cli_session_t *session, hisa_index_t *index) {
    const int64_t large = hisa_index_ops(index)->device_memory ? LARGE_BYTES_ON_DEVICE : LARGE_BYTES;
    void *buffer = NULL;
    double seconds[2] = {0, 0};
    hisa_status_t status = cli_session_agree(session, cli_staged_alloc(index, session->size * large, &buffer));
    if (status == HISA_OK) {
        status = time_gathers(index, buffer, SMALL_BYTES, &seconds[0]);
    }
    if (status == HISA_OK) {
        status = time_gathers(index, buffer, large, &seconds[1]);
    }
    cli_staged_release(index, buffer);
    if (status == HISA_OK && session->rank == 0) {
        const double more = (session->size - 1) * (double)(large - SMALL_BYTES);
        const double apart = seconds[1] - seconds[0];
        printf("%-14s an all-gather of %d bytes a rank in %.4g us, of %" PRId64 " in %.4g us\n", "measured",
               SMALL_BYTES, 1e6 * seconds[0], large, 1e6 * seconds[1]);
        if (apart > 0) {
            printf("%-14s --comm-latency %.4g --comm-bandwidth %.4g\n", "that is", 1e6 * seconds[0],
                   more / apart / 1e9);
        }
    }
    return status;
}

static void print_cost(hisa_index_t *index) {
    const int64_t lengths[] = {INT64_C(128) << 10, INT64_C(1) << 20, INT64_C(4) << 20};
    hisa_policy_t policy;
    hisa_policy_of(index, &policy);
    printf("%-14s latency %.4g us, %.4g GB/s; scoring %.4g TFLOP/s, %.4g G candidates/s, host %.4g us\n",
           "taken to cost", 1e6 * policy.comm.latency, policy.comm.bandwidth / 1e9, policy.flop_rate / 1e12,
           policy.candidate_rate / 1e9, 1e6 * policy.host_wait);
    for (hisa_mode_t mode = HISA_MODE_HISA; mode <= HISA_MODE_BLOCK; mode++) {
        hisa_select_options_t options;
        hisa_select_options_init(&options);
        options.mode = mode;
        printf("%-14s %s:", "owner merge", cli_mode_names[mode]);
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            const int64_t blocks = lengths[i] / policy.block_size;
            policy.local_blocks = (blocks + policy.ranks - 1) / policy.ranks;
            const int64_t rows = hisa_policy_switch(&policy, &options, INT32_MAX);
            if (rows > INT32_MAX) {
                printf("%s never at %" PRId64 "K tokens", i == 0 ? "" : ",", lengths[i] >> 10);
            } else {
                printf("%s from %" PRId64 " rows at %" PRId64 "K tokens", i == 0 ? "" : ",", rows, lengths[i] >> 10);
            }
        }
        printf("\n");
    }
}

/* Collective; agreed. */
static hisa_status_t report_cost(cli_session_t *session, const info_arguments_t *arguments) {
    hisa_index_config_t config;
    hisa_index_config_init(&config);
    config.backend = arguments->options.backend;
    config.threads = session->threads;
    config.capacity = config.block_size;
    hisa_index_t *index = NULL;
    hisa_status_t status = hisa_index_create(&config, session->comm, &index);
    if (status == HISA_OK && session->rank == 0) {
        print_cost(index);
    }
    if (status == HISA_OK && arguments->measure) {
        status = measure(session, index);
    }
    hisa_index_destroy(index);
    return status;
}

hisa_status_t cli_info(cli_session_t *session, int argc, char **argv) {
    info_arguments_t arguments = {.measure = false};
    cli_options_init(&arguments.options);
    bool go = false;
    hisa_status_t status = cli_command_begin(session, &parser, argc, argv, &arguments, &arguments.options, &go);
    if (go) {
        const hisa_agree_value_t values[] = {{"--measure", arguments.measure}};
        status = cli_session_agree_values(session, HISA_OK, values, 1);
    }
    if (go && status == HISA_OK && session->rank == 0) {
        print_build(session);
    }
    if (go && status == HISA_OK && session->size > 1) {
        status = report_cost(session, &arguments);
    } else if (status == HISA_OK && arguments.measure) {
        status = hisa_fail(HISA_ERR_INVALID_ARGUMENT, "--measure needs several ranks: this run is of one");
    }
    cli_options_free(&arguments.options);
    return status;
}
