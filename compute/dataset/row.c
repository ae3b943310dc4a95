#include "compute/dataset/row.h"

#include "compute/base/check.h"
#include "compute/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The pictures of one row, in order of appearance.
struct row_images {
    uint32_t index[JSONL_MAX_IMAGES];
    uint32_t count;
};

// The question inside the template; `question` itself without one. In the arena. NULL without memory.
static const char *fill_template(const struct row_context *c, const char *question)
{
    static const char mark[] = "{Question}";
    const char *at = c->template_text ? strstr(c->template_text, mark) : NULL;
    if (!at)
        return question;
    return arena_format(c->arena, "%.*s%s%s", (int)(at - c->template_text), c->template_text, question,
                        at + sizeof mark - 1);
}

static bool add_text(const struct row_context *c, struct chat *chat, const char *text, bool question,
                     struct vireo_error *err)
{
    if (question)
        text = fill_template(c, text);
    return text ? chat_add_text(chat, text, strlen(text), err) : vireo_fail_memory(err, 0);
}

static bool add_image(const struct row_context *c, struct chat *chat, struct row_images *images, const char *reference,
                      const char *path, struct vireo_error *err)
{
    uint32_t index;
    if (images->count == JSONL_MAX_IMAGES)
        return vireo_fail_param(err, path, "more than %d images in a row", JSONL_MAX_IMAGES);
    if (!image_refs_add(c->images, reference, path, &index, err))
        return false;
    images->index[images->count++] = index;
    return chat_add_image(chat, index, err);
}

static bool add_image_url(const struct row_context *c, const json_t *part, const char *path, struct chat *chat,
                          struct row_images *images, struct vireo_error *err)
{
    static const char *const details[] = {"auto", "low", "high", "original", NULL};
    json_t *object = NULL;
    const char *url = NULL;
    char full[128], inner[128];
    int detail;
    json_path(full, sizeof full, path, "image_url");
    if (!json_get_object(part, path, "image_url", &object, err))
        return false;
    if (!object)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", full, "missing required field");
    return json_get_string_required(object, full, "url", &url, err) &&
           json_get_choice(object, full, "detail", details, &detail, err) &&
           add_image(c, chat, images, url, json_path(inner, sizeof inner, full, "url"), err);
}

static bool add_file(const struct row_context *c, const json_t *part, const char *path, struct chat *chat,
                     struct row_images *images, struct vireo_error *err)
{
    json_t *object = NULL;
    const char *id = NULL, *data = NULL;
    char full[128], inner[128];
    json_path(full, sizeof full, path, "file");
    if (!json_get_object(part, path, "file", &object, err) || !json_get_string(object, full, "file_id", &id, err) ||
        !json_get_string(object, full, "file_data", &data, err))
        return false;
    if (!id == !data)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", full,
                               "expected either file_id or file_data with an image");
    json_path(inner, sizeof inner, full, id ? "file_id" : "file_data");
    return add_image(c, chat, images, id ? id : data, inner, err);
}

// Index of the last text part; SIZE_MAX if there is none.
static size_t last_text(const json_t *parts)
{
    for (size_t i = json_array_size(parts); i-- > 0;) {
        const char *type = json_string_value(json_object_get(json_array_get(parts, i), "type"));
        if (type && strcmp(type, "text") == 0)
            return i;
    }
    return SIZE_MAX;
}

static bool add_part(const struct row_context *c, const json_t *part, const char *path, bool images_allowed,
                     bool question, struct chat *chat, struct row_images *images, struct vireo_error *err)
{
    const char *type = NULL, *text = NULL;
    char full[128];
    if (!json_is_object(part))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", path, "expected object, got %s",
                               json_type_name(part));
    if (!json_get_string_required(part, path, "type", &type, err))
        return false;
    if (strcmp(type, "text") == 0)
        return json_get_string_required(part, path, "text", &text, err) && add_text(c, chat, text, question, err);
    bool url = strcmp(type, "image_url") == 0;
    if (!url && strcmp(type, "file") != 0)
        return vireo_fail_param(err, json_path(full, sizeof full, path, "type"),
                                "expected one of 'text', 'image_url', 'file', got '%.60s'", type);
    if (!images_allowed)
        return vireo_fail_param(err, path, "images may stand in user messages only");
    return url ? add_image_url(c, part, path, chat, images, err) : add_file(c, part, path, chat, images, err);
}

