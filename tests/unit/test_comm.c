/* Errors, version, and the communicator of one rank. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "base/error.h"
#include "comm/comm.h"
#include "comm/version.h"
#include "support/suite.h"

/* ---------------------------------------------------------------------------------------------- status and errors */

/* Codes are part of the ABI: this table is a copy on purpose. */
static const struct {
    hisa_status_t status;
    int code;
    const char *text;
} statuses[] = {
    {HISA_OK, 0, "success"},
    {HISA_ERR_INVALID_ARGUMENT, 1, "invalid argument"},
    {HISA_ERR_UNSUPPORTED, 2, "not supported by this build, backend or communicator"},
    {HISA_ERR_NO_MEMORY, 3, "out of memory"},
    {HISA_ERR_WORKSPACE, 4, "workspace missing, misaligned or too small"},
    {HISA_ERR_CAPACITY, 5, "the index is full"},
    {HISA_ERR_MISMATCH, 6, "ranks disagree on arguments or state"},
    {HISA_ERR_TIMEOUT, 7, "a peer did not answer within the deadline"},
    {HISA_ERR_COMM, 8, "communication failed"},
    {HISA_ERR_POISONED, 9, "the communicator failed earlier and can only be destroyed"},
    {HISA_ERR_IO, 10, "input or output failed"},
    {HISA_ERR_FORMAT, 11, "malformed file"},
    {HISA_ERR_DEVICE, 12, "device error"},
    {HISA_ERR_INTERNAL, 13, "internal error (a defect in hisa)"},
};

START_TEST(test_status_codes) {
    int count = 0;
#define COUNT(name, code, text) ++count;
    HISA_STATUS_MAP(COUNT)
#undef COUNT
    ck_assert_int_le((int)(sizeof statuses / sizeof *statuses), count);
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; ++i) {
        ck_assert_int_eq((int)statuses[i].status, statuses[i].code);
        ck_assert_str_eq(hisa_status_string(statuses[i].status), statuses[i].text);
    }
}
END_TEST

START_TEST(test_status_map) {
    /* Each status has a code of its own, in order without gaps, and a text of its own. */
    static const int codes[] = {
#define CODE(name, code, text) (code),
        HISA_STATUS_MAP(CODE)
#undef CODE
    };
    const int count = (int)(sizeof codes / sizeof *codes);
    for (int i = 0; i < count; ++i) {
        ck_assert_int_eq(codes[i], i);
        for (int j = 0; j < i; ++j) {
            ck_assert_str_ne(hisa_status_string((hisa_status_t)i), hisa_status_string((hisa_status_t)j));
        }
    }
    ck_assert_str_eq(hisa_status_string((hisa_status_t)count), "unknown status");
    ck_assert_str_eq(hisa_status_string((hisa_status_t)-1), "unknown status");
}
END_TEST

START_TEST(test_no_error_yet) { ck_assert_str_eq(hisa_last_error(), ""); }
END_TEST

START_TEST(test_fail) {
    ck_assert_int_eq(hisa_fail(HISA_ERR_IO, "file %s, byte %d", "keys", 12), HISA_ERR_IO);
    ck_assert_str_eq(hisa_last_error(), "file keys, byte 12");
    /* The old message may be part of the new one. */
    ck_assert_int_eq(hisa_fail(HISA_ERR_FORMAT, "rank 1: %s", hisa_last_error()), HISA_ERR_FORMAT);
    ck_assert_str_eq(hisa_last_error(), "rank 1: file keys, byte 12");
}
END_TEST

/* Whatever is in it, a message is one printable line that fits. */
START_TEST(test_fail_one_line) {
    for (int c = 1; c < 256; ++c) {
        hisa_fail(HISA_ERR_IO, "<%c%c>", c, c);
        ck_assert_uint_eq(strlen(hisa_last_error()), 4);
        const unsigned char kept = (unsigned char)hisa_last_error()[1];
        ck_assert_int_eq(kept, c < 0x20 || c == 0x7f ? ' ' : c);
    }
    for (int length = 0; length < 2 * HISA_ERROR_BYTES; ++length) {
        hisa_fail(HISA_ERR_IO, "%0*d\n", length, 0);
        const size_t expected = (size_t)(length == 0 ? 1 : length) + 1;
        const size_t limit = HISA_ERROR_BYTES - 1;
        ck_assert_uint_eq(strlen(hisa_last_error()), expected < limit ? expected : limit);
        ck_assert_ptr_null(strpbrk(hisa_last_error(), "\n\r\t"));
    }
}
END_TEST

