// One JSON object of a dataset file into a sample.
#ifndef VIREO_DATASET_ROW_H
#define VIREO_DATASET_ROW_H

#include "compute/dataset/image_refs.h"

struct row_context {
    const struct jsonl_options *options;
    const char *template_text; // of options->question_template; NULL: none
    struct arena *arena;
    struct image_refs *images;
};

// Fills *out but for `unit`; item is `row` itself, changed (a new reference). Error params are fields within the row.
bool row_read(const struct row_context *c, json_t *row, uint32_t line, struct sample *out, struct vireo_error *err);

#endif
