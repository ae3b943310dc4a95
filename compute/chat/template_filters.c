// Filters (x | f) and tests (x is t), as Jinja's; what needs Unicode tables (case of non-ASCII letters) is refused.
#include "compute/chat/template_internal.h"

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

typedef bool (*filter_fn)(struct render *r, const struct value *in, const struct call *c, struct value *out);

static bool text_of(struct render *r, const struct value *v, struct text *out)
{
    return value_to_text(r, v, out);
}

static struct value from_text(struct text t)
{
    return (struct value){.kind = VALUE_TEXT, .as.text = t};
}

static bool copy_items(struct render *r, const struct value *in, struct value **items, size_t *count)
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

static bool take_end(struct render *r, const struct value *in, bool last, struct value *out)
{
    struct value *items;
    size_t count;
    if (!value_items(r, in, &items, &count))
        return false;
    *out = count ? items[last ? count - 1 : 0]
                 : value_undefined(last ? "the last of an empty list" : "the first of an empty list");
    return true;
}

static bool filter_first(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    return take_end(r, in, false, out);
}

static bool filter_last(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    return take_end(r, in, true, out);
}

static bool filter_list(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    struct value *items;
    size_t count;
    if (!value_items(r, in, &items, &count))
        return false;
    *out = value_list(items, count);
    return true;
}

static bool filter_reverse(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    struct value *items;
    size_t count;
    if (!copy_items(r, in, &items, &count))
        return false;
    for (size_t i = 0; i < count / 2; i++) {
        struct value kept = items[i];
        items[i] = items[count - 1 - i];
        items[count - 1 - i] = kept;
    }
    if (in->kind != VALUE_TEXT) {
        *out = value_list(items, count);
        return true;
    }
    struct builder b = {0};
    for (size_t i = 0; i < count; i++)
        if (!builder_add(r, &b, items[i].as.text))
            return false;
    *out = builder_value(&b);
    return true;
}

static bool filter_unique(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    struct value *items;
    size_t count, kept = 0;
    if (!copy_items(r, in, &items, &count))
        return false;
    for (size_t i = 0; i < count; i++) {
        bool seen = false;
        for (size_t k = 0; k < kept && !seen; k++)
            if (!value_equal(r, &items[k], &items[i], &seen))
                return false;
        if (!seen)
            items[kept++] = items[i];
    }
    *out = value_list(items, kept);
    return true;
}

// Merge sort: stable, and it can stop when the values cannot be ordered, which qsort cannot.
static bool sort_values(struct render *r, struct pair *items, struct pair *spare, size_t count, bool reverse)
{
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t start = 0; start < count; start += 2 * width) {
            size_t middle = VIREO_MIN(start + width, count), end = VIREO_MIN(start + 2 * width, count);
            size_t a = start, b = middle;
            for (size_t i = start; i < end; i++) {
                int order = 0;
                if (a < middle && b < end && !value_compare(r, &items[a].key, &items[b].key, &order))
                    return false;
                bool left = a < middle && (b == end || (reverse ? order >= 0 : order <= 0));
                spare[i] = left ? items[a++] : items[b++];
            }
        }
        memcpy(items, spare, count * sizeof *items);
    }
    return true;
}

// Text keys are compared without regard to ASCII case unless asked otherwise.
static bool sort_key(struct render *r, struct value v, bool exact, struct value *out)
{
    *out = v;
    if (exact || v.kind != VALUE_TEXT)
        return true;
    char *lower = render_spend_bytes(r, v.as.text.length) ? render_take(r, v.as.text.length + 1, 1) : NULL;
    if (!lower)
        return false;
    for (size_t i = 0; i < v.as.text.length; i++) {
        char c = v.as.text.bytes[i];
        lower[i] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
    }
    out->as.text.bytes = lower;
    return true;
}

static bool filter_sort(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    const struct value *reverse = call_get(c, 0, "reverse"), *exact = call_get(c, 1, "case_sensitive");
    const struct value *attribute = call_get(c, 2, "attribute");
    struct value *items;
    size_t count;
    if (!copy_items(r, in, &items, &count))
        return false;
    struct pair *pairs = render_take(r, count, sizeof *pairs), *spare = render_take(r, count, sizeof *spare);
    if (!pairs || !spare)
        return false;
    for (size_t i = 0; i < count; i++) {
        struct value key = items[i];
        if (attribute && (attribute->kind != VALUE_TEXT ||
                          !get_attribute(r, &items[i], attribute->as.text.bytes, attribute->as.text.length, &key)))
            return attribute->kind == VALUE_TEXT ? false
                                                 : render_fail(r, VIREO_INVALID, "sort: attribute must be a string");
        if (!sort_key(r, key, exact && value_truth(exact), &pairs[i].key))
            return false;
        pairs[i].value = items[i];
    }
    if (!sort_values(r, pairs, spare, count, reverse && value_truth(reverse)))
        return false;
    for (size_t i = 0; i < count; i++)
        items[i] = pairs[i].value;
    *out = value_list(items, count);
    return true;
}

