// One record of a dataset, and the dataset in memory: conversations, images by reference, grader items.
//
// Made by jsonl.h, read by the trainer and by evaluations. Everything lives in the dataset's arena (items are Jansson
// values of its own) and is constant after loading: any number of threads may read it.
#ifndef VIREO_DATASET_SAMPLE_H
#define VIREO_DATASET_SAMPLE_H

#include "compute/base/arena.h"
#include "compute/base/error.h"
#include "compute/chat/chat.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

enum sample_form {
    SAMPLE_SFT,    // {"messages": [… last is assistant]}
    SAMPLE_RFT,    // {"messages": [… last is user], item fields}
    SAMPLE_VLM_R1, // {"image", "conversations": [human, gpt], …}
};

// How a row names a picture.
enum image_form {
    IMAGE_NAME,  // file name, to be found in the archive or dataset that came with the rows
    IMAGE_ID,    // img_… or file-… of this server
    IMAGE_BYTES, // data: URI, decoded
};
struct sample_image {
    enum image_form form;
    const char *name;     // as the row has it; for IMAGE_BYTES "data:" and the SHA-256
    const char *id;       // what the resolver made of it; `name` without a resolver
    const uint8_t *bytes; // IMAGE_BYTES only: the file's content (PNG, JPEG or WebP by its first bytes), not decoded
    size_t byte_count;
};

struct sample {
    const char *id; // the row's id, else "row-N" with the line number
    uint32_t line;  // 1-based line in the file
    enum sample_form form;
    struct chat prompt;  // messages to condition on, last is user; image parts index dataset.images
    const char *target;  // assistant text that follows (SFT and VLM-R1 rows), NUL-terminated; NULL: none
    size_t target_bytes;
    double weight;       // of the target: 0 = not trained on, else 1
    // In a conversation of several turns earlier assistant messages are part of `prompt`, each with its own weight.
    const uint32_t *images; // [image_count] pictures in order of appearance, indices into dataset.images
    uint32_t image_count;
    // object for graders; RFT, SFT: the row without `messages`; VLM-R1: the row without `conversations`, plus
    // `problem` (question without <image> marks) and `solution` ("<answer> VALUE </answer>")
    json_t *item;
    uint32_t unit; // rows that stay together have equal numbers (row member "group"); ready for order_config.unit
};

struct dataset {
    struct arena arena;
    struct sample *samples;
    uint32_t count;
    struct sample_image *images; // each different picture once
    uint32_t image_count;
    uint32_t form_count[3]; // rows per sample_form
    uint32_t *units;        // samples[i].unit again, as order_config wants it
};

void dataset_finish(struct dataset *d); // a zeroed dataset is fine

// True if some row's item has the top-level member `key` (a grader may name it).
bool dataset_has_item_key(const struct dataset *d, const char *key);
// [count] unit numbers for order_config, as long as the dataset lives.
const uint32_t *dataset_units(const struct dataset *d);

#endif
