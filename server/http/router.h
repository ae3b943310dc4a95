// Which function answers which method and path. Pure: knows no socket, so that a fuzzer and the lint can drive it.
//
// A pattern is a path with named segments: "/v1/files/{id}/content". The raw path is split on '/' first and each
// segment decoded after, so that "%2F" inside an id stays inside it. A segment that decodes to "", ".", "..", holds
// NUL or control characters, or is no UTF-8 matches nothing and is an error of its own (400).
#ifndef VIREO_HTTP_ROUTER_H
#define VIREO_HTTP_ROUTER_H

#include "compute/base/arena.h"
#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct request;
struct response;

// What a key must be allowed to do. A route names exactly one; HTTP_PUBLIC needs no key at all.
enum http_scope {
    HTTP_PUBLIC = 0,
    HTTP_READ = 1,
    HTTP_INFER = 2,
    HTTP_TRAIN = 4, // also uploads: whatever changes the store without being an administrator's business
    HTTP_ADMIN = 8,
};

// What a route takes as body. A body of another kind is 415; HTTP_BODY_NONE ignores an empty body of any type and
// refuses others (400).
enum http_body {
    HTTP_BODY_NONE = 0,
    HTTP_BODY_JSON = 1, // parsed before the handler runs; empty = no body
    HTTP_BODY_FORM = 2, // multipart/form-data; file parts are spooled to temporary files and hashed on the way
    HTTP_BODY_RAW = 4,  // anything else, spooled as one part named "body"
};

// Answers a request on a thread of the handler pool; it may block for a while (disk, SQLite), not for a worker:
// see request_defer. false: *err is the answer.
typedef bool (*route_fn)(struct request *req, struct response *res, struct vireo_error *err);

struct route {
    const char *method;  // "GET" also answers HEAD
    const char *pattern; // see above
    enum http_scope scope;
    unsigned body;     // enum http_body, or-ed
    uint64_t max_body; // bytes; more is 413. 0: 1 MiB
    route_fn handle;
};

enum { ROUTER_SEGMENTS = 12, ROUTER_VALUES = 4 };
struct route_value {
    const char *name;  // as in the pattern, without braces; NUL-terminated copy in the arena
    const char *value; // decoded
};
struct route_match {
    const struct route *route; // NULL: see status
    int status;                // 200 found, 404, 405 (allow is filled), 400 (path malformed; err is set)
    char allow[64];            // "GET, HEAD, DELETE"
    struct route_value values[ROUTER_VALUES];
    size_t value_count;
};

struct router;
// Copies pointers to the routes, not the routes: they must live as long. Checks patterns; two routes with one method
// and the same pattern are VIREO_INTERNAL.
struct router *router_create(struct vireo_error *err);
bool router_add(struct router *r, const struct route *routes, size_t count, struct vireo_error *err);
void router_destroy(struct router **r);
size_t router_count(const struct router *r);
const struct route *router_at(const struct router *r, size_t index);

// `target` is the raw request target ("/v1/files/a%2Fb?x=1"; the query is ignored). Literal segments win over named
// ones. false only for status 400. Strings live in `arena`.
bool router_match(const struct router *r, const char *method, const char *target, struct arena *arena,
                  struct route_match *out, struct vireo_error *err);

// Decodes %XX (and '+' as space where `plus`) of text[0..length) into the arena. NULL + err: bad escape, NUL, no UTF-8.
char *url_decode(struct arena *arena, const char *text, size_t length, bool plus, struct vireo_error *err);
bool url_is_utf8(const char *text, size_t length);

struct url_pair {
    const char *name, *value; // decoded
    struct url_pair *next;
};
// Parses "a=1&b%5Bx%5D=2". false + err on a bad escape or more than 64 pairs.
bool url_parse_query(struct arena *arena, const char *query, struct url_pair **out, struct vireo_error *err);

#endif
