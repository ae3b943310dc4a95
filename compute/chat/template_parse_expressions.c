// The expressions of a template: from names and constants up to conditions and tuples.
#include "compute/chat/template_parser.h"

#include "compute/base/check.h"

#include <string.h>

static bool parse_arguments(struct parser *p, struct node *into)
{
    struct node_list values = {0};
    const char *names[16] = {0};
    while (!p->failed && !parser_at_operator(p, ")")) {
        if (values.count == VIREO_COUNT(names)) {
            parser_fail(p, "chat template, line %d: too many arguments%s", "");
            return false;
        }
        const char *name = NULL;
        if (p->token.kind == TOKEN_NAME) {
            // "name =" needs a look at the character behind the name; "==" is a comparison.
            size_t i = p->at;
            while (i < p->length && parser_is_blank(p->source[i]))
                i++;
            if (i + 1 < p->length && p->source[i] == '=' && p->source[i + 1] != '=') {
                name = p->token.text;
                if (!parser_next_token(p) || !parser_next_token(p))
                    return false;
            }
        }
        if (parser_at_operator(p, "*") || parser_at_operator(p, "**")) {
            parser_fail(p, "chat template, line %d: unpacked arguments are not supported%s", "");
            return false;
        }
        names[values.count] = name;
        if (!parser_push(p, &values, parse_expression(p)))
            return false;
        if (!parser_at_operator(p, ")") && !parser_expect(p, ","))
            return false;
    }
    parser_with_kids(into, &values);
    into->name_count = values.count;
    into->names = arena_array(p->arena, const char *, values.count + 1);
    if (!into->names)
        return parser_no_memory(p);
    memcpy(into->names, names, values.count * sizeof *names);
    return parser_expect(p, ")");
}

// Items up to `close`, as a list or tuple.
static struct node *parse_items(struct parser *p, enum node_kind kind, const char *close)
{
    struct node_list items = {0};
    struct node *n = parser_node(p, kind);
    while (!p->failed && !parser_at_operator(p, close)) {
        parser_push(p, &items, parse_expression(p));
        if (!p->failed && !parser_at_operator(p, close))
            parser_expect(p, ",");
    }
    return parser_expect(p, close) ? parser_with_kids(n, &items) : NULL;
}

static struct node *parse_dict(struct parser *p)
{
    struct node_list items = {0};
    struct node *n = parser_node(p, NODE_DICT);
    while (!p->failed && !parser_at_operator(p, "}")) {
        parser_push(p, &items, parse_expression(p));
        parser_expect(p, ":");
        parser_push(p, &items, p->failed ? NULL : parse_expression(p));
        if (!p->failed && !parser_at_operator(p, "}"))
            parser_expect(p, ",");
    }
    return parser_expect(p, "}") ? parser_with_kids(n, &items) : NULL;
}

static struct node *parse_group(struct parser *p)
{
    if (parser_at_operator(p, ")")) {
        struct node *n = parser_node(p, NODE_TUPLE);
        return parser_next_token(p) ? n : NULL;
    }
    struct node *first = parse_expression(p);
    if (!p->failed && parser_at_operator(p, ",")) {
        struct node_list items = {0};
        struct node *n = parser_node(p, NODE_TUPLE);
        parser_push(p, &items, first);
        while (parser_accept(p, ",") && !parser_at_operator(p, ")"))
            parser_push(p, &items, parse_expression(p));
        return parser_expect(p, ")") ? parser_with_kids(n, &items) : NULL;
    }
    return parser_expect(p, ")") ? first : NULL;
}

struct node *parse_constant(struct parser *p, enum literal literal)
{
    struct node *n = parser_node(p, NODE_CONSTANT);
    if (!n)
        return NULL;
    n->literal = literal;
    n->text = p->token.text;
    n->length = p->token.length;
    n->integer = p->token.integer;
    n->real = p->token.real;
    return parser_next_token(p) ? n : NULL;
}