static bool pairs_to_list(struct render *r, const struct pair *pairs, size_t count, struct value *out)
{
    struct value *items = render_take(r, count, sizeof *items), *halves = render_take(r, 2 * count, sizeof *halves);
    if (!items || !halves || !render_spend(r, count / 4))
        return false;
    for (size_t i = 0; i < count; i++) {
        halves[2 * i] = pairs[i].key;
        halves[2 * i + 1] = pairs[i].value;
        items[i] = value_list(halves + 2 * i, 2);
        items[i].kind = VALUE_TUPLE;
    }
    *out = value_list(items, count);
    return true;
}

static bool filter_items(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    struct pair *pairs = NULL;
    size_t count = 0;
    if (in->kind != VALUE_UNDEFINED && !value_pairs(r, in, &pairs, &count))
        return false;
    return pairs_to_list(r, pairs, count, out);
}

static bool filter_dictsort(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    const struct value *exact = call_get(c, 0, "case_sensitive"), *by = call_get(c, 1, "by");
    const struct value *reverse = call_get(c, 2, "reverse");
    struct pair *pairs;
    size_t count;
    if (!value_pairs(r, in, &pairs, &count))
        return false;
    bool by_value = by && by->kind == VALUE_TEXT && text_is(by->as.text, "value");
    struct pair *keyed = render_take(r, count, sizeof *keyed), *spare = render_take(r, count, sizeof *spare);
    struct value *index = render_take(r, count, sizeof *index);
    if (!keyed || !spare || !index)
        return false;
    for (size_t i = 0; i < count; i++) {
        if (!sort_key(r, by_value ? pairs[i].value : pairs[i].key, exact && value_truth(exact), &keyed[i].key))
            return false;
        keyed[i].value = value_integer((int64_t)i);
    }
    if (!sort_values(r, keyed, spare, count, reverse && value_truth(reverse)))
        return false;
    for (size_t i = 0; i < count; i++)
        spare[i] = pairs[keyed[i].value.as.integer];
    return pairs_to_list(r, spare, count, out);
}

// The call without its first `skip` positional arguments, for map, select and their like.
static struct call rest_of(const struct call *c, size_t skip)
{
    struct call rest = {0};
    for (size_t i = 0; i < c->count; i++) {
        if (!c->names[i] && skip > 0) {
            skip--;
            continue;
        }
        rest.values[rest.count] = c->values[i];
        rest.names[rest.count++] = c->names[i];
    }
    return rest;
}

static bool name_of(struct render *r, const struct value *v, const char *what, bool (*is_known)(const char *),
                    char name[64])
{
    if (!v || v->kind != VALUE_TEXT || v->as.text.length >= 64)
        return render_fail(r, VIREO_INVALID, "expected the name of a %s", what);
    memcpy(name, v->as.text.bytes, v->as.text.length);
    name[v->as.text.length] = 0;
    return is_known(name) || render_fail(r, VIREO_UNSUPPORTED, "unknown %s \"%s\"", what, name);
}

static bool filter_map(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    const struct value *attribute = call_get(c, SIZE_MAX, "attribute"), *other = call_get(c, SIZE_MAX, "default");
    char name[64] = "";
    struct value *items;
    size_t count;
    if (attribute && attribute->kind != VALUE_TEXT)
        return render_fail(r, VIREO_INVALID, "map: attribute must be a string");
    if ((!attribute && !name_of(r, call_get(c, 0, NULL), "filter", filter_is_known, name)) ||
        !copy_items(r, in, &items, &count))
        return false;
    if (++r->nesting > 4 * TEMPLATE_MAX_DEPTH) // map("map", ...)
        return render_fail(r, VIREO_TOO_LARGE, "nested too deeply");
    struct call rest = rest_of(c, 1);
    for (size_t i = 0; i < count; i++) {
        struct value made;
        if (!render_spend(r, 1))
            return false;
        if (attribute) {
            if (!get_attribute(r, &items[i], attribute->as.text.bytes, attribute->as.text.length, &made))
                return false;
            if (made.kind == VALUE_UNDEFINED && other)
                made = *other;
        } else if (!apply_filter(r, name, &items[i], &rest, &made)) {
            return false;
        }
        items[i] = made;
    }
    r->nesting--;
    *out = value_list(items, count);
    return true;
}

