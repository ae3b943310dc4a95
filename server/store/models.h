// Models: base models and what jobs made. The weights are a folder below DIR (HF layout); the row names it.
#ifndef VIREO_STORE_MODELS_H
#define VIREO_STORE_MODELS_H

#include "server/store/store.h"

struct store_model {
    const char *id;      // its name: "tiny-vlm", "ft:tiny-vlm:vireo:rec:ab12cd34", "ft:…:ckpt-step-50"
    const char *folder;  // relative to DIR
    const char *parent;  // model it was trained from; NULL: a base model
    const char *job_id;  // NULL: none
    const char *family;  // "qwen2_5_vl"
    const char *adapter; // "full", "lora"; NULL for base models
    const char *owned_by;
    const char *sha256;  // of the weights' manifest; "" unknown
    const char *info;    // JSON object: further facts (context_length, vocab_size, parameters …); NULL = {}
    int64_t step, bytes, context_length, created_at;
};
// Fills created_at where 0. VIREO_CONFLICT when the name exists.
bool store_model_add(struct store *s, struct store_model *m, struct vireo_error *err);
bool store_model_find(struct store *s, const char *id, struct arena *a, struct store_model *out,
                      struct vireo_error *err);
bool store_model_list(struct store *s, struct arena *a, struct store_model **rows, size_t *count,
                      struct vireo_error *err); // all, oldest first
// VIREO_FORBIDDEN for base models unless `force`, VIREO_CONFLICT while an unfinished job uses it. The folder is removed
// after the commit when no other row names it.
bool store_model_delete(struct store *s, const char *id, bool force, struct vireo_error *err);
// Absolute path of a model's folder in the arena; NULL without memory.
const char *store_model_path(const struct store *s, const struct store_model *m, struct arena *a);

#endif
