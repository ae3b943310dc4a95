// A request as its handler sees it: complete (body read and parsed, caller authorised), with an arena that lives until
// the answer has left. All strings handed out live that long. Only the thread that runs the handler, or after
// request_defer the one owner of the deferred request, may call these functions.
#ifndef VIREO_HTTP_REQUEST_H
#define VIREO_HTTP_REQUEST_H

#include "server/http/router.h"

#include <jansson.h>

struct request;
struct response;

void *request_app(const struct request *req);                // http_params.app
struct arena *request_arena(struct request *req);            // dies with the request, after its answer
const char *request_id(const struct request *req);           // "req_…", also in the x-request-id header
const char *request_method(const struct request *req);       // "HEAD" is passed on as such
const char *request_path(const struct request *req);         // raw path without query
const struct route *request_route(const struct request *req); // the one that matched
const char *request_address(const struct request *req);      // the peer's numeric address
bool request_from_loopback(const struct request *req);       // the peer is on this machine
double request_started(const struct request *req);           // clock_seconds() when the header was complete
struct response *request_response(struct request *req);      // for owners of deferred requests

// Value of {name} in the pattern, decoded; "" where the pattern has no such name (our bug, found by the tests).
const char *request_path_value(const struct request *req, const char *name);
// First value of a query parameter, decoded ("" for "?x" and "?x="); NULL: absent.
const char *request_query(const struct request *req, const char *name);
// All pairs in order, for metadata[k]=v and the like.
const struct url_pair *request_query_pairs(const struct request *req);
// Integer query parameter within [min, max]; absent: *out untouched. Error: param = name.
bool request_query_integer(const struct request *req, const char *name, int64_t min, int64_t max, int64_t *out,
                           struct vireo_error *err);
// Header by name without regard to case; NULL: absent.
const char *request_header(const struct request *req, const char *name);
const char *request_cookie(const struct request *req, const char *name); // NULL: absent

// The JSON body, borrowed; NULL: the request had none. May be any JSON value.
json_t *request_json(struct request *req);
// The JSON body as an object: an absent body is an empty object, anything else than an object an error.
bool request_json_object(struct request *req, json_t **out, struct vireo_error *err);
// SHA-256 of the body's bytes as hexadecimal text ("" without body); for idempotency.
const char *request_body_sha256(struct request *req);

// One part of a form, or the raw body (name "body").
struct http_part {
    const char *name;
    const char *filename;     // base name without control characters; NULL: none was given
    const char *content_type; // "" when absent
    const char *value;        // fields: the text, NUL-terminated; files: NULL
    const char *path;         // files: temporary file (closed, not yet synced); fields: NULL
    uint64_t bytes;
    char sha256[65]; // files only
    struct http_part *next;
};
const struct http_part *request_parts(const struct request *req);                        // in order of arrival
const struct http_part *request_part(const struct request *req, const char *name);       // first of that name; NULL
// The caller becomes owner of a file part's temporary file (it will not be removed with the request); returns its path,
// NULL for fields. part->path is NULL afterwards.
const char *request_take_part(struct request *req, const struct http_part *part);

// Lists fields of the body that the handler did not know: header x-vireo-ignored, or 400 unknown_parameter where
// body.vireo.strict is true. `known` ends in NULL.
bool request_ignore_unknown(struct request *req, const char *const *known, struct vireo_error *err);

// Who calls, as the authorize hook left it.
struct http_caller {
    char key_id[40]; // "" without key
    unsigned scopes; // enum http_scope, or-ed
};
// Lives as long as the request; scopes 0 on public routes.
const struct http_caller *request_caller(const struct request *req);

// --- answering later -------------------------------------------------------------------------------------------------
// The handler calls request_defer, hands `req` to whoever will answer, and returns true. From then on `req` and its
// response belong to that owner until it calls request_answer, exactly once, from any thread; after that both are gone.
// err != NULL: the answer is that error; NULL: what the response holds (json, bytes, file or stream).
void request_defer(struct request *req);
void request_answer(struct request *req, const struct vireo_error *err);
// When the client goes away before the answer, gone(context, id) is called once within a second, on a thread of the
// server that holds no lock. `id` is the owner's own number, so that a call that crosses the answer finds nothing and
// does nothing: `context` must outlive the server. The owner still calls request_answer. May be set until deferred.
void request_on_gone(struct request *req, void (*gone)(void *context, uint64_t id), void *context, uint64_t id);

#endif
