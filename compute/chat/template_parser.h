// The parser's state, shared by template_lexer.c and template_parse.c; nobody else includes it.
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

#endif
