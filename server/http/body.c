// Bodies while they arrive: JSON into memory, form parts and raw bodies into temporary files that are hashed on the
// way.
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "server/http/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { FIELD_BYTES = 65536, JSON_BYTES = 64 << 20 };

static bool too_large(struct request *req, struct vireo_error *err)
{
    return vireo_fail_kind(err, VIREO_TOO_LARGE, "request_too_large", NULL,
                           "The body is larger than the %llu bytes this route takes.",
                           (unsigned long long)req->body.limit);
}

static bool out_of_memory(struct vireo_error *err)
{
    return vireo_fail(err, VIREO_NO_MEMORY, "out of memory while reading a body");
}

// --- parts -----------------------------------------------------------------------------------------------------------

// Base name of what the client calls the file, without control characters; never used as a path.
static const char *clean_filename(struct request *req, const char *name)
{
    for (const char *c = name; *c; c++)
        if (*c == '/' || *c == '\\')
            name = c + 1;
    size_t length = strlen(name);
    while (length > 255 || (length && !url_is_utf8(name, length)))
        length--;
    char *out = arena_take(&req->arena, length + 1);
    size_t used = 0;
    for (size_t i = 0; out && i < length; i++)
        if ((unsigned char)name[i] >= 0x20 && name[i] != 0x7f)
            out[used++] = name[i];
    if (out && !used)
        return arena_copy_string(&req->arena, "file");
    return out;
}

static bool open_part_file(struct request *req, struct http_part *part, struct vireo_error *err)
{
    struct body *b = &req->body;
    char *path = arena_format(&req->arena, "%s/upload-XXXXXX", req->server->temp_folder);
    if (!path)
        return out_of_memory(err);
    b->fd = mkstemp(path);
    if (b->fd < 0)
        return vireo_fail_errno(err, "cannot make a temporary file for an upload");
    fcntl(b->fd, F_SETFD, FD_CLOEXEC);
    part->path = path;
    b->hash = hash_create();
    return b->hash || out_of_memory(err);
}

static bool part_begin(void *context, const char *name, const char *filename, const char *type,
                       struct vireo_error *err)
{
    struct request *req = context;
    struct body *b = &req->body;
    struct http_part *part = arena_new(&req->arena, struct http_part);
    if (!part)
        return out_of_memory(err);
    part->name = arena_copy_string(&req->arena, name);
    part->content_type = arena_copy_string(&req->arena, type);
    part->filename = filename ? clean_filename(req, filename) : NULL;
    if (arena_failed(&req->arena))
        return out_of_memory(err);
    *b->parts_tail = part;
    b->parts_tail = &part->next;
    b->part = part;
    b->value_size = 0;
    // Parts of these names are contents even where a client gives no file name.
    bool is_file = filename || strcmp(name, "file") == 0 || strcmp(name, "data") == 0 || strcmp(name, "body") == 0;
    return !is_file || open_part_file(req, part, err);
}

static bool write_all(int fd, const char *bytes, size_t count, struct vireo_error *err)
{
    while (count) {
        errno = EIO;
        ssize_t wrote = vireo_fault("blob.write") ? -1 : write(fd, bytes, count);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return vireo_fail_errno(err, "cannot write an upload");
        bytes += wrote;
        count -= (size_t)wrote;
    }
    return true;
}

static bool part_data(void *context, const void *bytes, size_t count, struct vireo_error *err)
{
    struct request *req = context;
    struct body *b = &req->body;
    b->part->bytes += count;
    if (b->fd >= 0)
        return (hash_add(b->hash, bytes, count) || out_of_memory(err)) && write_all(b->fd, bytes, count, err);
    b->field_bytes += count;
    if (b->value_size + count > FIELD_BYTES || b->field_bytes > 16 * FIELD_BYTES)
        return vireo_fail_kind(err, VIREO_TOO_LARGE, "request_too_large", b->part->name,
                               "The form field '%.64s' is longer than %d bytes.", b->part->name, FIELD_BYTES);
    if (b->value_size + count > b->value_capacity) {
        size_t capacity = (b->value_size + count) * 2;
        char *grown = vireo_realloc(b->value, capacity);
        if (!grown)
            return out_of_memory(err);
        b->value = grown;
        b->value_capacity = capacity;
    }
    memcpy(b->value + b->value_size, bytes, count);
    b->value_size += count;
    return true;
}

