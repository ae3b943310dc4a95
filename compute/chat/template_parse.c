// Source text -> tree. The whitespace rules are those of Jinja's lexer with trim_blocks and lstrip_blocks.
#include "compute/chat/template_internal.h"

#include "compute/base/check.h"

#include <stdlib.h>
#include <string.h>

enum token_kind { TOKEN_END, TOKEN_NAME, TOKEN_STRING, TOKEN_INTEGER, TOKEN_REAL, TOKEN_OPERATOR, TOKEN_CLOSE };
struct token {
    enum token_kind kind;
    const char *text; // name or decoded string, NUL behind; operator: its characters
    size_t length;
    int64_t integer;
    double real;
};

struct parser {
    struct arena *arena;
    const char *source;
    size_t at, length;
    int line, depth, brackets, loops;
    bool line_start;       // the text before ended a line, for lstrip_blocks
    const char *close;     // what ends the present tag: "%}" or "}}"
    struct token token;    // looked at, not yet taken
    struct vireo_error *err;
    bool failed;
    // Name of the tag that ended the last body ("endif", "else", ...).
    const char *ended_by;
};
struct node_list {
    struct node **items;
    size_t count, capacity;
};

static struct node *parse_expression(struct parser *p);
static struct node *parse_unary(struct parser *p, bool with_filters);
static struct node *parse_or(struct parser *p);
static struct node *parse_body(struct parser *p, const char *const *ends, int opened);

static void *fail(struct parser *p, const char *fmt, const char *detail)
{
    if (!p->failed) {
        p->failed = true;
        vireo_fail(p->err, VIREO_CORRUPT, fmt, p->line, detail);
    }
    return NULL;
}

static void *no_memory(struct parser *p)
{
    if (!p->failed)
        vireo_fail_memory(p->err, p->length);
    p->failed = true;
    return NULL;
}

static bool deeper(struct parser *p)
{
    if (++p->depth <= TEMPLATE_MAX_DEPTH)
        return true;
    fail(p, "chat template, line %d: nested too deeply%s", "");
    return false;
}

static struct node *make(struct parser *p, enum node_kind kind)
{
    struct node *n = p->failed ? NULL : arena_new(p->arena, struct node);
    if (!n)
        return no_memory(p);
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
            return no_memory(p);
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

// ---- tokens inside tags

static bool is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static size_t put_utf8(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--, c >>= 6)
        out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | c);
    return n;
}

// Escapes as in Python, which is how Jinja reads strings.
static bool read_string(struct parser *p, char quote)
{
    size_t start = ++p->at, end = start;
    while (end < p->length && p->source[end] != quote)
        end += p->source[end] == '\\' ? 2 : 1;
    if (end >= p->length) {
        fail(p, "chat template, line %d: a string is not closed%s", "");
        return false;
    }
    char *text = arena_take(p->arena, end - start + 1);
    if (!text) {
        no_memory(p);
        return false;
    }
    size_t used = 0;
    for (size_t i = start; i < end; i++) {
        char c = p->source[i];
        p->line += c == '\n';
        if (c != '\\') {
            text[used++] = c;
            continue;
        }
        c = p->source[++i];
        static const char from[] = "nrtbfav\\'\"", to[] = "\n\r\t\b\f\a\v\\'\"";
        const char *known = memchr(from, c, sizeof from - 1);
        size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
        if (c == '\n') {
            p->line++;
        } else if (c >= '0' && c <= '7') { // up to three octal digits
            uint32_t value = 0;
            size_t most = i + 3 < end ? i + 3 : end;
            for (; i < most && p->source[i] >= '0' && p->source[i] <= '7'; i++)
                value = value * 8 + (uint32_t)(p->source[i] - '0');
            used += put_utf8(value, text + used);
            i--;
        } else if (known) {
            text[used++] = to[known - from];
        } else if (digits && i + digits < end) {
            char hex[9] = {0}, *rest;
            memcpy(hex, p->source + i + 1, digits);
            unsigned long value = strtoul(hex, &rest, 16);
            if (*rest || is_blank(hex[0]) || hex[0] == '-' || hex[0] == '+' || value > 0x10ffff ||
                (value >= 0xd800 && value < 0xe000)) {
                fail(p, "chat template, line %d: a string has a wrong escape \\%s", hex);
                return false;
            }
            used += put_utf8((uint32_t)value, text + used); // never longer than the escape
            i += digits;
        } else { // an unknown escape stays as it is
            text[used++] = '\\';
            text[used++] = c;
        }
    }
    p->at = end + 1;
    p->token = (struct token){.kind = TOKEN_STRING, .text = text, .length = used};
    return true;
}

