// Values of the interpreter, and strings that remember where each byte came from.
#include "compute/chat/template_internal.h"

#include "compute/base/check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

bool render_fail(struct render *r, enum vireo_code code, const char *fmt, ...)
{
    char message[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    return vireo_fail(r->err, code, "chat template, line %d: %s", r->line, message);
}

bool render_spend(struct render *r, size_t steps)
{
    if (steps > TEMPLATE_MAX_STEPS || (r->steps += (int64_t)steps) > TEMPLATE_MAX_STEPS)
        return render_fail(r, VIREO_TOO_LARGE, "more than %d steps", TEMPLATE_MAX_STEPS);
    return true;
}

bool render_spend_bytes(struct render *r, size_t bytes)
{
    if (bytes > TEMPLATE_MAX_OUTPUT)
        return render_fail(r, VIREO_TOO_LARGE, "a text of more than %d MiB", TEMPLATE_MAX_OUTPUT >> 20);
    return render_spend(r, bytes / 128);
}

void *render_take(struct render *r, size_t count, size_t size)
{
    void *memory = arena_take_array(&r->arena, count ? count : 1, size);
    if (!memory)
        render_fail(r, VIREO_TOO_LARGE, "out of working memory (at most %d MiB)", TEMPLATE_MAX_MEMORY >> 20);
    return memory;
}

static bool grow(struct render *r, void *array, size_t used, size_t wanted, size_t *capacity, size_t size)
{
    if (wanted <= *capacity)
        return true;
    size_t more = VIREO_MAX(wanted, *capacity * 2);
    more = VIREO_MAX(more, 8u);
    void **place = array, *grown = render_take(r, more, size);
    if (!grown)
        return false;
    if (used)
        memcpy(grown, *place, used * size);
    *place = grown;
    *capacity = more;
    return true;
}

// ---- strings

static bool add_run(struct render *r, struct builder *b, size_t end, int32_t origin)
{
    if (b->run_count && b->runs[b->run_count - 1].origin == origin) {
        b->runs[b->run_count - 1].end = end;
        return true;
    }
    if (!grow(r, &b->runs, b->run_count, b->run_count + 1, &b->run_capacity, sizeof *b->runs))
        return false;
    b->runs[b->run_count++] = (struct origin_run){end, origin};
    return true;
}

bool builder_add(struct render *r, struct builder *b, struct text t)
{
    if (t.length == 0)
        return true;
    if (!render_spend_bytes(r, b->length + t.length > TEMPLATE_MAX_OUTPUT ? b->length + t.length : t.length) ||
        !grow(r, &b->bytes, b->length, b->length + t.length, &b->capacity, 1))
        return false;
    memcpy(b->bytes + b->length, t.bytes, t.length);
    if (!t.runs && !add_run(r, b, b->length + t.length, t.origin))
        return false;
    for (size_t i = 0; t.runs && i < t.run_count; i++)
        if (!add_run(r, b, b->length + t.runs[i].end, t.runs[i].origin))
            return false;
    b->length += t.length;
    return true;
}

bool builder_add_own(struct render *r, struct builder *b, const char *bytes, size_t length, int32_t origin)
{
    return builder_add(r, b, (struct text){.bytes = bytes, .length = length, .origin = origin});
}

struct value builder_value(const struct builder *b)
{
    struct text t = {.bytes = b->bytes ? b->bytes : "", .length = b->length, .origin = TEMPLATE_OWN};
    if (b->run_count == 1) {
        t.origin = b->runs[0].origin;
    } else if (b->run_count > 1) {
        t.runs = b->runs;
        t.run_count = b->run_count;
    }
    return (struct value){.kind = VALUE_TEXT, .as.text = t};
}

struct text text_slice(struct render *r, struct text t, size_t from, size_t to, bool *ok)
{
    struct text out = {.bytes = t.bytes + from, .length = to - from, .origin = t.origin};
    if (!t.runs || to == from)
        return out;
    size_t first = 0;
    while (t.runs[first].end <= from)
        first++;
    size_t last = first;
    while (t.runs[last].end < to)
        last++;
    out.run_count = last - first + 1;
    out.origin = t.runs[first].origin;
    if (out.run_count == 1)
        return out;
    struct origin_run *runs = render_spend(r, out.run_count / 8) ? render_take(r, out.run_count, sizeof *runs) : NULL;
    if (!runs) {
        *ok = false;
        return out;
    }
    for (size_t i = first; i <= last; i++)
        runs[i - first] = (struct origin_run){VIREO_MIN(t.runs[i].end, to) - from, t.runs[i].origin};
    out.runs = runs;
    return out;
}

int32_t text_origin(struct text t)
{
    if (!t.runs)
        return t.origin;
    for (size_t i = 0; i < t.run_count; i++)
        if (t.runs[i].origin != TEMPLATE_OWN)
            return t.runs[i].origin;
    return TEMPLATE_OWN;
}

bool text_is(struct text t, const char *literal)
{
    return strlen(literal) == t.length && memcmp(t.bytes, literal, t.length) == 0;
}

bool text_find(struct render *r, struct text hay, size_t from, struct text needle, size_t *at)
{
    *at = SIZE_MAX;
    if (needle.length > hay.length || from > hay.length - needle.length)
        return true;
    if (needle.length == 0) {
        *at = from;
        return true;
    }
    size_t last = hay.length - needle.length;
    while (from <= last) {
        const char *found = memchr(hay.bytes + from, needle.bytes[0], last - from + 1);
        size_t next = found ? (size_t)(found - hay.bytes) : last + 1;
        if (!render_spend(r, (next - from) / 256 + (found ? needle.length / 64 : 0)) || (found && !render_spend(r, 1)))
            return false;
        if (found && memcmp(found, needle.bytes, needle.length) == 0) {
            *at = next;
            return true;
        }
        from = next + 1;
    }
    return true;
}

size_t text_step(struct text t, size_t at)
{
    unsigned char lead = (unsigned char)t.bytes[at];
    size_t n = lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    return VIREO_MIN(n, t.length - at);
}

size_t text_characters(struct text t)
{
    size_t count = 0;
    for (size_t i = 0; i < t.length; i += text_step(t, i))
        count++;
    return count;
}

// What Python's str.isspace() says yes to.
bool is_space_at(struct text t, size_t at, size_t *step)
{
    const unsigned char *s = (const unsigned char *)t.bytes + at;
    *step = text_step(t, at);
    if (*step == 1)
        return (*s >= 9 && *s <= 13) || (*s >= 28 && *s <= 32);
    if (*step == 2)
        return s[0] == 0xc2 && (s[1] == 0x85 || s[1] == 0xa0);
    if (*step != 3)
        return false;
    unsigned c = (s[0] & 0x0fu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
    return c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
           c == 0x3000;
}

static bool in_set(struct text t, size_t at, const struct text *set)
{
    size_t step;
    if (!set)
        return is_space_at(t, at, &step);
    step = text_step(t, at);
    for (size_t i = 0; i < set->length; i += text_step(*set, i))
        if (text_step(*set, i) == step && memcmp(set->bytes + i, t.bytes + at, step) == 0)
            return true;
    return false;
}

struct text text_strip(struct render *r, struct text t, const struct text *set, bool left, bool right, bool *ok)
{
    size_t from = 0, to = t.length;
    if (!render_spend_bytes(r, t.length) || (set && !render_spend(r, set->length))) {
        *ok = false;
        return t;
    }
    // A long set times a long text would be work that nobody counted.
    size_t cost = set ? 1 + set->length / 16 : 0;
    while (left && from < to && in_set(t, from, set)) {
        if (cost && !render_spend(r, cost)) {
            *ok = false;
            return t;
        }
        from += text_step(t, from);
    }
    while (right && to > from) {
        size_t last = to - 1;
        while (last > from && ((unsigned char)t.bytes[last] & 0xc0) == 0x80)
            last--;
        if (!in_set(t, last, set))
            break;
        if (cost && !render_spend(r, cost)) {
            *ok = false;
            return t;
        }
        to = last;
    }
    return text_slice(r, t, from, to, ok);
}

// ---- making values

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
    if (!grow(r, &d->pairs, d->count, d->count + 1, &d->capacity, sizeof *d->pairs))
        return false;
    d->pairs[d->count++] = (struct pair){key, value};
    return true;
}

// ---- asking values

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

static bool equal_items(struct render *r, const struct value *a, const struct value *b, bool *out)
{
    struct value *x, *y;
    size_t n, m;
    if (!value_items(r, a, &x, &n) || !value_items(r, b, &y, &m))
        return false;
    *out = n == m;
    for (size_t i = 0; i < n && *out; i++)
        if (!value_equal(r, &x[i], &y[i], out))
            return false;
    return true;
}

static bool equal_mappings(struct render *r, const struct value *a, const struct value *b, bool *out)
{
    struct pair *x;
    size_t n, m;
    if (!value_pairs(r, a, &x, &n) || !value_length(r, b, &m))
        return false;
    *out = n == m;
    for (size_t i = 0; i < n && *out; i++) {
        struct value other;
        bool found = false;
        if (x[i].key.kind == VALUE_TEXT && !value_lookup(r, b, x[i].key.as.text, &other, &found))
            return false;
        *out = found;
        if (found && !value_equal(r, &x[i].value, &other, out))
            return false;
    }
    return true;
}

bool value_equal(struct render *r, const struct value *a, const struct value *b, bool *out)
{
    *out = false;
    if (!render_spend(r, 1))
        return false;
    if (value_is_number(a) && value_is_number(b)) {
        *out = a->kind == VALUE_REAL || b->kind == VALUE_REAL
                   ? value_number(a) == value_number(b)
                   : (a->kind == VALUE_BOOL ? a->as.boolean : a->as.integer) ==
                         (b->kind == VALUE_BOOL ? b->as.boolean : b->as.integer);
        return true;
    }
    if (a->kind == VALUE_TEXT && b->kind == VALUE_TEXT) {
        *out = a->as.text.length == b->as.text.length &&
               memcmp(a->as.text.bytes, b->as.text.bytes, a->as.text.length) == 0;
        return render_spend_bytes(r, *out ? a->as.text.length : 0);
    }
    if (++r->nesting > 4 * TEMPLATE_MAX_DEPTH)
        return render_fail(r, VIREO_TOO_LARGE, "values nested too deeply");
    bool ok = true, tuples = a->kind == VALUE_TUPLE;
    if (value_is_sequence(a) && value_is_sequence(b))
        ok = tuples != (b->kind == VALUE_TUPLE) || equal_items(r, a, b, out);
    else if (value_is_mapping(a) && value_is_mapping(b))
        ok = equal_mappings(r, a, b, out);
    else
        *out = a->kind == b->kind && (a->kind == VALUE_NONE || a->kind == VALUE_UNDEFINED);
    r->nesting--;
    return ok;
}

bool value_compare(struct render *r, const struct value *a, const struct value *b, int *out)
{
    if (value_is_number(a) && value_is_number(b)) {
        double x = value_number(a), y = value_number(b);
        *out = x < y ? -1 : x > y;
        if (a->kind == VALUE_INTEGER && b->kind == VALUE_INTEGER)
            *out = a->as.integer < b->as.integer ? -1 : a->as.integer > b->as.integer;
        return render_spend(r, 1);
    }
    if (a->kind == VALUE_TEXT && b->kind == VALUE_TEXT) {
        size_t n = VIREO_MIN(a->as.text.length, b->as.text.length);
        int c = n ? memcmp(a->as.text.bytes, b->as.text.bytes, n) : 0;
        *out = c ? c : a->as.text.length < b->as.text.length ? -1 : a->as.text.length > b->as.text.length;
        return render_spend(r, 1 + n / 256);
    }
    return render_fail(r, VIREO_INVALID, "%s and %s cannot be ordered", value_kind_name(a), value_kind_name(b));
}

bool value_contains(struct render *r, const struct value *in, const struct value *what, bool *out)
{
    *out = false;
    if (in->kind == VALUE_TEXT) {
        if (what->kind != VALUE_TEXT)
            return render_fail(r, VIREO_INVALID, "%s cannot be in a string", value_kind_name(what));
        size_t at;
        if (!text_find(r, in->as.text, 0, what->as.text, &at))
            return false;
        *out = at != SIZE_MAX;
        return true;
    }
    if (value_is_mapping(in) && what->kind == VALUE_TEXT) {
        struct value ignored;
        return value_lookup(r, in, what->as.text, &ignored, out);
    }
    struct value *items;
    size_t count;
    if (!value_items(r, in, &items, &count))
        return false;
    for (size_t i = 0; i < count && !*out; i++)
        if (!value_equal(r, &items[i], what, out))
            return false;
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
