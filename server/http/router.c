#include "server/http/router.h"

#include "compute/base/fault.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct pattern {
    const struct route *route;
    size_t count;
    struct {
        const char *text; // literal, or the name without braces
        size_t length;
        bool named;
    } segments[ROUTER_SEGMENTS];
};
struct router {
    struct pattern *patterns;
    size_t count;
};

struct router *router_create(struct vireo_error *err)
{
    struct router *r = vireo_calloc(1, sizeof *r);
    if (!r)
        vireo_fail_memory(err, sizeof *r);
    return r;
}

void router_destroy(struct router **r)
{
    if (!*r)
        return;
    free((*r)->patterns);
    free(*r);
    *r = NULL;
}

size_t router_count(const struct router *r)
{
    return r->count;
}

const struct route *router_at(const struct router *r, size_t index)
{
    return index < r->count ? r->patterns[index].route : NULL;
}

// "/" has no segment; "/a/{b}" has two.
static bool parse_pattern(const struct route *route, struct pattern *out, struct vireo_error *err)
{
    *out = (struct pattern){.route = route};
    const char *at = route->pattern;
    size_t values = 0;
    if (*at != '/')
        return vireo_fail(err, VIREO_INTERNAL, "route pattern '%s' does not begin with '/'", route->pattern);
    while (*at == '/' && at[1]) {
        size_t length = strcspn(++at, "/");
        if (!length || out->count == ROUTER_SEGMENTS)
            return vireo_fail(err, VIREO_INTERNAL, "route pattern '%s' is malformed or too long", route->pattern);
        bool named = at[0] == '{' && at[length - 1] == '}';
        if (named && ++values > ROUTER_VALUES)
            return vireo_fail(err, VIREO_INTERNAL, "route pattern '%s' names too many values", route->pattern);
        out->segments[out->count].text = at + named;
        out->segments[out->count].length = length - 2 * (size_t)named;
        out->segments[out->count++].named = named;
        at += length;
    }
    return true;
}

static bool same_shape(const struct pattern *a, const struct pattern *b)
{
    if (a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        if (a->segments[i].named != b->segments[i].named)
            return false;
        if (!a->segments[i].named && (a->segments[i].length != b->segments[i].length ||
                                      memcmp(a->segments[i].text, b->segments[i].text, a->segments[i].length) != 0))
            return false;
    }
    return true;
}

bool router_add(struct router *r, const struct route *routes, size_t count, struct vireo_error *err)
{
    struct pattern *grown = vireo_realloc(r->patterns, (r->count + count) * sizeof *grown);
    if (!grown)
        return vireo_fail_memory(err, (r->count + count) * sizeof *grown);
    r->patterns = grown;
    for (size_t i = 0; i < count; i++) {
        struct pattern p;
        if (!parse_pattern(&routes[i], &p, err))
            return false;
        for (size_t k = 0; k < r->count; k++)
            if (strcmp(r->patterns[k].route->method, routes[i].method) == 0 && same_shape(&r->patterns[k], &p))
                return vireo_fail(err, VIREO_INTERNAL, "two routes answer %s %s", routes[i].method, routes[i].pattern);
        r->patterns[r->count++] = p;
    }
    return true;
}

bool url_is_utf8(const char *text, size_t length)
{
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < length;) {
        unsigned char c = s[i];
        size_t more = c < 0x80                ? 0
                      : c >= 0xc2 && c <= 0xdf ? 1
                      : (c & 0xf0) == 0xe0     ? 2
                      : c >= 0xf0 && c <= 0xf4 ? 3
                                               : 9;
        if (more == 9 || more >= length - i)
            return false;
        for (size_t k = 1; k <= more; k++)
            if ((s[i + k] & 0xc0) != 0x80)
                return false;
        // Overlong forms, surrogates, beyond U+10FFFF.
        if ((c == 0xe0 && s[i + 1] < 0xa0) || (c == 0xed && s[i + 1] > 0x9f) || (c == 0xf0 && s[i + 1] < 0x90) ||
            (c == 0xf4 && s[i + 1] > 0x8f))
            return false;
        i += more + 1;
    }
    return true;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *url_decode(struct arena *arena, const char *text, size_t length, bool plus, struct vireo_error *err)
{
    char *out = arena_take(arena, length + 1);
    size_t used = 0;
    if (!out) {
        vireo_fail_memory(err, length + 1);
        return NULL;
    }
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (c == '%') {
            int high = -1, low = -1;
            if (length - i > 2) {
                high = hex_value(text[i + 1]);
                low = hex_value(text[i + 2]);
            }
            if (high < 0 || low < 0) {
                vireo_fail(err, VIREO_INVALID, "The URL has a bad percent escape.");
                return NULL;
            }
            c = (char)(high * 16 + low);
            i += 2;
        } else if (c == '+' && plus) {
            c = ' ';
        }
        if (!c) {
            vireo_fail(err, VIREO_INVALID, "The URL holds a NUL character.");
            return NULL;
        }
        out[used++] = c;
    }
    if (!url_is_utf8(out, used)) {
        vireo_fail(err, VIREO_INVALID, "The URL is not valid UTF-8 after decoding.");
        return NULL;
    }
    return out;
}

