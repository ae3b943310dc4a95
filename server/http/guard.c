// What must be refused before anything else looks at a request: framing that two parsers would read differently
// (libmicrohttpd 0.9.75 takes it, reliability.md finding 1), foreign Host names (DNS rebinding), foreign origins.
#include "server/http/internal.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { HEADER_BYTES = 8192, HEADER_COUNT = 100, TARGET_BYTES = 4096 };

struct framing {
    size_t headers, lengths, encodings, hosts, content_types;
    const char *length, *encoding, *host;
    const char *next; // where the next line must begin, see is_contiguous
    bool malformed, scattered;
};

static enum MHD_Result look(void *context, enum MHD_ValueKind kind, const char *key, size_t key_size,
                            const char *value, size_t value_size)
{
    struct framing *f = context;
    (void)kind;
    f->scattered = f->scattered || key != f->next;
    f->next = value ? value + value_size + 2 : NULL;
    f->headers++;
    // tchar of RFC 9110; catches "Content-Length :" and folded nonsense.
    for (size_t i = 0; i < key_size; i++)
        if (!strchr("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", key[i]) || !key[i])
            f->malformed = true;
    for (size_t i = 0; value && i < value_size; i++)
        if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
            f->malformed = true;
    if (!key_size || (value && strlen(value) != value_size))
        f->malformed = true;
    if (strcasecmp(key, "Content-Length") == 0) {
        f->lengths++;
        f->length = value ? value : "";
    } else if (strcasecmp(key, "Transfer-Encoding") == 0) {
        f->encodings++;
        f->encoding = value ? value : "";
    } else if (strcasecmp(key, "Host") == 0) {
        f->hosts++;
        f->host = value ? value : "";
    } else if (strcasecmp(key, "Content-Type") == 0) {
        f->content_types++;
    }
    return MHD_YES;
}

static bool bad(struct vireo_error *err, const char *what)
{
    return vireo_fail_kind(err, VIREO_INVALID, "invalid_request", NULL, "%s", what);
}

// 0.9.75 cuts its read buffer into strings in place and forgives much: it takes a bare LF for the end of a line, joins
// folded lines, and takes a line that begins with a colon for the end of the header, so that the rest would be the next
// request. So every line must begin right behind the CR LF of the one before, and nothing but the empty line be left.
// (1.0 refuses all that by itself, and may lay its buffer out as it likes.)
static bool is_contiguous(const struct framing *f, const char *method, size_t header_size)
{
    return strncmp(MHD_get_version(), "0.9.", 4) != 0 || (!f->scattered && f->next + 2 == method + header_size);
}