static bool read_number(struct parser *p)
{
    char digits[64];
    size_t used = 0;
    bool real = false;
    while (p->at < p->length && used + 1 < sizeof digits) {
        char c = p->source[p->at], next = p->at + 1 < p->length ? p->source[p->at + 1] : 0;
        bool exponent = (c == 'e' || c == 'E') && !(real && strpbrk(digits, "eE")) &&
                        (is_digit(next) || ((next == '+' || next == '-') && p->at + 2 < p->length &&
                                            is_digit(p->source[p->at + 2])));
        if (c == '.' && !real && is_digit(next))
            real = true;
        else if (exponent)
            real = true;
        else if (!(is_digit(c) || (c == '_' && is_digit(next)) ||
                   ((c == '+' || c == '-') && used && (digits[used - 1] == 'e' || digits[used - 1] == 'E'))))
            break;
        if (c != '_')
            digits[used++] = c;
        digits[used] = 0;
        p->at++;
    }
    digits[used] = 0;
    p->token = (struct token){.kind = real ? TOKEN_REAL : TOKEN_INTEGER};
    if (real) {
        p->token.real = strtod(digits, NULL);
    } else {
        if (used > 18) {
            fail(p, "chat template, line %d: the number %.40s is too large", digits);
            return false;
        }
        p->token.integer = strtoll(digits, NULL, 10);
    }
    return true;
}

// Consumes the tag's end and the white space it takes along.
static void close_tag(struct parser *p, char sign)
{
    p->at += sign ? 3 : 2;
    p->line_start = false;
    if (sign == '-') {
        while (p->at < p->length && is_blank(p->source[p->at])) {
            p->line_start = p->source[p->at] == '\n';
            p->line += p->source[p->at] == '\n';
            p->at++;
        }
    } else if (!sign && p->close[0] == '%' && p->at < p->length && p->source[p->at] == '\n') {
        p->at++;
        p->line++;
        p->line_start = true;
    }
}

static bool next_token(struct parser *p)
{
    if (p->failed)
        return false;
    while (p->at < p->length && is_blank(p->source[p->at]))
        p->line += p->source[p->at++] == '\n';
    if (p->at >= p->length) {
        p->token = (struct token){.kind = TOKEN_END};
        fail(p, "chat template, line %d: a tag is not closed%s", "");
        return false;
    }
    const char *s = p->source + p->at;
    size_t left = p->length - p->at;
    if (p->brackets == 0) {
        char sign = left > 2 && (s[0] == '-' || (s[0] == '+' && p->close[0] == '%')) ? s[0] : 0;
        if (left >= (sign ? 3u : 2u) && memcmp(s + (sign ? 1 : 0), p->close, 2) == 0) {
            close_tag(p, sign);
            p->token = (struct token){.kind = TOKEN_CLOSE, .text = "end of tag"};
            return true;
        }
    }
    if (*s == '\'' || *s == '"')
        return read_string(p, *s);
    if (is_digit(*s))
        return read_number(p);
    if (is_name_start(*s)) {
        size_t n = 1;
        while (n < left && (is_name_start(s[n]) || is_digit(s[n])))
            n++;
        const char *name = arena_copy_bytes(p->arena, s, n);
        if (!name)
            return no_memory(p);
        p->at += n;
        p->token = (struct token){.kind = TOKEN_NAME, .text = name, .length = n};
        return true;
    }
    static const char *const operators[] = {"==", "!=", "<=", ">=", "//", "**", "<", ">", "=", "+", "-", "*", "/", "%", "~",
                                            "|",  "(",  ")",  "[",  "]",  "{",  "}", ",", ":", "."};
    for (size_t i = 0; i < VIREO_COUNT(operators); i++) {
        size_t n = strlen(operators[i]);
        if (left < n || memcmp(s, operators[i], n) != 0)
            continue;
        p->at += n;
        if (strchr("([{", *s))
            p->brackets++;
        else if (strchr(")]}", *s))
            p->brackets--;
        p->token = (struct token){.kind = TOKEN_OPERATOR, .text = operators[i], .length = n};
        if (p->brackets >= 0)
            return true;
        fail(p, "chat template, line %d: \"%s\" closes nothing", operators[i]);
        return false;
    }
    char shown[2] = {*s, 0};
    fail(p, "chat template, line %d: unexpected character \"%s\"", (unsigned char)*s < 0x80 ? shown : "(not ASCII)");
    return false;
}

