// Model folders without a device: writing a preset, copying a Hugging Face folder, and what a folder holds.
#ifndef VIREO_WORKER_MODEL_FOLDER_H
#define VIREO_WORKER_MODEL_FOLDER_H

#include "compute/base/error.h"

#include <jansson.h>
#include <stdint.h>

// All into `folder`.tmp first, then renamed: `folder` exists complete or not at all. It must not exist yet.
bool model_folder_init(const char *preset, uint64_t seed, const char *folder, struct vireo_error *err);
// Takes config, tokenizer and other side files and the safetensors of `source`; anything else is left behind.
bool model_folder_copy(const char *source, const char *folder, struct vireo_error *err);

// Checks that every weight the architecture needs is there with its shape, and reports {"family", "parameters", "bytes",
// "sha256", "context_length", "vocab_size", "dtype", "patch_size", "merge_size"}. sha256 is the digest of the lines
// "<sha256>  <file>\n" of all files in byte order of their names. A new reference.
bool model_folder_inspect(const char *folder, json_t **facts, struct vireo_error *err);

#endif