static bool pick(struct render *r, const struct value *in, const struct call *c, bool by_attribute, bool wanted,
                 struct value *out)
{
    const struct value *attribute = by_attribute ? call_get(c, 0, NULL) : NULL;
    size_t skip = by_attribute ? 1 : 0;
    const struct value *test = call_get(c, skip, NULL);
    char name[64] = "";
    struct value *items;
    size_t count, kept = 0;
    if (by_attribute && (!attribute || attribute->kind != VALUE_TEXT))
        return render_fail(r, VIREO_INVALID, "expected the name of an attribute");
    if ((test && !name_of(r, test, "test", test_is_known, name)) || !copy_items(r, in, &items, &count))
        return false;
    struct call rest = rest_of(c, skip + 1);
    for (size_t i = 0; i < count; i++) {
        struct value v = items[i];
        if (!render_spend(r, 1) ||
            (attribute && !get_attribute(r, &items[i], attribute->as.text.bytes, attribute->as.text.length, &v)))
            return false;
        bool yes = value_truth(&v);
        if (test && !apply_test(r, name, &v, &rest, &yes))
            return false;
        if (yes == wanted)
            items[kept++] = items[i];
    }
    *out = value_list(items, kept);
    return true;
}

static bool filter_select(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return pick(r, in, c, false, true, out);
}

static bool filter_reject(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return pick(r, in, c, false, false, out);
}

static bool filter_selectattr(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return pick(r, in, c, true, true, out);
}

