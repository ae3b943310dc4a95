// One connection and its exchanges: from the request line over the guards and the body to the answer, as the callbacks of
// libmicrohttpd. All of them run on its threads and must not block; handlers run in the pool (pool.c).
#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/log.h"
#include "server/http/internal.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LOG_MODULE "http"

enum { DISCARD_BYTES = 1 << 20 };

// --- requests --------------------------------------------------------------------------------------------------------

void request_resume(struct request *req)
{
    struct MHD_Connection *connection = req->connection;
    req->state = REQUEST_READY;
    MHD_resume_connection(connection); // req may be gone from here on
}

static void run_request(void *context)
{
    struct request *req = context;
    struct vireo_error err = {0};
    bool deferred = false;
    req->deferred = &deferred;
    bool ok = body_parse(req, &err) && req->match.route->handle(req, &req->response, &err);
    if (deferred)
        return;
    if (ok && arena_failed(&req->arena))
        ok = vireo_fail(&err, VIREO_NO_MEMORY, "out of memory while answering");
    if (!ok) {
        response_reset(&req->response);
        response_error(&req->response, &err);
    }
    request_resume(req);
}

static enum MHD_Result send_answer(struct request *req)
{
    conn_phase_set(req->conn, CONN_WORK);
    if (req->server->draining)
        req->close = true;
    struct sse *stream = req->response.stream ? sse_ref(req->response.stream) : NULL;
    struct MHD_Response *response = response_build(&req->response);
    enum MHD_Result result = MHD_NO;
    if (response && !vireo_fault("http.answer")) {
        if (stream) {
            pthread_mutex_lock(&req->server->conn_lock);
            req->conn->stream = sse_ref(stream);
            pthread_mutex_unlock(&req->server->conn_lock);
        }
        result = refusal_queue_answer(req->connection, (unsigned)req->response.status, response);
        req->state = REQUEST_SENT;
        if (stream && result == MHD_YES)
            sse_start(stream);
    }
    if (response)
        MHD_destroy_response(response);
    sse_unref(&stream);
    return result;
}

static enum MHD_Result answer_error(struct request *req, const struct vireo_error *err)
{
    response_reset(&req->response);
    response_error(&req->response, err);
    return send_answer(req);
}

// libmicrohttpd takes no response in the middle of a body: the answer is put on the wire by hand, then the connection
// ends.
static enum MHD_Result cut_with_answer(struct request *req)
{
    response_reset(&req->response);
    response_error(&req->response, &req->error);
    size_t length;
    char *text = response_raw(&req->response, &length);
    if (!text || !connection_write_last(req->conn, req->connection, text, length))
        log_debug("an early answer could not be sent request=%s", req->id);
    free(text);
    return MHD_NO;
}

// 0.9.75 cuts its read buffer into strings in place: the version follows right behind the target. Anything else there
// is the rest of a target with a NUL in it. (1.0 refuses NUL itself, and may lay its buffer out as it likes.)
static bool target_has_nul(const char *target)
{
    return strncmp(MHD_get_version(), "0.9.", 4) == 0 && strncmp(target + strlen(target) + 1, "HTTP/", 5) != 0;
}

void *exchange_request_line(void *context, const char *target, struct MHD_Connection *connection)
{
    struct http_server *s = context;
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct conn *conn = info ? info->socket_context : NULL;
    struct request *req = conn ? vireo_calloc(1, sizeof *req) : NULL;
    if (!req)
        return NULL;
    if (conn->phase == CONN_IDLE)
        conn_phase_set(conn, CONN_HEADER);
    arena_init(&req->arena, 4096);
    req->server = s;
    req->conn = conn;
    req->connection = connection;
    req->response.request = req;
    req->response.fd = -1;
    req->body.fd = -1;
    req->started = clock_seconds();
    req->has_nul = target_has_nul(target);
    random_id(req->id, sizeof req->id, "req_", 24);
    // "GET http://host/path": the form for proxies, which servers must understand.
    if (strncasecmp(target, "http://", 7) == 0 || strncasecmp(target, "https://", 8) == 0) {
        const char *path = strchr(strchr(target, ':') + 3, '/');
        target = path ? path : "/";
    }
    req->target = arena_copy_string(&req->arena, target);
    if (!req->target) {
        arena_finish(&req->arena);
        free(req);
        return NULL;
    }
    return req;
}

