// Archives that clients uploaded, read by a data worker in its sandbox (compute/worker/unpack.c).
#ifndef VIREO_JOBS_UNPACK_H
#define VIREO_JOBS_UNPACK_H

#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct unpack_image {
    size_t index; // of the images in the archive
    const char *name, *format; // NULL with bytes
    uint32_t width, height;
    size_t count; // bytes
};
// `image` and `bytes` live until it returns. False + err ends the walk.
typedef bool unpack_take(void *context, const struct unpack_image *image, const void *bytes, struct vireo_error *err);

// wanted NULL: calls take for each image of the archive, without bytes. Else: for those indices (ascending), with their bytes.
// Blocks the calling thread. VIREO_INVALID and VIREO_TOO_LARGE name the entry; an archive that ended the worker, or took too
// long, is VIREO_INVALID too, with the cause; VIREO_UNAVAILABLE: no worker could be started.
bool jobs_unpack(const char *path, const size_t *wanted, size_t wanted_count, unpack_take *take, void *context,
                 struct vireo_error *err);

#endif
