// Shared by folder.c (writing, housekeeping) and folder_read.c (verifying). Not for users of the folder.
#ifndef VIREO_CHECKPOINT_FOLDER_INSIDE_H
#define VIREO_CHECKPOINT_FOLDER_INSIDE_H

#include "compute/checkpoint/folder.h"

enum { CHECKPOINT_VERSION = 1, CHECKPOINT_MAX_MANIFEST = 64 << 20 };
#define CHECKPOINT_FORMAT "vireo-checkpoint"

// folder + "/" + name, or VIREO_IO when it does not fit.
bool checkpoint_join(char *buffer, size_t size, const char *folder, const char *name, struct vireo_error *err);
// PARENT/step-N + ending.
bool checkpoint_step_path(char *buffer, size_t size, const char *parent, uint64_t step, const char *ending,
                          struct vireo_error *err);
// "step-40" + ending (""/".tmp"/".replaced") -> 40; false for anything else, "step-040" included.
bool checkpoint_step_parse(const char *name, const char *ending, uint64_t *step);
// Whether a file of this name may stand in a checkpoint (the manifest's two may not be added).
bool checkpoint_name_is_fine(const char *name);
// The one line of manifest.sha256.
bool checkpoint_manifest_line(const void *manifest, size_t count, char line[96]);

// Manifest and sizes, and with `deep` all hashes.
bool checkpoint_verify(const char *path, bool deep, struct checkpoint *out, struct vireo_error *err);

#endif
