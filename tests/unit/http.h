// What the tests of the HTTP server share (http.c, http_streams.c): a server in this process on 127.0.0.1 with routes
// of its own, asked by raw sockets.
#ifndef VIREO_TESTS_UNIT_HTTP_H
#define VIREO_TESTS_UNIT_HTTP_H

#include "compute/base/clock.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "server/http/server.h"
#include "tests/check.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <unistd.h>

static struct vireo_error err;
static char folder[64];
static struct router *router;
static struct http_server *server;
static struct sse *open_stream;
static struct request *_Atomic held;
static _Atomic int gone_count, released_count, fills;
static _Atomic uint64_t gone_id;

// --- the routes of the test ------------------------------------------------------------------------------------------

static inline bool echo(struct request *req, struct response *res, struct vireo_error *e)
{
    json_t *body;
    static const char *const known[] = {"a", "vireo", NULL};
    if (!request_json_object(req, &body, e) || !request_ignore_unknown(req, known, e))
        return false;
    return response_json(res,
                         json_pack("{s:s, s:s, s:O, s:s?}", "id", request_path_value(req, "id"), "method",
                                   request_method(req), "body", body, "q", request_query(req, "q")),
                         e);
}

static inline bool upload(struct request *req, struct response *res, struct vireo_error *e)
{
    json_t *parts = json_array();
    for (const struct http_part *p = request_parts(req); p; p = p->next)
        json_array_append_new(parts, json_pack("{s:s, s:s?, s:s?, s:I, s:s}", "name", p->name, "filename", p->filename,
                                               "value", p->value, "bytes", (json_int_t)p->bytes, "sha", p->sha256));
    return response_json(res, json_pack("{s:o}", "parts", parts), e);
}

static inline bool send_file(struct request *req, struct response *res, struct vireo_error *e)
{
    char path[128];
    (void)req;
    snprintf(path, sizeof path, "%s/served", folder);
    return response_file(res, &(struct response_file){.path = path, .etag = "tag", .filename = "a\"\xc3\xa9.txt"}, e);
}

static inline bool failing(struct request *req, struct response *res, struct vireo_error *e)
{
    (void)res;
    const char *how = request_path_value(req, "how");
    if (strcmp(how, "io") == 0)
        return vireo_fail(e, VIREO_IO, "cannot open /secret/path");
    if (strcmp(how, "conflict") == 0)
        return vireo_fail_kind(e, VIREO_CONFLICT, "resource_in_use", "x", "in use");
    if (strcmp(how, "state") == 0)
        return vireo_fail_kind(e, VIREO_CONFLICT, "invalid_state", NULL, "wrong state");
    if (strcmp(how, "busy") == 0)
        return vireo_fail(e, VIREO_UNAVAILABLE, "busy");
    return vireo_fail_param(e, "a.b", "bad");
}

static inline void gone(void *context, uint64_t id)
{
    (void)context;
    gone_id = id;
    gone_count++;
}

static inline bool stream(struct request *req, struct response *res, struct vireo_error *e)
{
    (void)req;
    open_stream = response_stream(res, NULL, e);
    if (!open_stream)
        return false;
    sse_on_gone(open_stream, gone, NULL, 7);
    return sse_send(open_stream, "first");
}

static inline bool fill(void *context, struct sse *s)
{
    (void)context;
    int n = ++fills;
    char text[32];
    snprintf(text, sizeof text, "n%d", n);
    sse_event(s, (uint64_t)n, "count", text);
    return n < 3;
}
static inline void release(void *context)
{
    (void)context;
    released_count++;
}
static inline bool source(struct request *req, struct response *res, struct vireo_error *e)
{
    (void)req;
    struct sse_source from = {.fill = fill, .release = release, .topic = "job"};
    struct sse *s = response_stream(res, &from, e);
    bool ok = s && sse_retry(s, 3000);
    sse_unref(&s);
    return ok;
}

static inline bool later(struct request *req, struct response *res, struct vireo_error *e)
{
    (void)res, (void)e;
    request_on_gone(req, gone, NULL, 9);
    request_defer(req);
    held = req;
    return true;
}

static inline bool admin(struct request *req, struct response *res, struct vireo_error *e)
{
    return response_text(res, "text/plain", request_caller(req)->key_id, e);
}

static inline bool authorize(void *app, const struct request *req, enum http_scope scope, struct http_caller *caller,
                             struct vireo_error *e)
{
    (void)app;
    if (scope == HTTP_ADMIN && !request_header(req, "Authorization"))
        return vireo_fail(e, VIREO_UNAUTHORIZED, "who are you?");
    snprintf(caller->key_id, sizeof caller->key_id, "key_1");
    return true;
}

static const struct route routes[] = {
    {"GET", "/things/{id}", HTTP_PUBLIC, HTTP_BODY_NONE, 0, echo},
    {"POST", "/things/{id}", HTTP_READ, HTTP_BODY_JSON, 1000, echo},
    {"GET", "/things/special", HTTP_PUBLIC, HTTP_BODY_NONE, 0, echo},
    {"POST", "/upload", HTTP_TRAIN, HTTP_BODY_FORM, 1 << 22, upload},
    {"POST", "/raw", HTTP_TRAIN, HTTP_BODY_RAW | HTTP_BODY_FORM, 1 << 20, upload},
    {"GET", "/file", HTTP_PUBLIC, HTTP_BODY_NONE, 0, send_file},
    {"GET", "/fail/{how}", HTTP_PUBLIC, HTTP_BODY_NONE, 0, failing},
    {"GET", "/stream", HTTP_PUBLIC, HTTP_BODY_NONE, 0, stream},
    {"GET", "/source", HTTP_PUBLIC, HTTP_BODY_NONE, 0, source},
    {"POST", "/later", HTTP_INFER, HTTP_BODY_JSON, 0, later},
    {"GET", "/admin", HTTP_ADMIN, HTTP_BODY_NONE, 0, admin},
};

