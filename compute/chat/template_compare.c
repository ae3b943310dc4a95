// Whether values are equal, which is the less, and what holds what.
#include "compute/chat/template_internal.h"

#include "compute/base/check.h"

#include <string.h>

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
