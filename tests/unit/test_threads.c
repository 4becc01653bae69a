/* Ranks as threads, side by side and by turns; and how timed calls tell what a rank computes from what it waits for. */
#include "comm/threads.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#include "index/index.h"
#include "support/suite.h"

enum { RANKS = 5, ROUNDS = 200, MOST = 37 };

typedef struct rank_run {
    hisa_comm_t *comm;
    int (*body)(struct rank_run *run); /* 0: well */
    bool turns;
    int outcome;
    hisa_status_t status;
    char message[HISA_ERROR_BYTES];
} rank_run_t;

static atomic_int computing; /* ranks that are, by turns */
static atomic_int segments;  /* of computing, over all ranks */

static void *run_rank(void *argument) {
    rank_run_t *run = argument;
    run->status = hisa_threads_begin(run->comm);
    run->outcome = run->status == HISA_OK ? run->body(run) : -1;
    snprintf(run->message, sizeof run->message, "%s", hisa_last_error());
    hisa_threads_end(run->comm, run->status);
    return NULL;
}

/* All ranks run the body; each must have come to the outcome expected of it. */
static void run_all(int ranks, bool turns, double deadline, int (*body)(rank_run_t *run), rank_run_t *run) {
    hisa_comm_t *comms[RANKS];
    pthread_t thread[RANKS];
    atomic_store(&computing, 0);
    atomic_store(&segments, 0);
    ck_ok(hisa_threads_create(ranks, NULL, turns, comms));
    for (int r = 0; r < ranks; ++r) {
        ck_ok(hisa_comm_set_deadline(comms[r], deadline));
        run[r] = (rank_run_t){.comm = comms[r], .body = body, .turns = turns};
        ck_assert_int_eq(pthread_create(&thread[r], NULL, run_rank, &run[r]), 0);
    }
    for (int r = 0; r < ranks; ++r) {
        pthread_join(thread[r], NULL);
    }
    hisa_threads_destroy(ranks, comms);
}

/* ---------------------------------------------------------------------------------------------- what arrives */

/* Byte `place` of what rank `from` has for rank `to` in a round. */
static uint8_t byte_of(int round, int from, int to, int64_t place) {
    return (uint8_t)(round * 31 + from * 7 + to * 3 + place);
}

/* Bytes that go from one rank to another: also none. */
static int64_t size_of(int round, int from, int to) { return (round * 5 + from * 11 + to * 17) % MOST; }

static int gather(const rank_run_t *run, int round) {
    const int size = hisa_comm_size(run->comm);
    const int self = hisa_comm_rank(run->comm);
    uint8_t buffer[RANKS * MOST] = {0};
    int64_t bytes[RANKS] = {0};
    int64_t offsets[RANKS] = {0};
    for (int r = 0; r < size; ++r) {
        bytes[r] = size_of(round, r, 0);
        offsets[r] = (int64_t)r * MOST;
    }
    for (int64_t i = 0; i < bytes[self]; ++i) {
        buffer[offsets[self] + i] = byte_of(round, self, 0, i);
    }
    if (hisa_comm_allgatherv(run->comm, buffer, bytes, offsets, NULL) != HISA_OK) {
        return 1;
    }
    for (int r = 0; r < size; ++r) {
        for (int64_t i = 0; i < MOST; ++i) {
            if (buffer[offsets[r] + i] != (i < bytes[r] ? byte_of(round, r, 0, i) : 0)) {
                return 2;
            }
        }
    }
    return 0;
}

static int all_to_all(const rank_run_t *run, int round) {
    const int size = hisa_comm_size(run->comm);
    const int self = hisa_comm_rank(run->comm);
    uint8_t send[RANKS * MOST] = {0};
    uint8_t recv[RANKS * MOST] = {0};
    int64_t send_bytes[RANKS] = {0};
    int64_t recv_bytes[RANKS] = {0};
    int64_t offsets[RANKS] = {0};
    for (int r = 0; r < size; ++r) {
        send_bytes[r] = size_of(round, self, r);
        recv_bytes[r] = size_of(round, r, self);
        offsets[r] = (int64_t)r * MOST;
        for (int64_t i = 0; i < send_bytes[r]; ++i) {
            send[offsets[r] + i] = byte_of(round, self, r, i);
        }
    }
    if (hisa_comm_alltoallv(run->comm, send, send_bytes, offsets, recv, recv_bytes, offsets, NULL) != HISA_OK) {
        return 3;
    }
    for (int r = 0; r < size; ++r) {
        for (int64_t i = 0; r != self && i < MOST; ++i) {
            if (recv[offsets[r] + i] != (i < recv_bytes[r] ? byte_of(round, r, self, i) : 0)) {
                return 4;
            }
        }
    }
    return 0;
}

