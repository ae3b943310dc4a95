// Methods of strings, mappings and loops, and the global functions.
#include "compute/chat/template_internal.h"

#include "compute/base/check.h"

#include <string.h>
#include <time.h>

static const struct text *text_argument(const struct call *c, size_t position, const char *name)
{
    const struct value *v = call_get(c, position, name);
    return v && v->kind == VALUE_TEXT ? &v->as.text : NULL;
}

static bool set_text(struct text t, struct value *out)
{
    *out = (struct value){.kind = VALUE_TEXT, .as.text = t};
    return true;
}

static bool strip(struct render *r, struct text self, const struct call *c, bool left, bool right, struct value *out)
{
    const struct value *given = call_get(c, 0, "chars");
    bool ok = true;
    if (given && given->kind != VALUE_TEXT && given->kind != VALUE_NONE)
        return render_fail(r, VIREO_INVALID, "strip: the characters must be a string, not %s", value_kind_name(given));
    struct text t = text_strip(r, self, given && given->kind == VALUE_TEXT ? &given->as.text : NULL, left, right, &ok);
    return ok && set_text(t, out);
}

enum case_kind { CASE_LOWER, CASE_UPPER, CASE_CAPITALIZE, CASE_TITLE };

static bool change_case(struct render *r, struct text self, enum case_kind kind, struct value *out)
{
    char *made = render_spend_bytes(r, self.length) ? render_take(r, self.length + 1, 1) : NULL;
    if (!made)
        return false;
    bool start = true;
    for (size_t i = 0; i < self.length; i++) {
        unsigned char c = (unsigned char)self.bytes[i];
        if (c >= 0x80)
            return render_fail(r, VIREO_UNSUPPORTED,
                               "changing the case of letters that are not ASCII is not supported");
        bool upper = kind == CASE_UPPER || (start && kind != CASE_LOWER), letter = (c | 32) >= 'a' && (c | 32) <= 'z';
        made[i] = (char)(letter ? (upper ? c & ~32 : c | 32) : c);
        start = kind == CASE_TITLE ? !letter : false;
    }
    self.bytes = made;
    return set_text(self, out);
}

static bool replace(struct render *r, struct text self, const struct call *c, struct value *out)
{
    const struct text *from = text_argument(c, 0, "old"), *to = text_argument(c, 1, "new");
    const struct value *limit = call_get(c, 2, "count");
    int64_t left = limit && limit->kind == VALUE_INTEGER ? limit->as.integer : -1;
    if (!from || !to || from->length == 0)
        return render_fail(r, VIREO_INVALID, "replace needs two strings, the first not empty");
    struct builder b = {0};
    bool ok = true;
    size_t start = 0;
    for (size_t at; left != 0; left--) {
        if (!text_find(r, self, start, *from, &at))
            return false;
        if (at == SIZE_MAX)
            break;
        if (!builder_add(r, &b, text_slice(r, self, start, at, &ok)) || !builder_add(r, &b, *to) || !ok)
            return false;
        start = at + from->length;
    }
    if (!builder_add(r, &b, text_slice(r, self, start, self.length, &ok)) || !ok)
        return false;
    *out = builder_value(&b);
    return true;
}

struct growing {
    struct value *items;
    size_t count, capacity;
};

static bool add_item(struct render *r, struct growing *g, struct text t)
{
    if (g->count == g->capacity) {
        size_t more = g->capacity ? g->capacity * 2 : 8;
        struct value *grown = render_spend(r, g->count / 8) ? render_take(r, more, sizeof *grown) : NULL;
        if (!grown)
            return false;
        if (g->count)
            memcpy(grown, g->items, g->count * sizeof *grown);
        g->items = grown;
        g->capacity = more;
    }
    g->items[g->count++] = (struct value){.kind = VALUE_TEXT, .as.text = t};
    return render_spend(r, 1);
}

// split() without a separator: at runs of white space, none at the ends.
static bool split_blanks(struct render *r, struct text self, int64_t limit, struct growing *g)
{
    bool ok = true;
    size_t at = 0, step;
    while (at < self.length) {
        while (at < self.length && is_space_at(self, at, &step))
            at += step;
        if (at == self.length)
            break;
        size_t end = at;
        if (limit >= 0 && (int64_t)g->count == limit) {
            struct text rest = text_slice(r, self, at, self.length, &ok);
            return ok && add_item(r, g, rest);
        }
        while (end < self.length && !is_space_at(self, end, &step))
            end += step;
        if (!add_item(r, g, text_slice(r, self, at, end, &ok)) || !ok)
            return false;
        at = end;
    }
    return true;
}

