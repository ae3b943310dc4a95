#include "compute/chat/chat.h"

#include "compute/base/check.h"

#include <string.h>

static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};

void chat_init(struct chat *c, struct arena *a)
{
    *c = (struct chat){.arena = a};
}

bool chat_role_is_known(const char *role)
{
    for (size_t i = 0; i < VIREO_COUNT(roles); i++)
        if (strcmp(role, roles[i]) == 0)
            return true;
    return false;
}

// Room for one more element of an array in the arena: doubles by copying, the old block stays until the arena goes.
static bool make_room(struct arena *a, void *array, size_t count, size_t *capacity, size_t size,
                      struct vireo_error *err)
{
    if (count < *capacity)
        return true;
    size_t more = *capacity ? *capacity * 2 : 4;
    void **place = array, *grown = arena_take_array(a, more, size);
    if (!grown)
        return vireo_fail_memory(err, (unsigned long long)more * size);
    if (count)
        memcpy(grown, *place, count * size);
    *place = grown;
    *capacity = more;
    return true;
}

static bool copy(struct chat *c, const char *text, const char **out, struct vireo_error *err)
{
    const char *made = text ? arena_copy_string(c->arena, text) : NULL;
    if (text && !made)
        return vireo_fail_memory(err, strlen(text) + 1);
    *out = made;
    return true;
}

static struct chat_message *last_message(struct chat *c)
{
    vireo_assert(c->count > 0);
    return &c->messages[c->count - 1];
}

struct chat_message *chat_add_message(struct chat *c, const char *role, struct vireo_error *err)
{
    if (!chat_role_is_known(role)) {
        vireo_fail_param(err, "role", "The role is \"%.40s\"; allowed are system, developer, user, assistant and tool.",
                         role);
        return NULL;
    }
    const char *name;
    if (!copy(c, role, &name, err) ||
        !make_room(c->arena, &c->messages, c->count, &c->capacity, sizeof *c->messages, err))
        return NULL;
    c->messages[c->count] = (struct chat_message){.role = name, .weight = 1.0};
    return &c->messages[c->count++];
}

static struct chat_part *add_part(struct chat *c, struct vireo_error *err)
{
    struct chat_message *m = last_message(c);
    if (!make_room(c->arena, &m->parts, m->part_count, &m->part_capacity, sizeof *m->parts, err))
        return NULL;
    return &m->parts[m->part_count];
}

bool chat_add_text(struct chat *c, const char *text, size_t length, struct vireo_error *err)
{
    struct chat_part *part = add_part(c, err);
    const char *made = part ? arena_copy_bytes(c->arena, text, length) : NULL;
    if (!part)
        return false;
    if (!made)
        return vireo_fail_memory(err, length + 1);
    *part = (struct chat_part){.kind = CHAT_TEXT, .text = made, .length = length};
    last_message(c)->part_count++;
    return true;
}

bool chat_add_image(struct chat *c, uint32_t image, struct vireo_error *err)
{
    struct chat_part *part = add_part(c, err);
    if (!part)
        return false;
    *part = (struct chat_part){.kind = CHAT_IMAGE, .image = image};
    last_message(c)->part_count++;
    return true;
}

bool chat_add_tool_call(struct chat *c, const char *id, const char *name, const char *arguments,
                        struct vireo_error *err)
{
    struct chat_message *m = last_message(c);
    struct chat_tool_call call = {0};
    if (!copy(c, id, &call.id, err) || !copy(c, name, &call.name, err) || !copy(c, arguments, &call.arguments, err) ||
        !make_room(c->arena, &m->tool_calls, m->tool_call_count, &m->tool_call_capacity, sizeof *m->tool_calls, err))
        return false;
    m->tool_calls[m->tool_call_count++] = call;
    return true;
}

bool chat_set_tool_call_id(struct chat *c, const char *id, struct vireo_error *err)
{
    return copy(c, id, &last_message(c)->tool_call_id, err);
}

bool chat_set_name(struct chat *c, const char *name, struct vireo_error *err)
{
    return copy(c, name, &last_message(c)->name, err);
}

bool chat_add(struct chat *c, const char *role, const char *text, struct vireo_error *err)
{
    if (!chat_add_message(c, role, err))
        return false;
    if (chat_add_text(c, text, strlen(text), err))
        return true;
    c->count--;
    return false;
}

