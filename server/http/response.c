#include "server/http/response.h"

#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/log.h"
#include "server/http/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_MODULE "http"
#define POLICY                                                                                                        \
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "       \
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

// --- errors ----------------------------------------------------------------------------------------------------------

// By code, and for some kinds a status of their own.
struct rule {
    enum vireo_code code;
    int status;
    const char *type, *kind;
};
static const struct rule rules[] = {
    {VIREO_INVALID, 400, "invalid_request_error", "invalid_value"},
    {VIREO_UNSUPPORTED, 400, "invalid_request_error", "unsupported_value"},
    {VIREO_UNAUTHORIZED, 401, "invalid_request_error", "invalid_api_key"},
    {VIREO_FORBIDDEN, 403, "permission_error", "insufficient_scope"},
    {VIREO_NOT_FOUND, 404, "invalid_request_error", "not_found"},
    {VIREO_CONFLICT, 409, "conflict_error", "resource_in_use"},
    {VIREO_TOO_LARGE, 413, "invalid_request_error", "request_too_large"},
    {VIREO_RATE_LIMITED, 429, "rate_limit_error", "rate_limit_exceeded"},
    {VIREO_UNAVAILABLE, 503, "server_error", "overloaded"},
    {VIREO_NO_SPACE, 507, "server_error", "insufficient_storage"},
    {VIREO_NO_MEMORY, 500, "server_error", "internal_error"},
    {VIREO_DEVICE_MEMORY, 500, "server_error", "insufficient_memory"},
    {VIREO_DEVICE_LOST, 503, "server_error", "device_lost"},
    {VIREO_CANCELLED, 503, "server_error", "cancelled"},
};
static const struct rule kinds[] = {
    {0, 400, "invalid_request_error", "invalid_state"},
    {0, 405, "invalid_request_error", "method_not_allowed"},
    {0, 415, "invalid_request_error", "unsupported_media_type"},
    {0, 414, "invalid_request_error", "uri_too_long"},
    {0, 431, "invalid_request_error", "header_too_large"},
    {0, 416, "invalid_request_error", "range_not_satisfiable"},
};
static const struct rule internal_rule = {VIREO_INTERNAL, 500, "server_error", "internal_error"};

static struct rule rule_of(const struct vireo_error *err)
{
    struct rule rule = internal_rule;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (rules[i].code == err->code)
            rule = rules[i];
    for (size_t i = 0; err->kind[0] && i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].kind, err->kind) == 0)
            return kinds[i];
    if (err->kind[0])
        rule.kind = err->kind;
    return rule;
}

int http_status(const struct vireo_error *err)
{
    return rule_of(err).status;
}

// Messages of these codes may name paths of this machine: they go to the log, not to the client.
static bool is_secret(enum vireo_code code)
{
    return code == VIREO_IO || code == VIREO_INTERNAL || code == VIREO_CORRUPT || code == VIREO_NO_MEMORY ||
           code == VIREO_OK;
}

json_t *http_error_json(const struct vireo_error *err)
{
    struct rule rule = rule_of(err);
    char message[sizeof err->message];
    snprintf(message, sizeof message, "%s", err->message);
    if (is_secret(err->code) && rule.status >= 500)
        snprintf(message, sizeof message, "%s", "The server failed to answer this request; its log says why.");
    else if (err->code == VIREO_NO_SPACE && !err->kind[0])
        snprintf(message, sizeof message, "%s", "The server's disk is full.");
    while (message[0] && !url_is_utf8(message, strlen(message)))
        message[strlen(message) - 1] = 0; // cut within a character
    return json_pack("{s:{s:s, s:s, s:s?, s:s}}", "error", "message", message, "type", rule.type, "param",
                     err->param[0] && url_is_utf8(err->param, strlen(err->param)) ? err->param : NULL, "code",
                     rule.kind);
}

void http_error_parse(int status, const char *body, size_t length, struct vireo_error *err)
{
    if (!err)
        return;
    json_error_t where;
    json_t *root = json_loadb(body, length, 0, &where);
    json_t *e = json_object_get(root, "error");
    const char *message = json_string_value(json_object_get(e, "message"));
    const char *kind = json_string_value(json_object_get(e, "code"));
    const char *param = json_string_value(json_object_get(e, "param"));
    enum vireo_code code = status >= 500 ? VIREO_INTERNAL : VIREO_INVALID;
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (rules[i].status == status && (code == VIREO_INTERNAL || code == VIREO_INVALID)) {
            code = rules[i].code;
            break;
        }
    if (message)
        vireo_fail_kind(err, code, kind ? kind : "", param, "%.400s", message);
    else
        vireo_fail(err, code, "the server answered with status %d", status);
    json_decref(root);
}