static bool close_part_file(struct body *b, struct http_part *part, struct vireo_error *err)
{
    uint8_t digest[HASH_BYTES];
    bool ok = hash_end(b->hash, digest) || out_of_memory(err);
    hash_destroy(&b->hash);
    if (close(b->fd) != 0 && ok)
        ok = vireo_fail_errno(err, "cannot close an upload");
    b->fd = -1;
    if (ok)
        hash_text(digest, part->sha256);
    return ok;
}

static bool part_end(void *context, struct vireo_error *err)
{
    struct request *req = context;
    struct body *b = &req->body;
    struct http_part *part = b->part;
    b->part = NULL;
    if (b->fd >= 0)
        return close_part_file(b, part, err);
    if (memchr(b->value, 0, b->value_size) || !url_is_utf8(b->value, b->value_size))
        return vireo_fail_param(err, part->name, "The form field '%.64s' is not UTF-8 text.", part->name);
    part->value = arena_copy_bytes(&req->arena, b->value ? b->value : "", b->value_size);
    return part->value || out_of_memory(err);
}

// --- the body --------------------------------------------------------------------------------------------------------

static bool has_type(const char *content_type, const char *wanted)
{
    size_t length = strlen(wanted);
    return strncasecmp(content_type, wanted, length) == 0 && strchr("; \t", content_type[length]);
}

static bool wrong_type(struct vireo_error *err, unsigned takes, const char *type)
{
    const char *wanted = takes & HTTP_BODY_JSON && takes & HTTP_BODY_FORM ? "application/json or multipart/form-data"
                         : takes & HTTP_BODY_JSON                         ? "application/json"
                                                                          : "multipart/form-data";
    return vireo_fail_kind(err, VIREO_INVALID, "unsupported_media_type", NULL,
                           "The body must be %s; Content-Type is '%.60s'.", wanted, type);
}

static bool disk_has_room(struct request *req, uint64_t wanted, struct vireo_error *err)
{
    struct statvfs info;
    if (statvfs(req->server->temp_folder, &info) != 0)
        return vireo_fail_errno(err, "cannot ask for free disk space");
    uint64_t available = (uint64_t)info.f_bavail * info.f_frsize;
    if (available < wanted || available - wanted < req->server->params.min_free_bytes)
        return vireo_fail_kind(err, VIREO_NO_SPACE, "insufficient_storage", NULL,
                               "The server has too little free disk space for this upload (%llu MiB free).",
                               (unsigned long long)(available >> 20));
    return true;
}

bool body_begin(struct request *req, const char *type, uint64_t content_length, struct vireo_error *err)
{
    struct body *b = &req->body;
    const struct route *route = req->match.route;
    b->fd = -1;
    b->parts_tail = &b->parts;
    b->limit = route->max_body ? route->max_body : 1 << 20;
    b->kind = HTTP_BODY_NONE;
    if (content_length != UINT64_MAX && content_length > b->limit)
        return too_large(req, err);
    if (content_length == 0)
        return true;
    if (!type)
        type = "";
    if (route->body == HTTP_BODY_NONE) {
        b->limit = 0; // a chunked body may still turn out to be empty
        if (content_length != UINT64_MAX)
            return vireo_fail(err, VIREO_INVALID, "This route takes no body.");
        return true;
    }
    bool is_form = has_type(type, "multipart/form-data");
    bool is_json = has_type(type, "application/json");
    if (is_form && route->body & HTTP_BODY_FORM)
        b->kind = HTTP_BODY_FORM;
    else if (!is_form && route->body & HTTP_BODY_JSON && (is_json || (!type[0] && !(route->body & HTTP_BODY_RAW))))
        b->kind = HTTP_BODY_JSON;
    else if (!is_form && !is_json && route->body & HTTP_BODY_RAW)
        b->kind = HTTP_BODY_RAW;
    else
        return wrong_type(err, route->body, type);
    if (b->kind == HTTP_BODY_JSON) {
        b->limit = b->limit < JSON_BYTES ? b->limit : JSON_BYTES;
        if (content_length != UINT64_MAX && content_length > b->limit)
            return too_large(req, err);
        b->hash = hash_create();
        return b->hash || out_of_memory(err);
    }
    if (!disk_has_room(req, content_length == UINT64_MAX ? 0 : content_length, err))
        return false;
    if (b->kind == HTTP_BODY_RAW)
        return part_begin(req, "body", NULL, type, err);
    b->form = vireo_calloc(1, sizeof *b->form);
    struct form_sink sink = {.begin = part_begin, .data = part_data, .end = part_end, .context = req};
    return (b->form || out_of_memory(err)) && form_init(b->form, type, &sink, err);
}

