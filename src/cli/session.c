#include "cli/session.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/backend.h"
#include "base/checked.h"
#include "base/error.h"
#ifdef HISA_HAVE_MPI
#include "hisa/hisa_mpi.h"
#endif
#ifdef HISA_HAVE_NCCL
#include "cli/rank_gpu.h"
#include "hisa/hisa_nccl.h"
#endif
#ifdef HISA_HAVE_OPENMP
#include <omp.h>
#endif

#define EXIT_USAGE 2

/* How long a rank that saw a communication failure leaves rank 0 to report it, before it speaks up itself. */
#define SECONDS_FOR_RANK_0 5

/* Whether a launcher started us, by the variables that Open MPI, MPICH, Intel MPI, PMIx and Slurm's PMI set.
 * Slurm's own SLURM_NTASKS proves nothing: it is also set in an allocation's shell. */
static bool launched(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_SIZE", "PMI_RANK"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (getenv(names[i]) != NULL) {
            return true;
        }
    }
    return false;
}

/* ------------------------------------------------------------------------------------------- MPI */

#ifdef HISA_HAVE_MPI
static hisa_status_t start_mpi(cli_session_t *session, int *argc, char ***argv) {
    int provided = 0;
    /* Only the main thread calls MPI; the backend's threads do not. A failure ends the program, by MPI's default. */
    if (MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
        return hisa_fail(HISA_ERR_COMM, "MPI did not start");
    }
    session->mpi_started = true;
    MPI_Comm_rank(MPI_COMM_WORLD, &session->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &session->size);
    hisa_comm_destroy(session->comm);
    session->comm = NULL;
    return hisa_comm_create_mpi(MPI_COMM_WORLD, &session->comm);
}

static void stop_mpi(void) { MPI_Finalize(); }

static void abort_mpi(void) { MPI_Abort(MPI_COMM_WORLD, EXIT_FAILURE); }

#else
/* The number in an environment variable, or -1. */
static int number_in(const char *name) {
    const char *text = getenv(name);
    return text == NULL ? -1 : atoi(text);
}

/* Several copies of a program that cannot talk would each do, and write, the same. */
static hisa_status_t start_mpi(cli_session_t *session, int *argc, char ***argv) {
    (void)argc;
    (void)argv;
    if (session->comm == NULL && (number_in("OMPI_COMM_WORLD_SIZE") == 1 || number_in("PMI_SIZE") == 1)) {
        return hisa_comm_create_self(&session->comm);
    }
    session->rank = (int)hisa_max(number_in("PMIX_RANK"), number_in("PMI_RANK"));
    session->rank = (int)hisa_max(0, session->rank);
    return hisa_fail(HISA_ERR_UNSUPPORTED, "this build of hisa has no MPI, and cannot be one of several ranks");
}
static void stop_mpi(void) {}
static void abort_mpi(void) { exit(EXIT_FAILURE); }
#endif

#if defined(HISA_HAVE_NCCL)
/* This rank's place among those of its host. Collective. */
static int place_on_host(const cli_session_t *session) {
    int place = 0;
#ifdef HISA_HAVE_MPI
    if (session->mpi_started) {
        MPI_Comm host = MPI_COMM_NULL;
        MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
        MPI_Comm_rank(host, &place);
        MPI_Comm_free(&host);
    }
#endif
    const int told = cli_rank_gpu_place();
    return session->size > 1 && told >= 0 ? told : place;
}
#endif

#if defined(HISA_HAVE_MPI) && defined(HISA_HAVE_OPENMP)
/* This rank's share of the cores that it may run on: those of its affinity mask, divided among the ranks of this host
 * whose masks meet it. Collective. */
static int share_of_cores(void) {
    cpu_set_t mine;
    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) {
        CPU_SET(0, &mine);
    }
    MPI_Comm host = MPI_COMM_NULL;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    int ranks = 1;
    MPI_Comm_size(host, &ranks);
    int sharers = ranks;
    cpu_set_t *masks = calloc((size_t)ranks, sizeof *masks);
    int have = masks != NULL;
    MPI_Allreduce(MPI_IN_PLACE, &have, 1, MPI_INT, MPI_MIN, host);
    if (have && masks != NULL) {
        MPI_Allgather(&mine, sizeof mine, MPI_BYTE, masks, sizeof mine, MPI_BYTE, host);
        sharers = 0;
        for (int i = 0; i < ranks; i++) {
            cpu_set_t both;
            CPU_AND(&both, &mine, &masks[i]);
            sharers += CPU_COUNT(&both) > 0;
        }
    }
    free(masks);
    MPI_Comm_free(&host);
    return (int)hisa_max(1, CPU_COUNT(&mine) / (int)hisa_max(1, sharers));
}
#else
static int share_of_cores(void) { return 1; }
#endif

/* Collective, whatever a rank's environment says. */
static int default_threads(const cli_session_t *session) {
    const int share = session->mpi_started ? share_of_cores() : 1;
#ifdef HISA_HAVE_OPENMP
    return session->mpi_started && getenv("OMP_NUM_THREADS") == NULL ? share : omp_get_max_threads();
#else
    return share;
#endif
}

/* ------------------------------------------------------------------------------------------- the session */

hisa_status_t cli_session_start(cli_session_t *session, int *argc, char ***argv) {
    *session = (cli_session_t){.command = "", .size = 1, .threads = 1};
    if (launched()) {
        return start_mpi(session, argc, argv);
    }
    return hisa_comm_create_self(&session->comm);
}

