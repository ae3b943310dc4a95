// data: URIs that carry an image in base64, as OpenAI clients send them.
#ifndef VIREO_DATASET_DATA_URI_H
#define VIREO_DATASET_DATA_URI_H

#include "compute/base/arena.h"
#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

// Decodes data:[type][;parameter…];base64,DATA into the arena. The declared type is ignored: the first bytes decide,
// and must be those of a PNG, JPEG or WebP file. White space inside DATA is refused, padding may be missing. `path` is
// the field for errors. At most `limit` bytes.
bool data_uri_decode(const char *uri, size_t length, size_t limit, const char *path, struct arena *a,
                     const uint8_t **bytes, size_t *count, struct vireo_error *err);

#endif
