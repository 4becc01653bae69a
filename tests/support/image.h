/* Safetensors images made by hand, and a folder for the files of a test. */
#ifndef HISA_TESTS_IMAGE_H
#define HISA_TESTS_IMAGE_H

#include <check.h>
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct image {
    uint8_t *bytes; /* malloc'd, of exactly `size`, so that ASan sees a read beyond it */
    size_t size;
} image_t;

/* Length, header text as it stands, then data_bytes bytes 1, 2, 3, ... */
static inline image_t image_make(const char *header, size_t data_bytes) {
    const size_t length = strlen(header);
    image_t image = {malloc(8 + length + data_bytes), 8 + length + data_bytes};
    ck_assert_ptr_nonnull(image.bytes);
    for (int i = 0; i < 8; ++i) {
        image.bytes[i] = (uint8_t)((uint64_t)length >> (8 * i) & 0xff);
    }
    memcpy(image.bytes + 8, header, length);
    for (size_t i = 0; i < data_bytes; ++i) {
        image.bytes[8 + length + i] = (uint8_t)(i + 1);
    }
    return image;
}

static inline void image_save(const char *path, const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    ck_assert_ptr_nonnull(file);
    ck_assert_uint_eq(fwrite(bytes, 1, size, file), size);
    ck_assert_int_eq(fclose(file), 0);
}

#define FOLDER_BYTES 64

/* An empty folder of the test's own; files in it are named by folder_path. */
static inline void folder_make(char folder[FOLDER_BYTES]) {
    strcpy(folder, "/tmp/hisa-test-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
}

static inline const char *folder_path(const char *folder, const char *name, char path[FOLDER_BYTES * 2]) {
    snprintf(path, FOLDER_BYTES * 2, "%.60s/%.60s", folder, name);
    return path;
}

/* Entries of the folder, hidden ones too. */
static inline int folder_count(const char *folder) {
    int count = 0;
    DIR *entries = opendir(folder);
    ck_assert_ptr_nonnull(entries);
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    }
    closedir(entries);
    return count;
}

/* Removes the folder and the files in it. */
static inline void folder_remove(const char *folder) {
    char path[FOLDER_BYTES * 2];
    DIR *entries = opendir(folder);
    ck_assert_ptr_nonnull(entries);
    for (const struct dirent *entry = readdir(entries); entry != NULL; entry = readdir(entries)) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            ck_assert_int_eq(unlink(folder_path(folder, entry->d_name, path)), 0);
        }
    }
    closedir(entries);
    ck_assert_int_eq(rmdir(folder), 0);
}

#endif