/* What the options ask of the communicator and the backend, checked on this rank alone. */
static hisa_status_t check_wishes(const cli_session_t *session, const cli_options_t *options) {
#ifndef HISA_HAVE_NCCL
    if (options->comm == CLI_COMM_NCCL) {
        return hisa_fail(HISA_ERR_UNSUPPORTED, "--comm nccl: this build of hisa has no NCCL communicator");
    }
#endif
    if (options->share_gpu && options->comm != CLI_COMM_NCCL) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "--share-gpu is for --comm nccl");
    }
    if (options->comm == CLI_COMM_NCCL && options->backend == HISA_BACKEND_CPU) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT, "--comm nccl moves device memory: it is not for --backend cpu");
    }
    if (options->comm == CLI_COMM_SELF && session->size > 1) {
        return hisa_fail(HISA_ERR_INVALID_ARGUMENT,
                         "--comm self is one rank, but %d were started: leave mpirun out, or use --comm mpi",
                         session->size);
    }
#ifdef HISA_HAVE_CUDA
    return options->backend == HISA_BACKEND_CUDA || options->comm == CLI_COMM_NCCL ? hisa_cuda_present() : HISA_OK;
#else
    if (options->backend == HISA_BACKEND_CUDA) {
        return hisa_fail(HISA_ERR_UNSUPPORTED, "--backend cuda: this build of hisa has no CUDA backend");
    }
    return HISA_OK;
#endif
}

#ifdef HISA_HAVE_NCCL
/* From here on data goes by NCCL, and agreement as before, beneath it. */
static hisa_status_t join_nccl(cli_session_t *session, const cli_options_t *options) {
    hisa_status_t status = cli_rank_gpu_take(session, place_on_host(session), options->share_gpu);
    if (status != HISA_OK) {
        return status;
    }
    hisa_nccl_config_t config;
    hisa_nccl_config_init(&config);
    config.control = session->comm;
    hisa_comm_t *comm = NULL;
    status = hisa_comm_create_nccl(&config, &comm);
    if (status == HISA_OK) {
        session->control = session->comm;
        session->comm = comm;
    }
    return status;
}
#else
static hisa_status_t join_nccl(cli_session_t *session, const cli_options_t *options) {
    (void)session;
    (void)options;
    return HISA_ERR_UNSUPPORTED; /* refused before, by check_wishes */
}
#endif

/* On this rank alone. */
static hisa_status_t set_cost(hisa_comm_t *comm, const cli_options_t *options) {
    double latency = 0;
    double bandwidth = 0;
    hisa_comm_cost(comm, &latency, &bandwidth);
    latency = options->comm_latency >= 0 ? options->comm_latency : latency;
    bandwidth = options->comm_bandwidth > 0 ? options->comm_bandwidth : bandwidth;
    return hisa_comm_set_cost(comm, latency, bandwidth);
}

hisa_status_t cli_session_join(cli_session_t *session, const cli_options_t *options) {
    hisa_status_t status = cli_session_agree(session, check_wishes(session, options));
    if (status != HISA_OK) {
        return status;
    }
    const hisa_agree_value_t values[] = {{"--comm", options->comm}};
    status = cli_session_agree_values(session, HISA_OK, values, 1);
    if (status == HISA_OK && options->comm == CLI_COMM_MPI && !session->mpi_started) {
        status = start_mpi(session, NULL, NULL);
    }
    if (status != HISA_OK) {
        return status;
    }
    /* All ranks work out their share, whether they use it or not: it is collective. */
    const int threads = default_threads(session);
    session->threads = options->threads > 0 ? options->threads : threads;
    status = cli_session_agree(session, hisa_comm_set_deadline(session->comm, options->deadline));
    if (status == HISA_OK && options->comm == CLI_COMM_NCCL) {
        status = join_nccl(session, options);
    }
    return status == HISA_OK ? cli_session_agree(session, set_cost(session->comm, options)) : status;
}

hisa_status_t cli_session_agree_all(cli_session_t *session, hisa_status_t status) {
    /* One rank agrees with itself, and its message needs no "rank 0". */
    return session->size == 1 ? status : hisa_comm_agree(session->comm, status, hisa_last_error());
}

hisa_status_t cli_session_agree_values(cli_session_t *session, hisa_status_t status, const hisa_agree_value_t *values,
                                       int count) {
    return session->size == 1 ? status : hisa_comm_agree_values(session->comm, status, values, count, 0, NULL);
}

hisa_status_t cli_session_gather(cli_session_t *session, const void *mine, void *all, int64_t bytes) {
    memcpy((char *)all + session->rank * bytes, mine, (size_t)bytes);
    return hisa_comm_control_allgather(session->comm, all, bytes);
}

static void print_error(const cli_session_t *session) {
    if (session->command[0] == '\0') {
        fprintf(stderr, "hisa: %s\n", hisa_last_error());
    } else {
        fprintf(stderr, "hisa: %s: %s\n", session->command, hisa_last_error());
    }
}

int cli_session_finish(cli_session_t *session, hisa_status_t status) {
    /* After a failed collective the peers may be anywhere, and MPI_Finalize would wait for them. */
    const bool lost = session->size > 1 && (session->comm == NULL || session->comm->poisoned);
    if (status != HISA_OK && session->rank != 0 && lost) {
        nanosleep(&(struct timespec){.tv_sec = SECONDS_FOR_RANK_0}, NULL);
    }
    if (status != HISA_OK && (session->rank == 0 || lost)) {
        print_error(session);
    }
    if (lost) {
        abort_mpi();
    }
    hisa_comm_destroy(session->comm);
    hisa_comm_destroy(session->control);
    session->comm = NULL;
    session->control = NULL;
    if (session->mpi_started) {
        stop_mpi();
    }
    if (status == HISA_OK) {
        return EXIT_SUCCESS;
    }
    return session->usage_error ? EXIT_USAGE : EXIT_FAILURE;
}