static bool at_operator(const struct parser *p, const char *op)
{
    return p->token.kind == TOKEN_OPERATOR && strcmp(p->token.text, op) == 0;
}

static bool at_name(const struct parser *p, const char *name)
{
    return p->token.kind == TOKEN_NAME && strcmp(p->token.text, name) == 0;
}

static bool accept(struct parser *p, const char *op)
{
    return !p->failed && at_operator(p, op) && next_token(p);
}

static bool accept_name(struct parser *p, const char *name)
{
    return !p->failed && at_name(p, name) && next_token(p);
}

static bool expect(struct parser *p, const char *op)
{
    if (p->failed)
        return false;
    if (!at_operator(p, op)) {
        fail(p, "chat template, line %d: expected \"%s\"", op);
        return false;
    }
    return next_token(p);
}

// ---- expressions

static bool parse_arguments(struct parser *p, struct node *into)
{
    struct node_list values = {0};
    const char *names[16] = {0};
    while (!p->failed && !at_operator(p, ")")) {
        if (values.count == VIREO_COUNT(names)) {
            fail(p, "chat template, line %d: too many arguments%s", "");
            return false;
        }
        const char *name = NULL;
        if (p->token.kind == TOKEN_NAME) {
            // "name =" needs a look at the character behind the name; "==" is a comparison.
            size_t i = p->at;
            while (i < p->length && is_blank(p->source[i]))
                i++;
            if (i + 1 < p->length && p->source[i] == '=' && p->source[i + 1] != '=') {
                name = p->token.text;
                if (!next_token(p) || !next_token(p))
                    return false;
            }
        }
        if (at_operator(p, "*") || at_operator(p, "**")) {
            fail(p, "chat template, line %d: unpacked arguments are not supported%s", "");
            return false;
        }
        names[values.count] = name;
        if (!push(p, &values, parse_expression(p)))
            return false;
        if (!at_operator(p, ")") && !expect(p, ","))
            return false;
    }
    with_kids(into, &values);
    into->name_count = values.count;
    into->names = arena_array(p->arena, const char *, values.count + 1);
    if (!into->names)
        return no_memory(p);
    memcpy(into->names, names, values.count * sizeof *names);
    return expect(p, ")");
}

// Items up to `close`, as a list or tuple.
static struct node *parse_items(struct parser *p, enum node_kind kind, const char *close)
{
    struct node_list items = {0};
    struct node *n = make(p, kind);
    while (!p->failed && !at_operator(p, close)) {
        push(p, &items, parse_expression(p));
        if (!p->failed && !at_operator(p, close))
            expect(p, ",");
    }
    return expect(p, close) ? with_kids(n, &items) : NULL;
}

static struct node *parse_dict(struct parser *p)
{
    struct node_list items = {0};
    struct node *n = make(p, NODE_DICT);
    while (!p->failed && !at_operator(p, "}")) {
        push(p, &items, parse_expression(p));
        expect(p, ":");
        push(p, &items, p->failed ? NULL : parse_expression(p));
        if (!p->failed && !at_operator(p, "}"))
            expect(p, ",");
    }
    return expect(p, "}") ? with_kids(n, &items) : NULL;
}

static struct node *parse_group(struct parser *p)
{
    if (at_operator(p, ")")) {
        struct node *n = make(p, NODE_TUPLE);
        return next_token(p) ? n : NULL;
    }
    struct node *first = parse_expression(p);
    if (!p->failed && at_operator(p, ",")) {
        struct node_list items = {0};
        struct node *n = make(p, NODE_TUPLE);
        push(p, &items, first);
        while (accept(p, ",") && !at_operator(p, ")"))
            push(p, &items, parse_expression(p));
        return expect(p, ")") ? with_kids(n, &items) : NULL;
    }
    return expect(p, ")") ? first : NULL;
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
    return next_token(p) ? n : NULL;
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
                return no_memory(p);
            memcpy(joined, n->text, n->length);
            memcpy(joined + n->length, p->token.text, p->token.length);
            n->text = joined;
            n->length += p->token.length;
            if (!next_token(p))
                return NULL;
        }
        return n;
    }
    if (t->kind == TOKEN_NAME) {
        if (at_name(p, "true") || at_name(p, "True"))
            return parse_constant(p, LITERAL_TRUE);
        if (at_name(p, "false") || at_name(p, "False"))
            return parse_constant(p, LITERAL_FALSE);
        if (at_name(p, "none") || at_name(p, "None"))
            return parse_constant(p, LITERAL_NONE);
        struct node *n = parse_constant(p, LITERAL_NONE);
        if (n)
            n->kind = NODE_NAME;
        return n;
    }
    if (accept(p, "("))
        return parse_group(p);
    if (accept(p, "["))
        return parse_items(p, NODE_LIST, "]");
    if (accept(p, "{"))
        return parse_dict(p);
    return p->failed ? NULL : fail(p, "chat template, line %d: unexpected \"%.40s\"", t->text ? t->text : "number");
}