static bool add_json(struct request *req, const void *bytes, size_t count, struct vireo_error *err)
{
    struct body *b = &req->body;
    if (b->size + count + 1 > b->capacity) {
        size_t capacity = (b->size + count + 1) * 2;
        capacity = capacity < 4096 ? 4096 : capacity;
        // The sum over all connections is bounded, or many large bodies at once would take the machine down.
        if (atomic_fetch_add(&req->server->body_memory, capacity - b->capacity) + (capacity - b->capacity) >
            req->server->params.max_body_memory) {
            atomic_fetch_sub(&req->server->body_memory, capacity - b->capacity);
            return vireo_fail_kind(err, VIREO_UNAVAILABLE, "overloaded", NULL,
                                   "The server is reading too many large requests; try again.");
        }
        char *grown = vireo_realloc(b->bytes, capacity);
        if (!grown) {
            atomic_fetch_sub(&req->server->body_memory, capacity - b->capacity);
            return out_of_memory(err);
        }
        b->bytes = grown;
        b->capacity = capacity;
    }
    memcpy(b->bytes + b->size, bytes, count);
    b->size += count;
    return hash_add(b->hash, bytes, count) || out_of_memory(err);
}

bool body_add(struct request *req, const void *bytes, size_t count, struct vireo_error *err)
{
    struct body *b = &req->body;
    b->received += count;
    if (b->received > b->limit)
        return b->limit ? too_large(req, err) : vireo_fail(err, VIREO_INVALID, "This route takes no body.");
    switch (b->kind) {
    case HTTP_BODY_JSON:
        return add_json(req, bytes, count, err);
    case HTTP_BODY_FORM:
        return form_feed(b->form, bytes, count, err);
    case HTTP_BODY_RAW:
        return part_data(req, bytes, count, err);
    default:
        return true;
    }
}

bool body_end(struct request *req, struct vireo_error *err)
{
    struct body *b = &req->body;
    uint8_t digest[HASH_BYTES];
    switch (b->kind) {
    case HTTP_BODY_JSON:
        if (!hash_end(b->hash, digest))
            return out_of_memory(err);
        hash_text(digest, b->sha256);
        return true;
    case HTTP_BODY_FORM:
        return form_finish(b->form, err);
    case HTTP_BODY_RAW:
        return part_end(req, err);
    default:
        return true;
    }
}

bool body_parse(struct request *req, struct vireo_error *err)
{
    struct body *b = &req->body;
    if (b->kind != HTTP_BODY_JSON)
        return true;
    bool blank = true;
    for (size_t i = 0; i < b->size && blank; i++)
        blank = strchr(" \t\r\n", b->bytes[i]) && b->bytes[i];
    if (!blank && !(b->json = vireo_json_parse(b->bytes, b->size, err)))
        return false;
    free(b->bytes); // large with images; the tree has it all
    b->bytes = NULL;
    atomic_fetch_sub(&req->server->body_memory, b->capacity);
    b->capacity = b->size = 0;
    return true;
}

void body_free(struct request *req)
{
    struct body *b = &req->body;
    if (b->fd >= 0 && b->parts_tail)
        close(b->fd);
    for (struct http_part *p = b->parts; p; p = p->next)
        if (p->path)
            unlink(p->path);
    hash_destroy(&b->hash);
    free(b->form);
    free(b->value);
    free(b->bytes);
    atomic_fetch_sub(&req->server->body_memory, b->capacity);
    json_decref(b->json);
    *b = (struct body){.fd = -1};
}
