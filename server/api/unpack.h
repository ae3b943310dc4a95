// Archives of images (zip, tar, tar.gz), read entry by entry. Names of entries are never used as paths on this machine;
// still an archive that tries (absolute, "..", links, devices) is refused as a whole, and so is a bomb.
#ifndef VIREO_API_UNPACK_H
#define VIREO_API_UNPACK_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct unpack_limits {
    uint64_t entries;     // files
    uint64_t entry_bytes; // of one, unpacked
    uint64_t total_bytes; // of all, unpacked
    uint64_t ratio;       // unpacked : packed of the whole archive
};
extern const struct unpack_limits unpack_default_limits; // 100,000 files, 20 MiB, 8 GiB, 100 : 1

// Calls entry(context, name, bytes, count) for each regular file; `bytes` live until it returns. Hidden files and
// macOS's __MACOSX folder are skipped.
bool unpack_each(const char *path, const struct unpack_limits *limits,
                  bool (*entry)(void *context, const char *name, const void *bytes, size_t count,
                                struct vireo_error *err),
                  void *context, struct vireo_error *err);
// By the first bytes: zip, gzip, or a tar header.
bool unpack_is_archive(const char *path);

#endif