static bool split(struct render *r, struct text self, const struct call *c, struct value *out)
{
    const struct value *separator = call_get(c, 0, "sep"), *most = call_get(c, 1, "maxsplit");
    int64_t limit = most && most->kind == VALUE_INTEGER ? most->as.integer : -1;
    struct growing g = {0};
    bool ok = true;
    if (!render_spend_bytes(r, self.length))
        return false;
    if (!separator || separator->kind == VALUE_NONE) {
        if (!split_blanks(r, self, limit, &g))
            return false;
    } else {
        if (separator->kind != VALUE_TEXT || separator->as.text.length == 0)
            return render_fail(r, VIREO_INVALID, "split: the separator must be a string that is not empty");
        size_t start = 0, at;
        for (; limit != 0; limit--) {
            if (!text_find(r, self, start, separator->as.text, &at))
                return false;
            if (at == SIZE_MAX)
                break;
            if (!add_item(r, &g, text_slice(r, self, start, at, &ok)) || !ok)
                return false;
            start = at + separator->as.text.length;
        }
        if (!add_item(r, &g, text_slice(r, self, start, self.length, &ok)) || !ok)
            return false;
    }
    *out = value_list(g.items, g.count);
    return true;
}

// Position of the last occurrence, SIZE_MAX if absent.
static bool find_last(struct render *r, struct text self, size_t end, struct text what, size_t *at)
{
    struct text head = self;
    head.length = end;
    *at = SIZE_MAX;
    if (what.length > end || !render_spend(r, end / 32 + 1))
        return what.length > end;
    for (size_t i = end - what.length + 1; i-- > 0;) {
        if (what.length && head.bytes[i] != what.bytes[0])
            continue;
        if (!render_spend(r, 1 + what.length / 64))
            return false;
        if (memcmp(head.bytes + i, what.bytes, what.length) == 0) {
            *at = i;
            return true;
        }
    }
    return true;
}

static bool rsplit(struct render *r, struct text self, const struct call *c, struct value *out)
{
    const struct text *separator = text_argument(c, 0, "sep");
    const struct value *most = call_get(c, 1, "maxsplit");
    int64_t limit = most && most->kind == VALUE_INTEGER ? most->as.integer : -1;
    if (limit < 0)
        return split(r, self, c, out);
    if (!separator || separator->length == 0)
        return render_fail(r, VIREO_INVALID, "rsplit: the separator must be a string that is not empty");
    struct growing g = {0};
    bool ok = true;
    size_t end = self.length, at;
    for (; limit > 0; limit--) {
        if (!find_last(r, self, end, *separator, &at))
            return false;
        if (at == SIZE_MAX)
            break;
        if (!add_item(r, &g, text_slice(r, self, at + separator->length, end, &ok)) || !ok)
            return false;
        end = at;
    }
    if (!add_item(r, &g, text_slice(r, self, 0, end, &ok)) || !ok)
        return false;
    for (size_t i = 0; i < g.count / 2; i++) {
        struct value kept = g.items[i];
        g.items[i] = g.items[g.count - 1 - i];
        g.items[g.count - 1 - i] = kept;
    }
    *out = value_list(g.items, g.count);
    return true;
}

static bool splitlines(struct render *r, struct text self, const struct call *c, struct value *out)
{
    const struct value *keep = call_get(c, 0, "keepends");
    struct growing g = {0};
    bool ok = true;
    for (size_t at = 0; at < self.length;) {
        size_t end = at, next;
        while (end < self.length && self.bytes[end] != '\n' && self.bytes[end] != '\r')
            end++;
        next = end + (end < self.length) +
               (end + 1 < self.length && self.bytes[end] == '\r' && self.bytes[end + 1] == '\n');
        if (!add_item(r, &g, text_slice(r, self, at, keep && value_truth(keep) ? next : end, &ok)) || !ok)
            return false;
        at = next;
    }
    *out = value_list(g.items, g.count);
    return render_spend_bytes(r, self.length);
}

static bool has_affix(struct text self, struct text what, bool at_end)
{
    return what.length <= self.length &&
           memcmp(self.bytes + (at_end ? self.length - what.length : 0), what.bytes, what.length) == 0;
}

