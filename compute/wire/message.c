#include "compute/wire/message.h"

#include "compute/base/check.h"

#include <stdio.h>
#include <string.h>

static const char *const names[] = {
    "hello",   "run",      "evaluate", "order",   "ack",    "load",       "generate", "cancel", "check",  "inspect", "init",
    "thumbnail", "devices", "ping",    "pong",    "progress", "started",  "metrics",  "groups", "checkpoint", "event",
    "done",    "cancelled", "paused",  "failed",  "loaded", "accepted",   "token",    "end",    "refused", "stats", "checked",
    "inspected", "unpack", "entry",   "unpacked",
};

const char *message_name(enum message_kind kind)
{
    _Static_assert(VIREO_COUNT(names) == MESSAGE_UNKNOWN, "a name for every kind");
    return (size_t)kind < VIREO_COUNT(names) ? names[kind] : "unknown";
}

enum message_kind message_kind_of(const json_t *message)
{
    const char *name = json_string_value(json_object_get(message, "kind"));
    for (size_t i = 0; name && i < VIREO_COUNT(names); i++)
        if (strcmp(names[i], name) == 0)
            return (enum message_kind)i;
    return MESSAGE_UNKNOWN;
}

json_t *message_new(enum message_kind kind)
{
    return json_pack("{s:s}", "kind", message_name(kind));
}

// An error's text may quote input cut inside a character, which JSON refuses: then its bytes beyond ASCII become '?'.
static json_t *text_of(const char *text)
{
    json_t *value = json_string(text);
    if (value)
        return value;
    char plain[sizeof(struct vireo_error)];
    size_t i = 0;
    for (; text[i] && i + 1 < sizeof plain; i++)
        plain[i] = (signed char)text[i] < 0 ? '?' : text[i];
    plain[i] = 0;
    return json_string(plain);
}

json_t *message_error(const struct vireo_error *err)
{
    return json_pack("{s:s,s:s,s:o,s:o}", "code", vireo_code_name(err->code), "kind", err->kind, "param",
                     text_of(err->param), "message", text_of(err->message));
}

static void copy(char *to, size_t size, const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    snprintf(to, size, "%s", text ? text : "");
}

void message_read_error(const json_t *o, struct vireo_error *err)
{
    const char *code = json_string_value(json_object_get(o, "code"));
    *err = (struct vireo_error){.code = code ? vireo_code_from_name(code) : VIREO_INTERNAL};
    copy(err->kind, sizeof err->kind, o, "kind");
    copy(err->param, sizeof err->param, o, "param");
    copy(err->message, sizeof err->message, o, "message");
    if (!err->message[0])
        snprintf(err->message, sizeof err->message, "the worker gave no reason");
}
