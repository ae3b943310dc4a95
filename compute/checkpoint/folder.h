// Checkpoint folders that are either complete and unaltered, or not there.
//
//   PARENT/step-40.tmp/            being written; every file is hashed while written, then fsynced
//   PARENT/step-40/                complete: renamed after the folder was fsynced; then PARENT is fsynced
//     manifest.json                {"format":"vireo-checkpoint","version":1,"step":40,
//                                   "files":[{"name":..,"bytes":..,"sha256":..},..],"state":{caller's}}
//     manifest.sha256              digest of manifest.json (readable by sha256sum -c)
//
// Opening checks sizes and every hash, so a torn, cut, swapped or bit-flipped folder is found and the next older one is
// taken. Fault points (base/fault.h): checkpoint.write, checkpoint.fsync, checkpoint.rename, checkpoint.commit (between
// the rename and the fsync of PARENT). One writer a parent folder at a time; readers need no lock.
#ifndef VIREO_CHECKPOINT_FOLDER_H
#define VIREO_CHECKPOINT_FOLDER_H

#include "compute/checkpoint/safetensors.h"

#include <jansson.h>

enum { CHECKPOINT_PATH = 480, CHECKPOINT_NAME = 128 };

// ---- writing

struct checkpoint_writer;
// Starts PARENT/step-N.tmp (PARENT is made if missing; a leftover of the same name is removed).
bool checkpoint_begin(struct checkpoint_writer **out, const char *parent, uint64_t step, struct vireo_error *err);
// One file from bytes. Names: letters, digits, '.', '_', '-', not beginning with '.', each once, not manifest.*.
bool checkpoint_add_bytes(struct checkpoint_writer *w, const char *name, const void *bytes, size_t count,
                          struct vireo_error *err);
// A copy of another file.
bool checkpoint_add_copy(struct checkpoint_writer *w, const char *name, const char *source, struct vireo_error *err);
// One file in pieces: open, write through the sink, close (flushes, fsyncs). One open file at a time.
bool checkpoint_file_open(struct checkpoint_writer *w, const char *name, struct byte_sink *out,
                          struct vireo_error *err);
bool checkpoint_file_close(struct checkpoint_writer *w, struct vireo_error *err);
// Writes the manifest with `state` (an object, or NULL for {}; not consumed) and renames. An existing step-N is
// replaced. Frees the writer in either case; on failure the temporary folder is removed.
bool checkpoint_commit(struct checkpoint_writer **w, const json_t *state, struct vireo_error *err);
// Removes what was written. NULL inside is fine.
void checkpoint_abandon(struct checkpoint_writer **w);

// ---- reading

struct checkpoint {
    uint64_t step;
    char path[CHECKPOINT_PATH]; // of the folder
    uint64_t bytes;             // of all listed files
    json_t *manifest;           // whole; owned
    json_t *state;              // borrowed from manifest
};
// Verifies everything: manifest, sizes, all hashes (files in parallel). VIREO_CORRUPT names the file at fault.
bool checkpoint_open(const char *parent, uint64_t step, struct checkpoint *out, struct vireo_error *err);
// As checkpoint_open for a folder of any name.
bool checkpoint_open_path(const char *path, struct checkpoint *out, struct vireo_error *err);
void checkpoint_finish(struct checkpoint *c); // a zeroed one is fine

// Newest step that verifies. `skipped` (may be NULL) is told of each newer one that does not, with the reason.
// VIREO_NOT_FOUND when none is left.
bool checkpoint_open_newest(const char *parent,
                            void (*skipped)(void *context, uint64_t step, const struct vireo_error *why),
                            void *context, struct checkpoint *out, struct vireo_error *err);

// Steps of all step-N folders, newest first, unverified. *out is malloc'd (free). A missing parent is an empty list.
bool checkpoint_list(const char *parent, uint64_t **out, size_t *count, struct vireo_error *err);

// ---- housekeeping

// Keeps the newest `keep` (at least 1) folders whose manifest and sizes are in order, and those in `protect`; removes
// older ones and broken ones older than the newest kept. *removed (may be NULL) counts.
bool checkpoint_prune(const char *parent, size_t keep, const uint64_t *protect, size_t protect_count, size_t *removed,
                      struct vireo_error *err);
// After a crash: removes *.tmp, finishes or undoes an interrupted replacement. To be called before the first
// checkpoint_begin of a process. A missing parent is fine.
bool checkpoint_clean(const char *parent, struct vireo_error *err);

#endif
