// Archives of images (zip, tar, tar.gz), read entry by entry from memory; opens nothing, so that it works in a sandbox. Names of
// entries are never used as paths on this machine; still an archive that tries (absolute, "..", links, devices) is refused as a
// whole, and so is a bomb.
#ifndef VIREO_DATASET_UNPACK_H
#define VIREO_DATASET_UNPACK_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct unpack_limits {
    uint64_t entries;     // files
    uint64_t entry_bytes; // of one, unpacked
    uint64_t total_bytes; // of all, unpacked
    uint64_t ratio;       // unpacked : packed of the whole archive, beyond the first MiB
};
extern const struct unpack_limits unpack_default_limits; // 100,000 files, 20 MiB, 8 GiB, 100 : 1

// `bytes` live until it returns. False + err ends the walk.
typedef bool unpack_entry(void *context, const char *name, const void *bytes, size_t count, struct vireo_error *err);
// Calls entry for each regular file. Hidden files and macOS's __MACOSX folder are skipped. Memory: the largest entry, twice.
// Names are read by the locale: call setlocale(LC_CTYPE, "C.UTF-8") before (libarchive knows no other way).
// VIREO_INVALID (invalid_file_format) and VIREO_TOO_LARGE name the entry; param is "file".
bool unpack_each(const void *bytes, size_t count, const struct unpack_limits *limits, unpack_entry *entry, void *context,
                 struct vireo_error *err);

enum { UNPACK_HEAD = 265 };
// By the first UNPACK_HEAD bytes (or fewer, where there are no more): zip, gzip, or a tar header.
bool unpack_is_archive(const void *bytes, size_t count);

#endif