bool url_parse_query(struct arena *arena, const char *query, struct url_pair **out, struct vireo_error *err)
{
    struct url_pair *first = NULL, **tail = &first;
    int count = 0;
    while (query && *query) {
        size_t length = strcspn(query, "&");
        if (length) {
            const char *equals = memchr(query, '=', length);
            size_t name = equals ? (size_t)(equals - query) : length;
            struct url_pair *pair = arena_new(arena, struct url_pair);
            if (!pair)
                return vireo_fail_memory(err, sizeof *pair);
            if (++count > 64)
                return vireo_fail(err, VIREO_INVALID, "The URL has more than 64 query parameters.");
            pair->name = url_decode(arena, query, name, true, err);
            pair->value = equals ? url_decode(arena, equals + 1, length - name - 1, true, err) : "";
            if (!pair->name || !pair->value)
                return false;
            *tail = pair;
            tail = &pair->next;
        }
        query += length + (query[length] == '&');
    }
    *out = first;
    return true;
}

// --- matching --------------------------------------------------------------------------------------------------------

struct target {
    size_t count;
    const char *segments[ROUTER_SEGMENTS];
};

// Splits first, decodes each segment after. One trailing slash is forgiven nowhere: "/v1/files/" is another path.
static bool split_target(const char *target, struct arena *arena, struct target *out, bool *too_deep,
                         struct vireo_error *err)
{
    *out = (struct target){0};
    *too_deep = false;
    size_t length = strcspn(target, "?#");
    if (!length || target[0] != '/')
        return vireo_fail(err, VIREO_INVALID, "The request target must be a path that begins with '/'.");
    if (length == 1)
        return true;
    for (size_t at = 1; at <= length;) {
        size_t end = at;
        while (end < length && target[end] != '/')
            end++;
        if (out->count == ROUTER_SEGMENTS) {
            *too_deep = true;
            return true;
        }
        char *segment = url_decode(arena, target + at, end - at, false, err);
        if (!segment)
            return false;
        if (strcmp(segment, ".") == 0 || strcmp(segment, "..") == 0)
            return vireo_fail(err, VIREO_INVALID, "The path holds a '.' or '..' segment.");
        for (const char *c = segment; *c; c++)
            if ((unsigned char)*c < 0x20 || *c == 0x7f)
                return vireo_fail(err, VIREO_INVALID, "The path holds a control character.");
        out->segments[out->count++] = segment;
        at = end + 1;
    }
    return true;
}

// Number of literal segments + 1, or 0: no match.
static int matches(const struct pattern *p, const struct target *t)
{
    if (p->count != t->count)
        return 0;
    int literal = 1;
    for (size_t i = 0; i < p->count; i++) {
        if (p->segments[i].named) {
            if (!t->segments[i][0])
                return 0;
            continue;
        }
        if (strlen(t->segments[i]) != p->segments[i].length ||
            memcmp(t->segments[i], p->segments[i].text, p->segments[i].length) != 0)
            return 0;
        literal++;
    }
    return literal;
}

static void allow_add(char *allow, size_t size, const char *method)
{
    size_t used = strlen(allow);
    snprintf(allow + used, size - used, "%s%s", used ? ", " : "", method);
    if (strcmp(method, "GET") == 0)
        allow_add(allow, size, "HEAD");
}

bool router_match(const struct router *r, const char *method, const char *target, struct arena *arena,
                  struct route_match *out, struct vireo_error *err)
{
    *out = (struct route_match){.status = 400};
    struct target t;
    bool too_deep;
    if (!split_target(target, arena, &t, &too_deep, err))
        return false;
    out->status = 404;
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;
    const struct pattern *best = NULL;
    int best_score = 0, any_score = 0;
    for (size_t i = 0; !too_deep && i < r->count; i++) {
        int score = matches(&r->patterns[i], &t);
        any_score = score > any_score ? score : any_score;
        if (score > best_score && strcmp(r->patterns[i].route->method, wanted) == 0) {
            best = &r->patterns[i];
            best_score = score;
        }
    }
    // "/files/search" (POST) hides "/files/{id}" (DELETE): the most literal path decides, then the method.
    if (best && best_score == any_score) {
        out->status = 200;
        out->route = best->route;
        for (size_t i = 0; i < best->count; i++)
            if (best->segments[i].named) {
                struct route_value *v = &out->values[out->value_count++];
                v->name = arena_copy_bytes(arena, best->segments[i].text, best->segments[i].length);
                v->value = t.segments[i];
                if (!v->name) {
                    out->status = 400;
                    return vireo_fail_memory(err, best->segments[i].length);
                }
            }
        return true;
    }
    for (size_t i = 0; any_score && i < r->count; i++)
        if (matches(&r->patterns[i], &t) == any_score) {
            out->status = 405;
            allow_add(out->allow, sizeof out->allow, r->patterns[i].route->method);
        }
    return true;
}