static bool is_closing(struct vireo_error *err)
{
    return vireo_fail(err, VIREO_UNAVAILABLE, "The server is shutting down.");
}

static bool route_request(struct request *req, struct vireo_error *err)
{
    struct http_server *s = req->server;
    if (!router_match(s->params.router, req->method, req->target, &req->arena, &req->match, err))
        return false;
    if (req->match.status == 404)
        return vireo_fail_kind(err, VIREO_NOT_FOUND, "not_found", NULL, "Unknown path: %s %.200s", req->method,
                               req->path);
    if (req->match.status == 405)
        return vireo_fail_kind(err, VIREO_INVALID, "method_not_allowed", NULL, "This path takes %s, not %.20s.",
                               req->match.allow, req->method);
    const char *query = strchr(req->target, '?');
    if (query && !url_parse_query(&req->arena, query + 1, &req->query, err))
        return false;
    bool reads = strcmp(req->method, "GET") == 0 || strcmp(req->method, "HEAD") == 0;
    if (s->closing || (s->draining && !reads))
        return is_closing(err);
    enum http_scope scope = req->match.route->scope;
    return !s->params.authorize || s->params.authorize(s->params.app, req, scope, &req->caller, err);
}

static bool begin_request(struct request *req, const char *method, const char *version)
{
    struct vireo_error *err = &req->error;
    req->started = clock_seconds();
    req->method = arena_copy_string(&req->arena, method);
    req->path = arena_copy_bytes(&req->arena, req->target, strcspn(req->target, "?#"));
    if (!req->method || !req->path)
        return vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
    bool close = false;
    bool ok = guard_check(req, method, version, &close, err);
    req->close = close;
    ok = ok && route_request(req, err);
    const char *expect = ok ? request_header(req, "Expect") : NULL;
    if (expect && strcasecmp(expect, "100-continue") != 0)
        ok = vireo_fail(err, VIREO_INVALID, "The only expectation supported is '100-continue'.");
    return ok && body_begin(req, request_header(req, "Content-Type"), guard_content_length(req), err);
}

// First call for a request: all headers are there, nothing of the body is.
static enum MHD_Result on_headers(struct request *req, const char *method, const char *version)
{
    atomic_fetch_add(&req->server->in_flight, 1); // before `closing` is looked at: see http_server_stop
    req->early = true;
    req->conn->body_bytes = 0;
    if (begin_request(req, method, version)) {
        uint64_t length = guard_content_length(req);
        req->state = REQUEST_BODY;
        conn_phase_set(req->conn, length ? CONN_BODY : CONN_WORK);
        return MHD_YES;
    }
    // A small body is read and dropped, so that the connection can go on and the client surely sees the answer. Framing
    // that cannot be trusted, and bodies that are large or wait for our word, end the connection.
    uint64_t length = req->close ? 0 : guard_content_length(req);
    bool wait = !req->close && request_header(req, "Expect");
    if (req->close || wait || (length != UINT64_MAX && length > DISCARD_BYTES)) {
        req->close = true;
        return answer_error(req, &req->error);
    }
    req->state = REQUEST_DISCARD;
    conn_phase_set(req->conn, length ? CONN_BODY : CONN_WORK);
    return MHD_YES;
}

static enum MHD_Result on_body(struct request *req, const char *bytes, size_t count)
{
    atomic_fetch_add(&req->conn->body_bytes, count);
    if (req->state == REQUEST_BODY && !body_add(req, bytes, count, &req->error))
        req->state = REQUEST_DISCARD;
    if (req->state == REQUEST_DISCARD && (req->discarded += count) > DISCARD_BYTES)
        return cut_with_answer(req);
    return MHD_YES;
}

