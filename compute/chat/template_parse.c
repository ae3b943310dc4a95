// Source text -> tree: its nodes, the text between tags, bodies. The whitespace rules are those of Jinja's lexer with
// trim_blocks and lstrip_blocks.
#include "compute/chat/template_parser.h"

#include <string.h>

bool parser_deeper(struct parser *p)
{
    if (++p->depth <= TEMPLATE_MAX_DEPTH)
        return true;
    parser_fail(p, "chat template, line %d: nested too deeply%s", "");
    return false;
}

struct node *parser_node(struct parser *p, enum node_kind kind)
{
    struct node *n = p->failed ? NULL : arena_new(p->arena, struct node);
    if (!n)
        return parser_no_memory(p);
    n->kind = kind;
    n->line = p->line;
    return n;
}

bool parser_push(struct parser *p, struct node_list *l, struct node *n)
{
    if (p->failed)
        return false;
    if (l->count == l->capacity) {
        size_t more = l->capacity ? l->capacity * 2 : 4;
        struct node **grown = arena_array(p->arena, struct node *, more);
        if (!grown)
            return parser_no_memory(p);
        if (l->count)
            memcpy(grown, l->items, l->count * sizeof *grown);
        l->items = grown;
        l->capacity = more;
    }
    l->items[l->count++] = n;
    return true;
}

struct node *parser_with_kids(struct node *n, const struct node_list *l)
{
    if (n) {
        n->kids = l->items;
        n->count = l->count;
    }
    return n;
}

bool parser_expect_close(struct parser *p)
{
    if (p->failed)
        return false;
    if (p->token.kind == TOKEN_CLOSE)
        return true;
    parser_fail(p, "chat template, line %d: unexpected \"%.40s\" at the end of a tag",
         p->token.text ? p->token.text : "number");
    return false;
}

// Adds the text up to the tag at `tag` (source length: none), less the white space the tag takes away.
static bool add_text(struct parser *p, struct node_list *into, size_t tag)
{
    size_t end = tag;
    const char *s = p->source;
    if (tag + 2 < p->length && s[tag + 2] == '-') {
        while (end > p->at && parser_is_blank(s[end - 1]))
            end--;
    } else if (tag + 2 <= p->length && s[tag + 1] != '{' && !(tag + 2 < p->length && s[tag + 2] == '+')) {
        size_t start = end;
        while (start > p->at && s[start - 1] != '\n' && parser_is_blank(s[start - 1]))
            start--;
        if (start > p->at ? s[start - 1] == '\n' : p->line_start)
            end = start;
    }
    struct node *n = NULL;
    if (end > p->at) {
        n = parser_node(p, NODE_TEXT);
        if (!n)
            return false;
        n->text = s + p->at;
        n->length = end - p->at;
        parser_push(p, into, n);
    }
    for (; p->at < tag; p->at++)
        p->line += s[p->at] == '\n';
    return !p->failed;
}

static size_t find_tag(const struct parser *p)
{
    for (size_t i = p->at; i + 1 < p->length; i++)
        if (p->source[i] == '{' && strchr("%{#", p->source[i + 1]) && p->source[i + 1])
            return i;
    return p->length;
}

static bool skip_comment(struct parser *p)
{
    p->at += 2;
    p->close = "%}"; // comments take a line end along as blocks do
    for (; p->at + 1 < p->length; p->at++) {
        const char *s = p->source + p->at;
        p->line += *s == '\n';
        if (s[0] == '#' && s[1] == '}') {
            char before = s[-1] == '-' || s[-1] == '+' ? s[-1] : 0;
            if (before)
                p->at--;
            parser_close_tag(p, before);
            return true;
        }
    }
    parser_fail(p, "chat template, line %d: a comment is not closed%s", "");
    return false;
}

