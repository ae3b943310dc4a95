// Source text -> tree. The whitespace rules are those of Jinja's lexer with trim_blocks and lstrip_blocks.
#include "compute/chat/template_parser.h"

#include "compute/base/check.h"

#include <stdlib.h>
#include <string.h>

struct node_list {
    struct node **items;
    size_t count, capacity;
};

static struct node *parse_expression(struct parser *p);
static struct node *parse_unary(struct parser *p, bool with_filters);
static struct node *parse_or(struct parser *p);
static struct node *parse_body(struct parser *p, const char *const *ends, int opened);

static bool deeper(struct parser *p)
{
    if (++p->depth <= TEMPLATE_MAX_DEPTH)
        return true;
    parser_fail(p, "chat template, line %d: nested too deeply%s", "");
    return false;
}

static struct node *make(struct parser *p, enum node_kind kind)
{
    struct node *n = p->failed ? NULL : arena_new(p->arena, struct node);
    if (!n)
        return parser_no_memory(p);
    n->kind = kind;
    n->line = p->line;
    return n;
}

static bool push(struct parser *p, struct node_list *l, struct node *n)
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

static struct node *with_kids(struct node *n, const struct node_list *l)
{
    if (n) {
        n->kids = l->items;
        n->count = l->count;
    }
    return n;
}

// ---- expressions

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
        if (!push(p, &values, parse_expression(p)))
            return false;
        if (!parser_at_operator(p, ")") && !parser_expect(p, ","))
            return false;
    }
    with_kids(into, &values);
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
    struct node *n = make(p, kind);
    while (!p->failed && !parser_at_operator(p, close)) {
        push(p, &items, parse_expression(p));
        if (!p->failed && !parser_at_operator(p, close))
            parser_expect(p, ",");
    }
    return parser_expect(p, close) ? with_kids(n, &items) : NULL;
}

static struct node *parse_dict(struct parser *p)
{
    struct node_list items = {0};
    struct node *n = make(p, NODE_DICT);
    while (!p->failed && !parser_at_operator(p, "}")) {
        push(p, &items, parse_expression(p));
        parser_expect(p, ":");
        push(p, &items, p->failed ? NULL : parse_expression(p));
        if (!p->failed && !parser_at_operator(p, "}"))
            parser_expect(p, ",");
    }
    return parser_expect(p, "}") ? with_kids(n, &items) : NULL;
}

static struct node *parse_group(struct parser *p)
{
    if (parser_at_operator(p, ")")) {
        struct node *n = make(p, NODE_TUPLE);
        return parser_next_token(p) ? n : NULL;
    }
    struct node *first = parse_expression(p);
    if (!p->failed && parser_at_operator(p, ",")) {
        struct node_list items = {0};
        struct node *n = make(p, NODE_TUPLE);
        push(p, &items, first);
        while (parser_accept(p, ",") && !parser_at_operator(p, ")"))
            push(p, &items, parse_expression(p));
        return parser_expect(p, ")") ? with_kids(n, &items) : NULL;
    }
    return parser_expect(p, ")") ? first : NULL;
}

static struct node *parse_constant(struct parser *p, enum literal literal)
{
    struct node *n = make(p, NODE_CONSTANT);
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
    struct node *n = make(p, NODE_INDEX);
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
        push(p, &parts, value[i]);
    if (n && slice)
        n->kind = NODE_SLICE;
    return parser_expect(p, "]") ? with_kids(n, &parts) : NULL;
}

static struct node *parse_filter(struct parser *p)
{
    struct node *n = make(p, NODE_FILTER);
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
    struct node *n = make(p, NODE_TEST);
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
        push(p, &one, value);
        with_kids(n, &one);
        n->name_count = 1;
        n->names = arena_array(p->arena, const char *, 1);
        if (!n->names)
            return parser_no_memory(p);
    }
    return p->failed ? NULL : n;
}

