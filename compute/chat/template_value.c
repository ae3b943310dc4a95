// Values of the interpreter: making them, and asking what they are and hold.
#include "compute/chat/template_internal.h"

#include <string.h>

struct value value_text(const char *literal)
{
    return (struct value){.kind = VALUE_TEXT,
                          .as.text = {.bytes = literal, .length = strlen(literal), .origin = TEMPLATE_OWN}};
}

struct value value_integer(int64_t i)
{
    return (struct value){.kind = VALUE_INTEGER, .as.integer = i};
}

struct value value_bool(bool b)
{
    return (struct value){.kind = VALUE_BOOL, .as.boolean = b};
}

struct value value_list(struct value *items, size_t count)
{
    return (struct value){.kind = VALUE_LIST, .as.list = {items, count}};
}

struct value value_none(void)
{
    return (struct value){.kind = VALUE_NONE};
}

struct value value_undefined(const char *name)
{
    return (struct value){.kind = VALUE_UNDEFINED, .as.name = name};
}

// A role or a part's type is a word, not text of a user: it is not marked, for it is not part of what somebody wrote.
static bool is_plain_word(const char *key, const char *text, size_t length)
{
    if (!key || (strcmp(key, "role") != 0 && strcmp(key, "type") != 0) || length > 32)
        return false;
    for (size_t i = 0; i < length; i++)
        if (!((text[i] >= 'a' && text[i] <= 'z') || text[i] == '_'))
            return false;
    return true;
}

struct value value_json(const json_t *json, int32_t origin, const char *key)
{
    struct value v = {.kind = VALUE_NONE};
    switch (json ? json_typeof(json) : JSON_NULL) {
    case JSON_TRUE:
    case JSON_FALSE:
        return value_bool(json_is_true(json));
    case JSON_INTEGER:
        return value_integer(json_integer_value(json));
    case JSON_REAL:
        v.kind = VALUE_REAL;
        v.as.real = json_real_value(json);
        return v;
    case JSON_STRING:
        v = value_text(json_string_value(json));
        v.as.text.length = json_string_length(json);
        v.as.text.origin = is_plain_word(key, v.as.text.bytes, v.as.text.length) ? TEMPLATE_OWN : origin;
        return v;
    case JSON_ARRAY:
    case JSON_OBJECT:
        v.kind = VALUE_JSON;
        v.as.json.value = json;
        v.as.json.origin = origin;
        return v;
    default:
        return v;
    }
}

bool dict_set(struct render *r, struct dict *d, struct value key, struct value value)
{
    if (!render_spend(r, d->count / 8))
        return false;
    for (size_t i = 0; i < d->count; i++) {
        bool same = false;
        if (!value_equal(r, &d->pairs[i].key, &key, &same))
            return false;
        if (same) {
            d->pairs[i].value = value;
            return true;
        }
    }
    if (!render_grow(r, &d->pairs, d->count, d->count + 1, &d->capacity, sizeof *d->pairs))
        return false;
    d->pairs[d->count++] = (struct pair){key, value};
    return true;
}

const char *value_kind_name(const struct value *v)
{
    static const char *const names[] = {"undefined",   "none",   "a boolean", "an integer", "a number",
                                        "a string",    "a list", "a tuple",   "a mapping",  "JSON",
                                        "a namespace", "a loop", "a macro",   "a function"};
    if (v->kind == VALUE_JSON)
        return json_is_array(v->as.json.value) ? "a list" : "a mapping";
    return names[v->kind];
}

bool value_is_number(const struct value *v)
{
    return v->kind == VALUE_INTEGER || v->kind == VALUE_REAL || v->kind == VALUE_BOOL;
}

double value_number(const struct value *v)
{
    return v->kind == VALUE_REAL ? v->as.real : v->kind == VALUE_BOOL ? (double)v->as.boolean : (double)v->as.integer;
}

bool value_is_mapping(const struct value *v)
{
    return v->kind == VALUE_DICT || (v->kind == VALUE_JSON && json_is_object(v->as.json.value));
}

bool value_is_sequence(const struct value *v)
{
    return v->kind == VALUE_LIST || v->kind == VALUE_TUPLE ||
           (v->kind == VALUE_JSON && json_is_array(v->as.json.value));
}

static size_t plain_length(const struct value *v)
{
    switch (v->kind) {
    case VALUE_LIST:
    case VALUE_TUPLE: return v->as.list.count;
    case VALUE_DICT: return v->as.dict->count;
    case VALUE_TEXT: return v->as.text.length;
    case VALUE_JSON: return json_is_array(v->as.json.value) ? json_array_size(v->as.json.value)
                                                            : json_object_size(v->as.json.value);
    default: return 0;
    }
}

bool value_truth(const struct value *v)
{
    switch (v->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE: return false;
    case VALUE_BOOL: return v->as.boolean;
    case VALUE_INTEGER: return v->as.integer != 0;
    case VALUE_REAL: return v->as.real != 0;
    case VALUE_TEXT:
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
    case VALUE_JSON: return plain_length(v) != 0;
    default: return true;
    }
}

bool value_length(struct render *r, const struct value *v, size_t *out)
{
    if (v->kind == VALUE_TEXT) {
        if (!render_spend_bytes(r, v->as.text.length))
            return false;
        *out = text_characters(v->as.text);
        return true;
    }
    if (v->kind != VALUE_UNDEFINED && !value_is_sequence(v) && !value_is_mapping(v))
        return render_fail(r, VIREO_INVALID, "%s has no length", value_kind_name(v));
    *out = plain_length(v);
    return true;
}

