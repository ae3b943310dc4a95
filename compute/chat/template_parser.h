// What the files of the parser share (template_lexer.c, template_parse.c, template_parse_*.c); nobody else includes it.
#ifndef VIREO_CHAT_TEMPLATE_PARSER_H
#define VIREO_CHAT_TEMPLATE_PARSER_H

#include "compute/chat/template_internal.h"

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

// Sets the error of the first failure: `fmt` takes the line and then `detail`. NULL, so that "return parser_fail(...)"
// works.
void *parser_fail(struct parser *p, const char *fmt, const char *detail);
void *parser_no_memory(struct parser *p);

// A space, tab or line break as Jinja trims them.
bool parser_is_blank(char c);
// Moves behind the end of a tag (sign: '-', '+' or 0) and the white space it takes along.
void parser_close_tag(struct parser *p, char sign);
// Reads the next token of the present tag into p->token; false: the parser has failed.
bool parser_next_token(struct parser *p);
bool parser_at_operator(const struct parser *p, const char *op);
bool parser_at_name(const struct parser *p, const char *name);
// Takes the token if it is this one.
bool parser_accept(struct parser *p, const char *op);
bool parser_accept_name(struct parser *p, const char *name);
// The token must be this operator.
bool parser_expect(struct parser *p, const char *op);

// ---- nodes and bodies (template_parse.c)

struct node_list {
    struct node **items;
    size_t count, capacity;
};

// One level further down the tree (the caller takes p->depth back); false: the parser has failed, nested too deeply.
bool parser_deeper(struct parser *p);
// A node of the present line, on the parser's arena. NULL: the parser has failed.
struct node *parser_node(struct parser *p, enum node_kind kind);
// Adds `n`, which may be NULL; false: the parser has failed.
bool parser_push(struct parser *p, struct node_list *l, struct node *n);
// `n` (NULL is fine) with the items of `l` as its kids.
struct node *parser_with_kids(struct node *n, const struct node_list *l);
// The token must be the end of the present tag; it is left there.
bool parser_expect_close(struct parser *p);
// Statements up to a tag named in `ends` (NULL: up to the end of the source), whose name is left in ended_by; `opened`:
// the line to name if there is no such tag.
struct node *parse_body(struct parser *p, const char *const *ends, int opened);

// ---- statements (template_parse_statements.c); NULL: the parser has failed

// The statement whose name has been taken, up to its last tag.
struct node *parse_statement(struct parser *p, const char *name);

// ---- expressions (template_parse_expressions.c); NULL: the parser has failed

// A whole expression, "a if b else c" included.
struct node *parse_expression(struct parser *p);
// An expression without "a if b else c": the "if" of a "for" is the loop's own.
struct node *parse_or(struct parser *p);
// One expression as `one` reads it, or several with commas: a tuple.
struct node *parse_tuple(struct parser *p, struct node *(*one)(struct parser *));
// The present token as a constant.
struct node *parse_constant(struct parser *p, enum literal literal);
// What follows a ".": a name or an index.
struct node *parse_attribute(struct parser *p);
// What follows a "|": a filter and its arguments.
struct node *parse_filter(struct parser *p);

#endif