START_TEST(test_version) {
    int version[3] = {-1, -1, -1};
    hisa_version(&version[0], &version[1], &version[2]);
    ck_assert_int_eq(version[0], HISA_VERSION_MAJOR);
    ck_assert_int_eq(version[1], HISA_VERSION_MINOR);
    ck_assert_int_eq(version[2], HISA_VERSION_PATCH);
    hisa_version(NULL, NULL, NULL);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- peers' versions */

START_TEST(test_version_equal) {
    hisa_version_record_t records[5];
    for (int r = 0; r < 5; ++r) {
        records[r] = hisa_version_record();
    }
    records[3].reserved[1] = 77; /* a later version's business */
    ck_ok(hisa_version_check(records, 5));
    ck_ok(hisa_version_check(records, 1));
    ck_assert_uint_eq(sizeof records[0], 32); /* frozen */
}
END_TEST

START_TEST(test_version_differs) {
    for (int bad = 0; bad < 4; ++bad) {
        for (int part = 0; part < 3; ++part) {
            hisa_version_record_t records[4];
            char text[100];
            for (int r = 0; r < 4; ++r) {
                records[r] = hisa_version_record();
            }
            int32_t *number = part == 0 ? &records[bad].major : part == 1 ? &records[bad].minor : &records[bad].patch;
            *number += 1;
            const hisa_version_record_t *other = &records[bad > 0 ? bad : 1];
            snprintf(text, sizeof text, "hisa version differs between ranks: %d.%d.%d on rank 0, %d.%d.%d on rank %d",
                     records[0].major, records[0].minor, records[0].patch, other->major, other->minor, other->patch,
                     bad > 0 ? bad : 1);
            ck_fails(hisa_version_check(records, 4), HISA_ERR_MISMATCH, text);
        }
    }
}
END_TEST

START_TEST(test_version_stranger) {
    hisa_version_record_t records[3] = {hisa_version_record(), hisa_version_record(), hisa_version_record()};
    memset(&records[2], 0, sizeof records[2]);
    ck_fails(hisa_version_check(records, 3), HISA_ERR_MISMATCH, "rank 2 does not speak as hisa does");
    records[2] = hisa_version_record();
    records[1].magic[7] = 'x';
    ck_fails(hisa_version_check(records, 3), HISA_ERR_MISMATCH, "rank 1 does not speak as hisa does");
}
END_TEST

/* ---------------------------------------------------------------------------------------------- self */

static hisa_comm_t *comm;

static void setup(void) { ck_ok(hisa_comm_create_self(&comm)); }

static void teardown(void) {
    hisa_comm_destroy(comm);
    comm = NULL;
}

START_TEST(test_self) {
    ck_assert_int_eq(hisa_comm_rank(comm), 0);
    ck_assert_int_eq(hisa_comm_size(comm), 1);
    ck_assert_str_eq(hisa_comm_name(comm), "self");
}
END_TEST

START_TEST(test_null) {
    ck_assert_int_eq(hisa_comm_rank(NULL), 0);
    ck_assert_int_eq(hisa_comm_size(NULL), 0);
    ck_assert_str_eq(hisa_comm_name(NULL), "");
    hisa_comm_destroy(NULL);
    ck_fails(hisa_comm_create_self(NULL), HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    ck_fails(hisa_comm_set_deadline(NULL, 1.0), HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    ck_fails(hisa_comm_agree(NULL, HISA_OK, NULL), HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    ck_fails(hisa_comm_agree_values(NULL, HISA_OK, NULL, 0, 0, NULL), HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    ck_fails(hisa_comm_allgather(NULL, NULL, 0, NULL), HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
}
END_TEST

START_TEST(test_deadline) {
    ck_assert_double_eq(comm->deadline, 60.0);
    ck_ok(hisa_comm_set_deadline(comm, 0.25));
    ck_assert_double_eq(comm->deadline, 0.25);
    const double bad[] = {0.0, -1.0, (double)NAN, (double)INFINITY, -(double)INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        ck_fails(hisa_comm_set_deadline(comm, bad[i]), HISA_ERR_INVALID_ARGUMENT, "deadline");
    }
    ck_assert_double_eq(comm->deadline, 0.25);
}
END_TEST

START_TEST(test_cost) {
    double latency = -1;
    double bandwidth = -1;
    hisa_comm_cost(NULL, &latency, &bandwidth);
    ck_assert_double_eq(latency, -1);
    ck_fails(hisa_comm_set_cost(NULL, 1e-6, 1e9), HISA_ERR_INVALID_ARGUMENT, "comm is NULL");
    ck_ok(hisa_comm_set_cost(comm, 0.0, 1e9));
    ck_ok(hisa_comm_set_cost(comm, 2e-6, 3e9));
    const double bad[] = {-1e-9, (double)NAN, (double)INFINITY, -(double)INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; ++i) {
        ck_fails(hisa_comm_set_cost(comm, bad[i], 1e9), HISA_ERR_INVALID_ARGUMENT, "latency");
        ck_fails(hisa_comm_set_cost(comm, 1e-6, bad[i]), HISA_ERR_INVALID_ARGUMENT, "bandwidth");
    }
    ck_fails(hisa_comm_set_cost(comm, 1e-6, 0.0), HISA_ERR_INVALID_ARGUMENT, "bandwidth");
    hisa_comm_cost(comm, NULL, NULL);
    hisa_comm_cost(comm, &latency, &bandwidth);
    ck_assert_double_eq(latency, 2e-6);
    ck_assert_double_eq(bandwidth, 3e9);
}
END_TEST

/* Nothing moves, whatever the sizes say: even memory that this process cannot touch (NULL) is fine. */
START_TEST(test_self_moves_nothing) {
    const int64_t bytes[] = {INT64_C(1) << 40};
    const int64_t offsets[] = {7};
    ck_ok(hisa_comm_allgather(comm, NULL, bytes[0], NULL));
    ck_ok(hisa_comm_allgatherv(comm, NULL, bytes, offsets, NULL));
    ck_ok(hisa_comm_alltoallv(comm, NULL, bytes, offsets, NULL, bytes, offsets, NULL));
    ck_ok(hisa_comm_control_allgather(comm, NULL, bytes[0]));
    ck_assert_int_eq(comm->bytes_sent, 0);
    ck_assert_int_eq(comm->bytes_received, 0);
}
END_TEST

START_TEST(test_self_agree) {
    ck_ok(hisa_comm_agree(comm, HISA_OK, NULL));
    /* The message is left as it is: there is no other rank to tell it from. */
    ck_assert_int_eq(hisa_comm_agree(comm, HISA_ERR_FORMAT, "ks > ke at row 5"), HISA_ERR_FORMAT);
    ck_assert_str_eq(hisa_last_error(), "ks > ke at row 5");
    ck_assert_int_eq(hisa_comm_agree(comm, HISA_ERR_IO, NULL), HISA_ERR_IO);
    ck_assert_str_eq(hisa_last_error(), "input or output failed");
    ck_assert_int_eq(hisa_comm_agree(comm, HISA_ERR_IO, hisa_last_error()), HISA_ERR_IO);
    ck_assert_str_eq(hisa_last_error(), "input or output failed");
    int64_t everyone[1] = {0};
    const hisa_agree_value_t values[] = {{"m", 64}};
    ck_ok(hisa_comm_agree_values(comm, HISA_OK, values, 1, -5, everyone));
    ck_assert_int_eq(everyone[0], -5);
    const hisa_status_t own = hisa_fail(HISA_ERR_CAPACITY, "full at %d", 9);
    ck_assert_int_eq(hisa_comm_agree_values(comm, own, values, 1, 6, everyone), HISA_ERR_CAPACITY);
    ck_assert_str_eq(hisa_last_error(), "full at 9");
    ck_assert_int_eq(everyone[0], -5);
    ck_fails(hisa_comm_agree_values(comm, HISA_OK, values, -1, 6, everyone), HISA_ERR_INTERNAL, "-1 values");
    ck_ok(hisa_comm_agree(comm, HISA_OK, NULL)); /* none of this poisons */
}
END_TEST

/* ---------------------------------------------------------------------------------------------- what wrappers do */

/* A group of three whose operations fail on demand. */
static hisa_status_t outcome;
static int calls;

static hisa_status_t fake_gather(hisa_comm_t *c, void *buffer, int64_t bytes, void *stream) {
    (void)c, (void)buffer, (void)bytes, (void)stream;
    ++calls;
    return outcome == HISA_OK ? HISA_OK : hisa_fail(outcome, "the wire broke");
}

static hisa_status_t fake_gatherv(hisa_comm_t *c, void *buffer, const int64_t *bytes, const int64_t *offsets,
                                  void *stream) {
    (void)bytes, (void)offsets;
    return fake_gather(c, buffer, 0, stream);
}

static hisa_status_t fake_alltoallv(hisa_comm_t *c, const void *send, const int64_t *send_bytes,
                                    const int64_t *send_offsets, void *recv, const int64_t *recv_bytes,
                                    const int64_t *recv_offsets, void *stream) {
    (void)send, (void)send_bytes, (void)send_offsets, (void)recv_bytes, (void)recv_offsets;
    return fake_gather(c, recv, 0, stream);
}

static hisa_status_t fake_control(hisa_comm_t *c, void *buffer, int64_t bytes) {
    return fake_gather(c, buffer, bytes, NULL);
}

static void fake_destroy(hisa_comm_t *c) { *(int *)c->impl += 1; }

static const hisa_comm_ops_t fake_ops = {.name = "fake",
                                         .allgather = fake_gather,
                                         .allgatherv = fake_gatherv,
                                         .alltoallv = fake_alltoallv,
                                         .control_allgather = fake_control,
                                         .destroy = fake_destroy};

/* Makes call number `which` with plain arguments on rank 1 of 3. */
static hisa_status_t fake_call(hisa_comm_t *c, int which) {
    static const int64_t sent[] = {10, -1, 30};
    static const int64_t received[] = {1, -1, 3};
    static const int64_t gathered[] = {1, 20, 300};
    static const int64_t offsets[] = {0, 0, 0};
    switch (which) {
    case 0:
        return hisa_comm_allgather(c, NULL, 7, NULL);
    case 1:
        return hisa_comm_allgatherv(c, NULL, gathered, offsets, NULL);
    case 2:
        return hisa_comm_alltoallv(c, NULL, sent, offsets, NULL, received, offsets, NULL);
    default:
        return hisa_comm_control_allgather(c, NULL, 7);
    }
}

START_TEST(test_bytes_counted) {
    static const int64_t sent[] = {14, 40, 40, 0};
    static const int64_t received[] = {14, 301, 4, 0};
    int destroyed = 0;
    hisa_comm_t *fake = NULL;
    outcome = HISA_OK;
    ck_ok(hisa_comm_alloc(&fake_ops, &destroyed, 1, 3, &fake));
    for (int which = 0; which < 4; ++which) {
        fake->bytes_sent = 0;
        fake->bytes_received = 0;
        ck_ok(fake_call(fake, which));
        ck_assert_int_eq(fake->bytes_sent, sent[which]);
        ck_assert_int_eq(fake->bytes_received, received[which]);
    }
    hisa_comm_destroy(fake);
    ck_assert_int_eq(destroyed, 1);
}
END_TEST

START_TEST(test_poison) {
    int destroyed = 0;
    hisa_comm_t *fake = NULL;
    outcome = _i % 2 == 0 ? HISA_ERR_TIMEOUT : HISA_ERR_COMM;
    calls = 0;
    ck_ok(hisa_comm_alloc(&fake_ops, &destroyed, 1, 3, &fake));
    ck_fails(fake_call(fake, _i / 2), outcome, "the wire broke");
    ck_assert_int_eq(calls, 1);
    for (int which = 0; which < 4; ++which) {
        hisa_fail(HISA_ERR_IO, "something else meanwhile");
        ck_fails(fake_call(fake, which), HISA_ERR_POISONED, "the communicator failed earlier: the wire broke");
    }
    ck_fails(hisa_comm_agree(fake, HISA_ERR_IO, "mine"), HISA_ERR_POISONED, "the wire broke");
    ck_fails(hisa_comm_agree_values(fake, HISA_OK, NULL, 0, 0, NULL), HISA_ERR_POISONED, "the wire broke");
    ck_assert_int_eq(calls, 1); /* nothing was sent any more */
    ck_assert_int_eq(fake->bytes_sent, 0);
    hisa_comm_destroy(fake);
    ck_assert_int_eq(destroyed, 1);
}
END_TEST

/* Sizes that cannot be: an error, and no group that goes on out of step. */
START_TEST(test_bad_sizes) {
    static const int64_t huge[] = {INT64_MAX, 0, INT64_MAX};
    static const int64_t negative[] = {0, 0, -1};
    static const int64_t zeros[] = {0, 0, 0};
    static const int64_t ones[] = {1, 1, 1};
    for (int which = 0; which < 7; ++which) {
        int destroyed = 0;
        hisa_comm_t *fake = NULL;
        outcome = HISA_OK;
        calls = 0;
        hisa_status_t status = HISA_OK;
        ck_ok(hisa_comm_alloc(&fake_ops, &destroyed, 1, 3, &fake));
        switch (which) {
        case 0:
            status = hisa_comm_allgather(fake, NULL, -1, NULL);
            break;
        case 1:
            status = hisa_comm_allgather(fake, NULL, INT64_MAX / 2, NULL);
            break;
        case 2:
            status = hisa_comm_allgatherv(fake, NULL, huge, zeros, NULL);
            break;
        case 3:
            status = hisa_comm_allgatherv(fake, NULL, zeros, negative, NULL);
            break;
        case 4:
            status = hisa_comm_alltoallv(fake, NULL, negative, zeros, NULL, zeros, zeros, NULL);
            break;
        case 5:
            status = hisa_comm_alltoallv(fake, NULL, zeros, zeros, NULL, ones, huge, NULL);
            break;
        default:
            status = hisa_comm_control_allgather(fake, NULL, INT64_MAX);
            break;
        }
        ck_assert_int_eq(status, HISA_ERR_INTERNAL);
        ck_assert_int_eq(calls, 0);
        ck_fails(fake_call(fake, 0), HISA_ERR_POISONED, "failed earlier");
        hisa_comm_destroy(fake);
    }
}
END_TEST

int main(void) {
    Suite *suite = suite_create("comm");
    TCase *errors = tcase_create("errors");
    tcase_add_test(errors, test_no_error_yet);
    tcase_add_test(errors, test_status_codes);
    tcase_add_test(errors, test_status_map);
    tcase_add_test(errors, test_fail);
    tcase_add_test(errors, test_fail_one_line);
    tcase_add_test(errors, test_version);
    suite_add_tcase(suite, errors);

    TCase *versions = tcase_create("versions of peers");
    tcase_add_test(versions, test_version_equal);
    tcase_add_test(versions, test_version_differs);
    tcase_add_test(versions, test_version_stranger);
    suite_add_tcase(suite, versions);

    TCase *self = tcase_create("self");
    tcase_add_checked_fixture(self, setup, teardown);
    tcase_add_test(self, test_self);
    tcase_add_test(self, test_null);
    tcase_add_test(self, test_deadline);
    tcase_add_test(self, test_cost);
    tcase_add_test(self, test_self_moves_nothing);
    tcase_add_test(self, test_self_agree);
    suite_add_tcase(suite, self);

    TCase *wrappers = tcase_create("wrappers");
    tcase_add_test(wrappers, test_bytes_counted);
    tcase_add_loop_test(wrappers, test_poison, 0, 8);
    tcase_add_test(wrappers, test_bad_sizes);
    suite_add_tcase(suite, wrappers);
    return suite_main(suite);
}