// {% raw %} ... {% endraw %}: the text between as it is.
static bool parse_raw(struct parser *p, struct node_list *into)
{
    if (!parser_expect_close(p))
        return false;
    for (size_t i = p->at; i + 1 < p->length; i++) {
        if (p->source[i] != '{' || p->source[i + 1] != '%')
            continue;
        size_t name = i + 2;
        if (name < p->length && (p->source[name] == '-' || p->source[name] == '+'))
            name++;
        while (name < p->length && parser_is_blank(p->source[name]))
            name++;
        if (p->length - name < 6 || memcmp(p->source + name, "endraw", 6) != 0)
            continue;
        if (!add_text(p, into, i))
            return false;
        p->at = name + 6;
        p->close = "%}";
        return parser_next_token(p) && parser_expect_close(p);
    }
    parser_fail(p, "chat template, line %d: {%% raw %%} is not closed%s", "");
    return false;
}

static bool begin_tag(struct parser *p, const char *close)
{
    p->at += 2;
    p->close = close;
    p->brackets = 0;
    if (p->at < p->length && (p->source[p->at] == '-' || (close[0] == '%' && p->source[p->at] == '+')))
        p->at++;
    return parser_next_token(p);
}

struct node *parse_body(struct parser *p, const char *const *ends, int opened)
{
    struct node_list list = {0};
    struct node *body = parser_node(p, NODE_BODY);
    if (p->failed || !parser_deeper(p))
        return NULL;
    while (!p->failed) {
        size_t tag = find_tag(p);
        if (!add_text(p, &list, tag))
            break;
        if (tag == p->length) {
            if (ends) {
                p->line = opened;
                parser_fail(p, "chat template, line %d: the block opened here is not closed by %s", ends[0]);
            }
            break;
        }
        char kind = p->source[tag + 1];
        if (kind == '#') {
            skip_comment(p);
        } else if (kind == '{') {
            struct node_list one = {0};
            struct node *n = parser_node(p, NODE_OUTPUT);
            if (begin_tag(p, "}}") && parser_push(p, &one, parse_tuple(p, parse_expression)) && parser_expect_close(p))
                parser_push(p, &list, parser_with_kids(n, &one));
        } else {
            if (!begin_tag(p, "%}"))
                break;
            if (p->token.kind != TOKEN_NAME)
                return parser_fail(p, "chat template, line %d: a tag without a name%s", "");
            const char *name = p->token.text;
            if (!parser_next_token(p))
                break;
            bool ended = false;
            for (size_t i = 0; ends && ends[i] && !ended; i++)
                ended = strcmp(name, ends[i]) == 0;
            if (ended) {
                p->ended_by = name;
                p->depth--;
                return parser_with_kids(body, &list);
            }
            if (strcmp(name, "raw") == 0)
                parse_raw(p, &list);
            else
                parser_push(p, &list, parse_statement(p, name));
        }
    }
    p->depth--;
    return p->failed ? NULL : parser_with_kids(body, &list);
}

struct node *template_parse_source(struct arena *a, const char *source, size_t length, struct vireo_error *err)
{
    if (length > TEMPLATE_MAX_SOURCE) {
        vireo_fail(err, VIREO_TOO_LARGE, "the chat template is longer than %d bytes", TEMPLATE_MAX_SOURCE);
        return NULL;
    }
    // Line ends become \n, and one at the very end is dropped, as in Jinja.
    char *text = arena_take(a, length + 1);
    if (!text) {
        vireo_fail_memory(err, length + 1);
        return NULL;
    }
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        text[used++] = source[i] == '\r' ? '\n' : source[i];
        if (source[i] == '\r' && i + 1 < length && source[i + 1] == '\n')
            i++;
    }
    if (used && text[used - 1] == '\n')
        used--;
    struct parser p = {
        .arena = a, .source = text, .length = used, .line = 1, .line_start = true, .close = "%}", .err = err};
    struct node *body = parse_body(&p, NULL, 1);
    return p.failed ? NULL : body;
}
