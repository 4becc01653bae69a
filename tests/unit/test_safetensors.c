/* The safetensors reader against every lie a header can tell, and the writer against disks that fail. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "io/safetensors.h"
#include "support/image.h"
#include "support/suite.h"

#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
#define B "\"b\":{\"dtype\":\"F8_E4M3\",\"shape\":[5],\"data_offsets\":[24,29]}"

/* ---------------------------------------------------------------------------------------------- reading */

START_TEST(test_reads_tensors) {
    const image_t image = image_make("{\"__metadata__\":{\"x\":\"y\"}," B "," A
                                     ",\"e\":{\"dtype\":\"F4_NEW\",\"shape\":[],\"data_offsets\":[29,32]}"
                                     ",\"none\":{\"dtype\":\"I32\",\"shape\":[0,7],\"data_offsets\":[24,24]}}   ",
                                     32);
    hisa_safetensors_t *file = NULL;
    ck_ok(hisa_safetensors_parse(image.bytes, image.size, "image", &file));
    ck_assert_str_eq(hisa_safetensors_name(file), "image");
    ck_assert_int_eq(hisa_safetensors_count(file), 4);
    ck_assert_ptr_null(hisa_safetensors_at(file, 4));
    ck_assert_ptr_null(hisa_safetensors_at(file, -1));
    ck_assert_ptr_null(hisa_safetensors_find(file, "c"));
    ck_assert_ptr_null(hisa_safetensors_find(file, "__metadata__"));
    const hisa_tensor_t *a = hisa_safetensors_find(file, "a");
    ck_assert_ptr_eq(a, hisa_safetensors_at(file, 0));
    ck_assert_int_eq(a->dtype, HISA_DTYPE_F32);
    ck_assert_int_eq(a->dims, 2);
    ck_assert_int_eq(a->shape[0], 2);
    ck_assert_int_eq(a->shape[1], 3);
    ck_assert_int_eq(a->bytes, 24);
    ck_assert_int_eq(((const uint8_t *)a->data)[23], 24);
    const hisa_tensor_t *b = hisa_safetensors_find(file, "b");
    ck_assert_int_eq(b->dtype, HISA_DTYPE_F8_E4M3);
    ck_assert_int_eq(((const uint8_t *)b->data)[0], 25);
    const hisa_tensor_t *e = hisa_safetensors_find(file, "e");
    ck_assert_int_eq(e->dtype, HISA_DTYPE_OTHER);
    ck_assert_str_eq(e->dtype_name, "F4_NEW");
    ck_assert_int_eq(e->dims, 0);
    ck_assert_int_eq(e->bytes, 3);
    ck_assert_int_eq(hisa_safetensors_find(file, "none")->bytes, 0);
    hisa_safetensors_close(file);
    free(image.bytes);
}
END_TEST

/* A header, the bytes of data behind it and what the message must say. */
typedef struct lie {
    const char *header;
    size_t data;
    const char *message;
} lie_t;

#define T(members) "{\"t\":{" members "}}"
#define TS(shape, offsets) T("\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets)
#define DEEP10 "[[[[[[[[[["

