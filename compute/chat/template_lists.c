// Filters of lists and mappings (x | sort, x | map(...), x | selectattr(...)), as Jinja's.
#include "compute/chat/template_filters.h"

#include "compute/base/check.h"

#include <stdlib.h>
#include <string.h>

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

bool filter_first(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    return take_end(r, in, false, out);
}

bool filter_last(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    return take_end(r, in, true, out);
}

bool filter_list(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    struct value *items;
    size_t count;
    if (!value_items(r, in, &items, &count))
        return false;
    *out = value_list(items, count);
    return true;
}

bool filter_reverse(struct render *r, const struct value *in, const struct call *c, struct value *out)
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

bool filter_unique(struct render *r, const struct value *in, const struct call *c, struct value *out)
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

bool filter_sort(struct render *r, const struct value *in, const struct call *c, struct value *out)
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

bool filter_items(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    struct pair *pairs = NULL;
    size_t count = 0;
    if (in->kind != VALUE_UNDEFINED && !value_pairs(r, in, &pairs, &count))
        return false;
    return pairs_to_list(r, pairs, count, out);
}

bool filter_dictsort(struct render *r, const struct value *in, const struct call *c, struct value *out)
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

bool filter_map(struct render *r, const struct value *in, const struct call *c, struct value *out)
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

bool filter_select(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return pick(r, in, c, false, true, out);
}

bool filter_reject(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return pick(r, in, c, false, false, out);
}

bool filter_selectattr(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return pick(r, in, c, true, true, out);
}

bool filter_rejectattr(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    return pick(r, in, c, true, false, out);
}

bool filter_sum(struct render *r, const struct value *in, const struct call *c, struct value *out)
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

bool filter_min(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    return extreme(r, in, -1, out);
}

bool filter_max(struct render *r, const struct value *in, const struct call *c, struct value *out)
{
    (void)c;
    return extreme(r, in, 1, out);
}
