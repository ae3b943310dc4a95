// What the device computes at once: packed tokens of many sequences, and the patches of their distinct images.
//
// Built on the host, then put on a tape. No padding anywhere: rows of all sequences stand one after the other. Layout
// of a group: prompt, completion 1, ..., completion G; a completion's rows attend to the prompt and to themselves, so a
// prompt is computed once however many completions share it.
#ifndef VIREO_MODELS_BATCH_H
#define VIREO_MODELS_BATCH_H

#include "compute/models/prompt.h"

// ---- images
struct vision_batch {
    uint32_t patches, merged; // rows before and after merging
    struct tensor pixels;     // f32 [patches, 3 * temporal * patch^2], rows in window order
    struct nn_rope rope;      // positions h, w
    struct nn_spans window, full;
    uint32_t *row;   // [merged], host: row[image-order index] = row of the vision output (inverse window order)
    uint32_t *first; // [images + 1]: first image-order index of each image
    uint32_t image_count;
};
// Uploads the patches of `count` images (each a still frame or clip) to the tape. Host arrays live in `a`.
bool vision_batch_build(const struct model *m, struct tape *t, const struct patches *const *images, uint32_t count,
                        struct arena *a, struct vision_batch *out, struct vireo_error *err);

// Specs 4.3 alone: window_index [merged] and the ends of windows in merged tokens (count in *windows).
bool vision_window_index(const struct model_vision_config *c, const struct image_grid *grids, uint32_t count,
                         uint32_t *index, uint32_t *window_ends, uint32_t *windows);

// ---- tokens
struct text_batch {
    uint32_t tokens;
    struct nn_embedding embedding;
    struct nn_rope rope;
    struct nn_spans spans;
    const struct nn_kv *kv; // [num_hidden_layers], or NULL: keys are rows of the batch
};

// Host-side builder; all arrays grow in `a`.
struct text_rows {
    struct arena *a;
    uint32_t count, room;
    int32_t *source; // token id, or -1 - row of the vision output
    uint32_t (*positions)[4];
    uint32_t (*query)[4]; // spans
    uint32_t (*key)[2];   // first, end of the query rows that see this row
    uint32_t *slot;       // KV slot, or 0xffffffff
    bool failed;
};
// An empty batch whose arrays will live in `a`.
void text_rows_init(struct text_rows *r, struct arena *a);
// Appends `count` tokens of a prompt; rows attend causally to each other. `vision` maps image tokens (NULL without
// images); `images[i]` = index in the vision batch of the prompt's image i. Returns the first row.
uint32_t text_rows_prompt(struct text_rows *r, const struct prompt *p, const struct vision_batch *vision,
                          const uint32_t *images);
// Appends `count` tokens of a completion of the prompt whose rows are [prompt_first, prompt_first + prompt_count).
// Completions must directly follow their prompt and each other. Positions start at `position`. Returns the first row.
uint32_t text_rows_completion(struct text_rows *r, uint32_t prompt_first, uint32_t prompt_count, const uint32_t *ids,
                              uint32_t count, uint32_t position);
// One row whose keys lie in a KV pool: `source` (token id, or -1 - row of the pictures), its three positions, its spans
// (nn_spans) and its slot. Returns the row.
uint32_t text_rows_cached(struct text_rows *r, int32_t source, const uint32_t positions[3], const uint32_t spans[4],
                          uint32_t slot);
// Puts the rows on the tape. With `kv` the slots are uploaded too (kv[layer].slot is set for all layers).
bool text_batch_build(const struct model *m, struct tape *t, const struct text_rows *r, struct nn_kv *kv,
                      struct text_batch *out, struct vireo_error *err);

#endif