// Content of message `path` into the last message of `chat`. `question`: the template goes around its last text.
static bool add_content(const struct row_context *c, const json_t *message, const char *path, bool images_allowed,
                        bool question, struct chat *chat, struct row_images *images, struct vireo_error *err)
{
    const json_t *content = json_object_get(message, "content");
    char full[128], item[128];
    json_path(full, sizeof full, path, "content");
    if (json_is_string(content))
        return add_text(c, chat, json_string_value(content), question, err);
    if (!content || json_is_null(content))
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", full, "missing required field");
    if (!json_is_array(content))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", full, "expected string or array, got %s",
                               json_type_name(content));
    if (json_array_size(content) == 0)
        return vireo_fail_param(err, full, "expected at least one part");
    size_t last = question ? last_text(content) : SIZE_MAX;
    for (size_t i = 0; i < json_array_size(content); i++) {
        snprintf(item, sizeof item, "%.100s[%u]", full, (unsigned)i);
        if (!add_part(c, json_array_get(content, i), item, images_allowed, i == last, chat, images, err))
            return false;
    }
    if (question && last == SIZE_MAX && c->template_text)
        return add_text(c, chat, "", true, err);
    return true;
}

static bool read_weight(const json_t *message, const char *path, bool assistant, double *weight,
                        struct vireo_error *err)
{
    const json_t *w = json_object_get(message, "weight");
    char full[128];
    *weight = 1;
    if (!w || json_is_null(w))
        return true;
    json_path(full, sizeof full, path, "weight");
    if (!assistant)
        return vireo_fail_param(err, full, "only assistant messages have a weight");
    if (!json_is_number(w) || (json_number_value(w) != 0 && json_number_value(w) != 1))
        return vireo_fail_param(err, full, "expected 0 or 1");
    *weight = json_number_value(w);
    return true;
}

// Role of messages[i], checked.
static bool read_role(const json_t *message, const char *path, const char **role, struct vireo_error *err)
{
    char full[128];
    if (!json_is_object(message))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", path, "expected object, got %s",
                               json_type_name(message));
    if (!json_get_string_required(message, path, "role", role, err))
        return false;
    json_path(full, sizeof full, path, "role");
    if (strcmp(*role, "tool") == 0 || strcmp(*role, "function") == 0 || json_object_get(message, "tool_calls"))
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", full,
                               "tool messages are not supported in rows");
    if (!chat_role_is_known(*role))
        return vireo_fail_param(err, full, "expected one of 'system', 'developer', 'user', 'assistant', got '%.60s'",
                                *role);
    return true;
}

static bool is_assistant(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role && strcmp(role, "assistant") == 0;
}

static bool is_system(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role && (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0);
}

// The answer to learn: text of the last message.
static bool read_target(const struct row_context *c, const json_t *message, const char *path, struct sample *out,
                        struct vireo_error *err)
{
    struct chat answer;
    struct row_images none = {0};
    const char *role;
    char full[128];
    chat_init(&answer, c->arena);
    if (!read_role(message, path, &role, err) || !read_weight(message, path, true, &out->weight, err) ||
        !chat_add_message(&answer, "assistant", err) ||
        !add_content(c, message, path, false, false, &answer, &none, err))
        return false;
    out->target = chat_message_text(&answer, 0, err);
    if (!out->target)
        return false;
    out->target_bytes = strlen(out->target);
    if (out->target_bytes == 0)
        return vireo_fail_param(err, json_path(full, sizeof full, path, "content"), "the answer is empty");
    return true;
}

