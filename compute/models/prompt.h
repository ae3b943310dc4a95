// From a conversation with images to what the model reads: token ids with expanded image placeholders, three position
// rows, and which rows are image tokens.
#ifndef VIREO_MODELS_PROMPT_H
#define VIREO_MODELS_PROMPT_H

#include "compute/models/model.h"

// Grid of one image after preprocessing, in patches; tokens = t * h * w / merge^2.
struct image_grid {
    uint32_t t, h, w, tokens;
};

struct prompt {
    uint32_t count;
    uint32_t *ids;            // [count]
    uint32_t (*positions)[3]; // [count]: T, H, W (M-RoPE)
    uint32_t next_position;   // of the first token behind the prompt: all three axes
    int32_t *image;           // [count]: index of the image whose token this is, or -1
    uint32_t *image_row;      // [count]: which token of that image (raster order)
    uint32_t image_count;
    uint32_t *trained_first, *trained_end; // ranges of ids that belong to trained assistant messages (SFT)
    uint32_t trained_count;
};

struct prompt_options {
    bool add_generation_prompt;
    bool specials_in_text; // the reference's rule: special tokens inside users' text match; default: they stay text
    const json_t *tools;
    // A plain text instead of a chat: the ids of exactly this text (special tokens match). For golden data and the
    // demo's raw prompts.
    const char *raw_text;
};

// `images` [image_count] in the order the chat refers to them. The result lives in `a`.
// Errors: the template's, a number of image placeholders that does not match, VIREO_UNSUPPORTED for video.
bool prompt_build(const struct model *m, const struct chat *chat, const struct image_grid *images, uint32_t image_count,
                  const struct prompt_options *options, struct arena *a, struct prompt *out, struct vireo_error *err);
// From ids that already hold the expanded placeholders.
bool prompt_from_ids(const struct model *m, const uint32_t *ids, uint32_t count, const struct image_grid *images,
                     uint32_t image_count, struct arena *a, struct prompt *out, struct vireo_error *err);

// Specs section 5: positions of packed ids; returns the position behind the last token.
uint32_t prompt_positions(const struct model_config *c, const int32_t *image, const struct image_grid *images,
                          uint32_t count, uint32_t (*out)[3]);

#endif
