// What lies inside a value: attributes, elements, slices.
#include "compute/chat/template_eval.h"

#include "compute/base/check.h"

#include <stdlib.h>
#include <string.h>

static bool loop_attribute(const struct loop *l, const char *name, struct value *out)
{
    int64_t i = (int64_t)l->index, n = (int64_t)l->count;
    const struct {
        const char *name;
        struct value value;
    } known[] = {
        {"index0", value_integer(i)},
        {"index", value_integer(i + 1)},
        {"revindex0", value_integer(n - 1 - i)},
        {"revindex", value_integer(n - i)},
        {"first", value_bool(i == 0)},
        {"last", value_bool(i == n - 1)},
        {"length", value_integer(n)},
        {"depth", value_integer(l->depth)},
        {"depth0", value_integer(l->depth - 1)},
        {"previtem", i > 0 ? l->items[i - 1] : value_undefined("loop.previtem")},
        {"nextitem", i + 1 < n ? l->items[i + 1] : value_undefined("loop.nextitem")},
    };
    for (size_t k = 0; k < VIREO_COUNT(known); k++) {
        if (strcmp(known[k].name, name) == 0) {
            *out = known[k].value;
            return true;
        }
    }
    return false;
}

bool refuse_undefined(struct render *r, const struct value *v, const char *what)
{
    return render_fail(r, VIREO_INVALID, "%s is undefined, so it has no %s", v->as.name ? v->as.name : "the value",
                       what);
}

bool index_value(struct render *r, const struct value *of, const struct value *key, struct value *out)
{
    if (of->kind == VALUE_UNDEFINED)
        return refuse_undefined(r, of, "elements");
    *out = value_undefined("an element that does not exist");
    if (key->kind == VALUE_TEXT) {
        bool found;
        if (!value_lookup(r, of, key->as.text, out, &found))
            return false;
        if (!found)
            *out = value_undefined(NULL);
        return true;
    }
    if (of->kind == VALUE_DICT) {
        for (size_t i = 0; i < of->as.dict->count; i++) {
            bool same;
            if (!value_equal(r, &of->as.dict->pairs[i].key, key, &same))
                return false;
            if (same) {
                *out = of->as.dict->pairs[i].value;
                return true;
            }
        }
        return true;
    }
    if (key->kind != VALUE_INTEGER || (!value_is_sequence(of) && of->kind != VALUE_TEXT))
        return true;
    int64_t i = key->as.integer;
    if (of->kind == VALUE_JSON) { // without unwrapping the whole array
        int64_t n = (int64_t)json_array_size(of->as.json.value);
        i += i < 0 ? n : 0;
        if (i >= 0 && i < n)
            *out = value_json(json_array_get(of->as.json.value, (size_t)i),
                              of->as.json.origin == ORIGIN_BY_INDEX ? (int32_t)i : of->as.json.origin, NULL);
        return true;
    }
    struct value *items;
    size_t count;
    if (!value_items(r, of, &items, &count))
        return false;
    i += i < 0 ? (int64_t)count : 0;
    if (i >= 0 && i < (int64_t)count)
        *out = items[i];
    return true;
}

bool one_attribute(struct render *r, const struct value *of, const char *name, struct value *out)
{
    if (of->kind == VALUE_UNDEFINED)
        return refuse_undefined(r, of, name);
    if (of->kind == VALUE_LOOP && loop_attribute(of->as.loop, name, out))
        return true;
    bool found;
    if (!value_lookup(r, of, value_text(name).as.text, out, &found))
        return false;
    if (!found)
        *out = value_undefined(arena_copy_string(&r->arena, name));
    return true;
}