static struct node *parse_attribute(struct parser *p)
{
    struct node *n = make(p, p->token.kind == TOKEN_INTEGER ? NODE_INDEX : NODE_ATTRIBUTE);
    if (n && n->kind == NODE_INDEX) { // a.0 is a[0]
        struct node_list one = {0};
        push(p, &one, parse_constant(p, LITERAL_INTEGER));
        return with_kids(n, &one);
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
    push(p, &chain, base);
    while (!p->failed) {
        if (parser_accept(p, ".")) {
            push(p, &chain, parse_attribute(p));
        } else if (parser_accept(p, "[")) {
            push(p, &chain, parse_subscript(p));
        } else if (parser_accept(p, "(")) {
            struct node *call = make(p, NODE_CALL);
            push(p, &chain, call && parse_arguments(p, call) ? call : NULL);
        } else if (with_filters && parser_accept(p, "|")) {
            push(p, &chain, parse_filter(p));
        } else if (with_filters && parser_accept_name(p, "is")) {
            push(p, &chain, parse_test(p));
        } else {
            break;
        }
    }
    return p->failed ? NULL : chain.count == 1 ? base : with_kids(make(p, NODE_POSTFIX), &chain);
}

static struct node *parse_unary(struct parser *p, bool with_filters)
{
    if (p->failed || !deeper(p))
        return NULL;
    struct node *n;
    if (parser_at_operator(p, "-") || parser_at_operator(p, "+")) {
        unsigned op = parser_at_operator(p, "-") ? OP_MINUS : OP_PLUS;
        struct node_list one = {0};
        n = make(p, NODE_UNARY);
        if (n)
            n->op = op;
        if (parser_next_token(p))
            push(p, &one, parse_unary(p, false));
        n = p->failed ? NULL : with_kids(n, &one);
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
    push(p, &operands, next(p));
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
            push(p, &operands, next(p));
    }
    if (p->failed || operands.count == 1)
        return p->failed ? NULL : operands.items[0];
    struct node *n = with_kids(make(p, NODE_CHAIN), &operands);
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
    push(p, &operands, parse_sum(p));
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
            push(p, &operands, parse_sum(p));
    }
    if (p->failed || operands.count == 1)
        return p->failed ? NULL : operands.items[0];
    struct node *n = with_kids(make(p, NODE_COMPARE), &operands);
    if (n && !(n->ops = (unsigned char *)arena_copy_bytes(p->arena, ops, operands.count - 1)))
        return parser_no_memory(p);
    return n;
}

static struct node *parse_not(struct parser *p)
{
    if (p->failed || !parser_at_name(p, "not"))
        return p->failed ? NULL : parse_compare(p);
    if (!deeper(p) || !parser_next_token(p))
        return NULL;
    struct node_list one = {0};
    struct node *n = make(p, NODE_UNARY);
    if (n)
        n->op = OP_NOT;
    push(p, &one, parse_not(p));
    p->depth--;
    return p->failed ? NULL : with_kids(n, &one);
}

static struct node *parse_words(struct parser *p, const char *word, enum node_kind kind,
                                struct node *(*next)(struct parser *))
{
    struct node_list operands = {0};
    push(p, &operands, next(p));
    while (parser_accept_name(p, word))
        push(p, &operands, next(p));
    return p->failed ? NULL : operands.count == 1 ? operands.items[0] : with_kids(make(p, kind), &operands);
}

static struct node *parse_and(struct parser *p)
{
    return parse_words(p, "and", NODE_AND, parse_not);
}

static struct node *parse_or(struct parser *p)
{
    return parse_words(p, "or", NODE_OR, parse_and);
}

static struct node *parse_expression(struct parser *p)
{
    if (p->failed || !deeper(p))
        return NULL;
    struct node *n = parse_or(p);
    while (parser_accept_name(p, "if")) {
        struct node_list parts = {0};
        push(p, &parts, n);
        push(p, &parts, parse_or(p));
        push(p, &parts, parser_accept_name(p, "else") ? parse_expression(p) : NULL);
        n = p->failed ? NULL : with_kids(make(p, NODE_CONDITIONAL), &parts);
    }
    p->depth--;
    return p->failed ? NULL : n;
}

// Expression, or several with commas: a tuple.
static struct node *parse_tuple(struct parser *p, struct node *(*one)(struct parser *))
{
    struct node *first = one(p);
    if (p->failed || !parser_at_operator(p, ","))
        return first;
    struct node_list items = {0};
    push(p, &items, first);
    while (parser_accept(p, ",") && p->token.kind != TOKEN_CLOSE && !parser_at_operator(p, "="))
        push(p, &items, one(p));
    return p->failed ? NULL : with_kids(make(p, NODE_TUPLE), &items);
}

// ---- statements

static bool expect_close(struct parser *p)
{
    if (p->failed)
        return false;
    if (p->token.kind == TOKEN_CLOSE)
        return true;
    parser_fail(p, "chat template, line %d: unexpected \"%.40s\" at the end of a tag",
         p->token.text ? p->token.text : "number");
    return false;
}

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
        push(p, &chain, n);
        push(p, &chain, parse_attribute(p));
        return p->failed ? NULL : with_kids(make(p, NODE_POSTFIX), &chain);
    }
    if (n && parser_at_operator(p, ",")) {
        struct node_list names = {0};
        push(p, &names, n);
        while (parser_accept(p, ","))
            push(p, &names, parse_name(p));
        n = with_kids(make(p, NODE_TUPLE), &names);
    }
    if (group && !parser_expect(p, ")"))
        return NULL;
    return p->failed ? NULL : n;
}

static struct node *parse_if(struct parser *p)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const last[] = {"endif", NULL};
    struct node_list parts = {0};
    struct node *n = make(p, NODE_IF);
    int line = p->line;
    do {
        push(p, &parts, parse_tuple(p, parse_expression));
        if (!expect_close(p))
            return NULL;
        push(p, &parts, parse_body(p, ends, line));
        if (p->failed || strcmp(p->ended_by, "elif") != 0)
            break;
    } while (true);
    if (!p->failed && strcmp(p->ended_by, "else") == 0 && expect_close(p))
        push(p, &parts, parse_body(p, last, line));
    return expect_close(p) ? with_kids(n, &parts) : NULL;
}