static bool filter_rejectattr(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return pick(r, in, c, true, false, out);
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

static bool filter_sum(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    const struct value *attribute = call_get(c, 0, "attribute");
    struct value *items;
    size_t count;
    int64_t whole = 0;
    double real = 0;
    bool is_real = false;
    if (!value_items(r, in, &items, &count) || !render_spend(r, count))
        return false;
    for (size_t i = 0; i < count; i++) {
        struct value v = items[i];
        if (attribute && attribute->kind == VALUE_TEXT &&
            !get_attribute(r, &items[i], attribute->as.text.bytes, attribute->as.text.length, &v))
            return false;
        if (!value_is_number(&v))
            return render_fail(r, VIREO_INVALID, "sum: %s is not a number", value_kind_name(&v));
        is_real = is_real || v.kind == VALUE_REAL;
        real += value_number(&v);
        if (v.kind != VALUE_REAL &&
            __builtin_add_overflow(whole, v.kind == VALUE_BOOL ? v.as.boolean : v.as.integer, &whole))
            return render_fail(r, VIREO_INVALID, "sum: the number is too large");
    }
    *out = is_real ? (struct value){.kind = VALUE_REAL, .as.real = real} : value_integer(whole);
    return true;
}

static bool extreme(struct render *r, const struct value *in, int sign, struct value *out)
{
    struct value *items;
    size_t count;
    if (!value_items(r, in, &items, &count))
        return false;
    *out = count ? items[0] : value_undefined("the extreme of an empty list");
    for (size_t i = 1; i < count; i++) {
        int order;
        if (!value_compare(r, &items[i], out, &order))
            return false;
        if (order * sign > 0)
            *out = items[i];
    }
    return true;
}

static bool filter_min(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    return extreme(r, in, -1, out);
}

static bool filter_max(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    return extreme(r, in, 1, out);
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

// ---- tests

enum test_kind {
    TEST_DEFINED,
    TEST_UNDEFINED,
    TEST_NONE,
    TEST_STRING,
    TEST_NUMBER,
    TEST_INTEGER,
    TEST_FLOAT,
    TEST_BOOLEAN,
    TEST_TRUE,
    TEST_FALSE,
    TEST_MAPPING,
    TEST_ITERABLE,
    TEST_SEQUENCE,
    TEST_CALLABLE,
    TEST_ODD,
    TEST_EVEN,
    TEST_DIVISIBLE,
    TEST_EQ,
    TEST_NE,
    TEST_LT,
    TEST_LE,
    TEST_GT,
    TEST_GE,
    TEST_IN
};
static const struct {
    const char *name;
    enum test_kind kind;
} tests[] = {
    {"defined", TEST_DEFINED}, {"undefined", TEST_UNDEFINED}, {"none", TEST_NONE},         {"string", TEST_STRING},
    {"number", TEST_NUMBER},   {"integer", TEST_INTEGER},     {"float", TEST_FLOAT},       {"boolean", TEST_BOOLEAN},
    {"true", TEST_TRUE},       {"false", TEST_FALSE},         {"mapping", TEST_MAPPING},   {"iterable", TEST_ITERABLE},
    {"sequence", TEST_SEQUENCE}, {"callable", TEST_CALLABLE}, {"odd", TEST_ODD},           {"even", TEST_EVEN},
    {"divisibleby", TEST_DIVISIBLE}, {"eq", TEST_EQ},         {"equalto", TEST_EQ},        {"sameas", TEST_EQ},
    {"ne", TEST_NE},           {"lt", TEST_LT},               {"lessthan", TEST_LT},       {"le", TEST_LE},
    {"gt", TEST_GT},           {"greaterthan", TEST_GT},      {"ge", TEST_GE},             {"in", TEST_IN},
};

bool test_is_known(const char *name)
{
    for (size_t i = 0; i < VIREO_COUNT(tests); i++)
        if (strcmp(tests[i].name, name) == 0)
            return true;
    return false;
}

static bool compare_test(struct render *r, enum test_kind kind, const struct value *v, const struct value *with,
                         bool *out)
{
    int order = 0;
    if (!with)
        return render_fail(r, VIREO_INVALID, "the test needs a value to compare with");
    if (kind == TEST_IN)
        return value_contains(r, with, v, out);
    if (kind == TEST_EQ || kind == TEST_NE) {
        if (!value_equal(r, v, with, out))
            return false;
        *out = *out == (kind == TEST_EQ);
        return true;
    }
    if (!value_compare(r, v, with, &order))
        return false;
    *out = kind == TEST_LT ? order < 0 : kind == TEST_LE ? order <= 0 : kind == TEST_GT ? order > 0 : order >= 0;
    return true;
}

bool apply_test(struct render *r, const char *name, const struct value *v, const struct call *c, bool *out)
{
    size_t i = 0;
    while (i < VIREO_COUNT(tests) && strcmp(tests[i].name, name) != 0)
        i++;
    if (i == VIREO_COUNT(tests))
        return render_fail(r, VIREO_UNSUPPORTED, "unknown test \"%s\"", name);
    enum test_kind kind = tests[i].kind;
    const struct value *with = call_get(c, 0, NULL);
    bool iterable = value_is_sequence(v) || value_is_mapping(v) || v->kind == VALUE_TEXT;
    switch (kind) {
    case TEST_DEFINED: *out = v->kind != VALUE_UNDEFINED; return true;
    case TEST_UNDEFINED: *out = v->kind == VALUE_UNDEFINED; return true;
    case TEST_NONE: *out = v->kind == VALUE_NONE; return true;
    case TEST_STRING: *out = v->kind == VALUE_TEXT; return true;
    case TEST_NUMBER: *out = value_is_number(v); return true;
    case TEST_INTEGER: *out = v->kind == VALUE_INTEGER; return true;
    case TEST_FLOAT: *out = v->kind == VALUE_REAL; return true;
    case TEST_BOOLEAN: *out = v->kind == VALUE_BOOL; return true;
    case TEST_TRUE: *out = v->kind == VALUE_BOOL && v->as.boolean; return true;
    case TEST_FALSE: *out = v->kind == VALUE_BOOL && !v->as.boolean; return true;
    case TEST_MAPPING: *out = value_is_mapping(v); return true;
    case TEST_ITERABLE: *out = iterable || v->kind == VALUE_UNDEFINED; return true;
    case TEST_SEQUENCE: *out = iterable || v->kind == VALUE_UNDEFINED; return true;
    case TEST_CALLABLE: *out = v->kind == VALUE_MACRO || v->kind == VALUE_FUNCTION; return true;
    case TEST_ODD:
    case TEST_EVEN:
        if (v->kind != VALUE_INTEGER)
            return render_fail(r, VIREO_INVALID, "%s is neither odd nor even", value_kind_name(v));
        *out = (v->as.integer % 2 != 0) == (kind == TEST_ODD);
        return true;
    case TEST_DIVISIBLE:
        if (v->kind != VALUE_INTEGER || !with || with->kind != VALUE_INTEGER || with->as.integer == 0 ||
            with->as.integer == -1)
            return render_fail(r, VIREO_INVALID, "divisibleby needs two integers, the second not 0 or -1");
        *out = v->as.integer % with->as.integer == 0;
        return true;
    default: return compare_test(r, kind, v, with, out);
    }
}