void response_error(struct response *res, const struct vireo_error *err)
{
    struct rule rule = rule_of(err);
    if (rule.status >= 500 && rule.status != 503 && rule.status != 507)
        log_error("%s: %s [%s] request=%s", vireo_code_name(err->code), err->message, err->param, res->request->id);
    json_t *body = http_error_json(err);
    res->status = rule.status;
    if (!response_json(res, body, NULL)) {
        // Without memory for the sentence: the bare shape, which needs none.
        static const char fallback[] =
            "{\"error\":{\"message\":\"out of memory\",\"type\":\"server_error\",\"param\":null,\"code\":\"internal_error\"}}";
        res->bytes = fallback;
        res->size = sizeof fallback - 1;
    }
    if (rule.status == 401)
        response_header(res, "WWW-Authenticate", "Bearer");
    if (rule.status == 429 || rule.status == 503) {
        response_header(res, "Retry-After", "2");
        response_header(res, "retry-after-ms", "2000");
    }
    if (rule.status == 409)
        response_header(res, "x-should-retry", strcmp(rule.kind, "idempotency_in_progress") == 0 ? "true" : "false");
    if (rule.status == 405 && res->request->match.allow[0])
        response_header(res, "Allow", res->request->match.allow);
}

// --- filling ---------------------------------------------------------------------------------------------------------

void response_status(struct response *res, int status)
{
    res->status = status;
}

static bool is_plain(const char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            return false;
    return true;
}

void response_header(struct response *res, const char *name, const char *value)
{
    struct arena *a = &res->request->arena;
    struct response_item **at = &res->headers;
    if (!is_plain(name) || !is_plain(value))
        return; // a line break here would be another header
    while (*at && strcasecmp((*at)->name, name) != 0)
        at = &(*at)->next;
    struct response_item *item = *at ? *at : arena_new(a, struct response_item);
    const char *copy = arena_copy_string(a, value);
    if (!item || !copy)
        return; // arena_failed is looked at before the answer is sent
    if (!*at) {
        item->name = arena_copy_string(a, name);
        if (!item->name)
            return;
        *at = item;
    }
    item->value = copy;
}

static bool has_header(const struct response *res, const char *name)
{
    for (const struct response_item *i = res->headers; i; i = i->next)
        if (strcasecmp(i->name, name) == 0)
            return true;
    return false;
}

static void drop_body(struct response *res)
{
    free(res->owned);
    res->owned = NULL;
    res->bytes = NULL;
    res->size = 0;
    if (res->fd >= 0)
        close(res->fd);
    res->fd = -1;
    if (res->stream) {
        sse_detach(res->stream);
        sse_unref(&res->stream);
    }
}

void response_reset(struct response *res)
{
    drop_body(res);
    res->status = 0;
    res->headers = NULL;
}

void response_free(struct response *res)
{
    drop_body(res);
}

static void take_bytes(struct response *res, const char *type, char *owned, const void *bytes, size_t count)
{
    drop_body(res);
    res->owned = owned;
    res->bytes = bytes;
    res->size = count;
    response_header(res, "Content-Type", type);
}

bool response_json(struct response *res, json_t *value, struct vireo_error *err)
{
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    json_decref(value);
    if (!text)
        return vireo_fail(err, VIREO_NO_MEMORY, "out of memory while writing an answer");
    take_bytes(res, "application/json", text, text, strlen(text));
    return true;
}

bool response_bytes(struct response *res, const char *type, const void *bytes, size_t count, struct vireo_error *err)
{
    char *copy = vireo_alloc(count + 1);
    if (!copy)
        return vireo_fail_memory(err, count);
    if (count)
        memcpy(copy, bytes, count);
    take_bytes(res, type, copy, copy, count);
    return true;
}

bool response_text(struct response *res, const char *type, const char *text, struct vireo_error *err)
{
    return response_bytes(res, type, text, strlen(text), err);
}

