// Chat completion requests (api.md 4): what the body asks for, checked, as the "generate" message of a worker.
#ifndef VIREO_API_CHAT_JSON_H
#define VIREO_API_CHAT_JSON_H

#include "compute/base/arena.h"
#include "compute/base/error.h"

#include <jansson.h>

enum { CHAT_MAX_IMAGES = 16, CHAT_MAX_CHOICES = 128 };

// An image as the request names it.
struct chat_image {
    const char *param;    // "messages[1].content[0].image_url.url"
    const char *id;       // "img_…" or "file-…"; NULL: the bytes are here
    const uint8_t *bytes; // decoded data: URI, in the arena
    size_t count;
};
struct chat_request_json {
    const char *model;
    bool stream, include_usage, logprobs;
    int n;
    struct chat_image images[CHAT_MAX_IMAGES];
    size_t image_count;
    json_t *message; // new reference: {"messages", "n", "sampling", "stop", "logprobs", "top_logprobs", …} without images
};
// On success the caller owns out->message. Errors name the field; what is not built is refused by name, never dropped.
bool chat_json_read(json_t *body, struct arena *a, struct chat_request_json *out, struct vireo_error *err);
// Names of all fields that are honoured or knowingly ignored, NULL-terminated; for request_ignore_unknown.
extern const char *const chat_json_known[];

#endif
