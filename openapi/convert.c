// Build-time tool: openapi.yaml -> JSON. `convert INPUT OUTPUT`
//
// Reads the part of YAML that openapi.yaml keeps to: block mappings and sequences, flow collections (which may span
// lines), plain, 'single' and "double" quoted scalars on one line, comments. Anything else stops the build with the
// line's number.
#define _POSIX_C_SOURCE 200809L // strdup, strndup
#include <jansson.h>

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct line {
    int number, indent;
    char *text; // without indent and comment
};
static struct line *lines;
static int count, at;

static void die(int number, const char *what)
{
    fprintf(stderr, "openapi.yaml:%d: %s\n", number, what);
    exit(1);
}

// Where a comment begins, outside of quotes.
static void cut_comment(char *text)
{
    char quote = 0;
    for (char *c = text; *c; c++) {
        if (quote) {
            if (*c == '\\' && quote == '"' && c[1])
                c++;
            else if (*c == quote)
                quote = 0;
        } else if ((*c == '"' || *c == '\'') && (c == text || strchr(" [{,:", c[-1]))) {
            quote = *c;
        } else if (*c == '#' && (c == text || c[-1] == ' ')) {
            *c = 0;
            break;
        }
    }
    size_t length = strlen(text);
    while (length && isspace((unsigned char)text[length - 1]))
        text[--length] = 0;
}

static void read_lines(char *text)
{
    int number = 0;
    for (char *next; text; text = next) {
        next = strchr(text, '\n');
        if (next)
            *next++ = 0;
        number++;
        int indent = (int)strspn(text, " ");
        if (strchr(text, '\t'))
            die(number, "tabs are not allowed");
        cut_comment(text + indent);
        if (!text[indent])
            continue;
        lines = realloc(lines, (size_t)(count + 1) * sizeof *lines);
        if (!lines)
            die(number, "out of memory");
        lines[count++] = (struct line){.number = number, .indent = indent, .text = text + indent};
    }
}

// A quoted scalar at *c; leaves *c behind it.
static char *quoted(const char **c, int number)
{
    char quote = *(*c)++, *out = malloc(strlen(*c) + 1), *to = out;
    if (!out)
        die(number, "out of memory");
    while (**c && **c != quote) {
        if (quote == '"' && **c == '\\' && (*c)[1]) {
            ++*c;
            *to++ = **c == 'n' ? '\n' : **c;
        } else {
            *to++ = **c;
        }
        ++*c;
        if (quote == '\'' && **c == '\'' && (*c)[1] == '\'') {
            *to++ = '\'';
            *c += 2;
        }
    }
    if (!**c)
        die(number, "a quoted text has no end");
    ++*c;
    *to = 0;
    return out;
}

static json_t *plain(const char *text, size_t length, int number)
{
    char *copy = malloc(length + 1), *end;
    if (!copy)
        die(number, "out of memory");
    memcpy(copy, text, length);
    copy[length] = 0;
    json_t *value;
    if (!strcmp(copy, "true") || !strcmp(copy, "false"))
        value = json_boolean(copy[0] == 't');
    else if (!strcmp(copy, "null") || !strcmp(copy, "~") || !length)
        value = json_null();
    else if (strspn(copy, "-0123456789") == length && (strtoll(copy, &end, 10), !*end))
        value = json_integer(strtoll(copy, NULL, 10));
    else if (strspn(copy, "-+.0123456789eE") == length && (strtod(copy, &end), !*end))
        value = json_real(strtod(copy, NULL));
    else
        value = json_string(copy);
    free(copy);
    if (!value)
        die(number, "not UTF-8");
    return value;
}

static void skip(const char **c)
{
    *c += strspn(*c, " ");
}

static json_t *flow(const char **c, int number);

static json_t *flow_item(const char **c, int number, const char *stops)
{
    skip(c);
    if (**c == '[' || **c == '{')
        return flow(c, number);
    if (**c == '"' || **c == '\'') {
        char *text = quoted(c, number);
        json_t *value = json_string(text);
        free(text);
        return value;
    }
    const char *from = *c;
    while (**c && !strchr(stops, **c) && !(strchr(stops, ':') && **c == ':'))
        ++*c;
    size_t length = (size_t)(*c - from);
    while (length && from[length - 1] == ' ')
        length--;
    return plain(from, length, number);
}

