// Datasets: rows of a JSONL with their images mapped by file name. The validated, rewritten JSONL (all images as img_
// ids) is a file of purpose "fine-tune": that id is a job's training_file.
#ifndef VIREO_STORE_DATASETS_H
#define VIREO_STORE_DATASETS_H

#include "server/store/store.h"

struct store_dataset {
    const char *id; // "ds_…"
    const char *name;
    const char *status;  // "ready", "error"
    const char *format;  // "vlm_r1", "openai" or "mixed"
    const char *file_id; // "file-…"; NULL while in error
    const char *counts;  // JSON object: rows, images, skipped
    const char *errors;  // JSON array of {"file","line","param","reason"}
    int64_t created_at;
};
struct store_dataset_image {
    const char *name; // as in the rows: "a.jpg"
    const char *image_id;
};
// Fills id and created_at.
bool store_dataset_add(struct store *s, struct store_dataset *d, const struct store_dataset_image *images,
                       size_t image_count, struct arena *a, struct vireo_error *err);
bool store_dataset_find(struct store *s, const char *id, struct arena *a, struct store_dataset *out,
                        struct vireo_error *err);
bool store_dataset_list(struct store *s, const struct store_page *page, struct arena *a, struct store_dataset **rows,
                        size_t *count, bool *has_more, struct vireo_error *err);
bool store_dataset_images(struct store *s, const char *id, struct arena *a, struct store_dataset_image **rows,
                          size_t *count, struct vireo_error *err);
// Deletes the row, its mapping and its file (VIREO_CONFLICT while a job uses it). Images stay.
bool store_dataset_delete(struct store *s, const char *id, struct vireo_error *err);

#endif