// True: the client's copy is good; the response became a 304.
static bool not_modified(struct response *res, const char *etag)
{
    const char *seen = request_header(res->request, "If-None-Match");
    char quoted[160];
    snprintf(quoted, sizeof quoted, "\"%s\"", etag);
    response_header(res, "ETag", quoted);
    if (!seen || (strcmp(seen, "*") != 0 && !strstr(seen, quoted)))
        return false;
    drop_body(res);
    res->status = 304;
    res->bytes = "";
    return true;
}

bool response_static(struct response *res, const char *type, const void *bytes, size_t count, const char *etag,
                     struct vireo_error *err)
{
    (void)err;
    take_bytes(res, type, NULL, bytes, count);
    if (etag) {
        response_header(res, "Cache-Control", "no-cache"); // may be kept, must be asked about
        not_modified(res, etag);
    }
    return true;
}

// --- files -----------------------------------------------------------------------------------------------------------

// "bytes=a-b", "bytes=a-", "bytes=-n". 0: no range or one to ignore; 1: ok; -1: outside.
static int parse_range(const char *text, uint64_t size, uint64_t *first, uint64_t *last)
{
    if (!text || strncmp(text, "bytes=", 6) != 0 || strchr(text, ',') || strlen(text) > 44)
        return 0;
    text += 6;
    const char *dash = strchr(text, '-');
    if (!dash || strspn(text, "0123456789-") != strlen(text) || strchr(dash + 1, '-') || strlen(dash + 1) > 18 ||
        dash - text > 18)
        return 0;
    bool has_first = dash != text, has_last = dash[1] != 0;
    uint64_t a = strtoull(text, NULL, 10), b = has_last ? strtoull(dash + 1, NULL, 10) : 0;
    if (!has_first) {
        if (!has_last)
            return 0;
        if (!b || !size)
            return -1;
        *first = b > size ? 0 : size - b;
        *last = size - 1;
        return 1;
    }
    if (has_last && b < a)
        return 0;
    if (a >= size)
        return -1;
    *first = a;
    *last = has_last && b < size - 1 ? b : size - 1;
    return 1;
}