static enum MHD_Result on_complete(struct request *req)
{
    if (req->state == REQUEST_BODY && !body_end(req, &req->error))
        req->state = REQUEST_DISCARD;
    if (req->state == REQUEST_BODY && req->server->closing) { // no handler may be left
        is_closing(&req->error);
        req->state = REQUEST_DISCARD;
    }
    if (req->state == REQUEST_DISCARD)
        return answer_error(req, &req->error);
    conn_phase_set(req->conn, CONN_WORK);
    req->state = REQUEST_WORK;
    req->task = (struct task){.run = run_request, .context = req};
    MHD_suspend_connection(req->connection);
    http_submit(req->server, &req->task);
    return MHD_YES;
}

enum MHD_Result exchange_request(void *context, struct MHD_Connection *connection, const char *url, const char *method,
                                 const char *version, const char *upload, size_t *upload_size, void **request)
{
    struct request *req = *request;
    (void)context, (void)connection, (void)url;
    if (!req)
        return MHD_NO;
    switch (req->state) {
    case REQUEST_NEW:
        return on_headers(req, method, version);
    case REQUEST_BODY:
    case REQUEST_DISCARD:
        if (*upload_size) {
            size_t count = *upload_size;
            *upload_size = 0;
            return on_body(req, upload, count);
        }
        return on_complete(req);
    case REQUEST_READY:
        return send_answer(req);
    case REQUEST_WORK:
    case REQUEST_SENT:
        break;
    }
    return MHD_YES;
}

void exchange_completed(void *context, struct MHD_Connection *connection, void **request,
                        enum MHD_RequestTerminationCode why)
{
    struct request *req = *request;
    (void)context, (void)connection, (void)why;
    if (!req)
        return;
    *request = NULL;
    struct http_server *s = req->server;
    pthread_mutex_lock(&s->conn_lock);
    struct sse *stream = req->conn->stream;
    req->conn->stream = NULL;
    pthread_mutex_unlock(&s->conn_lock);
    sse_unref(&stream);
    if (req->early) {
        double seconds = clock_seconds() - req->started;
        if (!req->response.status)
            req->response.status = 499; // cut before there was an answer
        if (req->conn->refused)
            req->response.status = req->conn->refused; // counted when it was
        else
            http_count_answer(s, req->match.route, req->response.status, seconds);
        if (s->params.finished)
            s->params.finished(s->params.app, req, req->response.status, seconds);
        atomic_fetch_sub(&s->in_flight, 1);
    }
    conn_phase_set(req->conn, CONN_IDLE);
    response_free(&req->response);
    body_free(req);
    arena_finish(&req->arena);
    free(req);
}

// --- connections -----------------------------------------------------------------------------------------------------

static void conn_describe(struct conn *c, const struct sockaddr *address)
{
    if (address && address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const void *)address;
        inet_ntop(AF_INET, &in->sin_addr, c->address, sizeof c->address);
        c->loopback = (ntohl(in->sin_addr.s_addr) >> 24) == 127;
    } else if (address && address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in = (const void *)address;
        inet_ntop(AF_INET6, &in->sin6_addr, c->address, sizeof c->address);
        c->loopback = IN6_IS_ADDR_LOOPBACK(&in->sin6_addr);
    }
}

void exchange_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                         enum MHD_ConnectionNotificationCode code)
{
    struct http_server *s = context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        epoll_thread_is_worker();
        const union MHD_ConnectionInfo *fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        const union MHD_ConnectionInfo *peer = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
        struct conn *c = vireo_calloc(1, sizeof *c);
        *socket_context = c;
        if (!c)
            return; // its requests are refused
        c->server = s;
        c->fd = fd->connect_fd;
        conn_describe(c, peer ? peer->client_addr : NULL);
        conn_phase_set(c, CONN_HEADER);
        pthread_mutex_lock(&s->conn_lock);
        c->next = s->conns;
        if (c->next)
            c->next->previous = c;
        s->conns = c;
        pthread_mutex_unlock(&s->conn_lock);
        atomic_fetch_add(&s->connections, 1);
        return;
    }
    struct conn *c = *socket_context;
    if (!c)
        return;
    *socket_context = NULL;
    pthread_mutex_lock(&s->conn_lock);
    *(c->previous ? &c->previous->next : &s->conns) = c->next;
    if (c->next)
        c->next->previous = c->previous;
    pthread_mutex_unlock(&s->conn_lock);
    sse_unref(&c->stream);
    free(c);
    atomic_fetch_sub(&s->connections, 1);
}