static bool add_system_prompt(const struct row_context *c, struct chat *chat, struct vireo_error *err)
{
    return !c->options->system_prompt || chat_add(chat, "system", c->options->system_prompt, err);
}

// messages[0..count) into the prompt.
static bool read_prompt(const struct row_context *c, const json_t *messages, size_t count, struct sample *out,
                        struct row_images *images, double *weights, struct vireo_error *err)
{
    bool has_system = false;
    for (size_t i = 0; i < count; i++)
        has_system |= is_system(json_array_get(messages, i));
    if (!has_system && !add_system_prompt(c, &out->prompt, err))
        return false;
    for (size_t i = 0; i < count; i++) {
        const json_t *message = json_array_get(messages, i);
        const char *role;
        char path[128];
        double weight;
        snprintf(path, sizeof path, "messages[%u]", (unsigned)i);
        if (!read_role(message, path, &role, err) ||
            !read_weight(message, path, strcmp(role, "assistant") == 0, &weight, err))
            return false;
        bool user = strcmp(role, "user") == 0;
        struct chat_message *m = chat_add_message(&out->prompt, role, err);
        if (!m || !add_content(c, message, path, user, i + 1 == count, &out->prompt, images, err))
            return false;
        out->prompt.messages[out->prompt.count - 1].weight = weight;
        if (strcmp(role, "assistant") == 0)
            *weights += weight;
        if (i + 1 == count && !user) {
            char full[128];
            return vireo_fail_param(err, json_path(full, sizeof full, path, "role"),
                                    "expected 'user' here: an answer follows a question, got '%.40s'", role);
        }
    }
    return true;
}

static bool check_wanted(const struct row_context *c, bool has_target, size_t last, struct vireo_error *err)
{
    char path[128];
    snprintf(path, sizeof path, "messages[%u].role", (unsigned)last);
    if (c->options->want == JSONL_TARGET && !has_target)
        return vireo_fail_param(err, path, "the last message must be from 'assistant' for supervised training");
    if (c->options->want == JSONL_PROMPT && has_target)
        return vireo_fail_param(err, path, "the last message must be from 'user' for reinforcement: the model answers");
    return true;
}

static bool read_messages(const struct row_context *c, json_t *row, struct sample *out, struct row_images *images,
                          struct vireo_error *err)
{
    json_t *messages = NULL;
    static const char *const unsupported[] = {"tools", "functions"};
    for (size_t i = 0; i < VIREO_COUNT(unsupported); i++) {
        const json_t *list = json_object_get(row, unsupported[i]);
        if (list && !json_is_null(list) && json_array_size(list) != 0)
            return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_parameter", unsupported[i],
                                   "tools are not supported in rows");
    }
    if (!json_get_array(row, "", "messages", &messages, err))
        return false;
    size_t count = json_array_size(messages);
    if (count == 0 || count > JSONL_MAX_MESSAGES)
        return vireo_fail_param(err, "messages", "expected 1 to %d messages, got %zu", JSONL_MAX_MESSAGES, count);
    bool has_target = is_assistant(json_array_get(messages, count - 1));
    double weights = 0;
    out->form = has_target ? SAMPLE_SFT : SAMPLE_RFT;
    if (!check_wanted(c, has_target, count - 1, err))
        return false;
    if (has_target && count == 1)
        return vireo_fail_param(err, "messages", "an answer without a question before it");
    if (!read_prompt(c, messages, count - has_target, out, images, &weights, err))
        return false;
    if (has_target) {
        char path[128];
        snprintf(path, sizeof path, "messages[%u]", (unsigned)(count - 1));
        if (!read_target(c, json_array_get(messages, count - 1), path, out, err))
            return false;
        if (weights + out->weight == 0)
            return vireo_fail_param(err, "messages", "all answers have weight 0: nothing to train on");
    }
    return json_object_del(row, "messages") == 0;
}

// Every `mark` taken out of `text`; in the arena. NULL without memory.
static char *without(struct arena *a, const char *text, const char *mark, uint32_t *count)
{
    size_t length = strlen(mark);
    char *out = arena_copy_string(a, text);
    for (char *at = out; at && (at = strstr(at, mark)) != NULL; ++*count)
        memmove(at, at + length, strlen(at + length) + 1);
    return out;
}

