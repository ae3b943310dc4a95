// A conversation: messages of text and image parts, held by an arena.
//
// Filled by server/api from requests and by dataset from JSONL, read by models (prompt) through the template. Images
// are only referred to: `image` is an index into the caller's list of images, in order of first use.
#ifndef VIREO_CHAT_CHAT_H
#define VIREO_CHAT_CHAT_H

#include "compute/base/arena.h"
#include "compute/base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum chat_part_kind { CHAT_TEXT, CHAT_IMAGE };

struct chat_part {
    enum chat_part_kind kind;
    const char *text; // CHAT_TEXT: UTF-8, NUL behind
    size_t length;
    uint32_t image; // CHAT_IMAGE: index into the caller's images
};

struct chat_tool_call {
    const char *id, *name;
    const char *arguments; // JSON text as clients send it
};

struct chat_message {
    const char *role; // "system", "developer", "user", "assistant" or "tool"
    struct chat_part *parts;
    size_t part_count, part_capacity;
    struct chat_tool_call *tool_calls; // assistant only
    size_t tool_call_count, tool_call_capacity;
    const char *tool_call_id; // tool only; NULL: none
    const char *name;         // NULL: none
    double weight;            // training weight of an assistant message: 0 = not trained on; 1 unless set
};

struct chat {
    struct arena *arena;
    struct chat_message *messages;
    size_t count, capacity;
};

void chat_init(struct chat *c, struct arena *a); // everything added lives in `a`
// One of the five roles of struct chat_message.
bool chat_role_is_known(const char *role);

// Appends an empty message. VIREO_INVALID for an unknown role. All strings are copied. NULL + err on failure.
struct chat_message *chat_add_message(struct chat *c, const char *role, struct vireo_error *err);
// These append to the last message (there must be one).
bool chat_add_text(struct chat *c, const char *text, size_t length, struct vireo_error *err);
bool chat_add_image(struct chat *c, uint32_t image, struct vireo_error *err);
bool chat_add_tool_call(struct chat *c, const char *id, const char *name, const char *arguments,
                        struct vireo_error *err);
bool chat_set_tool_call_id(struct chat *c, const char *id, struct vireo_error *err);
bool chat_set_name(struct chat *c, const char *name, struct vireo_error *err);
// Message of one text, the commonest case.
bool chat_add(struct chat *c, const char *role, const char *text, struct vireo_error *err);

size_t chat_image_parts(const struct chat *c); // number of image parts in all messages
// All text parts of a message joined; in the arena. NULL + err without memory.
const char *chat_message_text(const struct chat *c, size_t message, struct vireo_error *err);

// The messages as chat templates want them, a new reference (json_decref). A message without images has its content as
// one string (text parts joined; "" if there are none), one with images as a list of {"type":"text","text"} and
// {"type":"image"}. Tool calls: [{"type":"function","id","function":{"name","arguments"}}], arguments parsed if they
// are JSON, for the templates print them by tojson. Role "developer" becomes "system": the families' templates know no
// other.
json_t *chat_messages_json(const struct chat *c, struct vireo_error *err);

#endif
