#include "server/http/server.h"

#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/log.h"
#include "server/http/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOG_MODULE "http"

enum { DISCARD_BYTES = 1 << 20 };

// --- handler pool ----------------------------------------------------------------------------------------------------

void http_submit(struct http_server *s, struct task *task)
{
    pthread_mutex_lock(&s->task_lock);
    task->next = NULL;
    *(s->last_task ? &s->last_task->next : &s->first_task) = task;
    s->last_task = task;
    pthread_cond_signal(&s->task_ready);
    pthread_mutex_unlock(&s->task_lock);
}

static void *handler_main(void *context)
{
    struct http_server *s = context;
    for (;;) {
        pthread_mutex_lock(&s->task_lock);
        while (!s->first_task && !s->tasks_closing)
            pthread_cond_wait(&s->task_ready, &s->task_lock);
        struct task *task = s->first_task;
        if (task && !(s->first_task = task->next))
            s->last_task = NULL;
        pthread_mutex_unlock(&s->task_lock);
        if (!task)
            return NULL;
        task->run(task->context);
    }
}

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
        result = MHD_queue_response(req->connection, (unsigned)req->response.status, response);
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
// ends. Over TLS the client only sees the end.
static enum MHD_Result cut_with_answer(struct request *req)
{
    response_reset(&req->response);
    response_error(&req->response, &req->error);
    size_t length;
    char *text = req->server->tls ? NULL : response_raw(&req->response, &length);
    if (text && send(req->conn->fd, text, length, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
        log_debug("an early answer could not be sent request=%s", req->id);
    if (text)
        shutdown(req->conn->fd, SHUT_WR);
    free(text);
    return MHD_NO;
}

// 0.9.75 cuts its read buffer into strings in place: the version follows right behind the target. Anything else there
// is the rest of a target with a NUL in it. (1.0 refuses NUL itself, and may lay its buffer out as it likes.)
static bool target_has_nul(const char *target)
{
    return strncmp(MHD_get_version(), "0.9.", 4) == 0 && strncmp(target + strlen(target) + 1, "HTTP/", 5) != 0;
}

static void *on_request_line(void *context, const char *target, struct MHD_Connection *connection)
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
    if (s->draining && strcmp(req->method, "GET") != 0 && strcmp(req->method, "HEAD") != 0)
        return vireo_fail(err, VIREO_UNAVAILABLE, "The server is shutting down.");
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
    bool ok = guard_check(req, version, &close, err);
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
    atomic_fetch_add(&req->server->in_flight, 1);
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
    if (req->state == REQUEST_DISCARD)
        return answer_error(req, &req->error);
    conn_phase_set(req->conn, CONN_WORK);
    req->state = REQUEST_WORK;
    req->task = (struct task){.run = run_request, .context = req};
    MHD_suspend_connection(req->connection);
    http_submit(req->server, &req->task);
    return MHD_YES;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *upload, size_t *upload_size,
                                  void **request)
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

static void count_request(struct request *req, double seconds)
{
    struct http_server *s = req->server;
    const struct route *route = req->match.route;
    const char *method = route ? route->method : "", *pattern = route ? route->pattern : "";
    pthread_mutex_lock(&s->count_lock);
    size_t i = 0;
    while (i < s->count_used && !(s->counts[i].pattern == pattern && s->counts[i].method == method &&
                                  s->counts[i].status == req->response.status))
        i++;
    if (i < HTTP_COUNTERS) {
        if (i == s->count_used) {
            s->counts[i] = (struct http_count){.method = method, .pattern = pattern, .status = req->response.status};
            s->count_used++;
        }
        s->counts[i].count++;
        s->counts[i].seconds += seconds;
    }
    pthread_mutex_unlock(&s->count_lock);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **request,
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
        count_request(req, seconds);
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

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http_server *s = context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
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

static size_t keep_escapes(void *context, struct MHD_Connection *connection, char *text)
{
    (void)context, (void)connection;
    return strlen(text);
}

static void on_log(void *context, const char *fmt, va_list args)
{
    char line[300];
    (void)context;
    if (!vireo_log_on(VIREO_DEBUG))
        return;
    vsnprintf(line, sizeof line, fmt, args);
    line[strcspn(line, "\r\n")] = 0;
    log_debug("%s", line);
}

// --- start and stop --------------------------------------------------------------------------------------------------

bool http_host_is_loopback(const char *host)
{
    struct in_addr in;
    if (strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0)
        return true;
    return inet_pton(AF_INET, host, &in) == 1 && (ntohl(in.s_addr) >> 24) == 127;
}

bool http_bind_allowed(const char *host, bool has_keys, bool has_tls, bool insecure_http, struct vireo_error *err)
{
    if (http_host_is_loopback(host))
        return true;
    if (!has_keys)
        return vireo_fail(err, VIREO_FORBIDDEN,
                          "listening on %s needs API keys: make one with 'vireo keys create' first", host);
    if (!has_tls && !insecure_http)
        return vireo_fail(err, VIREO_FORBIDDEN,
                          "listening on %s needs TLS (--tls-cert, --tls-key), or --insecure-http behind a proxy", host);
    return true;
}

static bool open_listener(struct http_server *s, struct vireo_error *err)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {0};
    socklen_t length;
    const char *host = strcmp(s->host, "localhost") == 0 ? "127.0.0.1" : s->host;
    if (inet_pton(AF_INET, host, &address.v4.sin_addr) == 1) {
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons((uint16_t)s->params.port);
        length = sizeof address.v4;
    } else if (inet_pton(AF_INET6, host, &address.v6.sin6_addr) == 1) {
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons((uint16_t)s->params.port);
        length = sizeof address.v6;
    } else {
        return vireo_fail(err, VIREO_INVALID, "'%s' is no numeric address to listen on", s->host);
    }
    int one = 1;
    s->listen_fd = socket(address.any.sa_family, SOCK_STREAM, 0);
    if (s->listen_fd >= 0) {
        fcntl(s->listen_fd, F_SETFD, FD_CLOEXEC);
        fcntl(s->listen_fd, F_SETFL, O_NONBLOCK);
        setsockopt(s->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    }
    if (s->listen_fd < 0 || bind(s->listen_fd, &address.any, length) != 0 || listen(s->listen_fd, 1024) != 0 ||
        getsockname(s->listen_fd, &address.any, &length) != 0)
        return vireo_fail_errno(err, "cannot listen on %s port %d", s->host, s->params.port);
    bool v6 = address.any.sa_family == AF_INET6;
    s->port = ntohs(v6 ? address.v6.sin6_port : address.v4.sin_port);
    snprintf(s->url, sizeof s->url, v6 ? "%s://[%s]:%d" : "%s://%s:%d", s->tls ? "https" : "http", s->host, s->port);
    return true;
}

static void set_defaults(struct http_params *p)
{
#define DEFAULT(field, value)                                                                                         \
    if (!p->field)                                                                                                    \
    p->field = (value)
    DEFAULT(host, "127.0.0.1");
    DEFAULT(io_threads, 2);
    DEFAULT(handler_threads, 8);
    DEFAULT(max_connections, 12000);
    DEFAULT(max_per_address, 256);
    DEFAULT(header_ms, 10000);
    DEFAULT(idle_ms, 60000);
    DEFAULT(body_window_ms, 30000);
    DEFAULT(body_bytes_per_s, 16000);
    DEFAULT(max_body_memory, 512ull << 20);
    DEFAULT(min_free_bytes, 1ull << 30);
    DEFAULT(keep_alive_ms, 15000);
#undef DEFAULT
    p->io_threads = VIREO_MAX(p->io_threads, 2); // a pool of one is none to libmicrohttpd
}

static bool start_daemon(struct http_server *s, struct vireo_error *err)
{
    const struct http_params *p = &s->params;
    struct file_bytes cert = {0}, key = {0};
    struct MHD_OptionItem options[8];
    int used = 0;
    unsigned flags = MHD_USE_AUTO_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    if (s->tls) {
        struct stat info;
        if (MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
            return vireo_fail(err, VIREO_UNSUPPORTED, "this libmicrohttpd has no TLS: use a proxy in front");
        if (stat(p->key_file, &info) == 0 && info.st_mode & 077)
            return vireo_fail(err, VIREO_FORBIDDEN, "the TLS key %s must not be readable by others (chmod 600)",
                              p->key_file);
        if (!file_read(p->cert_file, 1 << 20, &cert, err) || !file_read(p->key_file, 1 << 20, &key, err)) {
            file_bytes_free(&cert);
            return false;
        }
        flags |= MHD_USE_TLS;
        options[used++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, cert.data};
        options[used++] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, key.data};
        // Built up from nothing: TLS 1.2 and 1.3, AEAD ciphers, elliptic curves, no SHA-1.
        options[used++] = (struct MHD_OptionItem){
            MHD_OPTION_HTTPS_PRIORITIES, 0,
            (void *)(uintptr_t)"NONE:+VERS-TLS1.3:+VERS-TLS1.2:+AES-256-GCM:+AES-128-GCM:+CHACHA20-POLY1305:+AEAD:"
                               "+ECDHE-ECDSA:+ECDHE-RSA:+GROUP-X25519:+GROUP-SECP256R1:+SIGN-ALL:-SIGN-RSA-SHA1:"
                               "-SIGN-ECDSA-SHA1:-SIGN-DSA-SHA1:+COMP-NULL:+CTYPE-X509:%SERVER_PRECEDENCE"};
    }
    if (!s->bound_loopback)
        options[used++] =
            (struct MHD_OptionItem){MHD_OPTION_PER_IP_CONNECTION_LIMIT, p->max_per_address, NULL};
    options[used] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_LISTEN_SOCKET,
        s->listen_fd, MHD_OPTION_THREAD_POOL_SIZE, (unsigned)p->io_threads, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)p->max_connections, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)16384,
        MHD_OPTION_CONNECTION_MEMORY_INCREMENT, (size_t)1024, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)((p->idle_ms + 999) / 1000), MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_UNESCAPE_CALLBACK,
        keep_escapes, NULL, MHD_OPTION_URI_LOG_CALLBACK, on_request_line, s, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_ARRAY, options, MHD_OPTION_END);
    file_bytes_free(&cert);
    file_bytes_free(&key);
    if (!s->daemon)
        return vireo_fail(err, VIREO_INTERNAL, "libmicrohttpd could not start%s",
                          s->tls ? "; is the certificate good?" : "");
    s->listen_fd = -1; // closed by the daemon
    return true;
}