// White space off both ends; ASCII, as in the answers of VLM-R1's files.
static char *strip(char *text)
{
    static const char blanks[] = " \t\r\n\f\v";
    text += strspn(text, blanks);
    size_t length = strlen(text);
    while (length && strchr(blanks, text[length - 1]))
        text[--length] = 0;
    return text;
}

// The answer as text: strings as they are, numbers and other JSON as Python prints them (for lists of numbers the same
// as JSON with a space behind each comma).
static const char *value_text(struct arena *a, const json_t *value)
{
    if (json_is_string(value))
        return arena_copy_string(a, json_string_value(value));
    if (json_is_boolean(value))
        return json_is_true(value) ? "True" : "False";
    if (json_is_real(value)) {
        for (int digits = 1;; digits++) {
            char text[40];
            snprintf(text, sizeof text, "%.*g", digits, json_real_value(value));
            if (digits == 17 || strtod(text, NULL) == json_real_value(value))
                return arena_format(a, "%s%s", text, strpbrk(text, ".e") ? "" : ".0");
        }
    }
    char *dump = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    char *out = dump ? arena_copy_string(a, dump) : NULL;
    free(dump);
    return out;
}

// conversations[i]: who speaks, and the value.
static bool read_turn(const json_t *turns, size_t i, const char *from, const char *other, const json_t **value,
                      struct vireo_error *err)
{
    const json_t *turn = json_array_get(turns, i);
    const char *speaker = NULL;
    char path[64], full[128];
    snprintf(path, sizeof path, "conversations[%u]", (unsigned)i);
    if (!json_is_object(turn))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", path, "expected object, got %s",
                               json_type_name(turn));
    if (!json_get_string_required(turn, path, "from", &speaker, err))
        return false;
    if (strcmp(speaker, from) != 0 && strcmp(speaker, other) != 0)
        return vireo_fail_param(err, json_path(full, sizeof full, path, "from"), "expected '%s', got '%.60s'", from,
                                speaker);
    *value = json_object_get(turn, "value");
    if (!*value || json_is_null(*value))
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter",
                               json_path(full, sizeof full, path, "value"), "missing required field");
    return true;
}

static bool add_vlm_images(const struct row_context *c, const json_t *row, struct sample *out,
                           struct row_images *images,
                           struct vireo_error *err)
{
    const json_t *image = json_object_get(row, "image");
    if (!image || json_is_null(image))
        return true;
    if (json_is_string(image))
        return add_image(c, &out->prompt, images, json_string_value(image), "image", err);
    if (!json_is_array(image))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", "image",
                               "expected string or array of strings, got %s",
                               json_type_name(image));
    for (size_t i = 0; i < json_array_size(image); i++) {
        const json_t *name = json_array_get(image, i);
        char path[64];
        snprintf(path, sizeof path, "image[%u]", (unsigned)i);
        if (!json_is_string(name))
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", path, "expected string, got %s",
                                   json_type_name(name));
        if (!add_image(c, &out->prompt, images, json_string_value(name), path, err))
            return false;
    }
    return true;
}

static bool set_item(json_t *row, const char *key, const char *text, struct vireo_error *err)
{
    json_t *value = text ? json_string(text) : NULL;
    return json_object_set_new(row, key, value) == 0 ? true : vireo_fail_memory(err, 0);
}

// The solution as all of VLM-R1's rewards see it: tags off, stripped, wrapped again with one space each side.
static bool set_solution(const struct row_context *c, json_t *row, const char *answer, struct vireo_error *err)
{
    uint32_t count = 0;
    char *bare = without(c->arena, answer, "<answer>", &count);
    bare = bare ? without(c->arena, bare, "</answer>", &count) : NULL;
    if (!bare)
        return vireo_fail_memory(err, 0);
    return set_item(row, "solution", arena_format(c->arena, "<answer> %s </answer>", strip(bare)), err);
}

