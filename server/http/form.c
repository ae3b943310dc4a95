#include "server/http/form.h"

#include "server/http/router.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool bad(struct vireo_error *err, const char *what)
{
    return vireo_fail_kind(err, VIREO_INVALID, "invalid_form", NULL, "The multipart body is malformed: %s.", what);
}

// Finds parameter `name` in "value; a=b; c=\"d\"". Quoted text may hold \" and \\. false: absent or too long.
static bool parameter(const char *header, const char *name, char *out, size_t size)
{
    const char *at = strchr(header, ';');
    size_t name_length = strlen(name);
    while (at) {
        at += 1 + strspn(at + 1, " \t");
        size_t length = strcspn(at, "=; \t");
        const char *value = at + length + strspn(at + length, " \t");
        bool found = length == name_length && strncasecmp(at, name, length) == 0 && *value == '=';
        size_t used = 0;
        if (*value == '=') {
            value += 1 + strspn(value + 1, " \t");
            if (*value == '"') {
                for (value++; *value && *value != '"'; value++) {
                    if (*value == '\\' && (value[1] == '"' || value[1] == '\\'))
                        value++;
                    if (found && used + 1 < size)
                        out[used] = *value;
                    used++;
                }
                if (*value != '"')
                    return false;
            } else {
                for (; *value && !strchr("; \t", *value); value++) {
                    if (found && used + 1 < size)
                        out[used] = *value;
                    used++;
                }
            }
        }
        if (found) {
            if (used >= size)
                return false;
            out[used] = 0;
            return true;
        }
        at = strchr(value, ';');
    }
    return false;
}

bool form_init(struct form *f, const char *content_type, const struct form_sink *sink, struct vireo_error *err)
{
    char boundary[FORM_BOUNDARY + 1];
    f->sink = *sink;
    f->state = FORM_PREAMBLE;
    f->matched = 2; // the first boundary needs no line break before it
    f->header_length = f->parts = f->tail_length = 0;
    if (!parameter(content_type, "boundary", boundary, sizeof boundary) || !boundary[0])
        return bad(err, "Content-Type has no boundary of 1 to 70 characters");
    for (const char *c = boundary; *c; c++)
        if ((unsigned char)*c < 0x20 || (unsigned char)*c > 0x7e)
            return bad(err, "the boundary holds a character that is not allowed");
    f->delimiter_length = (size_t)snprintf(f->delimiter, sizeof f->delimiter, "\r\n--%s", boundary);
    return true;
}

// "%XX" of RFC 8187's filename*=UTF-8''...
static bool decode_extended(char *text)
{
    if (strncasecmp(text, "UTF-8'", 6) != 0)
        return false;
    char *from = strchr(text + 6, '\''), *to = text;
    if (!from)
        return false;
    for (from++; *from; from++) {
        const char *digits = "0123456789abcdefABCDEF", *high = NULL, *low = NULL;
        if (*from == '%' && from[1] && (high = strchr(digits, from[1])) && from[2])
            low = strchr(digits, from[2]);
        if (!high || !low) {
            *to++ = *from;
            continue;
        }
        int a = (int)(high - digits), b = (int)(low - digits);
        *to++ = (char)((a > 15 ? a - 6 : a) * 16 + (b > 15 ? b - 6 : b));
        from += 2;
    }
    *to = 0;
    return true;
}

static bool begin_part(struct form *f, struct vireo_error *err)
{
    char disposition[4096] = "", type[256] = "", name[256], filename[1024];
    f->header[f->header_length] = 0;
    if (memchr(f->header, 0, f->header_length))
        return bad(err, "a part's header holds NUL");
    if (!url_is_utf8(f->header, f->header_length))
        return bad(err, "a part's header is not UTF-8");
    for (char *line = f->header, *next; *line; line = next) {
        char *end = strstr(line, "\r\n");
        next = end ? end + 2 : line + strlen(line);
        if (end)
            *end = 0;
        char *colon = strchr(line, ':');
        if (!colon || colon == line)
            return bad(err, "a part's header line has no name");
        char *value = colon + 1 + strspn(colon + 1, " \t");
        size_t length = (size_t)(colon - line);
        if (length == 19 && strncasecmp(line, "Content-Disposition", 19) == 0)
            snprintf(disposition, sizeof disposition, "%s", value);
        else if (length == 12 && strncasecmp(line, "Content-Type", 12) == 0)
            snprintf(type, sizeof type, "%s", value);
        else if (length == 25 && strncasecmp(line, "Content-Transfer-Encoding", 25) == 0 &&
                 strcasecmp(value, "binary") != 0 && strcasecmp(value, "8bit") != 0 && strcasecmp(value, "7bit") != 0)
            return bad(err, "a part has a Content-Transfer-Encoding other than binary");
    }
    if (strncasecmp(disposition, "form-data", 9) != 0 || !parameter(disposition, "name", name, sizeof name))
        return bad(err, "a part has no name");
    bool has_file = parameter(disposition, "filename", filename, sizeof filename);
    if (!has_file && parameter(disposition, "filename*", filename, sizeof filename))
        has_file = decode_extended(filename) && url_is_utf8(filename, strlen(filename));
    if (++f->parts > FORM_PARTS)
        return vireo_fail_kind(err, VIREO_TOO_LARGE, "request_too_large", NULL, "The form has more than %d parts.",
                               FORM_PARTS);
    return f->sink.begin(f->sink.context, name, has_file ? filename : NULL, type, err);
}

