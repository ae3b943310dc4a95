// Filters (x | f) of texts and numbers, as Jinja's, and the table of all; what needs Unicode tables (case of non-ASCII letters) is
// refused.
#include "compute/chat/template_filters.h"

#include "compute/base/check.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct value *call_get(const struct call *c, size_t position, const char *name)
{
    size_t at = 0;
    for (size_t i = 0; i < c->count; i++) {
        if (c->names[i] ? name && strcmp(c->names[i], name) == 0 : at == position)
            return &c->values[i];
        at += !c->names[i];
    }
    return NULL;
}

static bool text_of(struct render *r, const struct value *v, struct text *out)
{
    return value_to_text(r, v, out);
}

static struct value from_text(struct text t)
{
    return (struct value){.kind = VALUE_TEXT, .as.text = t};
}

bool copy_items(struct render *r, const struct value *in, struct value **items, size_t *count)
{
    struct value *from;
    if (!value_items(r, in, &from, count) || !render_spend(r, *count / 4) ||
        !(*items = render_take(r, *count, sizeof *from)))
        return false;
    if (*count)
        memcpy(*items, from, *count * sizeof *from);
    return true;
}

static bool filter_tojson(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    const struct value *indent = call_get(c, 1, "indent"), *ascii = call_get(c, 0, "ensure_ascii");
    const struct value *sort = call_get(c, 3, "sort_keys"), *separators = call_get(c, 2, "separators");
    // Jinja's own tojson takes the indent first; transformers' takes ensure_ascii. A number can only be the indent.
    if (ascii && ascii->kind == VALUE_INTEGER && !call_get(c, SIZE_MAX, "ensure_ascii")) {
        indent = ascii;
        ascii = NULL;
    }
    struct dump_style style = {.indent = -1, .item_separator = ", ", .key_separator = ": "};
    style.ascii = ascii && value_truth(ascii);
    style.sort = sort && value_truth(sort);
    if (indent && indent->kind == VALUE_INTEGER) {
        if (indent->as.integer < 0 || indent->as.integer > 16)
            return render_fail(r, VIREO_INVALID, "tojson: indent must be from 0 to 16");
        style.indent = (int)indent->as.integer;
        style.item_separator = ",";
    }
    if (separators && separators->kind != VALUE_NONE) {
        struct value *items;
        size_t count;
        if (!value_items(r, separators, &items, &count))
            return false;
        if (count != 2 || items[0].kind != VALUE_TEXT || items[1].kind != VALUE_TEXT)
            return render_fail(r, VIREO_INVALID, "tojson: separators must be two strings");
        char *copies[2];
        for (int i = 0; i < 2; i++) {
            copies[i] = arena_copy_bytes(&r->arena, items[i].as.text.bytes, items[i].as.text.length);
            if (!copies[i])
                return render_fail(r, VIREO_NO_MEMORY, "out of memory");
        }
        style.item_separator = copies[0];
        style.key_separator = copies[1];
    }
    if (in->kind == VALUE_UNDEFINED)
        return render_fail(r, VIREO_INVALID, "%s is undefined and cannot be written as JSON",
                           in->as.name ? in->as.name : "a value");
    struct text text;
    if (!value_dump(r, in, &style, &text))
        return false;
    *out = from_text(text);
    return true;
}

static bool by_method(struct render *r, const char *method, const struct value *in, const struct call *c,
                      struct value *out)
{
    struct text t;
    bool known;
    if (!text_of(r, in, &t))
        return false;
    struct value self = from_text(t);
    return call_method(r, &self, method, c, out, &known);
}

static bool filter_trim(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return by_method(r, "strip", in, c, out);
}

static bool filter_lower(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return by_method(r, "lower", in, c, out);
}

static bool filter_upper(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return by_method(r, "upper", in, c, out);
}

static bool filter_capitalize(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return by_method(r, "capitalize", in, c, out);
}

// Unlike the method title(): a word begins behind white space, "-" and opening brackets only.
static bool filter_title(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    struct value lower;
    if (!by_method(r, "lower", in, c, &lower))
        return false;
    struct text t = lower.as.text;
    char *made = render_take(r, t.length + 1, 1);
    if (!made)
        return false;
    bool start = true;
    for (size_t i = 0; i < t.length; i++) {
        char at = t.bytes[i];
        made[i] = (char)(start && at >= 'a' && at <= 'z' ? at - 32 : at);
        start = at == ' ' || (at >= '\t' && at <= '\r') || (at && strchr("-({[<", at));
    }
    t.bytes = made;
    *out = from_text(t);
    return true;
}