static int control(const rank_run_t *run, int round) {
    const int size = hisa_comm_size(run->comm);
    int32_t all[RANKS] = {0};
    all[hisa_comm_rank(run->comm)] = round * 100 + hisa_comm_rank(run->comm);
    if (hisa_comm_control_allgather(run->comm, all, (int64_t)sizeof *all) != HISA_OK) {
        return 5;
    }
    for (int r = 0; r < size; ++r) {
        if (all[r] != round * 100 + r) {
            return 6;
        }
    }
    return 0;
}

/* By turns: alone from one call to the next, and in order of the ranks. */
static int compute(const rank_run_t *run) {
    const int size = hisa_comm_size(run->comm);
    if (!run->turns) {
        return 0;
    }
    const bool alone = atomic_fetch_add(&computing, 1) == 0;
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    const bool in_order = atomic_fetch_add(&segments, 1) % size == hisa_comm_rank(run->comm);
    atomic_fetch_sub(&computing, 1);
    return alone && in_order ? 0 : 7;
}

static int exchange(rank_run_t *run) {
    int outcome = 0;
    for (int round = 0; round < ROUNDS && outcome == 0; ++round) {
        outcome = compute(run);
        outcome = outcome == 0 ? (round % 3 == 0   ? gather(run, round)
                                  : round % 3 == 1 ? all_to_all(run, round)
                                                   : control(run, round))
                               : outcome;
    }
    return outcome == 0 ? compute(run) : outcome;
}

START_TEST(arrives) {
    rank_run_t run[RANKS];
    for (int ranks = 1; ranks <= RANKS; ++ranks) {
        run_all(ranks, _i != 0, 60, exchange, run);
        for (int r = 0; r < ranks; ++r) {
            ck_assert_msg(run[r].outcome == 0, "rank %d of %d: %d: %s", r, ranks, run[r].outcome, run[r].message);
        }
        ck_assert_int_eq(atomic_load(&segments), _i != 0 ? ranks * (ROUNDS + 1) : 0);
    }
}
END_TEST

START_TEST(control_calls_are_counted) {
    hisa_comm_t *comms[1];
    int64_t word = 0;
    ck_ok(hisa_threads_create(1, NULL, true, comms));
    ck_assert_str_eq(hisa_comm_name(comms[0]), "threads");
    ck_assert_int_eq(hisa_threads_control_calls(comms[0]), 0);
    ck_ok(hisa_comm_control_allgather(comms[0], &word, (int64_t)sizeof word));
    ck_assert_int_eq(hisa_threads_control_calls(comms[0]), 1);
    hisa_threads_destroy(1, comms);
    ck_fails(hisa_threads_create(0, NULL, true, comms), HISA_ERR_INVALID_ARGUMENT, "0 ranks");
    ck_fails(hisa_threads_create(HISA_THREADS_MAX + 1, NULL, true, comms), HISA_ERR_INVALID_ARGUMENT, "65 ranks");
}
END_TEST

/* ---------------------------------------------------------------------------------------------- what does not */

/* Rank 2 gives up after a while. */
static int give_up(rank_run_t *run) {
    for (int round = 0; round < 10; ++round) {
        if (round == 4 && hisa_comm_rank(run->comm) == 2) {
            run->status = hisa_fail(HISA_ERR_CAPACITY, "the jug is full");
            return 0;
        }
        int32_t all[RANKS] = {0};
        run->status = hisa_comm_control_allgather(run->comm, all, (int64_t)sizeof *all);
        if (run->status != HISA_OK) {
            /* By turns those behind it wait for theirs in the call before. */
            return round == 4 || (run->turns && round == 3 && hisa_comm_rank(run->comm) > 2) ? 0 : 8;
        }
    }
    return 9;
}

START_TEST(gives_up) {
    rank_run_t run[RANKS];
    run_all(RANKS, _i != 0, 60, give_up, run);
    for (int r = 0; r < RANKS; ++r) {
        ck_assert_msg(run[r].outcome == 0, "rank %d: %d: %s", r, run[r].outcome, run[r].message);
        ck_assert_int_eq((int)run[r].status, (int)(r == 2 ? HISA_ERR_CAPACITY : HISA_ERR_COMM));
        ck_assert_ptr_nonnull(strstr(run[r].message, r == 2 ? "the jug is full" : "rank 2: the jug is full"));
    }
}
END_TEST

/* Rank 1 comes too late; by turns those behind it wait for their turn, and those before it for the exchange. */
static int come_late(rank_run_t *run) {
    int32_t all[RANKS] = {0};
    if (hisa_comm_rank(run->comm) == 1) {
        nanosleep(&(struct timespec){.tv_nsec = 700000000}, NULL);
    }
    run->status = hisa_comm_control_allgather(run->comm, all, (int64_t)sizeof *all);
    return run->status == HISA_ERR_TIMEOUT ? 0 : 10;
}

START_TEST(comes_late) {
    rank_run_t run[RANKS];
    run_all(RANKS, _i != 0, 0.2, come_late, run);
    for (int r = 0; r < RANKS; ++r) {
        ck_assert_msg(run[r].status == HISA_ERR_TIMEOUT, "rank %d: %d: %s", r, (int)run[r].status, run[r].message);
        ck_assert_ptr_nonnull(strstr(run[r].message, "did not come within 0.2 s"));
    }
}
END_TEST

