#include "compute/tokenizer/utf8.h"

#include "compute/tokenizer/internal.h"

#include <utf8proc.h>

#include <stdlib.h>
#include <string.h>

size_t utf8_sequence(const unsigned char *p, size_t available, size_t *bad, bool *incomplete)
{
    *incomplete = false;
    *bad = 1;
    if (available == 0)
        return 0;
    unsigned char lead = p[0], low = 0x80, high = 0xbf;
    size_t length;
    if (lead < 0x80)
        return 1;
    if (lead >= 0xc2 && lead <= 0xdf)
        length = 2;
    else if (lead >= 0xe0 && lead <= 0xef)
        length = 3;
    else if (lead >= 0xf0 && lead <= 0xf4)
        length = 4;
    else
        return 0;
    if (lead == 0xe0)
        low = 0xa0; // overlong
    else if (lead == 0xed)
        high = 0x9f; // surrogates
    else if (lead == 0xf0)
        low = 0x90; // overlong
    else if (lead == 0xf4)
        high = 0x8f; // beyond U+10FFFF
    for (size_t i = 1; i < length; i++) {
        *bad = i;
        if (i == available) {
            *incomplete = true;
            return 0;
        }
        if (p[i] < low || p[i] > high)
            return 0;
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

bool utf8_is_valid(const char *text, size_t length)
{
    size_t bad;
    bool incomplete;
    for (size_t i = 0, step; i < length; i += step) {
        step = utf8_sequence((const unsigned char *)text + i, length - i, &bad, &incomplete);
        if (step == 0)
            return false;
    }
    return true;
}

bool utf8_replace(const char *text, size_t length, struct token_text *out, struct vireo_error *err)
{
    size_t start = 0, bad;
    bool incomplete;
    for (size_t i = 0, step; i < length; i += step) {
        step = utf8_sequence((const unsigned char *)text + i, length - i, &bad, &incomplete);
        if (step)
            continue;
        if (!token_text_add(out, text + start, i - start, err) || !token_text_add(out, "\xef\xbf\xbd", 3, err))
            return false;
        step = bad;
        start = i + bad;
    }
    return token_text_add(out, text + start, length - start, err);
}

uint32_t utf8_decode(const char *text, size_t *length)
{
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) {
        *length = 1;
        return p[0];
    }
    if (p[0] < 0xe0) {
        *length = 2;
        return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    }
    if (p[0] < 0xf0) {
        *length = 3;
        return (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    }
    *length = 4;
    return (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

size_t utf8_encode(uint32_t c, char out[4])
{
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)out);
}

// A code point with its place, so that qsort keeps the order of equal combining classes.
struct mark {
    uint32_t class, at;
    utf8proc_int32_t c;
};

static int by_class(const void *a, const void *b)
{
    const struct mark *x = a, *y = b;
    if (x->class != y->class)
        return x->class < y->class ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

// Canonical ordering of each run of combining marks. utf8proc's own is quadratic in the run, which a text of nothing
// but marks could use against us.
static bool order_marks(utf8proc_int32_t *c, size_t count, struct vireo_error *err)
{
    struct mark *marks = NULL;
    size_t capacity = 0;
    bool ok = true;
    for (size_t i = 0; i < count && ok; i++) {
        size_t run = 0;
        bool sorted = true;
        utf8proc_propval_t last = 0;
        for (; i + run < count; run++) {
            utf8proc_propval_t class = utf8proc_get_property(c[i + run])->combining_class;
            if (class == 0)
                break;
            sorted = sorted && class >= last;
            last = class;
        }
        if (!sorted) {
            ok = grow_array(&marks, &capacity, run, sizeof *marks, err);
            for (size_t k = 0; ok && k < run; k++)
                marks[k] =
                    (struct mark){(uint32_t)utf8proc_get_property(c[i + k])->combining_class, (uint32_t)k, c[i + k]};
            if (ok)
                qsort(marks, run, sizeof *marks, by_class);
            for (size_t k = 0; ok && k < run; k++)
                c[i + k] = marks[k].c;
        }
        i += run;
    }
    free(marks);
    return ok;
}

bool utf8_compose(const char *text, size_t length, struct token_text *out, struct vireo_error *err)
{
    // Below U+0300 nothing composes or decomposes into something else: most text needs no work.
    size_t plain = 0;
    while (plain < length && (unsigned char)text[plain] < 0xcc)
        plain++;
    if (plain == length)
        return token_text_add(out, text, length, err);
    utf8proc_int32_t *c = NULL;
    size_t count = 0, capacity = 0;
    bool ok = true;
    for (size_t i = 0, step; ok && i < length; i += step) {
        utf8proc_int32_t point = (utf8proc_int32_t)utf8_decode(text + i, &step);
        int last_class = 0;
        ok = grow_array(&c, &capacity, count + 8, sizeof *c, err); // a canonical decomposition has at most 4
        if (ok)
            count += (size_t)utf8proc_decompose_char(point, c + count, (utf8proc_ssize_t)(capacity - count),
                                                     UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &last_class);
    }
    ok = ok && order_marks(c, count, err);
    if (ok)
        count = (size_t)utf8proc_normalize_utf32(c, (utf8proc_ssize_t)count, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    size_t before = out->length;
    for (size_t i = 0; ok && i < count; i++) {
        char bytes[4];
        ok = token_text_add(out, bytes, utf8_encode((uint32_t)c[i], bytes), err);
    }
    if (!ok)
        out->length = before;
    free(c);
    return ok;
}
