// From rows of a dataset to what a step computes on: pictures decoded and cut into patches, prompts tokenised.
#ifndef VIREO_TRAIN_DATA_H
#define VIREO_TRAIN_DATA_H

#include "compute/base/hash.h"
#include "compute/dataset/order.h"
#include "compute/dataset/sample.h"
#include "compute/models/batch.h"
#include "compute/wire/spec.h"

// One picture of a step.
struct picture {
    struct patches patches;
    uint32_t width, height; // of the file, as shown
    uint8_t digest[HASH_BYTES]; // of the patches (engine/prefix.h)
};

// One row of a step. `pictures` are shared between rows that show the same picture, whatever its files are called.
struct example {
    const struct sample *sample;
    struct prompt prompt; // SFT: with the answer; GRPO and evaluation: up to the question
    uint32_t *pictures;   // [prompt.image_count] indices into the step's pictures
};

struct step_data {
    struct example *examples;
    uint32_t count;
    struct picture *pictures;
    const struct patches **patches; // [picture_count], pointers into pictures
    uint32_t picture_count;
};

// Loads `path`. `want_target`: rows must have an answer. Errors name line and field.
bool data_load(const struct job_spec *s, const char *path, bool want_target, struct dataset *out,
               struct vireo_error *err);

// Reads, decodes, resizes and tokenises rows[0..count) on several threads; order of results is the order of rows.
// with_target: the answer is part of the prompt and its tokens are marked as trained. Memory: `a`, and the pictures'
// patches, which step_data_finish frees.
bool step_data_build(const struct model *m, const struct job_spec *s, const struct dataset *d, const uint32_t *rows,
                     uint32_t count, bool with_target, struct arena *a, struct step_data *out, struct vireo_error *err);
void step_data_finish(struct step_data *s);

// The path of the encoded picture behind an image reference of the dataset, or NULL (then err says which is missing).
const char *data_image_path(const struct job_spec *s, const struct sample_image *image, struct vireo_error *err);

#endif
