// The tokens inside a tag, and what a tag's end takes along. Jinja's lexer with trim_blocks.
#include "compute/chat/template_parser.h"

#include "compute/base/check.h"

#include <stdlib.h>
#include <string.h>

void *parser_fail(struct parser *p, const char *fmt, const char *detail)
{
    if (!p->failed) {
        p->failed = true;
        vireo_fail(p->err, VIREO_CORRUPT, fmt, p->line, detail);
    }
    return NULL;
}

void *parser_no_memory(struct parser *p)
{
    if (!p->failed)
        vireo_fail_memory(p->err, p->length);
    p->failed = true;
    return NULL;
}

static bool is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

bool parser_is_blank(char c)
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
        parser_fail(p, "chat template, line %d: a string is not closed%s", "");
        return false;
    }
    char *text = arena_take(p->arena, end - start + 1);
    if (!text) {
        parser_no_memory(p);
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
            if (*rest || parser_is_blank(hex[0]) || hex[0] == '-' || hex[0] == '+' || value > 0x10ffff ||
                (value >= 0xd800 && value < 0xe000)) {
                parser_fail(p, "chat template, line %d: a string has a wrong escape \\%s", hex);
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
            parser_fail(p, "chat template, line %d: the number %.40s is too large", digits);
            return false;
        }
        p->token.integer = strtoll(digits, NULL, 10);
    }
    return true;
}

// Consumes the tag's end and the white space it takes along.
void parser_close_tag(struct parser *p, char sign)
{
    p->at += sign ? 3 : 2;
    p->line_start = false;
    if (sign == '-') {
        while (p->at < p->length && parser_is_blank(p->source[p->at])) {
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

bool parser_next_token(struct parser *p)
{
    if (p->failed)
        return false;
    while (p->at < p->length && parser_is_blank(p->source[p->at]))
        p->line += p->source[p->at++] == '\n';
    if (p->at >= p->length) {
        p->token = (struct token){.kind = TOKEN_END};
        parser_fail(p, "chat template, line %d: a tag is not closed%s", "");
        return false;
    }
    const char *s = p->source + p->at;
    size_t left = p->length - p->at;
    if (p->brackets == 0) {
        char sign = left > 2 && (s[0] == '-' || (s[0] == '+' && p->close[0] == '%')) ? s[0] : 0;
        if (left >= (sign ? 3u : 2u) && memcmp(s + (sign ? 1 : 0), p->close, 2) == 0) {
            parser_close_tag(p, sign);
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
            return parser_no_memory(p);
        p->at += n;
        p->token = (struct token){.kind = TOKEN_NAME, .text = name, .length = n};
        return true;
    }
    static const char *const operators[] = {"==", "!=", "<=", ">=", "//", "**", "<", ">", "=", "+", "-", "*", "/",
                                            "%",  "~",  "|",  "(",  ")",  "[",  "]", "{", "}", ",", ":", "."};
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
        parser_fail(p, "chat template, line %d: \"%s\" closes nothing", operators[i]);
        return false;
    }
    char shown[2] = {*s, 0};
    parser_fail(p, "chat template, line %d: unexpected character \"%s\"",
                (unsigned char)*s < 0x80 ? shown : "(not ASCII)");
    return false;
}

bool parser_at_operator(const struct parser *p, const char *op)
{
    return p->token.kind == TOKEN_OPERATOR && strcmp(p->token.text, op) == 0;
}

bool parser_at_name(const struct parser *p, const char *name)
{
    return p->token.kind == TOKEN_NAME && strcmp(p->token.text, name) == 0;
}

bool parser_accept(struct parser *p, const char *op)
{
    return !p->failed && parser_at_operator(p, op) && parser_next_token(p);
}

bool parser_accept_name(struct parser *p, const char *name)
{
    return !p->failed && parser_at_name(p, name) && parser_next_token(p);
}

bool parser_expect(struct parser *p, const char *op)
{
    if (p->failed)
        return false;
    if (!parser_at_operator(p, op)) {
        parser_fail(p, "chat template, line %d: expected \"%s\"", op);
        return false;
    }
    return parser_next_token(p);
}