static const lie_t lies[] = {
    {"", 0, "does not start with '{'"},
    {" {}", 0, "does not start with '{'"},
    {"[]", 0, "does not start with '{'"},
    {"{", 0, "is not JSON"},
    {"{\"a\":1,", 0, "is not JSON"},
    {"{" A, 24, "is not JSON"},
    {"{" A ",}", 24, "is not JSON"},
    {"{} {}", 0, "more than one JSON object, at byte 3"},
    {"{}\n", 0, "more than one JSON object, at byte 2"},
    {"{\"\xff\":1}", 0, "not UTF-8"},
    {"{\"\xed\xa0\x80\":1}", 0, "not UTF-8"},
    {"{\"\xc0\xaf\":1}", 0, "not UTF-8"},
    {"{\"a\\u0000b\":1}", 0, "NUL in a string, at byte 3"},
    {"{\"a\":" DEEP10 DEEP10 DEEP10, 0, "nested too deeply, at byte 7"},
    {"{\"a\":{\"b\":{\"c\":{}}}}", 0, "nested too deeply"},
    {"{\"a\":1}", 0, "tensor 'a': not an object"},
    {"{\"a\":{}}", 0, "tensor 'a': has no dtype"},
    {T("\"dtype\":\"F32\",\"data_offsets\":[0,0]"), 0, "tensor 't': has no shape"},
    {T("\"dtype\":\"F32\",\"shape\":[0]"), 0, "tensor 't': has no data_offsets"},
    {T("\"dtype\":\"F32\",\"shape\":[0],\"shape\":[1],\"data_offsets\":[0,0]"), 0, "tensor 't': has shape twice"},
    {T("\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]"), 0, "tensor 't': has dtype twice"},
    {T("\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0],\"more\":1"), 0, "tensor 't': unknown member 'more'"},
    {T("\"dtype\":7,\"shape\":[0],\"data_offsets\":[0,0]"), 0, "tensor 't': dtype is not a string"},
    {TS("1", "[0,4]"), 4, "tensor 't': shape is not a list"},
    {TS("[-1]", "[0,4]"), 4, "tensor 't': shape[0] is not a whole number"},
    {TS("[1,1.5]", "[0,4]"), 4, "tensor 't': shape[1] is not a whole number"},
    {TS("[\"1\"]", "[0,4]"), 4, "tensor 't': shape[0] is not a whole number"},
    {TS("[9007199254740993]", "[0,4]"), 4, "tensor 't': shape[0] is not a whole number"},
    {TS("[1e999]", "[0,4]"), 4, "tensor 't': shape[0] is not a whole number"},
    {TS("[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, "tensor 't': more than 8 dimensions"},
    {TS("[4294967296,4294967296]", "[0,0]"), 0, "tensor 't': the product of its shape overflows"},
    {TS("[4503599627370496,4096]", "[0,0]"), 0, "tensor 't': the product of its shape overflows"},
    {TS("[3]", "[0,8]"), 8, "tensor 't': dtype and shape make 12 bytes, data_offsets 8"},
    {TS("[2]", "8"), 8, "tensor 't': data_offsets is not two"},
    {TS("[2]", "[8]"), 8, "tensor 't': data_offsets is not two"},
    {TS("[2]", "[0,8,8]"), 8, "tensor 't': data_offsets is not two"},
    {TS("[2]", "[0,-8]"), 8, "tensor 't': data_offsets is not two"},
    {TS("[2]", "[8,0]"), 8, "tensor 't': data_offsets begin at 8, after their end 0"},
    {TS("[2]", "[0,8]"), 7, "tensor 't': data_offsets [0, 8] run beyond the file, which has 7 bytes"},
    {TS("[2]", "[9007199254740983,9007199254740991]"), 8, "run beyond the file"},
    {T("\"dtype\":\"NEW\",\"shape\":[2],\"data_offsets\":[0,9]"), 8, "run beyond the file"},
    {TS("[2]", "[1,9]"), 9, "tensor 't': 1 bytes before its data belong to no tensor"},
    {TS("[2]", "[0,8]"), 9, "the last 1 bytes belong to no tensor"},
    {"{}", 1, "the last 1 bytes belong to no tensor"},
    {"{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[23,28]}}", 28,
     "tensor 'b': its data overlap those of tensor 'a'"},
    {"{" A ",\"b\":{\"dtype\":\"U8\",\"shape\":[24],\"data_offsets\":[0,24]}}", 24, "overlap"},
    {"{" A "," A "}", 24, "tensor 'a': occurs twice"},
    {"{" A
     ",\"b\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[24,29]},\"\\u0061\":{\"dtype\":\"U8\",\"shape\":[1],"
     "\"data_offsets\":[29,30]}}",
     30, "tensor 'a': occurs twice"},
    {"{\"__metadata__\":7}", 0, "__metadata__ is not an object"},
    {"{\"__metadata__\":{\"x\":7}}", 0, "__metadata__ 'x' is not a string"},
    {"{\"__metadata__\":{\"x\":\"1\",\"x\":\"1\"}}", 0, "__metadata__ has 'x' twice"},
    {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "__metadata__ occurs twice"},
};
enum { NUM_LIES = sizeof lies / sizeof lies[0] };

START_TEST(test_refuses_lies) {
    const lie_t *lie = &lies[_i];
    const image_t image = image_make(lie->header, lie->data);
    hisa_safetensors_t *file = NULL;
    ck_fails(hisa_safetensors_parse(image.bytes, image.size, "some/path", &file), HISA_ERR_FORMAT, lie->message);
    ck_assert_int_eq(strncmp(hisa_last_error(), "some/path: ", 11), 0);
    ck_assert_ptr_null(file);
    free(image.bytes);
}
END_TEST

START_TEST(test_refuses_lengths) {
    hisa_safetensors_t *file = NULL;
    image_t image = image_make("{}", 0);
    image.bytes[0] = 3;
    ck_fails(hisa_safetensors_parse(image.bytes, image.size, "p", &file), HISA_ERR_FORMAT,
             "header of 3 bytes runs beyond the file of 10 bytes");
    image.bytes[7] = 0x80;
    ck_fails(hisa_safetensors_parse(image.bytes, image.size, "p", &file), HISA_ERR_FORMAT, "over the format's limit");
    memset(image.bytes, 0xff, 8);
    ck_fails(hisa_safetensors_parse(image.bytes, image.size, "p", &file), HISA_ERR_FORMAT, "over the format's limit");
    ck_fails(hisa_safetensors_parse(NULL, 0, "p", &file), HISA_ERR_FORMAT, "too short for a safetensors file, 0 bytes");
    free(image.bytes);
    /* A NUL in the text would end it early for C strings. */
    image = image_make("{} ", 0);
    image.bytes[10] = '\0';
    ck_fails(hisa_safetensors_parse(image.bytes, image.size, "p", &file), HISA_ERR_FORMAT, "not UTF-8 text");
    free(image.bytes);
}
END_TEST

START_TEST(test_names_keep_message_whole) {
    char path[400];
    memset(path, 'p', sizeof path);
    strcpy(path + 380, "/keys.safetensors");
    char header[1000];
    char name[300];
    memset(name, 'n', sizeof name);
    name[299] = '\0';
    snprintf(header, sizeof header, "{\"%s\\n\\u001b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}",
             name);
    const image_t image = image_make(header, 8);
    hisa_safetensors_t *file = NULL;
    ck_fails(hisa_safetensors_parse(image.bytes, image.size, path, &file), HISA_ERR_FORMAT, "begin at 8, after");
    ck_assert_ptr_nonnull(strstr(hisa_last_error(), "p/keys.safetensors: tensor 'nnn"));
    free(image.bytes);
    const image_t control = image_make("{\"a\\n\\u001bb\":1}", 0);
    ck_fails(hisa_safetensors_parse(control.bytes, control.size, "p", &file), HISA_ERR_FORMAT, "tensor 'a  b'");
    free(control.bytes);
}
END_TEST

/* A file that ends early is an error wherever it ends, in memory and mapped. */
START_TEST(test_refuses_truncation) {
    char folder[FOLDER_BYTES];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    folder_path(folder, "short.safetensors", path);
    const image_t image = image_make("{\"__metadata__\":{\"x\":\"y\"}," A "," B "}     ", 29);
    for (size_t size = 0; size <= image.size; ++size) {
        uint8_t *part = malloc(size + (size == 0));
        ck_assert_ptr_nonnull(part);
        memcpy(part, image.bytes, size);
        hisa_safetensors_t *file = NULL;
        const hisa_status_t expected = size == image.size ? HISA_OK : HISA_ERR_FORMAT;
        ck_assert_int_eq(hisa_safetensors_parse(part, size, "part", &file), expected);
        hisa_safetensors_close(file);
        file = NULL;
        image_save(path, part, size);
        ck_assert_int_eq(hisa_safetensors_open(path, &file), expected);
        hisa_safetensors_close(file);
        free(part);
    }
    free(image.bytes);
    folder_remove(folder);
}
END_TEST

/* One that took quadratic time would run into the suite's time limit: 200,000 names, the last one a duplicate. */
START_TEST(test_many_names) {
    enum { NAMES = 200000, ENTRY = 80 };
    char *header = malloc((size_t)NAMES * ENTRY);
    ck_assert_ptr_nonnull(header);
    size_t length = 0;
    for (int i = 0; i < NAMES; ++i) {
        length += (size_t)snprintf(header + length, ENTRY,
                                   "%s\"n%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                                   i == 0 ? "{" : ",", i == NAMES - 1 ? 7 : i);
    }
    strcpy(header + length, "}");
    const image_t image = image_make(header, 0);
    hisa_safetensors_t *file = NULL;
    ck_fails(hisa_safetensors_parse(image.bytes, image.size, "p", &file), HISA_ERR_FORMAT, "tensor 'n7': occurs twice");
    free(image.bytes);
    free(header);
}
END_TEST

START_TEST(test_open_refuses_other_files) {
    hisa_safetensors_t *file = NULL;
    char folder[FOLDER_BYTES];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    ck_fails(hisa_safetensors_open(folder_path(folder, "none", path), &file), HISA_ERR_IO, "cannot open: No such file");
    ck_fails(hisa_safetensors_open(folder, &file), HISA_ERR_IO, "not a regular file");
    ck_fails(hisa_safetensors_open("/dev/zero", &file), HISA_ERR_IO, "not a regular file");
    ck_assert_int_eq(mkfifo(folder_path(folder, "fifo", path), 0600), 0);
    ck_fails(hisa_safetensors_open(path, &file), HISA_ERR_IO, "not a regular file");
    ck_fails(hisa_safetensors_open(NULL, &file), HISA_ERR_INVALID_ARGUMENT, "NULL");
    hisa_safetensors_close(NULL);
    folder_remove(folder);
}
END_TEST

/* ---------------------------------------------------------------------------------------------- writing */

static const hisa_tensor_spec_t specs[] = {
    {"codes", HISA_DTYPE_F8_E4M3, 2, {3, 5}},
    {"odd \"name\" \xc3\xa4\n", HISA_DTYPE_F32, 1, {3}},
    {"empty", HISA_DTYPE_I32, 2, {0, 4}},
    {"scalar", HISA_DTYPE_I32, 0, {0}},
};

static void write_sample(const char *path) {
    static const char *const metadata[] = {"key", "value", "quote\"", "tab\t"};
    static const float floats[] = {1.5f, -2.0f, 3.25f};
    static const int32_t scalar = -7;
    static const uint8_t codes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    hisa_safetensors_writer_t *writer = NULL;
    ck_ok(hisa_safetensors_create(path, specs, 4, metadata, 2, &writer));
    ck_ok(hisa_safetensors_write(writer, 3, 0, &scalar, 4));
    ck_ok(hisa_safetensors_write(writer, 0, 6, codes, 9));
    ck_ok(hisa_safetensors_write(writer, 1, 4, floats + 1, 8));
    ck_ok(hisa_safetensors_write(writer, 1, 0, floats, 4));
    ck_ok(hisa_safetensors_write(writer, 2, 0, NULL, 0));
    ck_fails(hisa_safetensors_write(writer, 0, 7, codes, 9), HISA_ERR_INVALID_ARGUMENT, "not within tensor 0");
    ck_fails(hisa_safetensors_write(writer, 0, -1, codes, 9), HISA_ERR_INVALID_ARGUMENT, "not within tensor 0");
    ck_fails(hisa_safetensors_write(writer, 0, 1, codes, INT64_MAX), HISA_ERR_INVALID_ARGUMENT, "not within tensor 0");
    ck_fails(hisa_safetensors_write(writer, 4, 0, codes, 1), HISA_ERR_INVALID_ARGUMENT, "no such");
    ck_ok(hisa_safetensors_commit(writer));
}

START_TEST(test_round_trip) {
    char folder[FOLDER_BYTES];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    folder_path(folder, "out.safetensors", path);
    write_sample(path);
    ck_assert_int_eq(folder_count(folder), 1);
    hisa_safetensors_t *file = NULL;
    ck_ok(hisa_safetensors_open(path, &file));
    ck_assert_int_eq(hisa_safetensors_count(file), 4);
    const uint8_t *start = NULL;
    for (int i = 0; i < 4; ++i) {
        const hisa_tensor_t *tensor = hisa_safetensors_find(file, specs[i].name);
        ck_assert_ptr_nonnull(tensor);
        ck_assert_int_eq(tensor->dtype, specs[i].dtype);
        ck_assert_int_eq(tensor->dims, specs[i].dims);
        ck_assert_mem_eq(tensor->shape, specs[i].shape, sizeof(int64_t) * (size_t)specs[i].dims);
        ck_assert(specs[i].dtype == HISA_DTYPE_F8_E4M3 || (uintptr_t)tensor->data % 4 == 0);
        start = start == NULL || (const uint8_t *)tensor->data < start ? tensor->data : start;
    }
    ck_assert_uint_eq((uintptr_t)start % 8, 0);
    static const float floats[] = {1.5f, -2.0f, 3.25f};
    static const uint8_t codes[15] = {0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    ck_assert_mem_eq(hisa_safetensors_find(file, specs[1].name)->data, floats, sizeof floats);
    ck_assert_mem_eq(hisa_safetensors_find(file, "codes")->data, codes, sizeof codes);
    ck_assert_int_eq(*(const int32_t *)hisa_safetensors_find(file, "scalar")->data, -7);
    hisa_safetensors_close(file);
    /* Ordinary permissions, by the umask. */
    struct stat info;
    const mode_t mask = umask(0);
    umask(mask);
    ck_assert_int_eq(stat(path, &info), 0);
    ck_assert_uint_eq(info.st_mode & 0777, 0666 & ~mask);
    folder_remove(folder);
}
END_TEST

START_TEST(test_create_refuses_arguments) {
    char folder[FOLDER_BYTES];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    folder_path(folder, "out", path);
    hisa_safetensors_writer_t *writer = NULL;
    static const struct {
        hisa_tensor_spec_t specs[2];
        int count;
        const char *message;
    } cases[] = {
        {{{NULL, HISA_DTYPE_F32, 0, {0}}}, 1, "tensor 0 has no name"},
        {{{"\xff", HISA_DTYPE_F32, 0, {0}}}, 1, "tensor 0 has no name"},
        {{{"__metadata__", HISA_DTYPE_F32, 0, {0}}}, 1, "tensor 0 has no name"},
        {{{"a", HISA_DTYPE_OTHER, 0, {0}}}, 1, "'a' has a dtype or rank"},
        {{{"a", HISA_DTYPE_F32, 9, {0}}}, 1, "'a' has a dtype or rank"},
        {{{"a", HISA_DTYPE_F32, 1, {-1}}}, 1, "'a' has a negative or overflowing shape"},
        {{{"a", HISA_DTYPE_F32, 2, {INT64_MAX, 2}}}, 1, "'a' has a negative or overflowing shape"},
        {{{"a", HISA_DTYPE_F8_E4M3, 1, {INT64_MAX}}, {"b", HISA_DTYPE_F8_E4M3, 1, {1}}}, 2, "sizes overflow"},
        {{{"a", HISA_DTYPE_F32, 0, {0}}, {"a", HISA_DTYPE_F32, 0, {0}}}, 2, "two tensors are named 'a'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; ++i) {
        ck_fails(hisa_safetensors_create(path, cases[i].specs, cases[i].count, NULL, 0, &writer),
                 HISA_ERR_INVALID_ARGUMENT, cases[i].message);
    }
    static const char *const twice[] = {"a", "1", "a", "2"};
    ck_fails(hisa_safetensors_create(path, specs, 1, twice, 2, &writer), HISA_ERR_INVALID_ARGUMENT, "'a' twice");
    ck_assert_ptr_null(writer);
    ck_assert_int_eq(folder_count(folder), 0);
    folder_remove(folder);
}
END_TEST

static void refuse_target(const char *path, const char *message) {
    hisa_safetensors_writer_t *writer = NULL;
    ck_fails(hisa_safetensors_create(path, specs, 4, NULL, 0, &writer), HISA_ERR_IO, message);
    ck_assert_ptr_null(writer);
    ck_assert_int_eq(strncmp(hisa_last_error(), path, strlen(path)), 0);
}

START_TEST(test_create_refuses_targets) {
    char folder[FOLDER_BYTES];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    image_save(folder_path(folder, "file", path), "x", 1);
    refuse_target(folder_path(folder, "file/out", path), "Not a directory");
    refuse_target(folder_path(folder, "missing/out", path), "No such file or directory");
    refuse_target(folder, "it is a directory");
    refuse_target(folder_path(folder, "new/", path), "names no file");
    refuse_target("", "names no file");
    refuse_target("/dev/null", "not a regular file");
    refuse_target("/dev/full", "not a regular file");
    folder_path(folder, "dangling", path);
    ck_assert_int_eq(symlink("nowhere/at/all", path), 0);
    refuse_target(path, "No such file or directory");
    ck_assert_int_eq(folder_count(folder), 2);
    folder_remove(folder);
}
END_TEST

/* A symbolic link stays one: the file behind it is replaced. */
START_TEST(test_follows_link) {
    char folder[FOLDER_BYTES];
    char link_path[FOLDER_BYTES * 2];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    image_save(folder_path(folder, "file", path), "old", 3);
    ck_assert_int_eq(symlink("file", folder_path(folder, "link", link_path)), 0);
    write_sample(link_path);
    struct stat info;
    ck_assert_int_eq(lstat(link_path, &info), 0);
    ck_assert(S_ISLNK(info.st_mode));
    hisa_safetensors_t *file = NULL;
    ck_ok(hisa_safetensors_open(path, &file));
    hisa_safetensors_close(file);
    folder_remove(folder);
}
END_TEST

/* The older file is untouched, whole, and the only one there. */
static void check_untouched(const char *folder, const char *path) {
    char content[8] = {0};
    FILE *file = fopen(path, "rb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fread(content, 1, sizeof content, file), 3);
    ck_assert_str_eq(content, "old");
    fclose(file);
    ck_assert_int_eq(folder_count(folder), 1);
}

START_TEST(test_abandon_leaves_nothing) {
    char folder[FOLDER_BYTES];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    image_save(folder_path(folder, "out", path), "old", 3);
    hisa_safetensors_writer_t *writer = NULL;
    ck_ok(hisa_safetensors_create(path, specs, 4, NULL, 0, &writer));
    ck_assert_int_eq(folder_count(folder), 2);
    hisa_safetensors_abandon(writer);
    check_untouched(folder, path);
    hisa_safetensors_abandon(NULL);
    ck_fails(hisa_safetensors_commit(NULL), HISA_ERR_INVALID_ARGUMENT, "no writer");
    folder_remove(folder);
}
END_TEST

/* Two writers of one target: each has a file of its own, the last one wins. */
START_TEST(test_two_writers) {
    char folder[FOLDER_BYTES];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    folder_path(folder, "out", path);
    hisa_safetensors_writer_t *first = NULL;
    hisa_safetensors_writer_t *second = NULL;
    ck_ok(hisa_safetensors_create(path, specs, 4, NULL, 0, &first));
    ck_ok(hisa_safetensors_create(path, specs, 1, NULL, 0, &second));
    ck_ok(hisa_safetensors_commit(second));
    ck_ok(hisa_safetensors_commit(first));
    hisa_safetensors_t *file = NULL;
    ck_ok(hisa_safetensors_open(path, &file));
    ck_assert_int_eq(hisa_safetensors_count(file), 4);
    hisa_safetensors_close(file);
    ck_assert_int_eq(folder_count(folder), 1);
    folder_remove(folder);
}
END_TEST

/* The target's folder goes while the file is being written: the commit fails and says so. */
START_TEST(test_commit_fails) {
    char folder[FOLDER_BYTES];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    folder_path(folder, "out", path);
    hisa_safetensors_writer_t *writer = NULL;
    ck_ok(hisa_safetensors_create(path, specs, 4, NULL, 0, &writer));
    ck_assert_int_eq(mkdir(path, 0700), 0);
    ck_fails(hisa_safetensors_commit(writer), HISA_ERR_IO, "cannot put the file in place");
    ck_assert_int_eq(rmdir(path), 0);
    ck_assert_int_eq(folder_count(folder), 0);
    folder_remove(folder);
}
END_TEST

/* A file system of 64 KB that only this process sees; false where it may not have one. */
static bool mount_tiny(const char *folder) {
    return unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", folder, "tmpfs", 0, "size=64k") == 0;
}

START_TEST(test_no_space) {
    static const hisa_tensor_spec_t large = {"k", HISA_DTYPE_F8_E4M3, 1, {1 << 20}};
    char folder[FOLDER_BYTES];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    const bool mounted = mount_tiny(folder);
    image_save(folder_path(folder, "out", path), "old", 3);
    if (!mounted) {
        const struct rlimit limit = {65536, 65536};
        ck_assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    }
    hisa_safetensors_writer_t *writer = NULL;
    ck_fails(hisa_safetensors_create(path, &large, 1, NULL, 0, &writer), HISA_ERR_IO,
             mounted ? "out: no space left to reserve 1048" : "out: cannot reserve 1048");
    ck_assert_ptr_null(writer);
    check_untouched(folder, path);
    if (mounted) {
        ck_assert_int_eq(umount(folder), 0);
        ck_assert_int_eq(rmdir(folder), 0);
    } else {
        folder_remove(folder);
    }
}
END_TEST

/* A write that fails in the middle: the limit comes down once space is reserved. */
START_TEST(test_write_fails) {
    static const hisa_tensor_spec_t spec = {"k", HISA_DTYPE_F8_E4M3, 1, {100000}};
    static const uint8_t codes[100000];
    char folder[FOLDER_BYTES];
    char path[FOLDER_BYTES * 2];
    folder_make(folder);
    image_save(folder_path(folder, "out", path), "old", 3);
    hisa_safetensors_writer_t *writer = NULL;
    ck_ok(hisa_safetensors_create(path, &spec, 1, NULL, 0, &writer));
    const struct rlimit limit = {65536, 65536};
    ck_assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_fails(hisa_safetensors_write(writer, 0, 0, codes, 100000), HISA_ERR_IO, "out: cannot write: File too large");
    ck_fails(hisa_safetensors_commit(writer), HISA_ERR_IO, "out: an earlier write failed");
    check_untouched(folder, path);
    folder_remove(folder);
}
END_TEST

int main(void) {
    Suite *suite = suite_create("safetensors");
    TCase *reading = tcase_create("reading");
    tcase_set_timeout(reading, 120);
    tcase_add_test(reading, test_reads_tensors);
    tcase_add_loop_test(reading, test_refuses_lies, 0, NUM_LIES);
    tcase_add_test(reading, test_refuses_lengths);
    tcase_add_test(reading, test_names_keep_message_whole);
    tcase_add_test(reading, test_refuses_truncation);
    tcase_add_test(reading, test_many_names);
    tcase_add_test(reading, test_open_refuses_other_files);
    suite_add_tcase(suite, reading);
    TCase *writing = tcase_create("writing");
    tcase_set_timeout(writing, 120);
    tcase_add_test(writing, test_round_trip);
    tcase_add_test(writing, test_create_refuses_arguments);
    tcase_add_test(writing, test_create_refuses_targets);
    tcase_add_test(writing, test_follows_link);
    tcase_add_test(writing, test_abandon_leaves_nothing);
    tcase_add_test(writing, test_two_writers);
    tcase_add_test(writing, test_commit_fails);
    tcase_add_test(writing, test_no_space);
    tcase_add_test(writing, test_write_fails);
    suite_add_tcase(suite, writing);
    return suite_main(suite);
}