static bool starts_or_ends(struct render *r, struct text self, const struct call *c, bool at_end, struct value *out)
{
    const struct value *what = call_get(c, 0, at_end ? "suffix" : "prefix");
    if (!what || (what->kind != VALUE_TEXT && what->kind != VALUE_TUPLE))
        return render_fail(r, VIREO_INVALID, "startswith and endswith need a string or a tuple of strings");
    const struct value *each = what->kind == VALUE_TEXT ? what : what->as.list.items;
    size_t count = what->kind == VALUE_TEXT ? 1 : what->as.list.count;
    bool yes = false;
    for (size_t i = 0; i < count && !yes; i++) {
        if (each[i].kind != VALUE_TEXT || !render_spend(r, 1 + each[i].as.text.length / 128))
            return each[i].kind == VALUE_TEXT ? false
                                              : render_fail(r, VIREO_INVALID, "startswith and endswith need strings");
        yes = has_affix(self, each[i].as.text, at_end);
    }
    *out = value_bool(yes);
    return true;
}

static bool remove_affix(struct render *r, struct text self, const struct call *c, bool at_end, struct value *out)
{
    const struct text *what = text_argument(c, 0, NULL);
    bool ok = true;
    if (!what)
        return render_fail(r, VIREO_INVALID, "removeprefix and removesuffix need a string");
    size_t n = has_affix(self, *what, at_end) ? what->length : 0;
    struct text t = text_slice(r, self, at_end ? 0 : n, at_end ? self.length - n : self.length, &ok);
    return ok && render_spend(r, 1 + what->length / 128) && set_text(t, out);
}

static bool find(struct render *r, struct text self, const struct call *c, bool last, struct value *out)
{
    const struct text *what = text_argument(c, 0, NULL);
    size_t at = 0;
    if (!what || c->count > 1)
        return render_fail(r, VIREO_UNSUPPORTED, "find and rfind take one string");
    if (!(last ? find_last(r, self, self.length, *what, &at) : text_find(r, self, 0, *what, &at)))
        return false;
    if (at != SIZE_MAX) {
        self.length = at;
        *out = value_integer((int64_t)text_characters(self));
    } else {
        *out = value_integer(-1);
    }
    return render_spend_bytes(r, self.length);
}

static bool count_text(struct render *r, struct text self, const struct call *c, struct value *out)
{
    const struct text *what = text_argument(c, 0, NULL);
    if (!what || what->length == 0)
        return render_fail(r, VIREO_INVALID, "count needs a string that is not empty");
    int64_t n = 0;
    for (size_t from = 0, at;; from = at + what->length, n++) {
        if (!text_find(r, self, from, *what, &at))
            return false;
        if (at == SIZE_MAX)
            break;
    }
    *out = value_integer(n);
    return true;
}

static bool join(struct render *r, struct text self, const struct call *c, struct value *out)
{
    struct value separator = {.kind = VALUE_TEXT, .as.text = self};
    struct call one = {.values = {separator}, .count = 1};
    const struct value *list = call_get(c, 0, NULL);
    if (!list)
        return render_fail(r, VIREO_INVALID, "join needs a list");
    return apply_filter(r, "join", list, &one, out);
}

