#include "compute/rewards/template.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum source { LITERAL, ITEM, OUTPUT_TEXT, OUTPUT_JSON, OUTPUT_TOOLS };
struct hop {
    char *key; // NULL: index
    size_t index;
};
// One piece: literal text, or a variable with the path behind its source.
struct piece {
    enum source source;
    const char *at; // into template text; for a variable the whole path, for messages
    size_t size;
    struct hop hops[REWARD_TEMPLATE_STEPS];
    size_t hop_count;
};
struct reward_template {
    char *text;
    struct piece *pieces;
    size_t count;
};

struct reader {
    const char *at, *end, *path;
    struct vireo_error *err;
};

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

static bool wrong(struct reader *r, const struct piece *p, const char *why)
{
    return vireo_fail_param(r->err, r->path, "Invalid template in '%s': '{{%.60s': %s.", r->path, p->at, why);
}

static bool add_hop(struct reader *r, struct piece *p, const char *key, size_t length, size_t index)
{
    if (p->hop_count == REWARD_TEMPLATE_STEPS)
        return wrong(r, p, "at most 16 steps in a path");
    struct hop h = {.index = index};
    if (key) {
        h.key = vireo_alloc(length + 1);
        if (!h.key)
            return vireo_fail_memory(r->err, length + 1);
        memcpy(h.key, key, length);
        h.key[length] = 0;
    }
    p->hops[p->hop_count++] = h;
    return true;
}

// The [n] or ["name"] at r->at.
static bool read_index(struct reader *r, struct piece *p)
{
    const char *start = ++r->at;
    if (r->at < r->end && (*r->at == '"' || *r->at == '\'')) {
        char quote = *r->at;
        start = ++r->at;
        while (r->at < r->end && *r->at != quote)
            r->at++;
        if (r->end - r->at < 2 || r->at[1] != ']')
            return wrong(r, p, "a quoted name must end in its quote and ']'");
        r->at += 2;
        return add_hop(r, p, start, (size_t)(r->at - 2 - start), 0);
    }
    size_t index = 0;
    for (; r->at < r->end && *r->at >= '0' && *r->at <= '9' && r->at - start < 9; r->at++)
        index = index * 10 + (size_t)(*r->at - '0');
    if (r->at == start || r->at == r->end || *r->at != ']')
        return wrong(r, p, "expected [n] with n below 10^9, or [\"name\"]");
    r->at++;
    return add_hop(r, p, NULL, 0, index);
}

static bool take_word(struct reader *r, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(r->end - r->at) < length || memcmp(r->at, word, length) != 0 ||
        (r->at + length < r->end && is_word(r->at[length])))
        return false;
    r->at += length;
    return true;
}

// What stands between the braces, without outer spaces.
static bool read_variable(struct reader *r, struct piece *p)
{
    p->at = r->at;
    p->size = (size_t)(r->end - r->at);
    if (take_word(r, "item"))
        p->source = ITEM;
    else if (take_word(r, "sample.output_text"))
        p->source = OUTPUT_TEXT;
    else if (take_word(r, "sample.output_json"))
        p->source = OUTPUT_JSON;
    else if (take_word(r, "sample.output_tools"))
        p->source = OUTPUT_TOOLS;
    else
        return wrong(r, p, "a path starts with item, sample.output_text, sample.output_json or sample.output_tools");
    while (r->at < r->end) {
        const char *start = r->at + 1;
        if (*r->at == '[') {
            if (!read_index(r, p))
                return false;
            continue;
        }
        if (*r->at++ != '.')
            return wrong(r, p, "expected .name, [n] or [\"name\"]; filters and expressions are not part of templates");
        while (r->at < r->end && is_word(*r->at))
            r->at++;
        if (r->at == start)
            return wrong(r, p, "expected a name behind the dot");
        if (!add_hop(r, p, start, (size_t)(r->at - start), 0))
            return false;
    }
    if (p->source == OUTPUT_TEXT && p->hop_count)
        return wrong(r, p, "sample.output_text is a string and has no members");
    return true;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

// Pieces of t->text. Their array has room for all: the caller counted the braces.
static bool compile(struct reward_template *t, const char *path, struct vireo_error *err)
{
    const char *at = t->text;
    while (*at) {
        struct piece *p = &t->pieces[t->count++];
        const char *open = strstr(at, "{{");
        if (open != at) {
            size_t length = open ? (size_t)(open - at) : strlen(at);
            *p = (struct piece){.source = LITERAL, .at = at, .size = length};
            at += length;
            continue;
        }
        const char *close = strstr(at + 2, "}}");
        struct reader r = {.at = at + 2, .end = close, .path = path, .err = err};
        if (!close)
            return vireo_fail_param(err, path, "Invalid template in '%s': '%.40s' is not closed by '}}'.", path, at);
        while (r.at < r.end && is_blank(*r.at))
            r.at++;
        while (r.end > r.at && is_blank(r.end[-1]))
            r.end--;
        if (!read_variable(&r, p))
            return false;
        at = close + 2;
    }
    return true;
}

struct reward_template *reward_template_create(const char *text, const char *path, struct vireo_error *err)
{
    size_t length = strlen(text), pieces = 1;
    if (length > REWARD_TEMPLATE_BYTES) {
        vireo_fail_param(err, path, "Invalid value for '%s': at most %d bytes, got %zu.", path, REWARD_TEMPLATE_BYTES,
                         length);
        return NULL;
    }
    for (const char *at = text; (at = strstr(at, "{{")) != NULL; at += 2)
        pieces += 2;
    struct reward_template *t = vireo_calloc(1, sizeof *t);
    if (t) {
        t->text = vireo_strdup(text);
        t->pieces = vireo_calloc(pieces, sizeof t->pieces[0]);
    }
    if (!t || !t->text || !t->pieces) {
        vireo_fail_memory(err, pieces * sizeof t->pieces[0]);
        reward_template_destroy(&t);
    } else if (!compile(t, path, err)) {
        reward_template_destroy(&t);
    }
    return t;
}

void reward_template_destroy(struct reward_template **t)
{
    if (!t || !*t)
        return;
    for (size_t i = 0; i < (*t)->count; i++)
        for (size_t k = 0; k < (*t)->pieces[i].hop_count; k++)
            free((*t)->pieces[i].hops[k].key);
    free((*t)->pieces);
    free((*t)->text);
    free(*t);
    *t = NULL;
}

const char *reward_template_text(const struct reward_template *t)
{
    return t->text;
}

const char *reward_template_item_key(const struct reward_template *t, size_t index)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->pieces[i].source == ITEM && t->pieces[i].hop_count && t->pieces[i].hops[0].key && index-- == 0)
            return t->pieces[i].hops[0].key;
    return NULL;
}

