// What a handler answers. Filled by the handler, sent by the server, which adds x-request-id, openai-processing-ms,
// x-vireo-version and the security headers. Strings and bytes are copied unless the name says otherwise.
#ifndef VIREO_HTTP_RESPONSE_H
#define VIREO_HTTP_RESPONSE_H

#include "compute/base/error.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct request;
struct response;
struct sse;
struct sse_source;

void response_status(struct response *res, int status); // 200 unless set
// Replaces a header of that name.
void response_header(struct response *res, const char *name, const char *value);

// Takes `value` (also on failure; NULL is an allocation failure).
bool response_json(struct response *res, json_t *value, struct vireo_error *err);
bool response_text(struct response *res, const char *type, const char *text, struct vireo_error *err);
bool response_bytes(struct response *res, const char *type, const void *bytes, size_t count, struct vireo_error *err);
// `bytes` must live as long as the process (embedded pages).
bool response_static(struct response *res, const char *type, const void *bytes, size_t count, const char *etag,
                     struct vireo_error *err);

struct response_file {
    const char *path;
    const char *type;     // "application/octet-stream"
    const char *etag;     // without quotes; NULL: none. Answers If-None-Match and If-Range
    const char *filename; // not NULL: Content-Disposition: attachment
    bool immutable;       // may be cached for ever (content-addressed)
};
// Answers with the file's bytes; Range (one range), HEAD, 206, 304 and 416 are the server's business.
bool response_file(struct response *res, const struct response_file *file, struct vireo_error *err);

// An event stream; see sse.h. `source` may be NULL (pushed by sse_send), is copied. The returned reference is the
// caller's: give it back with sse_unref. NULL + err without memory.
struct sse *response_stream(struct response *res, const struct sse_source *source, struct vireo_error *err);

// Codes to HTTP. The one place that knows: status, type and default code of api.md 1.3.
int http_status(const struct vireo_error *err);
// {"error":{"message","type","param","code"}}; the caller owns it; NULL without memory.
json_t *http_error_json(const struct vireo_error *err);
// Inverse, for the client: fills err from a status and a body (which may be anything).
void http_error_parse(int status, const char *body, size_t length, struct vireo_error *err);

#endif
