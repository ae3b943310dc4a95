// Strings that remember where each byte came from.
#include "compute/chat/template_internal.h"

#include "compute/base/check.h"

#include <string.h>

static bool add_run(struct render *r, struct builder *b, size_t end, int32_t origin)
{
    if (b->run_count && b->runs[b->run_count - 1].origin == origin) {
        b->runs[b->run_count - 1].end = end;
        return true;
    }
    if (!render_grow(r, &b->runs, b->run_count, b->run_count + 1, &b->run_capacity, sizeof *b->runs))
        return false;
    b->runs[b->run_count++] = (struct origin_run){end, origin};
    return true;
}

bool builder_add(struct render *r, struct builder *b, struct text t)
{
    if (t.length == 0)
        return true;
    if (!render_spend_bytes(r, b->length + t.length > TEMPLATE_MAX_OUTPUT ? b->length + t.length : t.length) ||
        !render_grow(r, &b->bytes, b->length, b->length + t.length, &b->capacity, 1))
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