static struct node *parse_subscript(struct parser *p)
{
    struct node *n = make(p, NODE_INDEX);
    struct node_list parts = {0};
    bool slice = false;
    struct node *value[3] = {0};
    for (int i = 0; i < 3 && !p->failed; i++) {
        if (!at_operator(p, ":") && !at_operator(p, "]"))
            value[i] = parse_expression(p);
        if (!at_operator(p, ":"))
            break;
        slice = true;
        if (!next_token(p))
            return NULL;
    }
    if (!slice && !value[0])
        return fail(p, "chat template, line %d: an index is missing%s", "");
    for (int i = 0; i < (slice ? 3 : 1); i++)
        push(p, &parts, value[i]);
    if (n && slice)
        n->kind = NODE_SLICE;
    return expect(p, "]") ? with_kids(n, &parts) : NULL;
}

static struct node *parse_filter(struct parser *p)
{
    struct node *n = make(p, NODE_FILTER);
    if (!n)
        return NULL;
    if (p->token.kind != TOKEN_NAME)
        return fail(p, "chat template, line %d: expected the name of a filter%s", "");
    n->text = p->token.text;
    if (!filter_is_known(n->text))
        return fail(p, "chat template, line %d: unknown filter \"%.60s\"", n->text);
    if (!next_token(p))
        return NULL;
    if (accept(p, "(") && !parse_arguments(p, n))
        return NULL;
    return p->failed ? NULL : n;
}