// `name` may be a path, as in map(attribute="function.name") or attribute="0".
bool get_attribute(struct render *r, const struct value *of, const char *name, size_t length, struct value *out)
{
    struct value at = *of;
    for (size_t start = 0; start <= length;) {
        size_t end = start;
        while (end < length && name[end] != '.')
            end++;
        char part[128];
        if (end - start >= sizeof part || end == start)
            return render_fail(r, VIREO_INVALID, "\"%.*s\" is not the name of an attribute",
                               (int)VIREO_MIN(length, 60u), name);
        memcpy(part, name + start, end - start);
        part[end - start] = 0;
        char *rest;
        long number = strtol(part, &rest, 10);
        struct value next;
        if (*rest == 0 && part[0] >= '0' && part[0] <= '9') {
            struct value key = value_integer(number);
            if (!index_value(r, &at, &key, &next))
                return false;
        } else if (!one_attribute(r, &at, part, &next)) {
            return false;
        }
        at = next;
        start = end + 1;
    }
    *out = at;
    return true;
}

static bool slice_bound(struct render *r, const struct node *n, bool *given, int64_t *out)
{
    struct value v;
    *given = false;
    if (!n)
        return true;
    if (!eval(r, n, &v))
        return false;
    if (v.kind == VALUE_NONE)
        return true;
    if (v.kind != VALUE_INTEGER)
        return render_fail(r, VIREO_INVALID, "a slice needs integers, got %s", value_kind_name(&v));
    *given = true;
    *out = VIREO_MAX(VIREO_MIN(v.as.integer, INT32_MAX), -INT32_MAX);
    return true;
}

// As Python's slice.indices().
bool slice_value(struct render *r, const struct value *of, const struct node *n, struct value *out)
{
    bool has_start, has_stop, has_step;
    int64_t start = 0, stop = 0, step = 1;
    if (!slice_bound(r, n->kids[0], &has_start, &start) || !slice_bound(r, n->kids[1], &has_stop, &stop) ||
        !slice_bound(r, n->kids[2], &has_step, &step))
        return false;
    if (!has_step)
        step = 1;
    if (step == 0)
        return render_fail(r, VIREO_INVALID, "the step of a slice must not be 0");
    if (of->kind == VALUE_UNDEFINED)
        return refuse_undefined(r, of, "elements");
    if (of->kind != VALUE_TEXT && !value_is_sequence(of))
        return render_fail(r, VIREO_INVALID, "%s cannot be sliced", value_kind_name(of));
    struct value *items = NULL;
    size_t length;
    // Strings with step 1 are cut without taking them apart.
    bool text = of->kind == VALUE_TEXT, whole = text && step == 1;
    if (!(whole ? value_length(r, of, &length) : value_items(r, of, &items, &length)))
        return false;
    int64_t count = (int64_t)length, low = step > 0 ? 0 : -1, high = step > 0 ? count : count - 1;
    start = !has_start ? (step > 0 ? low : high) : start < 0 ? VIREO_MAX(start + count, low) : VIREO_MIN(start, high);
    stop = !has_stop ? (step > 0 ? high : low) : stop < 0 ? VIREO_MAX(stop + count, low) : VIREO_MIN(stop, high);
    if (whole) {
        size_t from = 0, to, k = 0;
        bool ok = true;
        for (; (int64_t)k < start && from < of->as.text.length; k++)
            from += text_step(of->as.text, from);
        for (to = from; (int64_t)k < stop && to < of->as.text.length; k++)
            to += text_step(of->as.text, to);
        *out = (struct value){.kind = VALUE_TEXT, .as.text = text_slice(r, of->as.text, from, to, &ok)};
        return ok;
    }
    int64_t made = step > 0 ? (stop > start ? (stop - start + step - 1) / step : 0)
                            : (start > stop ? (start - stop - step - 1) / -step : 0);
    struct value *kept = render_spend(r, (size_t)made / 4) ? render_take(r, (size_t)made, sizeof *kept) : NULL;
    if (!kept)
        return false;
    for (int64_t i = 0; i < made; i++)
        kept[i] = items[start + i * step];
    *out = value_list(kept, (size_t)made);
    if (of->kind == VALUE_TUPLE)
        out->kind = VALUE_TUPLE;
    if (!text)
        return true;
    struct builder b = {0};
    for (int64_t i = 0; i < made; i++)
        if (!builder_add(r, &b, kept[i].as.text))
            return false;
    *out = builder_value(&b);
    return true;
}
