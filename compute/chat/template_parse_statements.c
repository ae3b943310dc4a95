// The statements of a template: {% if %}, {% for %}, {% set %}, {% macro %}, {% filter %} and the short ones.
#include "compute/chat/template_parser.h"

#include "compute/base/check.h"

#include <string.h>

static struct node *parse_name(struct parser *p)
{
    if (p->failed || p->token.kind != TOKEN_NAME)
        return parser_fail(p, "chat template, line %d: expected a name%s", "");
    struct node *n = parse_constant(p, LITERAL_NONE);
    if (n)
        n->kind = NODE_NAME;
    return n;
}

static struct node *parse_target(struct parser *p)
{
    bool group = parser_accept(p, "(");
    struct node *n = parse_name(p);
    if (n && parser_accept(p, ".")) { // namespace attribute
        struct node_list chain = {0};
        parser_push(p, &chain, n);
        parser_push(p, &chain, parse_attribute(p));
        return p->failed ? NULL : parser_with_kids(parser_node(p, NODE_POSTFIX), &chain);
    }
    if (n && parser_at_operator(p, ",")) {
        struct node_list names = {0};
        parser_push(p, &names, n);
        while (parser_accept(p, ","))
            parser_push(p, &names, parse_name(p));
        n = parser_with_kids(parser_node(p, NODE_TUPLE), &names);
    }
    if (group && !parser_expect(p, ")"))
        return NULL;
    return p->failed ? NULL : n;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    struct node_list parts = {0};
    struct node *n = parser_node(p, NODE_IF);
    int line = p->line;
    do {
        parser_push(p, &parts, parse_tuple(p, parse_expression));
        if (!parser_expect_close(p))
            return NULL;
        parser_push(p, &parts, parse_body(p, ends, line));
        if (p->failed || strcmp(p->ended_by, "elif") != 0)
            break;
    } while (true);
    if (!p->failed && strcmp(p->ended_by, "else") == 0 && parser_expect_close(p))
        parser_push(p, &parts, parse_body(p, last, line));
    return parser_expect_close(p) ? parser_with_kids(n, &parts) : NULL;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    struct node_list parts = {0};
    struct node *n = parser_node(p, NODE_FOR);
    int line = p->line;
    parser_push(p, &parts, parse_target(p));
    if (!parser_accept_name(p, "in"))
        return parser_fail(p, "chat template, line %d: expected \"in\"%s", "");
    parser_push(p, &parts, parse_tuple(p, parse_or));
    parser_push(p, &parts, parser_accept_name(p, "if") ? parse_expression(p) : NULL);
    if (!p->failed && parser_at_name(p, "recursive"))
        return parser_fail(p, "chat template, line %d: recursive loops are not supported%s", "");
    if (!parser_expect_close(p))
        return NULL;
    p->loops++;
    parser_push(p, &parts, parse_body(p, ends, line));
    p->loops--;
    struct node *otherwise = NULL;
    if (!p->failed && strcmp(p->ended_by, "else") == 0 && parser_expect_close(p))
        otherwise = parse_body(p, last, line);
    parser_push(p, &parts, otherwise);
    return parser_expect_close(p) ? parser_with_kids(n, &parts) : NULL;
}

static struct node *parse_set(struct parser *p)
{
    static const char *const ends[] = {"endset", NULL};
    struct node_list parts = {0};
    struct node *n = parser_node(p, NODE_SET);
    int line = p->line;
    parser_push(p, &parts, parse_target(p));
    if (parser_accept(p, "=")) {
        parser_push(p, &parts, parse_tuple(p, parse_expression));
        return parser_expect_close(p) ? parser_with_kids(n, &parts) : NULL;
    }
    parser_push(p, &parts, NULL);
    while (parser_accept(p, "|"))
        parser_push(p, &parts, parse_filter(p));
    if (!parser_expect_close(p))
        return NULL;
    n->kind = NODE_CAPTURE;
    parts.items[1] = parse_body(p, ends, line);
    return parser_expect_close(p) ? parser_with_kids(n, &parts) : NULL;
}

static struct node *parse_macro(struct parser *p)
{
    static const char *const ends[] = {"endmacro", NULL};
    struct node_list parts = {0};
    const char *names[16] = {0};
    size_t count = 0;
    struct node *n = parser_node(p, NODE_MACRO), *name = parse_name(p);
    int line = p->line, loops = p->loops;
    if (!name || !n || !parser_expect(p, "("))
        return NULL;
    parser_push(p, &parts, NULL);
    while (!p->failed && !parser_at_operator(p, ")")) {
        struct node *parameter = parse_name(p);
        if (!parameter || count == VIREO_COUNT(names))
            return parser_fail(p, "chat template, line %d: too many parameters%s", "");
        names[count++] = parameter->text;
        parser_push(p, &parts, parser_accept(p, "=") ? parse_expression(p) : NULL);
        if (!p->failed && !parser_at_operator(p, ")"))
            parser_expect(p, ",");
    }
    if (!parser_expect(p, ")") || !parser_expect_close(p))
        return NULL;
    p->loops = 0; // a break inside cannot leave a loop outside
    parts.items[0] = parse_body(p, ends, line);
    p->loops = loops;
    n->text = name->text;
    n->length = name->length;
    n->name_count = count;
    n->names = arena_array(p->arena, const char *, count + 1);
    if (!n->names)
        return parser_no_memory(p);
    memcpy(n->names, names, count * sizeof *names);
    while (p->token.kind == TOKEN_NAME) // {% endmacro name %}
        if (!parser_next_token(p))
            return NULL;
    return parser_expect_close(p) ? parser_with_kids(n, &parts) : NULL;
}

static struct node *parse_filter_block(struct parser *p)
{
    static const char *const ends[] = {"endfilter", NULL};
    struct node_list parts = {0};
    struct node *n = parser_node(p, NODE_FILTERED);
    int line = p->line;
    parser_push(p, &parts, NULL);
    do
        parser_push(p, &parts, parse_filter(p));
    while (parser_accept(p, "|"));
    if (!parser_expect_close(p))
        return NULL;
    parts.items[0] = parse_body(p, ends, line);
    return parser_expect_close(p) ? parser_with_kids(n, &parts) : NULL;
}

struct node *parse_statement(struct parser *p, const char *name)
{
    static const char *const generation_ends[] = {"endgeneration", NULL};
    if (strcmp(name, "if") == 0)
        return parse_if(p);
    if (strcmp(name, "for") == 0)
        return parse_for(p);
    if (strcmp(name, "set") == 0)
        return parse_set(p);
    if (strcmp(name, "macro") == 0)
        return parse_macro(p);
    if (strcmp(name, "filter") == 0)
        return parse_filter_block(p);
    if (strcmp(name, "break") == 0 || strcmp(name, "continue") == 0) {
        if (p->loops == 0)
            return parser_fail(p, "chat template, line %d: \"%s\" outside of a loop", name);
        return parser_expect_close(p) ? parser_node(p, name[0] == 'b' ? NODE_BREAK : NODE_CONTINUE) : NULL;
    }
    if (strcmp(name, "generation") == 0) {
        struct node *n = parser_expect_close(p) ? parse_body(p, generation_ends, p->line) : NULL;
        return parser_expect_close(p) ? n : NULL;
    }
    return parser_fail(p, "chat template, line %d: the statement \"%.40s\" is not supported", name);
}
