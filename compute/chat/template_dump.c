// Values as text: json.dumps for `tojson`, repr() for printing lists and mappings, numbers as Python writes them.
#include "compute/chat/template_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct dump {
    struct render *r;
    const struct dump_style *style;
    struct builder out;
    int depth;
};

static bool put(struct dump *d, const char *text)
{
    return builder_add_own(d->r, &d->out, text, strlen(text), TEMPLATE_OWN);
}

// The shortest digits that read back as the same number; exponent form below 1e-4 and from 1e16 on, as repr() does.
static bool put_real(struct dump *d, double v)
{
    char digits[40], out[64];
    if (isnan(v) || isinf(v))
        return put(d, isnan(v) ? (d->style->python ? "nan" : "NaN")
                               : d->style->python ? (v < 0 ? "-inf" : "inf") : v < 0 ? "-Infinity" : "Infinity");
    int precision = 0;
    do
        snprintf(digits, sizeof digits, "%.*e", precision, v);
    while (strtod(digits, NULL) != v && ++precision < 17);
    const char *e = strchr(digits, 'e');
    long exponent = strtol(e + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16)
        snprintf(out, sizeof out, "%.*se%c%02ld", (int)(e - digits), digits, exponent < 0 ? '-' : '+', labs(exponent));
    else {
        long decimals = precision - exponent;
        snprintf(out, sizeof out, "%.*f", (int)(decimals > 1 ? decimals : 1), v);
    }
    return put(d, out);
}

// One escape of a JSON or Python string; 0: the character stands for itself.
static size_t escape(const struct dump_style *style, char quote, uint32_t c, char out[16])
{
    static const char from[] = "\n\r\t\b\f", to[] = "nrtbf";
    const char *known = c && c < 128 ? memchr(from, (int)c, style->python ? 3 : 5) : NULL;
    if (known)
        return (size_t)snprintf(out, 16, "\\%c", to[known - from]);
    if (c == '\\' || c == (uint32_t)(unsigned char)quote)
        return (size_t)snprintf(out, 16, "\\%c", (char)c);
    if (style->python)
        return c < 32 || c == 127 ? (size_t)snprintf(out, 16, "\\x%02x", (unsigned)c) : 0;
    if (c < 32 || (style->ascii && c > 126 && c < 0x10000))
        return (size_t)snprintf(out, 16, "\\u%04x", (unsigned)c);
    if (style->ascii && c >= 0x10000)
        return (size_t)snprintf(out, 16, "\\u%04x\\u%04x", (unsigned)(0xd800 + ((c - 0x10000) >> 10)),
                                (unsigned)(0xdc00 + ((c - 0x10000) & 0x3ff)));
    return 0;
}

static uint32_t point_at(struct text t, size_t at, size_t step)
{
    const unsigned char *s = (const unsigned char *)t.bytes + at;
    if (step == 1)
        return s[0];
    uint32_t c = s[0] & (0xffu >> (step + 1));
    for (size_t i = 1; i < step; i++)
        c = c << 6 | (s[i] & 0x3fu);
    return c;
}

static bool put_text(struct dump *d, struct text t)
{
    bool ok = true;
    char quote = '"';
    if (d->style->python)
        quote = memchr(t.bytes, '\'', t.length) && !memchr(t.bytes, '"', t.length) ? '"' : '\'';
    if (!builder_add_own(d->r, &d->out, &quote, 1, TEMPLATE_OWN))
        return false;
    size_t start = 0;
    for (size_t i = 0, step; i < t.length; i += step) {
        char escaped[16];
        step = text_step(t, i);
        size_t n = escape(d->style, quote, point_at(t, i, step), escaped);
        if (n == 0)
            continue;
        if (!builder_add(d->r, &d->out, text_slice(d->r, t, start, i, &ok)) || !ok)
            return false;
        struct text piece = text_slice(d->r, t, i, i + step, &ok);
        if (!ok || !builder_add_own(d->r, &d->out, escaped, n, piece.origin))
            return false;
        start = i + step;
    }
    return builder_add(d->r, &d->out, text_slice(d->r, t, start, t.length, &ok)) && ok &&
           builder_add_own(d->r, &d->out, &quote, 1, TEMPLATE_OWN);
}

static bool put_break(struct dump *d, int depth)
{
    static const char blanks[] = "                ";
    if (d->style->indent < 0)
        return true;
    if (!put(d, "\n"))
        return false;
    for (int left = d->style->indent * depth; left > 0; left -= 16)
        if (!builder_add_own(d->r, &d->out, blanks, left < 16 ? (size_t)left : 16, TEMPLATE_OWN))
            return false;
    return true;
}