static struct node *parse_for(struct parser *p)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const last[] = {"endfor", NULL};
    struct node_list parts = {0};
    struct node *n = make(p, NODE_FOR);
    int line = p->line;
    push(p, &parts, parse_target(p));
    if (!parser_accept_name(p, "in"))
        return parser_fail(p, "chat template, line %d: expected \"in\"%s", "");
    push(p, &parts, parse_tuple(p, parse_or));
    push(p, &parts, parser_accept_name(p, "if") ? parse_expression(p) : NULL);
    if (!p->failed && parser_at_name(p, "recursive"))
        return parser_fail(p, "chat template, line %d: recursive loops are not supported%s", "");
    if (!expect_close(p))
        return NULL;
    p->loops++;
    push(p, &parts, parse_body(p, ends, line));
    p->loops--;
    struct node *otherwise = NULL;
    if (!p->failed && strcmp(p->ended_by, "else") == 0 && expect_close(p))
        otherwise = parse_body(p, last, line);
    push(p, &parts, otherwise);
    return expect_close(p) ? with_kids(n, &parts) : NULL;
}

static struct node *parse_set(struct parser *p)
{
    static const char *const ends[] = {"endset", NULL};
    struct node_list parts = {0};
    struct node *n = make(p, NODE_SET);
    int line = p->line;
    push(p, &parts, parse_target(p));
    if (parser_accept(p, "=")) {
        push(p, &parts, parse_tuple(p, parse_expression));
        return expect_close(p) ? with_kids(n, &parts) : NULL;
    }
    push(p, &parts, NULL);
    while (parser_accept(p, "|"))
        push(p, &parts, parse_filter(p));
    if (!expect_close(p))
        return NULL;
    n->kind = NODE_CAPTURE;
    parts.items[1] = parse_body(p, ends, line);
    return expect_close(p) ? with_kids(n, &parts) : NULL;
}

static struct node *parse_macro(struct parser *p)
{
    static const char *const ends[] = {"endmacro", NULL};
    struct node_list parts = {0};
    const char *names[16] = {0};
    size_t count = 0;
    struct node *n = make(p, NODE_MACRO), *name = parse_name(p);
    int line = p->line, loops = p->loops;
    if (!name || !n || !parser_expect(p, "("))
        return NULL;
    push(p, &parts, NULL);
    while (!p->failed && !parser_at_operator(p, ")")) {
        struct node *parameter = parse_name(p);
        if (!parameter || count == VIREO_COUNT(names))
            return parser_fail(p, "chat template, line %d: too many parameters%s", "");
        names[count++] = parameter->text;
        push(p, &parts, parser_accept(p, "=") ? parse_expression(p) : NULL);
        if (!p->failed && !parser_at_operator(p, ")"))
            parser_expect(p, ",");
    }
    if (!parser_expect(p, ")") || !expect_close(p))
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
    return expect_close(p) ? with_kids(n, &parts) : NULL;
}

static struct node *parse_filter_block(struct parser *p)
{
    static const char *const ends[] = {"endfilter", NULL};
    struct node_list parts = {0};
    struct node *n = make(p, NODE_FILTERED);
    int line = p->line;
    push(p, &parts, NULL);
    do
        push(p, &parts, parse_filter(p));
    while (parser_accept(p, "|"));
    if (!expect_close(p))
        return NULL;
    parts.items[0] = parse_body(p, ends, line);
    return expect_close(p) ? with_kids(n, &parts) : NULL;
}

static struct node *parse_statement(struct parser *p, const char *name)
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
        return expect_close(p) ? make(p, name[0] == 'b' ? NODE_BREAK : NODE_CONTINUE) : NULL;
    }
    if (strcmp(name, "generation") == 0) {
        struct node *n = expect_close(p) ? parse_body(p, generation_ends, p->line) : NULL;
        return expect_close(p) ? n : NULL;
    }
    return parser_fail(p, "chat template, line %d: the statement \"%.40s\" is not supported", name);
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
        n = make(p, NODE_TEXT);
        if (!n)
            return false;
        n->text = s + p->at;
        n->length = end - p->at;
        push(p, into, n);
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
    if (!expect_close(p))
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
        return parser_next_token(p) && expect_close(p);
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

// Statements up to a tag named in `ends` (NULL: up to the end of the source), whose name is left in ended_by.
static struct node *parse_body(struct parser *p, const char *const *ends, int opened)
{
    struct node_list list = {0};
    struct node *body = make(p, NODE_BODY);
    if (p->failed || !deeper(p))
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
            struct node *n = make(p, NODE_OUTPUT);
            if (begin_tag(p, "}}") && push(p, &one, parse_tuple(p, parse_expression)) && expect_close(p))
                push(p, &list, with_kids(n, &one));
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
                return with_kids(body, &list);
            }
            if (strcmp(name, "raw") == 0)
                parse_raw(p, &list);
            else
                push(p, &list, parse_statement(p, name));
        }
    }
    p->depth--;
    return p->failed ? NULL : with_kids(body, &list);
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
