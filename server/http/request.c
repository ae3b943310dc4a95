#include "server/http/request.h"

#include "server/http/internal.h"

#include "compute/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void *request_app(const struct request *req)
{
    return req->server->params.app;
}

struct arena *request_arena(struct request *req)
{
    return &req->arena;
}

const char *request_id(const struct request *req)
{
    return req->id;
}

const char *request_method(const struct request *req)
{
    return req->method;
}

const char *request_path(const struct request *req)
{
    return req->path;
}

const struct route *request_route(const struct request *req)
{
    return req->match.route;
}

const char *request_address(const struct request *req)
{
    return req->conn->address;
}

bool request_from_loopback(const struct request *req)
{
    return req->conn->loopback;
}

double request_started(const struct request *req)
{
    return req->started;
}

struct response *request_response(struct request *req)
{
    return &req->response;
}

const char *request_path_value(const struct request *req, const char *name)
{
    for (size_t i = 0; i < req->match.value_count; i++)
        if (strcmp(req->match.values[i].name, name) == 0)
            return req->match.values[i].value;
    return "";
}

const char *request_query(const struct request *req, const char *name)
{
    for (const struct url_pair *p = req->query; p; p = p->next)
        if (strcmp(p->name, name) == 0)
            return p->value;
    return NULL;
}

const struct url_pair *request_query_pairs(const struct request *req)
{
    return req->query;
}

bool request_query_integer(const struct request *req, const char *name, int64_t min, int64_t max, int64_t *out,
                           struct vireo_error *err)
{
    const char *text = request_query(req, name);
    if (!text)
        return true;
    char *end;
    long long value = strtoll(text, &end, 10);
    bool digits = text[0] && strspn(text, "-0123456789") == strlen(text) && strlen(text) <= 18;
    if (!digits || *end || value < min || value > max)
        return vireo_fail_param(err, name, "Invalid value for '%s': expected an integer from %lld to %lld, got "
                                "'%.40s'.",
                                name, (long long)min, (long long)max, text);
    *out = value;
    return true;
}

const char *request_header(const struct request *req, const char *name)
{
    return MHD_lookup_connection_value(req->connection, MHD_HEADER_KIND, name);
}

const char *request_cookie(const struct request *req, const char *name)
{
    return MHD_lookup_connection_value(req->connection, MHD_COOKIE_KIND, name);
}

json_t *request_json(struct request *req)
{
    return req->body.json;
}

bool request_json_object(struct request *req, json_t **out, struct vireo_error *err)
{
    if (!req->body.json && !(req->body.json = json_object()))
        return vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
    if (!json_is_object(req->body.json))
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_type", NULL,
                               "The body must be a JSON object, not of type %s.", json_type_name(req->body.json));
    *out = req->body.json;
    return true;
}

const char *request_body_sha256(struct request *req)
{
    return req->body.sha256;
}

const struct http_part *request_parts(const struct request *req)
{
    return req->body.parts;
}

const struct http_part *request_part(const struct request *req, const char *name)
{
    for (const struct http_part *p = req->body.parts; p; p = p->next)
        if (strcmp(p->name, name) == 0)
            return p;
    return NULL;
}

const char *request_take_part(struct request *req, const struct http_part *part)
{
    const char *path = part->path;
    for (struct http_part *p = req->body.parts; p; p = p->next)
        if (p == part)
            p->path = NULL;
    return path;
}

bool request_ignore_unknown(struct request *req, const char *const *known, struct vireo_error *err)
{
    json_t *body = req->body.json;
    const char *key;
    json_t *value;
    char list[512] = "";
    size_t used = 0;
    if (!json_is_object(body))
        return true;
    bool strict = json_is_true(json_object_get(json_object_get(body, "vireo"), "strict"));
    json_object_foreach(body, key, value) {
        bool is_known = false;
        for (const char *const *k = known; *k && !is_known; k++)
            is_known = strcmp(*k, key) == 0;
        if (is_known)
            continue;
        if (strict)
            return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", key, "Unknown parameter: '%.60s'.", key);
        // Only what a header may carry.
        bool plain = key[0] && strlen(key) < 64;
        for (const char *c = key; *c && plain; c++)
            plain = *c > 0x20 && *c < 0x7f && *c != ',';
        if (plain && used + strlen(key) + 2 < sizeof list)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used ? "," : "", key);
    }
    if (used)
        response_header(&req->response, "x-vireo-ignored", list);
    return true;
}

const struct http_caller *request_caller(const struct request *req)
{
    return &req->caller;
}

void request_defer(struct request *req)
{
    *req->deferred = true;
    pthread_mutex_lock(&req->server->conn_lock);
    req->conn->waiting = req;
    pthread_mutex_unlock(&req->server->conn_lock);
}

void request_on_gone(struct request *req, void (*gone)(void *context, uint64_t id), void *context, uint64_t id)
{
    pthread_mutex_lock(&req->server->conn_lock);
    req->gone = gone;
    req->gone_context = context;
    req->gone_id = id;
    pthread_mutex_unlock(&req->server->conn_lock);
}

void request_answer(struct request *req, const struct vireo_error *err)
{
    pthread_mutex_lock(&req->server->conn_lock);
    req->conn->waiting = NULL;
    pthread_mutex_unlock(&req->server->conn_lock);
    if (err) {
        response_reset(&req->response);
        response_error(&req->response, err);
    }
    request_resume(req);
}