// Content-Disposition with the name in both notations (RFC 6266).
static void add_disposition(struct response *res, const char *name)
{
    char plain[128], extended[800], line[1024];
    size_t used = 0, more = 0;
    for (const unsigned char *c = (const unsigned char *)name; *c && used + 1 < sizeof plain; c++)
        plain[used++] = *c < 0x20 || *c >= 0x7f || strchr("\"\\/", *c) ? '_' : (char)*c;
    plain[used] = 0;
    for (const unsigned char *c = (const unsigned char *)name; *c && more + 4 < sizeof extended; c++) {
        if ((*c >= '0' && *c <= '9') || (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || strchr("-_.", *c))
            extended[more++] = (char)*c;
        else
            more += (size_t)snprintf(extended + more, 4, "%%%02X", *c);
    }
    extended[more] = 0;
    snprintf(line, sizeof line, "attachment; filename=\"%s\"; filename*=UTF-8''%s", plain, extended);
    response_header(res, "Content-Disposition", line);
}

bool response_file(struct response *res, const struct response_file *file, struct vireo_error *err)
{
    struct stat info;
    int fd = open(file->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        vireo_fail_errno(err, "cannot open a stored file");
        if (fd >= 0)
            close(fd);
        return false;
    }
    drop_body(res);
    response_header(res, "Content-Type", file->type ? file->type : "application/octet-stream");
    response_header(res, "Accept-Ranges", "bytes");
    response_header(res, "Cache-Control",
                    file->immutable ? "private, max-age=31536000, immutable" : "private, no-cache");
    if (file->filename)
        add_disposition(res, file->filename);
    if (file->etag && not_modified(res, file->etag)) {
        close(fd);
        return true;
    }
    uint64_t size = (uint64_t)info.st_size, first = 0, last = 0;
    char line[96], quoted[160];
    snprintf(quoted, sizeof quoted, "\"%s\"", file->etag ? file->etag : "");
    const char *if_range = request_header(res->request, "If-Range");
    const char *range = if_range && strcmp(if_range, quoted) != 0 ? NULL : request_header(res->request, "Range");
    int got = parse_range(range, size, &first, &last);
    if (got < 0) {
        close(fd);
        snprintf(line, sizeof line, "bytes */%llu", (unsigned long long)size);
        response_header(res, "Content-Range", line);
        struct vireo_error outside = {0};
        vireo_fail_kind(&outside, VIREO_INVALID, "range_not_satisfiable", NULL,
                        "The range lies outside of the %llu bytes.",
                        (unsigned long long)size);
        response_error(res, &outside);
        return true;
    }
    res->fd = fd;
    res->offset = got ? first : 0;
    res->length = got ? last - first + 1 : size;
    if (got) {
        res->status = 206;
        snprintf(line, sizeof line, "bytes %llu-%llu/%llu", (unsigned long long)first, (unsigned long long)last,
                 (unsigned long long)size);
        response_header(res, "Content-Range", line);
    }
    return true;
}

struct sse *response_stream(struct response *res, const struct sse_source *source, struct vireo_error *err)
{
    drop_body(res);
    struct sse *s = sse_create(res->request->server, source, err);
    if (!s)
        return NULL;
    res->stream = sse_ref(s);
    response_header(res, "Content-Type", "text/event-stream; charset=utf-8");
    response_header(res, "Cache-Control", "no-cache");
    response_header(res, "X-Accel-Buffering", "no");
    return s;
}

// --- sending ---------------------------------------------------------------------------------------------------------

static void add_common(struct response *res)
{
    char ms[32];
    if (!res->status)
        res->status = 200;
    snprintf(ms, sizeof ms, "%lld", (long long)((clock_seconds() - res->request->started) * 1000));
    response_header(res, "x-request-id", res->request->id);
    response_header(res, "openai-processing-ms", ms);
    response_header(res, "x-vireo-version", VIREO_VERSION);
    response_header(res, "X-Content-Type-Options", "nosniff");
    response_header(res, "Referrer-Policy", "no-referrer");
    response_header(res, "Cross-Origin-Opener-Policy", "same-origin");
    response_header(res, "Cross-Origin-Resource-Policy", "same-origin");
    response_header(res, "Content-Security-Policy", POLICY);
    if (res->request->server->tls)
        response_header(res, "Strict-Transport-Security", "max-age=31536000");
    if (!has_header(res, "Cache-Control"))
        response_header(res, "Cache-Control", "no-store");
    if (res->request->close)
        response_header(res, "Connection", "close");
}

static void stream_free(void *context)
{
    struct sse *s = context;
    sse_detach(s);
    sse_unref(&s);
}

struct MHD_Response *response_build(struct response *res)
{
    struct MHD_Response *out;
    add_common(res);
    if (res->stream && strcmp(res->request->method, "HEAD") == 0)
        drop_body(res);
    if (res->stream) {
        out = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, sse_read, res->stream, stream_free);
        if (out) {
            sse_attach(res->stream, res->request->connection);
            res->stream = NULL; // stream_free has this reference now
        }
    } else if (res->fd >= 0) {
        out = MHD_create_response_from_fd_at_offset64(res->length, res->fd, res->offset);
        if (out)
            res->fd = -1; // closed with the response
    } else {
        out = MHD_create_response_from_buffer(res->size, (void *)(uintptr_t)(res->bytes ? res->bytes : ""),
                                              MHD_RESPMEM_PERSISTENT);
    }
    bool ok = out && !arena_failed(&res->request->arena);
    for (const struct response_item *i = res->headers; ok && i; i = i->next)
        ok = MHD_add_response_header(out, i->name, i->value) == MHD_YES;
    if (!ok && out) {
        MHD_destroy_response(out);
        out = NULL;
    }
    return out;
}

char *response_raw(struct response *res, size_t *length)
{
    res->request->close = true;
    add_common(res);
    size_t size = 256 + res->size, used;
    for (const struct response_item *i = res->headers; i; i = i->next)
        size += strlen(i->name) + strlen(i->value) + 4;
    char *out = vireo_alloc(size);
    if (!out)
        return NULL;
    used = (size_t)snprintf(out, size, "HTTP/1.1 %d %s\r\nContent-Length: %zu\r\n", res->status,
                            MHD_get_reason_phrase_for((unsigned)res->status), res->size);
    for (const struct response_item *i = res->headers; i; i = i->next)
        used += (size_t)snprintf(out + used, size - used, "%s: %s\r\n", i->name, i->value);
    used += (size_t)snprintf(out + used, size - used, "\r\n");
    memcpy(out + used, res->bytes, res->size);
    *length = used + res->size;
    return out;
}
