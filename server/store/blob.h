// Content-addressed files: DIR/blobs/aa/<64 hex digits>. Complete and synced before any row names them.
//
// Order of an import: the temporary file is fdatasynced, renamed into place, its folder fsynced; then the caller
// commits its row; then it answers. Fault points: blob.write, blob.fsync, blob.rename.
#ifndef VIREO_STORE_BLOB_H
#define VIREO_STORE_BLOB_H

#include "server/store/store.h"

#include <stdbool.h>

enum { BLOB_PATH = 640 };

// Takes over a finished temporary file below store_temp_folder() whose digest is known. The file is gone from its old
// place afterwards, also on failure. A blob that exists already keeps its bytes (and the new file is removed).
bool blob_adopt(struct store *s, const char *temporary, const char sha256[65], struct vireo_error *err);
// Bytes from memory; fills sha256.
bool blob_put(struct store *s, const void *bytes, size_t count, char sha256[65], struct vireo_error *err);

// A blob written in pieces: begin, add..., then end (adopts) or abandon.
struct blob_writer;
struct blob_writer *blob_begin(struct store *s, struct vireo_error *err);
bool blob_add(struct blob_writer *w, const void *bytes, size_t count, struct vireo_error *err);
bool blob_end(struct blob_writer **w, char sha256[65], uint64_t *bytes, struct vireo_error *err); // takes *w always
void blob_abandon(struct blob_writer **w);                                                      // NULL is fine

// Path of a blob (whether or not it exists); false for text that is no digest.
bool blob_path(const struct store *s, const char *sha256, char path[BLOB_PATH]);
bool blob_exists(const struct store *s, const char *sha256, uint64_t *bytes);
// Removes a blob that no row names any more; a blob still named stays. Called after rows were deleted.
bool blob_collect(struct store *s, const char *sha256, struct vireo_error *err);

#endif