static bool put_value(struct dump *d, const struct value *v);

static bool put_sequence(struct dump *d, const struct value *v)
{
    struct value *items;
    size_t count;
    bool tuple = d->style->python && v->kind == VALUE_TUPLE;
    if (!value_items(d->r, v, &items, &count) || !put(d, tuple ? "(" : "["))
        return false;
    for (size_t i = 0; i < count; i++)
        if ((i && !put(d, d->style->item_separator)) || !put_break(d, d->depth) || !put_value(d, &items[i]))
            return false;
    return (count == 0 || put_break(d, d->depth - 1)) && (!tuple || count != 1 || put(d, ",")) &&
           put(d, tuple ? ")" : "]");
}

static int by_key(const void *a, const void *b)
{
    const struct text *x = &((const struct pair *)a)->key.as.text, *y = &((const struct pair *)b)->key.as.text;
    int c = memcmp(x->bytes, y->bytes, x->length < y->length ? x->length : y->length);
    return c ? c : x->length < y->length ? -1 : x->length > y->length;
}

static bool put_key(struct dump *d, const struct value *key)
{
    if (d->style->python || key->kind == VALUE_TEXT)
        return put_value(d, key);
    if (key->kind != VALUE_INTEGER && key->kind != VALUE_BOOL && key->kind != VALUE_NONE && key->kind != VALUE_REAL)
        return render_fail(d->r, VIREO_INVALID, "%s cannot be a key in JSON", value_kind_name(key));
    return put(d, "\"") && put_value(d, key) && put(d, "\"");
}

static bool put_mapping(struct dump *d, const struct value *v)
{
    struct pair *pairs;
    size_t count;
    if (!value_pairs(d->r, v, &pairs, &count) || !put(d, "{"))
        return false;
    if (d->style->sort && count > 1) {
        struct pair *sorted = render_take(d->r, count, sizeof *sorted);
        if (!sorted)
            return false;
        for (size_t i = 0; i < count; i++) {
            if (pairs[i].key.kind != VALUE_TEXT)
                return render_fail(d->r, VIREO_INVALID, "only mappings with string keys can be sorted");
            sorted[i] = pairs[i];
        }
        qsort(sorted, count, sizeof *sorted, by_key);
        pairs = sorted;
    }
    for (size_t i = 0; i < count; i++)
        if ((i && !put(d, d->style->item_separator)) || !put_break(d, d->depth) || !put_key(d, &pairs[i].key) ||
            !put(d, d->style->key_separator) || !put_value(d, &pairs[i].value))
            return false;
    return (count == 0 || put_break(d, d->depth - 1)) && put(d, "}");
}

static bool put_value(struct dump *d, const struct value *v)
{
    char number[32];
    bool python = d->style->python;
    if (!render_spend(d->r, 1))
        return false;
    if (v->kind == VALUE_NONE)
        return put(d, python ? "None" : "null");
    if (v->kind == VALUE_BOOL)
        return put(d, v->as.boolean ? (python ? "True" : "true") : python ? "False" : "false");
    if (v->kind == VALUE_INTEGER) {
        snprintf(number, sizeof number, "%lld", (long long)v->as.integer);
        return put(d, number);
    }
    if (v->kind == VALUE_REAL)
        return put_real(d, v->as.real);
    if (v->kind == VALUE_TEXT)
        return put_text(d, v->as.text);
    if (python && v->kind == VALUE_UNDEFINED)
        return put(d, "Undefined");
    if (!value_is_sequence(v) && !value_is_mapping(v))
        return render_fail(d->r, VIREO_INVALID, "%s cannot be written as %s", value_kind_name(v),
                           python ? "text" : "JSON");
    if (++d->depth > TEMPLATE_MAX_DEPTH)
        return render_fail(d->r, VIREO_TOO_LARGE, "values nested deeper than %d levels", TEMPLATE_MAX_DEPTH);
    bool ok = value_is_sequence(v) ? put_sequence(d, v) : put_mapping(d, v);
    d->depth--;
    return ok;
}

bool value_dump(struct render *r, const struct value *v, const struct dump_style *style, struct text *out)
{
    struct dump d = {.r = r, .style = style};
    if (!put_value(&d, v))
        return false;
    *out = builder_value(&d.out).as.text;
    // Quotes and braces around what somebody else wrote belong to it.
    int32_t origin = value_origin(v);
    if (origin != TEMPLATE_OWN)
        *out = (struct text){.bytes = out->bytes, .length = out->length, .origin = origin};
    return true;
}