static int32_t element_origin(const struct value *v, size_t index)
{
    return v->as.json.origin == ORIGIN_BY_INDEX ? (int32_t)index : v->as.json.origin;
}

bool value_items(struct render *r, const struct value *v, struct value **items, size_t *count)
{
    *items = NULL;
    *count = 0;
    if (v->kind == VALUE_UNDEFINED)
        return true;
    if (v->kind == VALUE_LIST || v->kind == VALUE_TUPLE) {
        *items = v->as.list.items;
        *count = v->as.list.count;
        return true;
    }
    size_t n = 0;
    if (v->kind == VALUE_NAMESPACE || (!value_is_sequence(v) && !value_is_mapping(v) && v->kind != VALUE_TEXT))
        return render_fail(r, VIREO_INVALID, "%s cannot be looped over", value_kind_name(v));
    if (!value_length(r, v, &n) || !render_spend(r, n / 4))
        return false;
    struct value *made = render_take(r, n, sizeof *made);
    if (!made)
        return false;
    bool ok = true;
    if (v->kind == VALUE_TEXT) {
        size_t k = 0;
        for (size_t i = 0, step; i < v->as.text.length && ok; i += step) {
            step = text_step(v->as.text, i);
            made[k++] = (struct value){.kind = VALUE_TEXT, .as.text = text_slice(r, v->as.text, i, i + step, &ok)};
        }
    } else if (v->kind == VALUE_DICT) {
        for (size_t i = 0; i < n; i++)
            made[i] = v->as.dict->pairs[i].key;
    } else if (json_is_array(v->as.json.value)) {
        for (size_t i = 0; i < n; i++)
            made[i] = value_json(json_array_get(v->as.json.value, i), element_origin(v, i), NULL);
    } else {
        struct pair *pairs;
        ok = value_pairs(r, v, &pairs, &n);
        for (size_t i = 0; ok && i < n; i++)
            made[i] = pairs[i].key;
    }
    *items = made;
    *count = n;
    return ok;
}

bool value_pairs(struct render *r, const struct value *v, struct pair **pairs, size_t *count)
{
    if (!value_is_mapping(v))
        return render_fail(r, VIREO_INVALID, "expected a mapping, got %s", value_kind_name(v));
    if (v->kind == VALUE_DICT) {
        *pairs = v->as.dict->pairs;
        *count = v->as.dict->count;
        return true;
    }
    json_t *o = (json_t *)v->as.json.value, *each; // Jansson's iterators do not know const
    size_t n = 0;
    struct pair *made =
        render_spend(r, json_object_size(o) / 4) ? render_take(r, json_object_size(o), sizeof *made) : NULL;
    if (!made)
        return false;
    const char *key;
    json_object_foreach(o, key, each)
    {
        made[n].key = value_text(key);
        made[n].key.as.text.origin = v->as.json.origin;
        made[n++].value = value_json(each, v->as.json.origin, key);
    }
    *pairs = made;
    *count = n;
    return true;
}

bool value_lookup(struct render *r, const struct value *map, struct text key, struct value *out, bool *found)
{
    *found = false;
    if (map->kind == VALUE_JSON && json_is_object(map->as.json.value)) {
        char name[256];
        if (key.length >= sizeof name || memchr(key.bytes, 0, key.length))
            return true;
        memcpy(name, key.bytes, key.length);
        name[key.length] = 0;
        const json_t *json = json_object_get(map->as.json.value, name);
        if (json) {
            *out = value_json(json, map->as.json.origin, name);
            *found = true;
        }
        return true;
    }
    if (map->kind != VALUE_DICT && map->kind != VALUE_NAMESPACE)
        return true;
    const struct dict *d = map->as.dict;
    if (!render_spend(r, d->count / 8))
        return false;
    for (size_t i = 0; i < d->count && !*found; i++) {
        const struct value *k = &d->pairs[i].key;
        if (k->kind == VALUE_TEXT && k->as.text.length == key.length &&
            memcmp(k->as.text.bytes, key.bytes, key.length) == 0) {
            *out = d->pairs[i].value;
            *found = true;
        }
    }
    return true;
}

static int32_t origin_within(const struct value *v, int depth)
{
    int32_t found = TEMPLATE_OWN;
    if (v->kind == VALUE_TEXT)
        return text_origin(v->as.text);
    if (v->kind == VALUE_JSON)
        return v->as.json.origin == ORIGIN_BY_INDEX ? 0 : v->as.json.origin;
    if (depth == TEMPLATE_MAX_DEPTH)
        return found;
    if (v->kind == VALUE_LIST || v->kind == VALUE_TUPLE)
        for (size_t i = 0; i < v->as.list.count && found == TEMPLATE_OWN; i++)
            found = origin_within(&v->as.list.items[i], depth + 1);
    if (v->kind == VALUE_DICT)
        for (size_t i = 0; i < v->as.dict->count && found == TEMPLATE_OWN; i++) {
            found = origin_within(&v->as.dict->pairs[i].value, depth + 1);
            if (found == TEMPLATE_OWN)
                found = origin_within(&v->as.dict->pairs[i].key, depth + 1);
        }
    return found;
}

int32_t value_origin(const struct value *v)
{
    return origin_within(v, 0);
}

bool value_to_text(struct render *r, const struct value *v, struct text *out)
{
    static const struct dump_style repr = {.python = true, .indent = -1, .item_separator = ", ", .key_separator = ": "};
    if (v->kind == VALUE_TEXT) {
        *out = v->as.text;
        return true;
    }
    if (v->kind == VALUE_UNDEFINED) {
        *out = (struct text){.bytes = "", .origin = TEMPLATE_OWN};
        return true;
    }
    return value_dump(r, v, &repr, out);
}