static struct node *parse_primary(struct parser *p)
{
    if (p->failed)
        return NULL;
    const struct token *t = &p->token;
    if (t->kind == TOKEN_INTEGER)
        return parse_constant(p, LITERAL_INTEGER);
    if (t->kind == TOKEN_REAL)
        return parse_constant(p, LITERAL_REAL);
    if (t->kind == TOKEN_STRING) {
        struct node *n = parse_constant(p, LITERAL_STRING);
        while (n && p->token.kind == TOKEN_STRING) { // "a" "b" is one string
            char *joined = arena_take(p->arena, n->length + p->token.length + 1);
            if (!joined)
                return parser_no_memory(p);
            memcpy(joined, n->text, n->length);
            memcpy(joined + n->length, p->token.text, p->token.length);
            n->text = joined;
            n->length += p->token.length;
            if (!parser_next_token(p))
                return NULL;
        }
        return n;
    }
    if (t->kind == TOKEN_NAME) {
        if (parser_at_name(p, "true") || parser_at_name(p, "True"))
            return parse_constant(p, LITERAL_TRUE);
        if (parser_at_name(p, "false") || parser_at_name(p, "False"))
            return parse_constant(p, LITERAL_FALSE);
        if (parser_at_name(p, "none") || parser_at_name(p, "None"))
            return parse_constant(p, LITERAL_NONE);
        struct node *n = parse_constant(p, LITERAL_NONE);
        if (n)
            n->kind = NODE_NAME;
        return n;
    }
    if (parser_accept(p, "("))
        return parse_group(p);
    if (parser_accept(p, "["))
        return parse_items(p, NODE_LIST, "]");
    if (parser_accept(p, "{"))
        return parse_dict(p);
    return p->failed ? NULL
                     : parser_fail(p, "chat template, line %d: unexpected \"%.40s\"", t->text ? t->text : "number");
}

static struct node *parse_subscript(struct parser *p)
{
    struct node *n = parser_node(p, NODE_INDEX);
    struct node_list parts = {0};
    bool slice = false;
    struct node *value[3] = {0};
    for (int i = 0; i < 3 && !p->failed; i++) {
        if (!parser_at_operator(p, ":") && !parser_at_operator(p, "]"))
            value[i] = parse_expression(p);
        if (!parser_at_operator(p, ":"))
            break;
        slice = true;
        if (!parser_next_token(p))
            return NULL;
    }
    if (!slice && !value[0])
        return parser_fail(p, "chat template, line %d: an index is missing%s", "");
    for (int i = 0; i < (slice ? 3 : 1); i++)
        parser_push(p, &parts, value[i]);
    if (n && slice)
        n->kind = NODE_SLICE;
    return parser_expect(p, "]") ? parser_with_kids(n, &parts) : NULL;
}

struct node *parse_filter(struct parser *p)
{
    struct node *n = parser_node(p, NODE_FILTER);
    if (!n)
        return NULL;
    if (p->token.kind != TOKEN_NAME)
        return parser_fail(p, "chat template, line %d: expected the name of a filter%s", "");
    n->text = p->token.text;
    if (!filter_is_known(n->text))
        return parser_fail(p, "chat template, line %d: unknown filter \"%.60s\"", n->text);
    if (!parser_next_token(p))
        return NULL;
    if (parser_accept(p, "(") && !parse_arguments(p, n))
        return NULL;
    return p->failed ? NULL : n;
}

static struct node *parse_test(struct parser *p)
{
    struct node *n = parser_node(p, NODE_TEST);
    if (!n)
        return NULL;
    n->op = parser_accept_name(p, "not");
    if (p->failed || p->token.kind != TOKEN_NAME)
        return parser_fail(p, "chat template, line %d: expected the name of a test%s", "");
    n->text = p->token.text;
    if (!test_is_known(n->text))
        return parser_fail(p, "chat template, line %d: unknown test \"%.60s\"", n->text);
    if (!parser_next_token(p))
        return NULL;
    if (parser_at_operator(p, "(")) {
        parser_next_token(p);
        return parse_arguments(p, n) ? n : NULL;
    }
    bool operand = p->token.kind == TOKEN_STRING || p->token.kind == TOKEN_INTEGER || p->token.kind == TOKEN_REAL ||
                   parser_at_operator(p, "[") || parser_at_operator(p, "{") ||
                   (p->token.kind == TOKEN_NAME && !parser_at_name(p, "else") && !parser_at_name(p, "or") &&
                    !parser_at_name(p, "and") && !parser_at_name(p, "is") && !parser_at_name(p, "if") &&
                    !parser_at_name(p, "in") && !parser_at_name(p, "not"));
    if (operand) {
        struct node_list one = {0};
        struct node *value = parse_primary(p);
        parser_push(p, &one, value);
        parser_with_kids(n, &one);
        n->name_count = 1;
        n->names = arena_array(p->arena, const char *, 1);
        if (!n->names)
            return parser_no_memory(p);
    }
    return p->failed ? NULL : n;
}