struct http_server *http_server_start(const struct http_params *params, struct vireo_error *err)
{
    struct http_server *s = vireo_calloc(1, sizeof *s);
    if (!s) {
        vireo_fail_memory(err, sizeof *s);
        return NULL;
    }
    s->params = *params;
    set_defaults(&s->params);
    s->listen_fd = -1;
    s->tls = params->cert_file != NULL;
    snprintf(s->host, sizeof s->host, "%s", s->params.host);
    snprintf(s->temp_folder, sizeof s->temp_folder, "%s", params->temp_folder);
    s->bound_loopback = http_host_is_loopback(s->host);
    pthread_mutex_init(&s->conn_lock, NULL);
    pthread_mutex_init(&s->task_lock, NULL);
    pthread_mutex_init(&s->count_lock, NULL);
    pthread_cond_init(&s->task_ready, NULL);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files); // best effort: fewer connections otherwise
    }
    bool ok = (s->handlers = vireo_calloc((size_t)s->params.handler_threads, sizeof *s->handlers)) != NULL ||
              vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
    ok = ok && open_listener(s, err);
    while (ok && s->handler_count < s->params.handler_threads) {
        ok = pthread_create(&s->handlers[s->handler_count], NULL, handler_main, s) == 0 ||
             vireo_fail(err, VIREO_INTERNAL, "cannot start a handler thread");
        s->handler_count += ok;
    }
    if (ok) {
        s->watcher_started = pthread_create(&s->watcher, NULL, watcher_main, s) == 0;
        ok = s->watcher_started || vireo_fail(err, VIREO_INTERNAL, "cannot start the watcher thread");
    }
    if (!ok || !start_daemon(s, err))
        http_server_stop(&s);
    return s;
}