/* ---------------------------------------------------------------------------------------------- timed calls */

enum { TOKENS = 512, DIM = 16, BLOCK = 16, BLOCKS = 4, TOP_K = 32 };

static const double late = 0.3; /* seconds that rank 1 is late */

static hisa_status_t select_timed(hisa_index_t *index, hisa_exchange_t exchange, const uint8_t *q) {
    static const float weight = 1.0F;
    static _Alignas(256) uint8_t workspace[RANKS][1 << 16];
    int32_t indices[TOP_K];
    hisa_select_options_t options;
    hisa_queries_t queries;
    hisa_selection_t selection;
    size_t bytes = 0;
    hisa_select_options_init(&options);
    hisa_queries_init(&queries);
    hisa_selection_init(&selection);
    options.exchange = exchange;
    options.top_blocks = BLOCKS;
    options.top_k = TOP_K;
    options.flags = HISA_SELECT_TIMED | HISA_SELECT_UNCHECKED; /* an agreement would wait for the late one */
    queries.num_rows = 1;
    queries.q = q;
    queries.weights = &weight;
    selection.indices = indices;
    const hisa_status_t status = hisa_select_workspace_size(index, &options, 1, &bytes);
    if (status != HISA_OK || bytes > sizeof workspace[0]) {
        return status != HISA_OK ? status : HISA_ERR_WORKSPACE;
    }
    return hisa_select(index, &queries, &options, &selection, workspace[index->shard.rank], bytes, NULL);
}

/* Rank 0 waits for rank 1 in its first exchange: what it computes and what it waits for are told apart. */
static int wait_in_exchange(rank_run_t *run) {
    static const hisa_exchange_t exchanges[] = {HISA_EXCHANGE_OWNER, HISA_EXCHANGE_ONESHOT, HISA_EXCHANGE_LISTS};
    static uint8_t keys[TOKENS * DIM];
    float scales[TOKENS];
    const int self = hisa_comm_rank(run->comm);
    hisa_index_config_t config;
    hisa_index_t *index = NULL;
    hisa_index_config_init(&config);
    config.backend = HISA_BACKEND_CPU;
    config.threads = 1;
    config.head_dim = DIM;
    config.num_heads = 1;
    config.block_size = BLOCK;
    config.capacity = TOKENS;
    for (int i = 0; i < TOKENS; ++i) {
        scales[i] = 1.0F;
    }
    run->status = hisa_index_create(&config, run->comm, &index);
    if (run->status == HISA_OK) {
        run->status = hisa_index_append(index, 0, TOKENS, keys, scales, HISA_KEYS_REPLICATED, NULL);
    }
    int outcome = 0;
    for (int e = 0; e < 3 && run->status == HISA_OK && outcome == 0; ++e) {
        hisa_stats_t stats = {.struct_size = sizeof stats};
        int64_t meet[RANKS] = {0};
        double computed = 0;
        double exchanged = 0;
        hisa_index_stats_reset(index);
        run->status = hisa_comm_control_allgather(run->comm, meet, (int64_t)sizeof meet[0]);
        if (self == 1) {
            nanosleep(&(struct timespec){.tv_nsec = (long)(1e9 * late)}, NULL);
        }
        if (run->status == HISA_OK) {
            run->status = select_timed(index, exchanges[e], keys);
        }
        hisa_index_stats(index, &stats);
        for (int s = 0; s < HISA_STEP_COUNT; ++s) {
            computed += stats.steps[s].seconds - stats.steps[s].exchange_seconds;
            exchanged += stats.steps[s].exchange_seconds;
            outcome = stats.steps[s].exchange_seconds > stats.steps[s].seconds ? 11 : outcome;
        }
        const bool waited = exchanged > late / 2;
        if (computed <= 0 || computed > late / 2 || waited != (self == 0 && hisa_comm_size(run->comm) > 1)) {
            outcome = 12;
        }
    }
    hisa_index_destroy(index);
    return outcome;
}

START_TEST(exchanges_are_told_apart) {
    rank_run_t run[RANKS];
    for (int ranks = 1; ranks <= 2; ++ranks) {
        run_all(ranks, false, 60, wait_in_exchange, run);
        for (int r = 0; r < ranks; ++r) {
            ck_assert_msg(run[r].status == HISA_OK && run[r].outcome == 0, "rank %d of %d: %d: %s", r, ranks,
                          run[r].outcome, run[r].message);
        }
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("threads");
    TCase *tcase = tcase_create("threads");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, arrives, 0, 2);
    tcase_add_test(tcase, control_calls_are_counted);
    tcase_add_loop_test(tcase, gives_up, 0, 2);
    tcase_add_loop_test(tcase, comes_late, 0, 2);
    tcase_add_test(tcase, exchanges_are_told_apart);
    suite_add_tcase(suite, tcase);
    return suite_main(suite);
}