struct node *parse_attribute(struct parser *p)
{
    struct node *n = parser_node(p, p->token.kind == TOKEN_INTEGER ? NODE_INDEX : NODE_ATTRIBUTE);
    if (n && n->kind == NODE_INDEX) { // a.0 is a[0]
        struct node_list one = {0};
        parser_push(p, &one, parse_constant(p, LITERAL_INTEGER));
        return parser_with_kids(n, &one);
    }
    if (p->failed || p->token.kind != TOKEN_NAME)
        return parser_fail(p, "chat template, line %d: expected a name behind \".\"%s", "");
    n->text = p->token.text;
    n->length = p->token.length;
    return parser_next_token(p) ? n : NULL;
}

static struct node *parse_postfix(struct parser *p, struct node *base, bool with_filters)
{
    struct node_list chain = {0};
    parser_push(p, &chain, base);
    while (!p->failed) {
        if (parser_accept(p, ".")) {
            parser_push(p, &chain, parse_attribute(p));
        } else if (parser_accept(p, "[")) {
            parser_push(p, &chain, parse_subscript(p));
        } else if (parser_accept(p, "(")) {
            struct node *call = parser_node(p, NODE_CALL);
            parser_push(p, &chain, call && parse_arguments(p, call) ? call : NULL);
        } else if (with_filters && parser_accept(p, "|")) {
            parser_push(p, &chain, parse_filter(p));
        } else if (with_filters && parser_accept_name(p, "is")) {
            parser_push(p, &chain, parse_test(p));
        } else {
            break;
        }
    }
    return p->failed ? NULL : chain.count == 1 ? base : parser_with_kids(parser_node(p, NODE_POSTFIX), &chain);
}

static struct node *parse_unary(struct parser *p, bool with_filters)
{
    if (p->failed || !parser_deeper(p))
        return NULL;
    struct node *n;
    if (parser_at_operator(p, "-") || parser_at_operator(p, "+")) {
        unsigned op = parser_at_operator(p, "-") ? OP_MINUS : OP_PLUS;
        struct node_list one = {0};
        n = parser_node(p, NODE_UNARY);
        if (n)
            n->op = op;
        if (parser_next_token(p))
            parser_push(p, &one, parse_unary(p, false));
        n = p->failed ? NULL : parser_with_kids(n, &one);
    } else {
        n = parse_primary(p);
    }
    p->depth--;
    return p->failed ? NULL : parse_postfix(p, n, with_filters);
}

struct operator_name {
    const char *text;
    unsigned op;
};
// One level of binary operators: `next` joined by any of `names`, evaluated from the left.
static struct node *parse_level(struct parser *p, const struct operator_name *names,
                                struct node *(*next)(struct parser *))
{
    struct node_list operands = {0};
    unsigned char *ops = NULL;
    size_t capacity = 0;
    parser_push(p, &operands, next(p));
    while (!p->failed) {
        const struct operator_name *found = names;
        while (found->text && !parser_at_operator(p, found->text))
            found++;
        if (!found->text)
            break;
        if (operands.count > capacity) {
            unsigned char *more = arena_take(p->arena, operands.count * 2);
            if (!more)
                return parser_no_memory(p);
            if (ops)
                memcpy(more, ops, operands.count - 1);
            ops = more;
            capacity = operands.count * 2;
        }
        ops[operands.count - 1] = (unsigned char)found->op;
        if (parser_next_token(p))
            parser_push(p, &operands, next(p));
    }
    if (p->failed || operands.count == 1)
        return p->failed ? NULL : operands.items[0];
    struct node *n = parser_with_kids(parser_node(p, NODE_CHAIN), &operands);
    if (n)
        n->ops = ops;
    return n;
}

static struct node *parse_operand(struct parser *p)
{
    return parse_unary(p, true);
}

static struct node *parse_power(struct parser *p)
{
    static const struct operator_name names[] = {{"**", OP_POW}, {0}};
    return parse_level(p, names, parse_operand);
}

static struct node *parse_product(struct parser *p)
{
    static const struct operator_name names[] = {{"*", OP_MUL}, {"/", OP_DIV}, {"//", OP_FLOOR}, {"%", OP_MOD}, {0}};
    return parse_level(p, names, parse_power);
}

