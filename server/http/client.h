// HTTP client (libcurl) for the command line. One client a thread; it keeps its connection.
//
// An answer with an error status is a failure: err holds the server's message, param and code (http_error_parse).
#ifndef VIREO_HTTP_CLIENT_H
#define VIREO_HTTP_CLIENT_H

#include "compute/base/error.h"

#include <jansson.h>
#include <stddef.h>

struct http_client;
struct http_client_params {
    const char *url;         // "http://127.0.0.1:8000"; NULL: VIREO_URL, else that
    const char *key;         // NULL: VIREO_KEY, else none
    const char *socket_path; // Unix socket instead of TCP; NULL: none
    long timeout_s;          // whole answer; 0: 600. Streams have no limit of their own
};
// Connects with the first call. NULL + err without memory.
struct http_client *http_client_create(const struct http_client_params *params, struct vireo_error *err);
void http_client_destroy(struct http_client **c);

// Sends `body` (borrowed, may be NULL) as JSON; *out (may be NULL) is the JSON answer, owned by the caller.
// path begins with '/': "/v1/files".
bool http_client_json(struct http_client *c, const char *method, const char *path, const json_t *body, json_t **out,
                      struct vireo_error *err);

struct http_client_part {
    const char *name;
    const char *value;    // a field; or
    const char *file;     // path of a file to send; or
    const void *bytes;    // bytes to send as a file, with
    size_t count;
    const char *filename; // name told to the server; NULL: base name of `file`
};
// POSTs the parts as multipart/form-data; files are read while they are sent. *out as in http_client_json.
bool http_client_form(struct http_client *c, const char *path, const struct http_client_part *parts, size_t count,
                      json_t **out, struct vireo_error *err);

// Any answer's bytes; free with file_bytes_free-compatible free(*out).
bool http_client_get(struct http_client *c, const char *path, char **out, size_t *count, struct vireo_error *err);
// GET into a file (written atomically).
bool http_client_download(struct http_client *c, const char *path, const char *file, struct vireo_error *err);

// Reads an event stream (POST with body, or GET without). `on_event` gets event name ("" when none), data (without the
// final line break) and last id ("" when none); false stops reading, which is a success.
bool http_client_stream(struct http_client *c, const char *method, const char *path, const json_t *body,
                        bool (*on_event)(void *context, const char *event, const char *data, const char *id),
                        void *context, struct vireo_error *err);

// "a b/c" -> "a%20b%2Fc" into buffer; returns it. For ids in paths.
const char *http_escape(char *buffer, size_t size, const char *text);

#endif