// Data up to the next delimiter. Only the first character of the delimiter is CR, so a failed match never has to be
// looked at again: what was matched is data, and the present byte starts afresh.
static bool feed_data(struct form *f, const char **at, const char *end, struct vireo_error *err)
{
    bool emit = f->state == FORM_DATA;
    while (*at < end) {
        if (f->matched == 0) {
            const char *cr = memchr(*at, '\r', (size_t)(end - *at));
            const char *stop = cr ? cr : end;
            if (emit && stop > *at && !f->sink.data(f->sink.context, *at, (size_t)(stop - *at), err))
                return false;
            *at = stop;
            if (!cr)
                return true;
        }
        if (**at == f->delimiter[f->matched]) {
            ++*at;
            if (++f->matched < f->delimiter_length)
                continue;
            f->matched = 0;
            f->tail_length = 0;
            f->state = FORM_AFTER_BOUNDARY;
            return !emit || f->sink.end(f->sink.context, err);
        }
        if (emit && f->matched && !f->sink.data(f->sink.context, f->delimiter, f->matched, err))
            return false;
        f->matched = 0;
    }
    return true;
}

static bool feed_boundary_tail(struct form *f, char c, struct vireo_error *err)
{
    if (f->tail_length == 0 && (c == ' ' || c == '\t'))
        return true;
    f->tail[f->tail_length++] = c;
    if (f->tail_length < 2)
        return c == '-' || c == '\r' || bad(err, "unexpected bytes behind a boundary");
    if (f->tail[0] == '-' && c == '-') {
        f->state = FORM_EPILOGUE;
        return true;
    }
    if (f->tail[0] == '\r' && c == '\n') {
        f->state = FORM_HEADERS;
        f->header_length = 0;
        return true;
    }
    return bad(err, "unexpected bytes behind a boundary");
}

static bool feed_header(struct form *f, char c, struct vireo_error *err)
{
    if (f->header_length + 1 >= FORM_HEADER)
        return bad(err, "a part's header is longer than 8 kB");
    f->header[f->header_length++] = c;
    if (f->header_length == 2 && memcmp(f->header, "\r\n", 2) == 0)
        return bad(err, "a part has no header");
    if (f->header_length < 4 || memcmp(f->header + f->header_length - 4, "\r\n\r\n", 4) != 0)
        return true;
    f->header_length -= 2; // keeps the last line's own end
    f->state = FORM_DATA;
    f->matched = 0;
    return begin_part(f, err);
}

bool form_feed(struct form *f, const void *bytes, size_t count, struct vireo_error *err)
{
    const char *at = bytes, *end = at + count;
    bool ok = true;
    while (ok && at < end) {
        switch (f->state) {
        case FORM_PREAMBLE:
        case FORM_DATA:
            ok = feed_data(f, &at, end, err);
            break;
        case FORM_AFTER_BOUNDARY:
            ok = feed_boundary_tail(f, *at++, err);
            break;
        case FORM_HEADERS:
            ok = feed_header(f, *at++, err);
            break;
        case FORM_EPILOGUE:
            return true;
        case FORM_FAILED:
            return bad(err, "an earlier error");
        }
    }
    if (!ok)
        f->state = FORM_FAILED;
    return ok;
}

bool form_finish(struct form *f, struct vireo_error *err)
{
    if (f->state == FORM_EPILOGUE)
        return true;
    bool none = f->state == FORM_PREAMBLE;
    f->state = FORM_FAILED;
    return bad(err, none ? "it does not hold the boundary" : "it ends before the closing boundary");
}