const char *http_version(void)
{
    return VIREO_VERSION;
}

int http_server_port(const struct http_server *s)
{
    return s->port;
}

const char *http_server_url(const struct http_server *s)
{
    return s->url;
}

bool http_server_draining(const struct http_server *s)
{
    return s->draining;
}

static bool wait_until_quiet(struct http_server *s, int timeout_ms)
{
    int64_t end = now_ms() + timeout_ms;
    while (s->in_flight || s->streams) {
        if (now_ms() >= end)
            return false;
        struct timespec pause = {.tv_nsec = 20000000};
        nanosleep(&pause, NULL);
    }
    return true;
}

bool http_server_drain(struct http_server *s, int timeout_ms)
{
    if (!s->draining) {
        s->draining = true;
        int fd = MHD_quiesce_daemon(s->daemon);
        if (fd >= 0)
            close(fd);
    }
    return wait_until_quiet(s, timeout_ms);
}

static void abort_streams(struct http_server *s)
{
    for (;;) {
        struct sse *stream = NULL;
        pthread_mutex_lock(&s->conn_lock);
        for (struct conn *c = s->conns; c && !stream; c = c->next)
            if (c->stream && !sse_is_aborted(c->stream))
                stream = sse_ref(c->stream);
        pthread_mutex_unlock(&s->conn_lock);
        if (!stream)
            return;
        sse_abort(stream);
        sse_unref(&stream);
    }
}