// isdigit, isalpha, isspace, ... of ASCII text; false for an empty string.
static bool all_are(struct render *r, struct text self, const char *name, struct value *out)
{
    bool yes = self.length > 0, cased = false;
    for (size_t i = 0; i < self.length && yes; i++) {
        unsigned char c = (unsigned char)self.bytes[i];
        bool letter = (c | 32) >= 'a' && (c | 32) <= 'z', digit = c >= '0' && c <= '9';
        if (c >= 0x80)
            return render_fail(r, VIREO_UNSUPPORTED, "%s of letters that are not ASCII is not supported", name);
        cased = cased || letter;
        if (strcmp(name, "isdigit") == 0 || strcmp(name, "isnumeric") == 0)
            yes = digit;
        else if (strcmp(name, "isalpha") == 0)
            yes = letter;
        else if (strcmp(name, "isalnum") == 0)
            yes = letter || digit;
        else if (strcmp(name, "isspace") == 0)
            yes = (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
        else
            yes = !letter || (strcmp(name, "isupper") == 0) == !(c & 32);
    }
    if (strcmp(name, "isupper") == 0 || strcmp(name, "islower") == 0)
        yes = yes && cased;
    *out = value_bool(yes);
    return render_spend_bytes(r, self.length);
}

static bool text_method(struct render *r, struct text self, const char *name, const struct call *c, struct value *out,
                        bool *known)
{
    static const char *const classes[] = {"isdigit", "isnumeric", "isalpha", "isalnum",
                                          "isspace", "isupper",   "islower"};
    static const struct {
        const char *name;
        enum case_kind kind;
    } cases[] = {{"lower", CASE_LOWER}, {"upper", CASE_UPPER}, {"capitalize", CASE_CAPITALIZE}, {"title", CASE_TITLE}};
    *known = true;
    for (size_t i = 0; i < VIREO_COUNT(cases); i++)
        if (strcmp(name, cases[i].name) == 0)
            return change_case(r, self, cases[i].kind, out);
    for (size_t i = 0; i < VIREO_COUNT(classes); i++)
        if (strcmp(name, classes[i]) == 0)
            return all_are(r, self, name, out);
    if (strcmp(name, "strip") == 0 || strcmp(name, "lstrip") == 0 || strcmp(name, "rstrip") == 0)
        return strip(r, self, c, name[0] != 'r', name[0] != 'l', out);
    if (strcmp(name, "split") == 0)
        return split(r, self, c, out);
    if (strcmp(name, "rsplit") == 0)
        return rsplit(r, self, c, out);
    if (strcmp(name, "splitlines") == 0)
        return splitlines(r, self, c, out);
    if (strcmp(name, "replace") == 0)
        return replace(r, self, c, out);
    if (strcmp(name, "startswith") == 0 || strcmp(name, "endswith") == 0)
        return starts_or_ends(r, self, c, name[0] == 'e', out);
    if (strcmp(name, "removeprefix") == 0 || strcmp(name, "removesuffix") == 0)
        return remove_affix(r, self, c, name[6] == 's', out);
    if (strcmp(name, "find") == 0 || strcmp(name, "rfind") == 0)
        return find(r, self, c, name[0] == 'r', out);
    if (strcmp(name, "count") == 0)
        return count_text(r, self, c, out);
    if (strcmp(name, "join") == 0)
        return join(r, self, c, out);
    *known = false;
    return true;
}

static bool mapping_method(struct render *r, const struct value *self, const char *name, const struct call *c,
                           struct value *out, bool *known)
{
    static const struct call none;
    struct value *items;
    struct pair *pairs;
    size_t count;
    *known = true;
    if (strcmp(name, "items") == 0)
        return apply_filter(r, "items", self, &none, out);
    if (strcmp(name, "keys") == 0)
        return apply_filter(r, "list", self, &none, out);
    if (strcmp(name, "values") == 0) {
        if (!value_pairs(r, self, &pairs, &count) || !(items = render_take(r, count, sizeof *items)))
            return false;
        for (size_t i = 0; i < count; i++)
            items[i] = pairs[i].value;
        *out = value_list(items, count);
        return true;
    }
    if (strcmp(name, "get") == 0) {
        const struct text *key = text_argument(c, 0, NULL);
        const struct value *other = call_get(c, 1, NULL);
        bool found = false;
        if (key && !value_lookup(r, self, *key, out, &found))
            return false;
        if (!found)
            *out = other ? *other : value_none();
        return true;
    }
    *known = false;
    return true;
}

static bool loop_method(struct render *r, struct loop *l, const char *name, const struct call *c, struct value *out,
                        bool *known)
{
    *known = true;
    if (strcmp(name, "cycle") == 0 && c->count) {
        *out = c->values[l->index % c->count];
        return true;
    }
    if (strcmp(name, "changed") == 0 && c->count == 1) {
        bool same = false;
        if (l->has_changed && !value_equal(r, &l->changed, &c->values[0], &same))
            return false;
        l->changed = c->values[0];
        l->has_changed = true;
        *out = value_bool(!same);
        return true;
    }
    *known = false;
    return true;
}

bool call_method(struct render *r, const struct value *self, const char *name, const struct call *c, struct value *out,
                 bool *known)
{
    *known = false;
    if (self->kind == VALUE_TEXT)
        return text_method(r, self->as.text, name, c, out, known);
    if (value_is_mapping(self))
        return mapping_method(r, self, name, c, out, known);
    if (self->kind == VALUE_LOOP)
        return loop_method(r, self->as.loop, name, c, out, known);
    return true;
}

// ---- global functions

enum function { FUNCTION_RANGE, FUNCTION_NAMESPACE, FUNCTION_DICT, FUNCTION_RAISE, FUNCTION_NOW };
static const char *const functions[] = {"range", "namespace", "dict", "raise_exception", "strftime_now"};

int function_find(const char *name)
{
    for (size_t i = 0; i < VIREO_COUNT(functions); i++)
        if (strcmp(functions[i], name) == 0)
            return (int)i;
    return -1;
}

static bool make_range(struct render *r, const struct call *c, struct value *out)
{
    enum { MOST = 100000 }; // as Jinja's sandbox
    int64_t n[3] = {0, 0, 1};
    if (c->count == 0 || c->count > 3)
        return render_fail(r, VIREO_INVALID, "range takes one to three integers");
    for (size_t i = 0; i < c->count; i++) {
        if (c->values[i].kind != VALUE_INTEGER || c->names[i] || c->values[i].as.integer > INT32_MAX ||
            c->values[i].as.integer < INT32_MIN)
            return render_fail(r, VIREO_INVALID, "range takes integers of 32 bits");
        n[c->count == 1 ? 1 : i] = c->values[i].as.integer;
    }
    if (n[2] == 0)
        return render_fail(r, VIREO_INVALID, "range: the step must not be 0");
    int64_t span = n[2] > 0 ? n[1] - n[0] : n[0] - n[1], step = n[2] > 0 ? n[2] : -n[2];
    int64_t count = span > 0 ? (span + step - 1) / step : 0;
    if (count > MOST)
        return render_fail(r, VIREO_TOO_LARGE, "range of more than %d numbers", MOST);
    struct value *items = render_spend(r, (size_t)count / 4) ? render_take(r, (size_t)count, sizeof *items) : NULL;
    if (!items)
        return false;
    for (int64_t i = 0; i < count; i++)
        items[i] = value_integer(n[0] + i * n[2]);
    *out = value_list(items, (size_t)count);
    return true;
}

static bool make_dict(struct render *r, const struct call *c, enum value_kind kind, struct value *out)
{
    struct dict *d = render_take(r, 1, sizeof *d);
    struct pair *pairs;
    size_t count;
    if (!d)
        return false;
    for (size_t i = 0; i < c->count; i++) {
        if (c->names[i]) {
            if (!dict_set(r, d, value_text(c->names[i]), c->values[i]))
                return false;
            continue;
        }
        if (!value_pairs(r, &c->values[i], &pairs, &count))
            return false;
        for (size_t k = 0; k < count; k++)
            if (!dict_set(r, d, pairs[k].key, pairs[k].value))
                return false;
    }
    *out = (struct value){.kind = kind, .as.dict = d};
    return true;
}

static bool format_now(struct render *r, const struct call *c, struct value *out)
{
    const struct text *format = text_argument(c, 0, "format");
    char pattern[128], made[256];
    struct tm parts;
    time_t now = (time_t)r->now;
    if (!format || format->length == 0 || format->length >= sizeof pattern)
        return render_fail(r, VIREO_INVALID, "strftime_now needs a format of 1 to %zu bytes", sizeof pattern - 1);
    memcpy(pattern, format->bytes, format->length);
    pattern[format->length] = 0;
    if (!gmtime_r(&now, &parts))
        return render_fail(r, VIREO_INVALID, "strftime_now: the time is out of range");
    size_t n = strftime(made, sizeof made, pattern, &parts);
    char *copy = arena_copy_bytes(&r->arena, made, n);
    if (!copy)
        return render_fail(r, VIREO_NO_MEMORY, "out of memory");
    *out = value_text(copy);
    return true;
}

bool call_function(struct render *r, int function, const struct call *c, struct value *out)
{
    const struct text *message;
    switch ((enum function)function) {
    case FUNCTION_RANGE: return make_range(r, c, out);
    case FUNCTION_NAMESPACE: return make_dict(r, c, VALUE_NAMESPACE, out);
    case FUNCTION_DICT: return make_dict(r, c, VALUE_DICT, out);
    case FUNCTION_NOW: return format_now(r, c, out);
    case FUNCTION_RAISE:
        message = text_argument(c, 0, "message");
        return render_fail(r, VIREO_INVALID, "%.*s", message ? (int)VIREO_MIN(message->length, 300u) : 7,
                           message ? message->bytes : "refused");
    }
    return false;
}
