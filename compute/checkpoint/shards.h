// The weights of a model folder as one set of tensors with one spelling of names.
//
// Reads model.safetensors, or the files named by model.safetensors.index.json; where both exist the single file wins.
// Names are normalised to those published on the Hub:
//   model.visual.X -> visual.X,  model.language_model.X -> model.X,
//   language_model.model.X -> model.X,  language_model.lm_head.X -> lm_head.X
// and the way they were stored is remembered, so that a model is saved as it was loaded.
#ifndef VIREO_CHECKPOINT_SHARDS_H
#define VIREO_CHECKPOINT_SHARDS_H

#include "compute/checkpoint/safetensors.h"

enum shards_layout {
    SHARDS_HUB,    // model.layers.0..., visual..., lm_head...
    SHARDS_NESTED, // model.language_model.layers.0..., model.visual..., lm_head... (newer library versions)
    SHARDS_OUTER,  // language_model.model.layers.0..., visual..., language_model.lm_head...
};
// "hub", "nested" or "outer".
const char *shards_layout_name(enum shards_layout layout);

// Writes the normalised name. False only if the buffer is too small.
bool shards_normalise(const char *stored, char *buffer, size_t size);
// The inverse for a layout: how a tensor of this normalised name is stored there.
bool shards_stored_name(enum shards_layout layout, const char *normalised, char *buffer, size_t size);

// Immutable after opening: any number of threads may read.
struct shards;
// Errors: VIREO_NOT_FOUND (neither file), VIREO_CORRUPT (index and files disagree, a name twice, a bad file).
bool shards_open(const char *folder, struct shards **out, struct vireo_error *err);
void shards_close(struct shards **s); // unmaps all files
void shards_forget(const struct shards *s); // safetensors_forget_all of every file

size_t shards_count(const struct shards *s);
// In order of the normalised name (byte order); `name` in the result is the normalised one.
const struct safetensor *shards_at(const struct shards *s, size_t i);
const struct safetensor *shards_find(const struct shards *s, const char *normalised); // NULL if absent
// The name under which the tensor was stored; NULL if absent.
const char *shards_name_on_disk(const struct shards *s, const char *normalised);
enum shards_layout shards_layout(const struct shards *s);
size_t shards_files(const struct shards *s);
uint64_t shards_parameters(const struct shards *s); // elements of all tensors
uint64_t shards_bytes(const struct shards *s);      // of all tensor data

// The tensor of this name and exactly this shape, or an error that says what was found.
const struct safetensor *shards_get(const struct shards *s, const char *normalised, int rank, const uint64_t *shape,
                                    struct vireo_error *err);

#endif