static bool read_conversations(const struct row_context *c, json_t *row, struct sample *out, struct row_images *images,
                               struct vireo_error *err)
{
    json_t *turns = NULL;
    const json_t *question, *answer;
    const char *method = NULL;
    uint32_t marks = 0;
    out->form = SAMPLE_VLM_R1;
    out->weight = 1;
    if (!json_get_array(row, "", "conversations", &turns, err) ||
        !json_get_string(row, "", "accu_reward_method", &method, err))
        return false;
    if (json_array_size(turns) < 2)
        return vireo_fail_param(err, "conversations", "expected a question and an answer, got %zu turns",
                                json_array_size(turns));
    if (!read_turn(turns, 0, "human", "user", &question, err) || !read_turn(turns, 1, "gpt", "assistant", &answer, err))
        return false;
    if (!json_is_string(question))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", "conversations[0].value", "expected string, got %s",
                               json_type_name(question));
    const char *problem = without(c->arena, json_string_value(question), "<image>", &marks);
    out->target = value_text(c->arena, answer);
    if (!problem || !out->target)
        return vireo_fail_memory(err, 0);
    out->target_bytes = strlen(out->target);
    if (out->target_bytes == 0)
        return vireo_fail_param(err, "conversations[1].value", "the answer is empty");
    if (!add_system_prompt(c, &out->prompt, err) || !chat_add_message(&out->prompt, "user", err) ||
        !add_vlm_images(c, row, out, images, err) || !add_text(c, &out->prompt, problem, true, err))
        return false;
    if (marks > images->count)
        return vireo_fail_param(err, "conversations[0].value", "%u <image> marks for %u images", marks, images->count);
    return set_item(row, "problem", problem, err) && set_solution(c, row, out->target, err) &&
           json_object_del(row, "conversations") == 0;
}

static bool read_id(const struct row_context *c, const json_t *row, uint32_t line, struct sample *out,
                    struct vireo_error *err)
{
    const json_t *id = json_object_get(row, "id");
    if (!id || json_is_null(id))
        out->id = arena_format(c->arena, "row-%u", line);
    else if (json_is_integer(id))
        out->id = arena_format(c->arena, "%" JSON_INTEGER_FORMAT, json_integer_value(id));
    else if (!json_is_string(id))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", "id", "expected string or integer, got %s",
                               json_type_name(id));
    else if (json_string_length(id) == 0 || json_string_length(id) > 256)
        return vireo_fail_param(err, "id", "expected 1 to 256 bytes, got %zu", json_string_length(id));
    else
        out->id = arena_copy_string(c->arena, json_string_value(id));
    return out->id ? true : vireo_fail_memory(err, 256);
}

bool row_read(const struct row_context *c, json_t *row, uint32_t line, struct sample *out, struct vireo_error *err)
{
    struct sample s = {.line = line};
    struct row_images images = {0};
    if (!json_is_object(row))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", NULL, "expected a JSON object, got %s",
                               json_type_name(row));
    bool messages = json_object_get(row, "messages") != NULL, turns = json_object_get(row, "conversations") != NULL;
    if (messages && turns)
        return vireo_fail_param(err, "messages", "a row has either messages or conversations, not both");
    if (!messages && !turns && json_object_get(row, "preferred_output"))
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value", "preferred_output",
                               "preference rows are not supported");
    if (!messages && !turns)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "messages",
                               "missing required field: messages, or conversations of VLM-R1's form");
    chat_init(&s.prompt, c->arena);
    if (!read_id(c, row, line, &s, err) || !(messages ? read_messages : read_conversations)(c, row, &s, &images, err))
        return false;
    s.image_count = images.count;
    s.images = (const uint32_t *)arena_copy_bytes(c->arena, images.index, images.count * sizeof images.index[0]);
    if (!s.images)
        return vireo_fail_memory(err, sizeof images);
    s.item = json_incref(row);
    *out = s;
    return true;
}