static size_t images_of(const struct chat_message *m)
{
    size_t count = 0;
    for (size_t i = 0; i < m->part_count; i++)
        count += m->parts[i].kind == CHAT_IMAGE;
    return count;
}

size_t chat_image_parts(const struct chat *c)
{
    size_t count = 0;
    for (size_t i = 0; i < c->count; i++)
        count += images_of(&c->messages[i]);
    return count;
}

static char *join_text(const struct chat *c, const struct chat_message *m, size_t *length, struct vireo_error *err)
{
    size_t total = 0;
    for (size_t i = 0; i < m->part_count; i++)
        total += m->parts[i].kind == CHAT_TEXT ? m->parts[i].length : 0;
    char *text = arena_take(c->arena, total + 1);
    if (!text) {
        vireo_fail_memory(err, total + 1);
        return NULL;
    }
    size_t at = 0;
    for (size_t i = 0; i < m->part_count; i++) {
        if (m->parts[i].kind != CHAT_TEXT)
            continue;
        memcpy(text + at, m->parts[i].text, m->parts[i].length);
        at += m->parts[i].length;
    }
    *length = total;
    return text;
}

const char *chat_message_text(const struct chat *c, size_t message, struct vireo_error *err)
{
    size_t length;
    vireo_assert(message < c->count);
    return join_text(c, &c->messages[message], &length, err);
}

// Jansson refuses text that is not UTF-8; readers of requests and files have let only UTF-8 in.
static json_t *text_value(const char *text, size_t length)
{
    return json_stringn(text, length);
}

static json_t *content_value(const struct chat *c, const struct chat_message *m, struct vireo_error *err)
{
    if (images_of(m) == 0) {
        struct arena_mark mark = arena_mark(c->arena);
        size_t length;
        char *text = join_text(c, m, &length, err);
        json_t *value = text ? text_value(text, length) : NULL;
        arena_rewind(c->arena, mark);
        return value;
    }
    json_t *list = json_array();
    for (size_t i = 0; list && i < m->part_count; i++) {
        const struct chat_part *p = &m->parts[i];
        json_t *part = p->kind == CHAT_IMAGE
                           ? json_pack("{s:s}", "type", "image")
                           : json_pack("{s:s, s:o}", "type", "text", "text", text_value(p->text, p->length));
        if (json_array_append_new(list, part) != 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static json_t *call_value(const struct chat_tool_call *call)
{
    const char *text = call->arguments ? call->arguments : "{}";
    json_t *arguments = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (!arguments)
        arguments = json_string(text);
    return json_pack("{s:s, s:s, s:{s:s, s:o}}", "type", "function", "id", call->id ? call->id : "", "function", "name",
                     call->name ? call->name : "", "arguments", arguments);
}

static json_t *message_value(const struct chat *c, const struct chat_message *m, struct vireo_error *err)
{
    const char *role = strcmp(m->role, "developer") == 0 ? "system" : m->role;
    json_t *o = json_pack("{s:s, s:o}", "role", role, "content", content_value(c, m, err));
    bool ok = o != NULL;
    if (ok && m->name)
        ok = json_object_set_new(o, "name", json_string(m->name)) == 0;
    if (ok && m->tool_call_id)
        ok = json_object_set_new(o, "tool_call_id", json_string(m->tool_call_id)) == 0;
    if (ok && m->tool_call_count) {
        json_t *calls = json_array();
        for (size_t i = 0; ok && i < m->tool_call_count; i++)
            ok = json_array_append_new(calls, call_value(&m->tool_calls[i])) == 0;
        ok = json_object_set_new(o, "tool_calls", calls) == 0 && ok;
    }
    if (ok)
        return o;
    json_decref(o);
    return NULL;
}

json_t *chat_messages_json(const struct chat *c, struct vireo_error *err)
{
    json_t *list = json_array();
    bool ok = list != NULL;
    for (size_t i = 0; ok && i < c->count; i++) {
        json_t *m = message_value(c, &c->messages[i], err);
        ok = m && json_array_append_new(list, m) == 0;
        if (!ok)
            vireo_fail(err, VIREO_NO_MEMORY,
                       "message %zu could not be prepared for the template: no memory, or text that "
                       "is not UTF-8",
                       i);
    }
    if (!ok) {
        json_decref(list);
        return NULL;
    }
    return list;
}