static const char *const test_hosts[] = {"vireo.example", NULL}, *const test_origins[] = {"https://ui.example", NULL};
static inline struct http_params base_params(void)
{
    return (struct http_params){.temp_folder = folder,
                                .router = router,
                                .authorize = authorize,
                                .header_ms = 700,
                                .body_window_ms = 700,
                                .keep_alive_ms = 1600,
                                .min_free_bytes = 1,
                                .allowed_hosts = test_hosts,
                                .origins = test_origins};
}

// A test that stands still fails with a word instead; cmocka has said which one it runs.
static inline void stood_still(int number)
{
    static const char text[] = "this test stands still\n";
    (void)number;
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(2);
    abort();
}

typedef bool authorize_function(void *app, const struct request *req, enum http_scope scope, struct http_caller *caller,
                                struct vireo_error *e);
static inline int set_up_with(authorize_function *allow)
{
    signal(SIGALRM, stood_still);
    alarm(120);
    // Here and not in the tests: once a request is sent, its handler may count.
    fills = gone_count = released_count = 0;
    held = NULL;
    snprintf(folder, sizeof folder, "/tmp/vireo-http-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    char path[128];
    snprintf(path, sizeof path, "%s/served", folder);
    router = router_create(&err);
    struct http_params params = base_params();
    params.router = router;
    params.authorize = allow;
    if (!file_write_atomic(path, "0123456789", 10, &err) ||
        !router_add(router, routes, sizeof routes / sizeof *routes, &err))
        return 1;
    server = http_server_start(&params, &err);
    if (!server)
        fprintf(stderr, "%s\n", err.message);
    return !server;
}
static inline int set_up(void **state)
{
    (void)state;
    return set_up_with(authorize);
}

static inline int tear_down(void **state)
{
    (void)state;
    http_server_stop(&server);
    router_destroy(&router);
    alarm(0);
    return !file_remove_tree(folder, NULL);
}

// --- raw requests ----------------------------------------------------------------------------------------------------

static inline int try_to_dial(void) // -1: refused
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)http_server_port(server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(fd >= 0);
    if (connect(fd, (void *)&to, sizeof to) != 0) {
        close(fd);
        return -1;
    }
    struct timeval limit = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

static inline int dial(void)
{
    int fd = try_to_dial();
    REQUIRE(fd >= 0);
    return fd;
}

static inline void put(int fd, const char *text, size_t length)
{
    REQUIRE(send(fd, text, length, MSG_NOSIGNAL) == (ssize_t)length);
}

// Reads until `stop` was seen (NULL: until the server closes), nothing came for 5 s, or 20 s are over: keep-alives may come
// for ever. Fails without `stop`. Returns the number of bytes.
static inline size_t take(int fd, char *out, size_t size, const char *stop)
{
    size_t used = 0;
    double end = clock_seconds() + 20;
    out[0] = 0;
    while (used + 1 < size) {
        ssize_t got = recv(fd, out + used, size - used - 1, 0);
        if (got <= 0)
            break;
        used += (size_t)got;
        out[used] = 0;
        if (stop && strstr(out, stop))
            return used;
        if (clock_seconds() > end)
            fail_msg("20 s without '%s': %s", stop ? stop : "the end", out);
    }
    if (stop)
        fail_msg("no '%s' came: %s", stop, out);
    return used;
}

static char answer[65536];

// The answer's header, and as many bytes behind it as it says.
static inline bool is_whole(size_t used)
{
    const char *body = strstr(answer, "\r\n\r\n"), *length = strstr(answer, "Content-Length: ");
    return body && length && length < body && used >= (size_t)(body + 4 - answer) + strtoul(length + 16, NULL, 10);
}

// (A half-closed socket would be a client that left, to libmicrohttpd: the answer is awaited without.)
static inline int ask_bytes(const char *request, size_t length)
{
    int fd = dial();
    size_t used = 0;
    double end = clock_seconds() + 20;
    answer[0] = 0;
    put(fd, request, length);
    while (used < sizeof answer - 1 && clock_seconds() < end) {
        struct timeval rest = {.tv_usec = 100000}; // for what should not follow
        if (is_whole(used))
            setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &rest, sizeof rest);
        ssize_t got = recv(fd, answer + used, sizeof answer - 1 - used, 0);
        if (got <= 0)
            break;
        used += (size_t)got;
        answer[used] = 0;
    }
    close(fd);
    return strncmp(answer, "HTTP/1.1 ", 9) == 0 ? (int)strtol(answer + 9, NULL, 10) : 0;
}
static inline int ask(const char *request)
{
    return ask_bytes(request, strlen(request));
}
#define JSON "Content-Type: application/json\r\n"
#define GET(path) "GET " path " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

static inline bool has(const char *text)
{
    return strstr(answer, text) != NULL;
}

#endif
