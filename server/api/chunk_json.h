// Answers of chat completions: whole, in chunks, usage (api.md 1.5 and 4). Each returns a new reference, NULL without memory.
#ifndef VIREO_API_CHUNK_JSON_H
#define VIREO_API_CHUNK_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

// What all objects of one answer share.
struct answer_head {
    char id[48];
    int64_t created;
    const char *model;
    char fingerprint[40];
    bool include_usage; // chunks carry "usage": null
};
struct answer_usage {
    int prompt_tokens, image_tokens, completion_tokens, cached_tokens; // image and cached tokens are part of the prompt's
};

json_t *chunk_usage(const struct answer_usage *u);
// delta is taken; finish_reason NULL: null; logprobs (array, borrowed) NULL: null.
json_t *chunk_json(const struct answer_head *h, int index, json_t *delta, const char *finish_reason, json_t *logprobs);
json_t *chunk_usage_json(const struct answer_head *h, const struct answer_usage *u); // the last one, choices []
json_t *choice_json(int index, const char *content, size_t length, const char *finish_reason, json_t *logprobs);
json_t *completion_json(const struct answer_head *h, json_t *choices, const struct answer_usage *u); // takes choices

#endif