static bool filter_replace(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return by_method(r, "replace", in, c, out);
}

static bool filter_length(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    size_t n;
    if (!value_length(r, in, &n))
        return false;
    *out = value_integer((int64_t)n);
    return true;
}

static bool filter_default(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)r;
    const struct value *other = call_get(c, 0, "default_value"), *boolean = call_get(c, 1, "boolean");
    bool use = in->kind == VALUE_UNDEFINED || (boolean && value_truth(boolean) && !value_truth(in));
    *out = !use ? *in : other ? *other : value_text("");
    return true;
}

static bool filter_same(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)r;
    (void)c;
    *out = *in;
    return true;
}

static bool filter_string(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    struct text t;
    if (!text_of(r, in, &t))
        return false;
    *out = from_text(t);
    return true;
}

static bool filter_escape(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    struct text t;
    struct builder b = {0};
    bool ok = text_of(r, in, &t);
    size_t start = 0;
    for (size_t i = 0; ok && i < t.length; i++) {
        const char *found = t.bytes[i] ? strchr(from, t.bytes[i]) : NULL;
        if (!found)
            continue;
        struct text before = text_slice(r, t, start, i, &ok), one = text_slice(r, t, i, i + 1, &ok);
        ok = ok && builder_add(r, &b, before) &&
             builder_add_own(r, &b, to[found - from], strlen(to[found - from]), one.origin);
        start = i + 1;
    }
    ok = ok && builder_add(r, &b, text_slice(r, t, start, t.length, &ok)) && ok;
    if (ok)
        *out = builder_value(&b);
    return ok;
}

static bool filter_indent(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    const struct value *width = call_get(c, 0, "width"), *first = call_get(c, 1, "first"),
                       *blank = call_get(c, 2, "blank");
    struct text t, prefix = {.bytes = "                                ", .length = 4, .origin = TEMPLATE_OWN};
    if (width && width->kind == VALUE_TEXT)
        prefix = width->as.text;
    else if (width && width->kind == VALUE_INTEGER && width->as.integer >= 0 && width->as.integer <= 32)
        prefix.length = (size_t)width->as.integer;
    else if (width)
        return render_fail(r, VIREO_INVALID, "indent: width must be from 0 to 32 or a string");
    struct builder b = {0};
    bool ok = text_of(r, in, &t);
    for (size_t start = 0; ok && start <= t.length;) {
        size_t end = start;
        while (end < t.length && t.bytes[end] != '\n')
            end++;
        bool indented = start == 0 ? first && value_truth(first) : end > start || (blank && value_truth(blank));
        ok = (!indented || builder_add(r, &b, prefix)) &&
             builder_add(r, &b, text_slice(r, t, start, end < t.length ? end + 1 : end, &ok)) && ok &&
             render_spend(r, 1);
        start = end + 1;
    }
    if (ok)
        *out = builder_value(&b);
    return ok;
}

static bool filter_join(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    const struct value *separator = call_get(c, 0, "d"), *attribute = call_get(c, 1, "attribute");
    struct value *items;
    size_t count;
    struct text between = {.bytes = "", .origin = TEMPLATE_OWN};
    struct builder b = {0};
    if (!value_items(r, in, &items, &count) || (separator && !text_of(r, separator, &between)))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct value item = items[i];
        struct text t;
        if (attribute && (attribute->kind != VALUE_TEXT ||
                          !get_attribute(r, &items[i], attribute->as.text.bytes, attribute->as.text.length, &item)))
            return attribute->kind == VALUE_TEXT ? false
                                                 : render_fail(r, VIREO_INVALID, "join: attribute must be a string");
        if (!render_spend(r, 1) || !text_of(r, &item, &t) || (i && !builder_add(r, &b, between)) ||
            !builder_add(r, &b, t))
            return false;
    }
    *out = builder_value(&b);
    return true;
}

static bool read_number(struct text t, double *out)
{
    char digits[64], *end;
    if (t.length == 0 || t.length >= sizeof digits)
        return false;
    memcpy(digits, t.bytes, t.length);
    digits[t.length] = 0;
    if (strpbrk(digits, "xXpPnN")) // what strtod knows and Python does not
        return false;
    double number = strtod(digits, &end);
    if (*end)
        return false;
    *out = number;
    return true;
}