static struct node *parse_test(struct parser *p)
{
    struct node *n = make(p, NODE_TEST);
    if (!n)
        return NULL;
    n->op = accept_name(p, "not");
    if (p->failed || p->token.kind != TOKEN_NAME)
        return fail(p, "chat template, line %d: expected the name of a test%s", "");
    n->text = p->token.text;
    if (!test_is_known(n->text))
        return fail(p, "chat template, line %d: unknown test \"%.60s\"", n->text);
    if (!next_token(p))
        return NULL;
    if (at_operator(p, "(")) {
        next_token(p);
        return parse_arguments(p, n) ? n : NULL;
    }
    bool operand = p->token.kind == TOKEN_STRING || p->token.kind == TOKEN_INTEGER || p->token.kind == TOKEN_REAL ||
                   at_operator(p, "[") || at_operator(p, "{") ||
                   (p->token.kind == TOKEN_NAME && !at_name(p, "else") && !at_name(p, "or") && !at_name(p, "and") &&
                    !at_name(p, "is") && !at_name(p, "if") && !at_name(p, "in") && !at_name(p, "not"));
    if (operand) {
        struct node_list one = {0};
        struct node *value = parse_primary(p);
        push(p, &one, value);
        with_kids(n, &one);
        n->name_count = 1;
        n->names = arena_array(p->arena, const char *, 1);
        if (!n->names)
            return no_memory(p);
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
        return fail(p, "chat template, line %d: expected a name behind \".\"%s", "");
    n->text = p->token.text;
    n->length = p->token.length;
    return next_token(p) ? n : NULL;
}

static struct node *parse_postfix(struct parser *p, struct node *base, bool with_filters)
{
    struct node_list chain = {0};
    push(p, &chain, base);
    while (!p->failed) {
        if (accept(p, ".")) {
            push(p, &chain, parse_attribute(p));
        } else if (accept(p, "[")) {
            push(p, &chain, parse_subscript(p));
        } else if (accept(p, "(")) {
            struct node *call = make(p, NODE_CALL);
            push(p, &chain, call && parse_arguments(p, call) ? call : NULL);
        } else if (with_filters && accept(p, "|")) {
            push(p, &chain, parse_filter(p));
        } else if (with_filters && accept_name(p, "is")) {
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
    if (at_operator(p, "-") || at_operator(p, "+")) {
        unsigned op = at_operator(p, "-") ? OP_MINUS : OP_PLUS;
        struct node_list one = {0};
        n = make(p, NODE_UNARY);
        if (n)
            n->op = op;
        if (next_token(p))
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
static struct node *parse_level(struct parser *p, const struct operator_name *names, struct node *(*next)(struct parser *))
{
    struct node_list operands = {0};
    unsigned char *ops = NULL;
    size_t capacity = 0;
    push(p, &operands, next(p));
    while (!p->failed) {
        const struct operator_name *found = names;
        while (found->text && !at_operator(p, found->text))
            found++;
        if (!found->text)
            break;
        if (operands.count > capacity) {
            unsigned char *more = arena_take(p->arena, operands.count * 2);
            if (!more)
                return no_memory(p);
            if (ops)
                memcpy(more, ops, operands.count - 1);
            ops = more;
            capacity = operands.count * 2;
        }
        ops[operands.count - 1] = (unsigned char)found->op;
        if (next_token(p))
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
            if (at_operator(p, names[i].text))
                op = (int)names[i].op;
        if (op < 0 && at_name(p, "in")) {
            op = OP_IN;
        } else if (op < 0 && at_name(p, "not")) {
            // "a not in b"; any other "not" here belongs to somebody else.
            if (!next_token(p))
                return NULL;
            if (!at_name(p, "in"))
                return fail(p, "chat template, line %d: expected \"in\" behind \"not\"%s", "");
            op = OP_NOT_IN;
        }
        if (op < 0)
            break;
        if (operands.count > sizeof ops)
            return fail(p, "chat template, line %d: too many comparisons in a row%s", "");
        ops[operands.count - 1] = (unsigned char)op;
        if (next_token(p))
            push(p, &operands, parse_sum(p));
    }
    if (p->failed || operands.count == 1)
        return p->failed ? NULL : operands.items[0];
    struct node *n = with_kids(make(p, NODE_COMPARE), &operands);
    if (n && !(n->ops = (unsigned char *)arena_copy_bytes(p->arena, ops, operands.count - 1)))
        return no_memory(p);
    return n;
}

static struct node *parse_not(struct parser *p)
{
    if (p->failed || !at_name(p, "not"))
        return p->failed ? NULL : parse_compare(p);
    if (!deeper(p) || !next_token(p))
        return NULL;
    struct node_list one = {0};
    struct node *n = make(p, NODE_UNARY);
    if (n)
        n->op = OP_NOT;
    push(p, &one, parse_not(p));
    p->depth--;
    return p->failed ? NULL : with_kids(n, &one);
}

static struct node *parse_words(struct parser *p, const char *word, enum node_kind kind, struct node *(*next)(struct parser *))
{
    struct node_list operands = {0};
    push(p, &operands, next(p));
    while (accept_name(p, word))
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
    while (accept_name(p, "if")) {
        struct node_list parts = {0};
        push(p, &parts, n);
        push(p, &parts, parse_or(p));
        push(p, &parts, accept_name(p, "else") ? parse_expression(p) : NULL);
        n = p->failed ? NULL : with_kids(make(p, NODE_CONDITIONAL), &parts);
    }
    p->depth--;
    return p->failed ? NULL : n;
}

// Expression, or several with commas: a tuple.
static struct node *parse_tuple(struct parser *p, struct node *(*one)(struct parser *))
{
    struct node *first = one(p);
    if (p->failed || !at_operator(p, ","))
        return first;
    struct node_list items = {0};
    push(p, &items, first);
    while (accept(p, ",") && p->token.kind != TOKEN_CLOSE && !at_operator(p, "="))
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
    fail(p, "chat template, line %d: unexpected \"%.40s\" at the end of a tag", p->token.text ? p->token.text : "number");
    return false;
}

static struct node *parse_name(struct parser *p)
{
    if (p->failed || p->token.kind != TOKEN_NAME)
        return fail(p, "chat template, line %d: expected a name%s", "");
    struct node *n = parse_constant(p, LITERAL_NONE);
    if (n)
        n->kind = NODE_NAME;
    return n;
}

static struct node *parse_target(struct parser *p)
{
    bool group = accept(p, "(");
    struct node *n = parse_name(p);
    if (n && accept(p, ".")) { // namespace attribute
        struct node_list chain = {0};
        push(p, &chain, n);
        push(p, &chain, parse_attribute(p));
        return p->failed ? NULL : with_kids(make(p, NODE_POSTFIX), &chain);
    }
    if (n && at_operator(p, ",")) {
        struct node_list names = {0};
        push(p, &names, n);
        while (accept(p, ","))
            push(p, &names, parse_name(p));
        n = with_kids(make(p, NODE_TUPLE), &names);
    }
    if (group && !expect(p, ")"))
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
    if (!accept_name(p, "in"))
        return fail(p, "chat template, line %d: expected \"in\"%s", "");
    push(p, &parts, parse_tuple(p, parse_or));
    push(p, &parts, accept_name(p, "if") ? parse_expression(p) : NULL);
    if (!p->failed && at_name(p, "recursive"))
        return fail(p, "chat template, line %d: recursive loops are not supported%s", "");
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
    if (accept(p, "=")) {
        push(p, &parts, parse_tuple(p, parse_expression));
        return expect_close(p) ? with_kids(n, &parts) : NULL;
    }
    push(p, &parts, NULL);
    while (accept(p, "|"))
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
    if (!name || !n || !expect(p, "("))
        return NULL;
    push(p, &parts, NULL);
    while (!p->failed && !at_operator(p, ")")) {
        struct node *parameter = parse_name(p);
        if (!parameter || count == VIREO_COUNT(names))
            return fail(p, "chat template, line %d: too many parameters%s", "");
        names[count++] = parameter->text;
        push(p, &parts, accept(p, "=") ? parse_expression(p) : NULL);
        if (!p->failed && !at_operator(p, ")"))
            expect(p, ",");
    }
    if (!expect(p, ")") || !expect_close(p))
        return NULL;
    p->loops = 0; // a break inside cannot leave a loop outside
    parts.items[0] = parse_body(p, ends, line);
    p->loops = loops;
    n->text = name->text;
    n->length = name->length;
    n->name_count = count;
    n->names = arena_array(p->arena, const char *, count + 1);
    if (!n->names)
        return no_memory(p);
    memcpy(n->names, names, count * sizeof *names);
    while (p->token.kind == TOKEN_NAME) // {% endmacro name %}
        if (!next_token(p))
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
    while (accept(p, "|"));
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
            return fail(p, "chat template, line %d: \"%s\" outside of a loop", name);
        return expect_close(p) ? make(p, name[0] == 'b' ? NODE_BREAK : NODE_CONTINUE) : NULL;
    }
    if (strcmp(name, "generation") == 0) {
        struct node *n = expect_close(p) ? parse_body(p, generation_ends, p->line) : NULL;
        return expect_close(p) ? n : NULL;
    }
    return fail(p, "chat template, line %d: the statement \"%.40s\" is not supported", name);
}

// Adds the text up to the tag at `tag` (source length: none), less the white space the tag takes away.
static bool add_text(struct parser *p, struct node_list *into, size_t tag)
{
    size_t end = tag;
    const char *s = p->source;
    if (tag + 2 < p->length && s[tag + 2] == '-') {
        while (end > p->at && is_blank(s[end - 1]))
            end--;
    } else if (tag + 2 <= p->length && s[tag + 1] != '{' && !(tag + 2 < p->length && s[tag + 2] == '+')) {
        size_t start = end;
        while (start > p->at && s[start - 1] != '\n' && is_blank(s[start - 1]))
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
            close_tag(p, before);
            return true;
        }
    }
    fail(p, "chat template, line %d: a comment is not closed%s", "");
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
        while (name < p->length && is_blank(p->source[name]))
            name++;
        if (p->length - name < 6 || memcmp(p->source + name, "endraw", 6) != 0)
            continue;
        if (!add_text(p, into, i))
            return false;
        p->at = name + 6;
        p->close = "%}";
        return next_token(p) && expect_close(p);
    }
    fail(p, "chat template, line %d: {%% raw %%} is not closed%s", "");
    return false;
}

static bool begin_tag(struct parser *p, const char *close)
{
    p->at += 2;
    p->close = close;
    p->brackets = 0;
    if (p->at < p->length && (p->source[p->at] == '-' || (close[0] == '%' && p->source[p->at] == '+')))
        p->at++;
    return next_token(p);
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
                fail(p, "chat template, line %d: the block opened here is not closed by %s", ends[0]);
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
                return fail(p, "chat template, line %d: a tag without a name%s", "");
            const char *name = p->token.text;
            if (!next_token(p))
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
    struct parser p = {.arena = a, .source = text, .length = used, .line = 1, .line_start = true, .close = "%}", .err = err};
    struct node *body = parse_body(&p, NULL, 1);
    return p.failed ? NULL : body;
}