static json_t *flow(const char **c, int number)
{
    bool map = *(*c)++ == '{';
    json_t *out = map ? json_object() : json_array();
    for (skip(c); **c && **c != (map ? '}' : ']'); skip(c)) {
        if (map) {
            char *key;
            if (**c == '"' || **c == '\'') {
                key = quoted(c, number);
            } else {
                size_t length = strcspn(*c, ":,}");
                key = strndup(*c, length);
                *c += length;
            }
            skip(c);
            if (**c != ':')
                die(number, "a flow mapping wants key: value");
            ++*c;
            if (json_object_get(out, key))
                die(number, "a key stands twice");
            json_object_set_new(out, key, flow_item(c, number, ",}"));
            free(key);
        } else {
            json_array_append_new(out, flow_item(c, number, ",]"));
        }
        skip(c);
        if (**c == ',')
            ++*c;
        else if (**c != (map ? '}' : ']'))
            die(number, "a flow collection wants ',' or its end");
    }
    if (!**c)
        die(number, "a flow collection has no end");
    ++*c;
    return out;
}

static int depth_of(const char *text)
{
    int depth = 0;
    char quote = 0;
    for (const char *c = text; *c; c++) {
        if (quote)
            quote = *c == quote ? 0 : quote;
        else if ((*c == '"' || *c == '\'') && (c == text || strchr(" [{,:", c[-1])))
            quote = *c;
        else
            depth += (*c == '{' || *c == '[') - (*c == '}' || *c == ']');
    }
    return depth;
}

// A value that begins on a line; flow collections take further lines until their brackets close.
static json_t *inline_value(const char *text, int number)
{
    if (*text != '{' && *text != '[') {
        const char *c = text;
        if (*text == '"' || *text == '\'')
            return flow_item(&c, number, "");
        return plain(text, strlen(text), number);
    }
    char *joined = strdup(text);
    while (depth_of(joined) > 0 && at < count) {
        char *more = malloc(strlen(joined) + strlen(lines[at].text) + 2);
        if (!more)
            die(number, "out of memory");
        snprintf(more, strlen(joined) + strlen(lines[at].text) + 2, "%s %s", joined, lines[at].text);
        free(joined);
        joined = more;
        at++;
    }
    const char *c = joined;
    json_t *value = flow(&c, number);
    if (*c)
        die(number, "unexpected text behind a flow collection");
    free(joined);
    return value;
}

// "key: rest" or "key:" -> *rest; NULL: no mapping line.
static char *split_key(const char *text, const char **rest, int number)
{
    const char *c = text;
    char *key;
    if (*c == '"' || *c == '\'') {
        key = quoted(&c, number);
    } else {
        while (*c && !(c[0] == ':' && (c[1] == ' ' || !c[1])))
            c++;
        if (!*c || *text == '{' || *text == '[')
            return NULL;
        key = strndup(text, (size_t)(c - text));
    }
    if (*c != ':') {
        free(key);
        return NULL;
    }
    *rest = c + 1 + strspn(c + 1, " ");
    return key;
}

static json_t *block(int indent)
{
    bool list = strncmp(lines[at].text, "- ", 2) == 0;
    json_t *out = list ? json_array() : json_object();
    while (at < count && lines[at].indent == indent && (strncmp(lines[at].text, "- ", 2) == 0) == list) {
        struct line *line = &lines[at];
        const char *rest;
        if (list) {
            int skipped = 2 + (int)strspn(line->text + 2, " ");
            char *key = split_key(line->text + skipped, &rest, line->number);
            if (key) { // a mapping that begins on the dash's line
                free(key);
                line->text += skipped;
                line->indent += skipped;
                json_array_append_new(out, block(line->indent));
            } else {
                at++;
                json_array_append_new(out, inline_value(line->text + skipped, line->number));
            }
            continue;
        }
        char *key = split_key(line->text, &rest, line->number);
        if (!key)
            die(line->number, "expected 'key: value'");
        if (json_object_get(out, key))
            die(line->number, "a key stands twice");
        at++;
        json_t *value;
        if (*rest)
            value = inline_value(rest, line->number);
        else if (at < count && (lines[at].indent > indent ||
                                (lines[at].indent == indent && strncmp(lines[at].text, "- ", 2) == 0)))
            value = block(lines[at].indent);
        else
            value = json_null();
        json_object_set_new(out, key, value);
        free(key);
    }
    if (at < count && lines[at].indent > indent)
        die(lines[at].number, "unexpected indentation");
    return out;
}

int main(int argc, char **argv)
{
    FILE *in = argc == 3 ? fopen(argv[1], "rb") : NULL;
    if (!in) {
        fprintf(stderr, "convert: wants INPUT OUTPUT\n");
        return 1;
    }
    static char text[4 << 20];
    size_t size = fread(text, 1, sizeof text - 1, in);
    fclose(in);
    text[size] = 0;
    read_lines(text);
    json_t *root = block(0);
    if (at < count)
        die(lines[at].number, "unexpected indentation");
    int failed = json_dump_file(root, argv[2], JSON_COMPACT);
    json_decref(root);
    return failed != 0;
}