static bool filter_int(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    const struct value *other = call_get(c, 0, "default");
    double number = 0;
    bool ok = true;
    if (in->kind == VALUE_INTEGER) {
        *out = *in;
        return true;
    }
    bool read = value_is_number(in);
    if (read)
        number = value_number(in);
    else if (in->kind == VALUE_TEXT)
        read = read_number(text_strip(r, in->as.text, NULL, true, true, &ok), &number);
    if (!ok)
        return false;
    if (read && fabs(number) >= 9e18)
        return render_fail(r, VIREO_INVALID, "int: the number is too large");
    *out = read ? value_integer((int64_t)number) : other ? *other : value_integer(0);
    return true;
}

static bool filter_float(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    const struct value *other = call_get(c, 0, "default");
    double number = 0;
    bool ok = true, read = value_is_number(in);
    if (read)
        number = value_number(in);
    else if (in->kind == VALUE_TEXT)
        read = read_number(text_strip(r, in->as.text, NULL, true, true, &ok), &number);
    if (!ok)
        return false;
    *out = !read && other ? *other : (struct value){.kind = VALUE_REAL, .as.real = number};
    return true;
}

static bool filter_abs(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    if (!value_is_number(in) || (in->kind == VALUE_INTEGER && in->as.integer == INT64_MIN))
        return render_fail(r, VIREO_INVALID, "abs: %s has no absolute value here", value_kind_name(in));
    *out = in->kind == VALUE_REAL ? (struct value){.kind = VALUE_REAL, .as.real = fabs(in->as.real)}
                                  : value_integer(llabs((long long)value_number(in)));
    if (in->kind == VALUE_INTEGER)
        *out = value_integer(in->as.integer < 0 ? -in->as.integer : in->as.integer);
    return true;
}

static bool filter_round(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    const struct value *precision = call_get(c, 0, "precision"), *method = call_get(c, 1, "method");
    int64_t digits = precision && precision->kind == VALUE_INTEGER ? precision->as.integer : 0;
    if (!value_is_number(in) || digits < 0 || digits > 15)
        return render_fail(r, VIREO_INVALID, "round: needs a number and a precision from 0 to 15");
    double scale = pow(10, (double)digits), number = value_number(in) * scale;
    bool up = method && method->kind == VALUE_TEXT && text_is(method->as.text, "ceil");
    bool down = method && method->kind == VALUE_TEXT && text_is(method->as.text, "floor");
    *out = (struct value){.kind = VALUE_REAL,
                          .as.real = (up     ? ceil(number)
                                      : down ? floor(number)
                                             : rint(number)) /
                                     scale};
    return true;
}

static const struct {
    const char *name;
    filter_fn apply;
} filters[] = {
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"length", filter_length},
    {"count", filter_length},
    {"default", filter_default},
    {"d", filter_default},
    {"lower", filter_lower},
    {"upper", filter_upper},
    {"title", filter_title},
    {"capitalize", filter_capitalize},
    {"replace", filter_replace},
    {"join", filter_join},
    {"first", filter_first},
    {"last", filter_last},
    {"list", filter_list},
    {"reverse", filter_reverse},
    {"unique", filter_unique},
    {"sort", filter_sort},
    {"items", filter_items},
    {"dictsort", filter_dictsort},
    {"map", filter_map},
    {"select", filter_select},
    {"reject", filter_reject},
    {"selectattr", filter_selectattr},
    {"rejectattr", filter_rejectattr},
    {"string", filter_string},
    {"int", filter_int},
    {"float", filter_float},
    {"abs", filter_abs},
    {"round", filter_round},
    {"sum", filter_sum},
    {"min", filter_min},
    {"max", filter_max},
    {"safe", filter_same},
    {"escape", filter_escape},
    {"e", filter_escape},
    {"indent", filter_indent},
};

bool filter_is_known(const char *name)
{
    for (size_t i = 0; i < VIREO_COUNT(filters); i++)
        if (strcmp(filters[i].name, name) == 0)
            return true;
    return false;
}

bool apply_filter(struct render *r, const char *name, const struct value *in, const struct call *c, struct value *out)
{
    for (size_t i = 0; i < VIREO_COUNT(filters); i++)
        if (strcmp(filters[i].name, name) == 0)
            return filters[i].apply(r, in, c, out);
    return render_fail(r, VIREO_UNSUPPORTED, "unknown filter \"%s\"", name);
}