static struct node *parse_concat(struct parser *p)
{
    static const struct operator_name names[] = {{"~", OP_CONCAT}, {0}};
    return parse_level(p, names, parse_product);
}

static struct node *parse_sum(struct parser *p)
{
    static const struct operator_name names[] = {{"+", OP_ADD}, {"-", OP_SUB}, {0}};
    return parse_level(p, names, parse_concat);
}

static struct node *parse_compare(struct parser *p)
{
    static const struct operator_name names[] = {{"==", OP_EQ}, {"!=", OP_NE}, {"<=", OP_LE},
                                                 {">=", OP_GE}, {"<", OP_LT},  {">", OP_GT}};
    struct node_list operands = {0};
    unsigned char ops[32];
    parser_push(p, &operands, parse_sum(p));
    while (!p->failed) {
        int op = -1;
        for (size_t i = 0; i < VIREO_COUNT(names) && op < 0; i++)
            if (parser_at_operator(p, names[i].text))
                op = (int)names[i].op;
        if (op < 0 && parser_at_name(p, "in")) {
            op = OP_IN;
        } else if (op < 0 && parser_at_name(p, "not")) {
            // "a not in b"; any other "not" here belongs to somebody else.
            if (!parser_next_token(p))
                return NULL;
            if (!parser_at_name(p, "in"))
                return parser_fail(p, "chat template, line %d: expected \"in\" behind \"not\"%s", "");
            op = OP_NOT_IN;
        }
        if (op < 0)
            break;
        if (operands.count > sizeof ops)
            return parser_fail(p, "chat template, line %d: too many comparisons in a row%s", "");
        ops[operands.count - 1] = (unsigned char)op;
        if (parser_next_token(p))
            parser_push(p, &operands, parse_sum(p));
    }
    if (p->failed || operands.count == 1)
        return p->failed ? NULL : operands.items[0];
    struct node *n = parser_with_kids(parser_node(p, NODE_COMPARE), &operands);
    if (n && !(n->ops = (unsigned char *)arena_copy_bytes(p->arena, ops, operands.count - 1)))
        return parser_no_memory(p);
    return n;
}

static struct node *parse_not(struct parser *p)
{
    if (p->failed || !parser_at_name(p, "not"))
        return p->failed ? NULL : parse_compare(p);
    if (!parser_deeper(p) || !parser_next_token(p))
        return NULL;
    struct node_list one = {0};
    struct node *n = parser_node(p, NODE_UNARY);
    if (n)
        n->op = OP_NOT;
    parser_push(p, &one, parse_not(p));
    p->depth--;
    return p->failed ? NULL : parser_with_kids(n, &one);
}

static struct node *parse_words(struct parser *p, const char *word, enum node_kind kind,
                                struct node *(*next)(struct parser *))
{
    struct node_list operands = {0};
    parser_push(p, &operands, next(p));
    while (parser_accept_name(p, word))
        parser_push(p, &operands, next(p));
    if (p->failed || operands.count == 1)
        return p->failed ? NULL : operands.items[0];
    return parser_with_kids(parser_node(p, kind), &operands);
}

static struct node *parse_and(struct parser *p)
{
    return parse_words(p, "and", NODE_AND, parse_not);
}

struct node *parse_or(struct parser *p)
{
    return parse_words(p, "or", NODE_OR, parse_and);
}

struct node *parse_expression(struct parser *p)
{
    if (p->failed || !parser_deeper(p))
        return NULL;
    struct node *n = parse_or(p);
    while (parser_accept_name(p, "if")) {
        struct node_list parts = {0};
        parser_push(p, &parts, n);
        parser_push(p, &parts, parse_or(p));
        parser_push(p, &parts, parser_accept_name(p, "else") ? parse_expression(p) : NULL);
        n = p->failed ? NULL : parser_with_kids(parser_node(p, NODE_CONDITIONAL), &parts);
    }
    p->depth--;
    return p->failed ? NULL : n;
}

struct node *parse_tuple(struct parser *p, struct node *(*one)(struct parser *))
{
    struct node *first = one(p);
    if (p->failed || !parser_at_operator(p, ","))
        return first;
    struct node_list items = {0};
    parser_push(p, &items, first);
    while (parser_accept(p, ",") && p->token.kind != TOKEN_CLOSE && !parser_at_operator(p, "="))
        parser_push(p, &items, one(p));
    return p->failed ? NULL : parser_with_kids(parser_node(p, NODE_TUPLE), &items);
}