bool reward_template_uses_json(const struct reward_template *t)
{
    for (size_t i = 0; i < t->count; i++)
        if (t->pieces[i].source == OUTPUT_JSON)
            return true;
    return false;
}

// A growing byte string; `failed` sticks.
struct bytes {
    char *at;
    size_t size, capacity;
    bool failed;
};

static void append(struct bytes *b, const char *at, size_t size)
{
    size_t wanted;
    if (b->failed || !vireo_add_size(b->size, size, &wanted) || !vireo_add_size(wanted, 1, &wanted)) {
        b->failed = true;
        return;
    }
    if (wanted > b->capacity) {
        size_t capacity = VIREO_MAX(wanted, b->capacity + b->capacity / 2);
        char *more = vireo_realloc(b->at, capacity);
        if (!more) {
            b->failed = true;
            return;
        }
        b->at = more;
        b->capacity = capacity;
    }
    if (size)
        memcpy(b->at + b->size, at, size);
    b->size += size;
    b->at[b->size] = 0;
}

// The shortest decimal that reads back as the same double, as other JSON writers have it: Jansson would print 0.1 as
// 0.10000000000000001.
static void append_real(struct bytes *b, double value)
{
    char text[40];
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    if (!strpbrk(text, ".en"))
        snprintf(text + strlen(text), sizeof text - strlen(text), ".0");
    append(b, text, strlen(text));
}

static void append_json(struct bytes *b, const json_t *value)
{
    if (json_is_string(value)) {
        append(b, json_string_value(value), json_string_length(value));
        return;
    }
    if (json_is_real(value)) {
        append_real(b, json_real_value(value));
        return;
    }
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
    if (!text)
        b->failed = true;
    else
        append(b, text, strlen(text));
    free(text);
}

static const json_t *follow(const json_t *value, const struct piece *p)
{
    for (size_t i = 0; value && i < p->hop_count; i++)
        value = p->hops[i].key ? json_object_get(value, p->hops[i].key) : json_array_get(value, p->hops[i].index);
    return value;
}

static enum template_outcome append_piece(struct bytes *b, const struct piece *p, const struct template_values *v)
{
    const json_t *value;
    switch (p->source) {
    case LITERAL: append(b, p->at, p->size); return TEMPLATE_OK;
    case OUTPUT_TEXT: append(b, v->output_text, v->output_bytes); return TEMPLATE_OK;
    case OUTPUT_TOOLS:
        if (p->hop_count)
            return TEMPLATE_NO_MEMBER;
        append(b, "[]", 2);
        return TEMPLATE_OK;
    case OUTPUT_JSON:
        if (!v->output_json)
            return TEMPLATE_NOT_JSON;
        value = follow(v->output_json, p);
        break;
    default: value = follow(v->item, p); break;
    }
    if (!value)
        return p->source == ITEM ? TEMPLATE_NO_VARIABLE : TEMPLATE_NO_MEMBER;
    append_json(b, value);
    return TEMPLATE_OK;
}

bool reward_template_expand(const struct reward_template *t, const struct template_values *v, char **text,
                            size_t *bytes,
                            enum template_outcome *outcome, char missing[96], struct vireo_error *err)
{
    struct bytes b = {0};
    append(&b, "", 0);
    *outcome = TEMPLATE_OK;
    *text = NULL;
    for (size_t i = 0; i < t->count && *outcome == TEMPLATE_OK; i++) {
        const struct piece *p = &t->pieces[i];
        *outcome = append_piece(&b, p, v);
        if (*outcome != TEMPLATE_OK)
            snprintf(missing, 96, "%.*s", (int)VIREO_MIN(p->size, 90), p->at);
    }
    if (b.failed) {
        free(b.at);
        return vireo_fail_memory(err, b.size);
    }
    if (*outcome != TEMPLATE_OK) {
        free(b.at);
        return true;
    }
    *text = b.at;
    *bytes = b.size;
    return true;
}