static bool check_framing(struct request *req, const struct framing *f, const char *method, const char *version,
                          struct vireo_error *err)
{
    const union MHD_ConnectionInfo *size =
        MHD_get_connection_info(req->connection, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        return bad(err, "The HTTP version must be 1.0 or 1.1.");
    if (req->has_nul)
        return bad(err, "The request line holds a NUL character.");
    if (strchr(req->target, ' '))
        return bad(err, "The request line must be a method, a target without blanks, and a version.");
    if (f->malformed)
        return bad(err, "A header line is malformed.");
    if (f->headers > HEADER_COUNT || (size && size->header_size > HEADER_BYTES))
        return vireo_fail_kind(err, VIREO_INVALID, "header_too_large", NULL,
                               "The header is larger than %d bytes or %d lines.", HEADER_BYTES, HEADER_COUNT);
    if (strlen(req->target) > TARGET_BYTES)
        return vireo_fail_kind(err, VIREO_INVALID, "uri_too_long", NULL, "The URL is longer than %d bytes.",
                               TARGET_BYTES);
    if (!size || !is_contiguous(f, method, size->header_size))
        return bad(err, "A header line is malformed: lines must end in CR LF, begin with a name, and not be folded.");
    if (f->lengths > 1)
        return bad(err, "More than one Content-Length.");
    if (f->lengths && f->encodings)
        return bad(err, "Content-Length and Transfer-Encoding exclude each other.");
    if (f->encodings > 1 || (f->encodings && strcasecmp(f->encoding, "chunked") != 0))
        return bad(err, "The only Transfer-Encoding supported is 'chunked'.");
    if (f->encodings && strcmp(version, "HTTP/1.1") != 0)
        return bad(err, "Transfer-Encoding needs HTTP/1.1.");
    if (f->lengths && (!f->length[0] || strspn(f->length, "0123456789") != strlen(f->length) || strlen(f->length) > 18))
        return bad(err, "Content-Length must be a number.");
    if (f->hosts != 1 && strcmp(version, "HTTP/1.1") == 0)
        return bad(err, "HTTP/1.1 needs exactly one Host header.");
    if (f->hosts > 1)
        return bad(err, "More than one Host header.");
    if (f->content_types > 1)
        return bad(err, "More than one Content-Type.");
    return true;
}

// "name", "name:port", "[v6]:port" -> the name, lower case. false: malformed.
static bool host_name(const char *value, char *out, size_t size)
{
    size_t length;
    const char *rest;
    if (value[0] == '[') {
        const char *close = strchr(value, ']');
        if (!close)
            return false;
        length = (size_t)(close - value) - 1;
        rest = close + 1;
        value++;
    } else {
        length = strspn(value, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._");
        rest = value + length;
    }
    if (!length || length >= size || (*rest && (*rest != ':' || strspn(rest + 1, "0123456789") != strlen(rest + 1))))
        return false;
    for (size_t i = 0; i < length; i++)
        out[i] = value[i] >= 'A' && value[i] <= 'Z' ? (char)(value[i] + 32) : value[i];
    out[length] = 0;
    return true;
}

// A number cannot be rebound to another address by DNS, so numeric hosts are always allowed.
static bool is_numeric(const char *host)
{
    unsigned char bytes[16];
    return inet_pton(AF_INET, host, bytes) == 1 || inet_pton(AF_INET6, host, bytes) == 1;
}

static bool check_host(const struct request *req, const char *value, struct vireo_error *err)
{
    char host[256];
    if (!value)
        return true; // HTTP/1.0 without Host: no browser
    if (!host_name(value, host, sizeof host))
        return bad(err, "The Host header is malformed.");
    if (is_numeric(host) || strcmp(host, "localhost") == 0 || strcmp(host, req->server->host) == 0)
        return true;
    for (const char *const *h = req->server->params.allowed_hosts; h && *h; h++)
        if (strcasecmp(*h, host) == 0)
            return true;
    return vireo_fail_kind(err, VIREO_FORBIDDEN, "host_not_allowed", NULL,
                           "This server does not answer for the host '%.80s'; allow it with --allow-host.", host);
}

// Browsers send Origin with every unsafe request from a page: it must be our own page, or one configured.
static bool check_origin(const struct request *req, const char *host, struct vireo_error *err)
{
    const char *origin = request_header(req, "Origin");
    if (!origin || strcmp(req->method, "GET") == 0 || strcmp(req->method, "HEAD") == 0 ||
        strcmp(req->method, "OPTIONS") == 0)
        return true;
    const char *scheme = req->server->tls ? "https://" : "http://";
    size_t length = strlen(scheme);
    if (host && strncasecmp(origin, scheme, length) == 0 && strcasecmp(origin + length, host) == 0)
        return true;
    for (const char *const *o = req->server->params.origins; o && *o; o++)
        if (strcasecmp(*o, origin) == 0)
            return true;
    return vireo_fail_kind(err, VIREO_FORBIDDEN, "origin_not_allowed", NULL,
                           "Requests from pages of '%.80s' are not allowed.", origin);
}

bool guard_check(struct request *req, const char *method, const char *version, bool *close, struct vireo_error *err)
{
    struct framing f = {.next = version + strlen(version) + 2};
    *close = true;
    MHD_get_connection_values_n(req->connection, MHD_HEADER_KIND, look, &f);
    if (!check_framing(req, &f, method, version, err) || !check_host(req, f.host, err))
        return false;
    // The colon that ends a header ends trailers too, and those nobody sees: behind chunks there is no next request.
    *close = f.encodings > 0;
    return check_origin(req, f.host, err);
}

uint64_t guard_content_length(struct request *req)
{
    if (request_header(req, "Transfer-Encoding"))
        return UINT64_MAX;
    const char *text = request_header(req, "Content-Length");
    uint64_t value = 0;
    for (; text && *text; text++)
        value = value * 10 + (uint64_t)(*text - '0');
    return value;
}
