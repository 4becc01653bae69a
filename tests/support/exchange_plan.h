/* Random exchanges for the suites of communicators: sizes that all ranks draw alike, memory for them, and what MPI's
 * own collectives make of it. The seed is all that a failure needs to be repeated. */
#ifndef HISA_TESTS_EXCHANGE_PLAN_H
#define HISA_TESTS_EXCHANGE_PLAN_H

#include <time.h>

#include "support/mpi_suite.h"
#include "support/rng.h"

#define PLAN_RANKS_MAX 16
#define PLAN_FILL 0x5a /* what no part covers */

/* One exchange, with memory for it and MPI's answer. A gather uses the sizes and offsets that it receives by. */
typedef struct exchange_plan {
    int64_t send_bytes[PLAN_RANKS_MAX];
    int64_t recv_bytes[PLAN_RANKS_MAX];
    int64_t send_offsets[PLAN_RANKS_MAX];
    int64_t recv_offsets[PLAN_RANKS_MAX];
    int64_t sent;      /* bytes of this rank to the others */
    int64_t received;  /* and of the others to it */
    int64_t send_room; /* bytes of send */
    int64_t room;      /* bytes of got and of expected, less one */
    char *send;        /* NULL in a gather */
    char *got;         /* what the call under test works on */
    char *expected;
} exchange_plan_t;

static inline char *plan_filled(int64_t bytes) {
    char *buffer = malloc((size_t)bytes + 1);
    ck_assert_ptr_nonnull(buffer);
    memset(buffer, PLAN_FILL, (size_t)bytes + 1);
    return buffer;
}

static inline void plan_randomise(rng_t *rng, char *buffer, int64_t bytes) {
    for (int64_t i = 0; i < bytes; ++i) {
        buffer[i] = (char)rng_next(rng);
    }
}

/* A seed of this run, equal on all ranks; HISA_TEST_SEED repeats a run. */
static inline uint64_t plan_run_seed(void) {
    const char *given = getenv("HISA_TEST_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : (uint64_t)time(NULL);
    MPI_Bcast(&seed, 1, MPI_UINT64_T, 0, MPI_COMM_WORLD);
    if (mpi_suite_rank() == 0) {
        printf("%s: HISA_TEST_SEED=%llu\n", mpi_suite_test, (unsigned long long)seed);
    }
    return seed * 100000;
}

/* Zero often, small mostly, sometimes up to `limit`. */
static inline int64_t plan_size(rng_t *rng, int64_t limit) {
    const int64_t kind = rng_range(rng, 0, 7);
    return kind < 3 ? 0 : rng_range(rng, 0, kind < 7 ? 299 : limit);
}

/* Places parts one behind the other with gaps, at odd addresses and out of order too; returns the room they need. */
static inline int64_t plan_place(rng_t *rng, const int64_t *sizes, int64_t *offsets) {
    const int ranks = mpi_suite_size();
    int64_t end = rng_range(rng, 0, 15);
    const bool backwards = rng_chance(rng, 50);
    for (int i = 0; i < ranks; ++i) {
        const int r = backwards ? ranks - 1 - i : i;
        offsets[r] = end;
        end += sizes[r] + rng_range(rng, 0, 4);
    }
    return end + 8;
}

static inline void plan_to_int(const int64_t *from, int *to) {
    for (int r = 0; r < mpi_suite_size(); ++r) {
        to[r] = (int)from[r];
    }
}

/* A gather of parts of different sizes. */
static inline exchange_plan_t plan_gather(uint64_t seed, int64_t limit) {
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    exchange_plan_t plan = {.send = NULL};
    rng_t rng = {seed};
    rng_t content = {seed + (uint64_t)rank + 1};
    int bytes[PLAN_RANKS_MAX];
    int offsets[PLAN_RANKS_MAX];
    for (int r = 0; r < ranks; ++r) {
        plan.recv_bytes[r] = plan_size(&rng, limit);
        plan.received += r == rank ? 0 : plan.recv_bytes[r];
    }
    plan.sent = plan.recv_bytes[rank] * (ranks - 1);
    plan.room = plan_place(&rng, plan.recv_bytes, plan.recv_offsets);
    plan.got = plan_filled(plan.room);
    plan.expected = plan_filled(plan.room);
    plan_randomise(&content, plan.got + plan.recv_offsets[rank], plan.recv_bytes[rank]);
    memcpy(plan.expected, plan.got, (size_t)plan.room);
    plan_to_int(plan.recv_bytes, bytes);
    plan_to_int(plan.recv_offsets, offsets);
    MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_BYTE, plan.expected, bytes, offsets, MPI_BYTE, MPI_COMM_WORLD);
    return plan;
}

/* All to all. The own part of what is received must stay as it was; its entries are not to be looked at. */
static inline exchange_plan_t plan_alltoall(uint64_t seed, int64_t limit) {
    const int ranks = mpi_suite_size();
    const int rank = mpi_suite_rank();
    exchange_plan_t plan = {.send = NULL};
    rng_t rng = {seed};
    rng_t own = {seed + (uint64_t)rank + 1};
    const int64_t idle = rng_range(&rng, 0, 2 * ranks - 1); /* a rank that takes no part, half of the time */
    for (int from = 0; from < ranks; ++from) {
        for (int to = 0; to < ranks; ++to) {
            const int64_t drawn = plan_size(&rng, limit);
            const int64_t size = from == idle || to == idle ? 0 : drawn;
            if (from == rank) {
                plan.send_bytes[to] = size;
                plan.sent += to == rank ? 0 : size;
            }
            if (to == rank) {
                plan.recv_bytes[from] = size;
                plan.received += from == rank ? 0 : size;
            }
        }
    }
    plan.send_room = plan_place(&own, plan.send_bytes, plan.send_offsets);
    plan.room = plan_place(&own, plan.recv_bytes, plan.recv_offsets);
    plan.send = plan_filled(plan.send_room);
    plan.got = plan_filled(plan.room);
    plan.expected = plan_filled(plan.room);
    plan_randomise(&own, plan.send, plan.send_room);
    int ints[4][PLAN_RANKS_MAX];
    plan_to_int(plan.send_bytes, ints[0]);
    plan_to_int(plan.send_offsets, ints[1]);
    plan_to_int(plan.recv_bytes, ints[2]);
    plan_to_int(plan.recv_offsets, ints[3]);
    MPI_Alltoallv(plan.send, ints[0], ints[1], MPI_BYTE, plan.expected, ints[2], ints[3], MPI_BYTE, MPI_COMM_WORLD);
    memset(plan.expected + plan.recv_offsets[rank], PLAN_FILL, (size_t)plan.recv_bytes[rank]);
    plan.send_bytes[rank] = plan.recv_bytes[rank] = -1;
    plan.send_offsets[rank] = plan.recv_offsets[rank] = INT64_MAX;
    return plan;
}

/* got is what MPI made of it; frees the plan's memory. */
static inline void plan_finish(exchange_plan_t *plan, uint64_t seed) {
    ck_assert_msg(memcmp(plan->got, plan->expected, (size_t)plan->room + 1) == 0, "%s differs, seed %llu",
                  plan->send == NULL ? "allgatherv" : "alltoallv", (unsigned long long)seed);
    free(plan->send);
    free(plan->got);
    free(plan->expected);
}

#endif