void http_server_stop(struct http_server **sp)
{
    struct http_server *s = *sp;
    *sp = NULL;
    if (!s)
        return;
    if (s->daemon) {
        http_server_drain(s, 0);
        // Handlers finish what they have; a deferred request whose owner is gone can never be answered.
        bool quiet = false;
        for (int i = 0; i < 50 && !quiet; i++) {
            abort_streams(s); // also those that began meanwhile
            quiet = wait_until_quiet(s, 100);
        }
        if (!quiet) {
            pthread_mutex_lock(&s->conn_lock);
            bool stuck = s->streams > 0; // their producers would still call into this server
            for (struct conn *c = s->conns; c; c = c->next) {
                stuck = stuck || c->waiting;
                shutdown(c->fd, SHUT_RDWR);
            }
            pthread_mutex_unlock(&s->conn_lock);
            if (stuck) {
                log_error("requests are still unanswered at the server's end; leaving it as it is");
                return;
            }
        }
    }
    pthread_mutex_lock(&s->task_lock);
    s->tasks_closing = true;
    pthread_cond_broadcast(&s->task_ready);
    pthread_mutex_unlock(&s->task_lock);
    for (int i = 0; i < s->handler_count; i++)
        pthread_join(s->handlers[i], NULL);
    abort_streams(s);
    if (s->daemon)
        MHD_stop_daemon(s->daemon);
    if (s->watcher_started) {
        s->watcher_stop = true;
        pthread_join(s->watcher, NULL);
    }
    if (s->listen_fd >= 0)
        close(s->listen_fd);
    pthread_mutex_destroy(&s->conn_lock);
    pthread_mutex_destroy(&s->task_lock);
    pthread_mutex_destroy(&s->count_lock);
    pthread_cond_destroy(&s->task_ready);
    free(s->handlers);
    free(s);
}

// --- counters --------------------------------------------------------------------------------------------------------

size_t http_server_counts(struct http_server *s, struct http_count *rows, size_t capacity)
{
    pthread_mutex_lock(&s->count_lock);
    size_t count = s->count_used;
    memcpy(rows, s->counts, VIREO_MIN(count, capacity) * sizeof *rows);
    pthread_mutex_unlock(&s->count_lock);
    return count;
}

void http_server_gauges(struct http_server *s, struct http_gauges *out)
{
    *out = (struct http_gauges){.connections = s->connections, .streams = s->streams, .in_flight = s->in_flight};
}
