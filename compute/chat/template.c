// Loading templates from model folders, and rendering: variables in, text with its origins out.
#include "compute/chat/template_internal.h"

#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct chat_template *create(const char *source, size_t length, struct vireo_error *err)
{
    struct chat_template *t = vireo_calloc(1, sizeof *t);
    if (!t) {
        vireo_fail_memory(err, sizeof *t);
        return NULL;
    }
    arena_init(&t->arena, 1 << 16);
    t->arena.limit_bytes = 512u << 20; // a tree is some hundred times its source
    t->body = template_parse_source(&t->arena, source, length, err);
    if (!t->body)
        template_destroy(&t);
    return t;
}

struct chat_template *template_parse(const char *source, size_t length, struct vireo_error *err)
{
    return create(source, length, err);
}

void template_destroy(struct chat_template **t)
{
    if (!t || !*t)
        return;
    json_decref((*t)->variables);
    arena_finish(&(*t)->arena);
    free(*t);
    *t = NULL;
}

// bos_token and its like become variables: a string, or an added token's object. So do the additional ones.
static bool read_tokens(struct chat_template *t, const json_t *config, struct vireo_error *err)
{
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
                                        "mask_token", "additional_special_tokens", NULL};
    t->variables = json_object();
    bool ok = t->variables != NULL;
    for (size_t i = 0; ok && names[i]; i++) {
        json_t *value = json_object_get(config, names[i]);
        if (json_is_object(value))
            value = json_object_get(value, "content");
        if (json_is_string(value) || json_is_array(value))
            ok = json_object_set(t->variables, names[i], value) == 0;
    }
    return ok || vireo_fail_memory(err, sizeof(json_t));
}

// The value of "chat_template": a string, or [{"name", "template"}...] of which "default" (and "tool_use") count.
static struct chat_template *from_value(const json_t *value, const char *file, struct vireo_error *err)
{
    const json_t *main = json_is_string(value) ? value : NULL, *tools = NULL;
    size_t i;
    json_t *each;
    if (json_is_array(value))
        json_array_foreach(value, i, each)
        {
            const char *name = json_string_value(json_object_get(each, "name"));
            if (name && strcmp(name, "default") == 0)
                main = json_object_get(each, "template");
            else if (name && strcmp(name, "tool_use") == 0)
                tools = json_object_get(each, "template");
        }
    if (!json_is_string(main)) {
        vireo_fail(err, VIREO_CORRUPT, "%s: chat_template must be a string or a list with a template named \"default\"",
                   file);
        return NULL;
    }
    struct chat_template *t = create(json_string_value(main), json_string_length(main), err);
    if (t && json_is_string(tools)) {
        t->tool_body = template_parse_source(&t->arena, json_string_value(tools), json_string_length(tools), err);
        if (!t->tool_body)
            template_destroy(&t);
    }
    if (!t)
        vireo_explain(err, "%s: ", file);
    return t;
}

enum { MAX_FILE = 16 << 20 };

static struct chat_template *from_jinja(const char *path, struct vireo_error *err)
{
    struct file_bytes bytes;
    if (!file_read(path, MAX_FILE, &bytes, err))
        return NULL;
    struct chat_template *t = create(bytes.data, bytes.size, err);
    file_bytes_free(&bytes);
    if (!t)
        vireo_explain(err, "%s: ", path);
    return t;
}

struct chat_template *template_load(const char *folder, struct vireo_error *err)
{
    char path[1024];
    if (strlen(folder) + 32 > sizeof path) {
        vireo_fail(err, VIREO_TOO_LARGE, "the path of the model folder is longer than %zu bytes", sizeof path - 32);
        return NULL;
    }
    struct chat_template *t = NULL;
    json_t *config = NULL, *value = NULL, *holder = NULL;
    bool failed = false;
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    if (file_exists(path) && !(config = vireo_json_load(path, MAX_FILE, err)))
        return NULL;
    snprintf(path, sizeof path, "%s/chat_template.jinja", folder);
    if (file_exists(path)) {
        t = from_jinja(path, err);
        failed = !t;
    }
    snprintf(path, sizeof path, "%s/chat_template.json", folder);
    if (!t && !failed && file_exists(path)) {
        holder = vireo_json_load(path, MAX_FILE, err);
        t = holder ? from_value(json_object_get(holder, "chat_template"), path, err) : NULL;
        failed = !t;
    }
    snprintf(path, sizeof path, "%s/tokenizer_config.json", folder);
    if (!t && !failed && (value = json_object_get(config, "chat_template")) && !json_is_null(value)) {
        t = from_value(value, path, err);
        failed = !t;
    }
    if (!t && !failed)
        vireo_fail(err, VIREO_NOT_FOUND,
                   "%s has no chat template: neither chat_template.jinja nor chat_template.json, and "
                   "tokenizer_config.json holds none",
                   folder);
    if (t && !read_tokens(t, config, err))
        template_destroy(&t);
    json_decref(holder);
    json_decref(config);
    return t;
}

static bool set_variable(struct render *r, const char *name, struct value v)
{
    return dict_set(r, &r->scope->variables, value_text(name), v);
}

static bool set_variables(struct render *r, const json_t *object)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value)
        if (!set_variable(r, key, value_json(value, TEMPLATE_OWN, NULL)))
            return false;
    return true;
}

static bool set_all(struct render *r, const struct chat_template *t, const struct template_input *in)
{
    if (!set_variables(r, t->variables) || !set_variables(r, in->variables))
        return false;
    bool tools = in->tools && json_array_size(in->tools) > 0;
    return set_variable(r, "messages", value_json(in->messages, ORIGIN_BY_INDEX, NULL)) &&
           set_variable(r, "tools", tools ? value_json(in->tools, TEMPLATE_TOOLS, NULL) : value_none()) &&
           set_variable(r, "documents", value_none()) &&
           set_variable(r, "add_generation_prompt", value_bool(in->add_generation_prompt));
}

static bool put_output(const struct builder *b, struct arena *a, struct template_output *out, struct vireo_error *err)
{
    struct template_output made = {.length = b->length, .segment_count = b->run_count};
    made.text = arena_copy_bytes(a, b->bytes ? b->bytes : "", b->length);
    made.segments = arena_array(a, struct template_segment, b->run_count + 1);
    if (!made.text || !made.segments)
        return vireo_fail_memory(err, b->length);
    size_t start = 0;
    for (size_t i = 0; i < b->run_count; i++) {
        made.segments[i] = (struct template_segment){made.text + start, b->runs[i].end - start, b->runs[i].origin};
        start = b->runs[i].end;
    }
    *out = made;
    return true;
}

bool template_render(const struct chat_template *t, const struct template_input *in, struct arena *a,
                     struct template_output *out, struct vireo_error *err)
{
    if (!json_is_array(in->messages))
        return vireo_fail_param(err, "messages", "messages must be an array, it is %s.", json_type_name(in->messages));
    struct builder b = {0};
    struct render r = {.err = err, .out = &b, .now = in->now, .line = 1};
    arena_init(&r.arena, 1 << 16);
    r.arena.limit_bytes = TEMPLATE_MAX_MEMORY;
    struct scope *globals = render_take(&r, 1, sizeof *globals);
    r.scope = globals;
    bool tools = in->tools && json_array_size(in->tools) > 0;
    bool ok = globals && set_all(&r, t, in) && execute(&r, tools && t->tool_body ? t->tool_body : t->body) &&
              put_output(&b, a, out, err);
    arena_finish(&r.arena);
    return ok;
}
