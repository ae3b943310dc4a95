// The HTTP server in this process on 127.0.0.1, asked by raw sockets: routing, bodies, forms, guards, deadlines,
// ranges, streams, clients that leave, shutting down.
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "server/http/client.h"
#include "server/http/form.h"
#include "server/http/server.h"
#include "tests/check.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static struct vireo_error err;
static char folder[64];
static struct router *router;
static struct http_server *server;
static struct sse *open_stream;
static struct request *_Atomic held;
static _Atomic int gone_count, released_count, fills;
static _Atomic uint64_t gone_id;

static void pause_ms(int ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

// --- the routes of the test ------------------------------------------------------------------------------------------

static bool echo(struct request *req, struct response *res, struct vireo_error *e)
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

static bool upload(struct request *req, struct response *res, struct vireo_error *e)
{
    json_t *parts = json_array();
    for (const struct http_part *p = request_parts(req); p; p = p->next)
        json_array_append_new(parts, json_pack("{s:s, s:s?, s:s?, s:I, s:s}", "name", p->name, "filename", p->filename,
                                               "value", p->value, "bytes", (json_int_t)p->bytes, "sha", p->sha256));
    return response_json(res, json_pack("{s:o}", "parts", parts), e);
}

static bool send_file(struct request *req, struct response *res, struct vireo_error *e)
{
    char path[128];
    (void)req;
    snprintf(path, sizeof path, "%s/served", folder);
    return response_file(res, &(struct response_file){.path = path, .etag = "tag", .filename = "a\"\xc3\xa9.txt"}, e);
}

static bool failing(struct request *req, struct response *res, struct vireo_error *e)
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

static void gone(void *context, uint64_t id)
{
    (void)context;
    gone_id = id;
    gone_count++;
}

static bool stream(struct request *req, struct response *res, struct vireo_error *e)
{
    (void)req;
    open_stream = response_stream(res, NULL, e);
    if (!open_stream)
        return false;
    sse_on_gone(open_stream, gone, NULL, 7);
    return sse_send(open_stream, "first");
}

static bool fill(void *context, struct sse *s)
{
    (void)context;
    int n = ++fills;
    char text[32];
    snprintf(text, sizeof text, "n%d", n);
    sse_event(s, (uint64_t)n, "count", text);
    return n < 3;
}
static void release(void *context)
{
    (void)context;
    released_count++;
}
static bool source(struct request *req, struct response *res, struct vireo_error *e)
{
    (void)req;
    struct sse_source from = {.fill = fill, .release = release, .topic = "job"};
    struct sse *s = response_stream(res, &from, e);
    bool ok = s && sse_retry(s, 3000);
    sse_unref(&s);
    return ok;
}

static bool later(struct request *req, struct response *res, struct vireo_error *e)
{
    (void)res, (void)e;
    request_on_gone(req, gone, NULL, 9);
    request_defer(req);
    held = req;
    return true;
}

static bool admin(struct request *req, struct response *res, struct vireo_error *e)
{
    return response_text(res, "text/plain", request_caller(req)->key_id, e);
}

static bool authorize(void *app, const struct request *req, enum http_scope scope, struct http_caller *caller,
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
static struct http_params base_params(void)
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

static int set_up(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/vireo-http-XXXXXX");
    if (!mkdtemp(folder))
        return 1;
    char path[128];
    snprintf(path, sizeof path, "%s/served", folder);
    router = router_create(&err);
    struct http_params params = base_params();
    params.router = router;
    if (!file_write_atomic(path, "0123456789", 10, &err) ||
        !router_add(router, routes, sizeof routes / sizeof *routes, &err))
        return 1;
    server = http_server_start(&params, &err);
    if (!server)
        fprintf(stderr, "%s\n", err.message);
    return !server;
}

static int tear_down(void **state)
{
    (void)state;
    http_server_stop(&server);
    router_destroy(&router);
    return !file_remove_tree(folder, NULL);
}

// --- raw requests ----------------------------------------------------------------------------------------------------

static int dial(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)http_server_port(server)),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    REQUIRE(fd >= 0 && connect(fd, (void *)&to, sizeof to) == 0);
    struct timeval limit = {.tv_sec = 5};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return fd;
}

static void put(int fd, const char *text, size_t length)
{
    REQUIRE(send(fd, text, length, MSG_NOSIGNAL) == (ssize_t)length);
}

// Reads until the server closes, `stop` was seen, or nothing came for 5 s. Returns the number of bytes.
static size_t take(int fd, char *out, size_t size, const char *stop)
{
    size_t used = 0;
    out[0] = 0;
    while (used + 1 < size) {
        ssize_t got = recv(fd, out + used, size - used - 1, 0);
        if (got <= 0)
            break;
        used += (size_t)got;
        out[used] = 0;
        if (stop && strstr(out, stop))
            break;
    }
    return used;
}

static char answer[65536];

// The answer's header, and as many bytes behind it as it says.
static bool is_whole(size_t used)
{
    const char *body = strstr(answer, "\r\n\r\n"), *length = strstr(answer, "Content-Length: ");
    return body && length && length < body && used >= (size_t)(body + 4 - answer) + strtoul(length + 16, NULL, 10);
}

// (A half-closed socket would be a client that left, to libmicrohttpd: the answer is awaited without.)
static int ask_bytes(const char *request, size_t length)
{
    int fd = dial();
    size_t used = 0;
    answer[0] = 0;
    put(fd, request, length);
    while (used < sizeof answer - 1) {
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
static int ask(const char *request)
{
    return ask_bytes(request, strlen(request));
}
#define GET(path) "GET " path " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

static bool has(const char *text)
{
    return strstr(answer, text) != NULL;
}

// --- tests -----------------------------------------------------------------------------------------------------------

static void routes_decode_each_segment_after_the_split(void **state)
{
    (void)state;
    REQUIRE_INT(ask(GET("/things/ft:Qwen%2FQwen2.5-VL-3B:vireo:r%C3%A9c:abc?q=a%20b+c")), 200);
    REQUIRE(has("\"id\":\"ft:Qwen/Qwen2.5-VL-3B:vireo:r\xc3\xa9" "c:abc\""));
    REQUIRE(has("\"q\":\"a b c\""));
    REQUIRE_INT(ask(GET("/things/special")), 200);
    REQUIRE(has("\"id\":\"\"")); // the literal route has no {id}
    REQUIRE_INT(ask("GET http://localhost/things/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), 200);
    REQUIRE_INT(ask(GET("/things/a/b")), 404);
    REQUIRE_INT(ask(GET("/things/")), 404);
    REQUIRE_INT(ask(GET("/things/..")), 400);
    REQUIRE_INT(ask(GET("/things/%2e%2e")), 400);
    REQUIRE_INT(ask(GET("/things/%00")), 400);
    REQUIRE_INT(ask(GET("/things/%ff")), 400);
    REQUIRE_INT(ask(GET("/things/%zz")), 400);
    REQUIRE_INT(ask(GET("/things/%0a")), 400);
}

static void answers_carry_the_common_headers(void **state)
{
    (void)state;
    static const char *const requests[] = {GET("/things/a"), GET("/nothing"), GET("/stream-not")};
    for (int i = 0; i < 3; i++) {
        ask(requests[i]);
        static const char *const wanted[] = {"x-request-id: req_", "openai-processing-ms: ", "x-vireo-version: ",
                                             "X-Content-Type-Options: nosniff",
                                             "Content-Security-Policy: default-src 'none'"};
        for (int k = 0; k < 5; k++)
            if (!has(wanted[k]))
                fail_msg("request %d: no %s in %s", i, wanted[k], answer);
    }
}

static void unknown_paths_and_methods(void **state)
{
    (void)state;
    REQUIRE_INT(ask(GET("/nothing")), 404);
    REQUIRE(has("{\"error\":{\"message\":"));
    REQUIRE(has("\"param\":null,\"code\":\"not_found\"}}"));
    REQUIRE_INT(ask("DELETE /things/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), 405);
    REQUIRE(has("Allow: GET, HEAD, POST"));
    REQUIRE(has("\"code\":\"method_not_allowed\""));
    REQUIRE_INT(ask("HEAD /things/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), 200);
    REQUIRE(has("Content-Length: "));
    REQUIRE(!has("\"id\""));
}

static void errors_have_the_api_shape(void **state)
{
    (void)state;
    REQUIRE_INT(ask(GET("/fail/param")), 400);
    REQUIRE(has("{\"error\":{\"message\":\"bad\",\"type\":\"invalid_request_error\",\"param\":\"a.b\","
                "\"code\":\"invalid_value\"}}"));
    REQUIRE_INT(ask(GET("/fail/io")), 500);
    REQUIRE(!has("secret"));
    REQUIRE_INT(ask(GET("/fail/conflict")), 409);
    REQUIRE(has("x-should-retry: false"));
    REQUIRE_INT(ask(GET("/fail/state")), 400);
    REQUIRE_INT(ask(GET("/fail/busy")), 503);
    REQUIRE(has("Retry-After: "));
    REQUIRE(has("retry-after-ms: "));
    REQUIRE_INT(ask(GET("/admin")), 401);
    REQUIRE(has("WWW-Authenticate: Bearer"));
    struct vireo_error back;
    static const char body[] = "{\"error\":{\"message\":\"m\",\"code\":\"job_not_found\",\"param\":\"p\"}}";
    http_error_parse(404, body, sizeof body - 1, &back);
    REQUIRE_INT(back.code, VIREO_NOT_FOUND);
    REQUIRE_STRING(back.kind, "job_not_found");
}

static int post(const char *path, const char *headers, const char *body)
{
    char text[4096];
    snprintf(text, sizeof text,
             "POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %zu\r\n%s\r\n%s", path,
             strlen(body), headers, body);
    return ask(text);
}
#define JSON "Content-Type: application/json\r\n"

static void json_bodies(void **state)
{
    (void)state;
    REQUIRE_INT(post("/things/a", JSON, "{\"a\":1,\"zzz\":2}"), 200);
    REQUIRE(has("x-vireo-ignored: zzz"));
    REQUIRE_INT(post("/things/a", JSON, "{\"a\":1,\"zzz\":2,\"vireo\":{\"strict\":true}}"), 400);
    REQUIRE(has("\"code\":\"unknown_parameter\""));
    REQUIRE_INT(post("/things/a", JSON, ""), 200);
    REQUIRE(has("\"body\":{}"));
    REQUIRE_INT(post("/things/a", JSON, "[1]"), 400);
    REQUIRE_INT(post("/things/a", JSON, "{\"a\":"), 400);
    REQUIRE(has("invalid_json"));
    REQUIRE_INT(post("/things/a", JSON, "{\"a\":1,\"a\":2}"), 400);
    REQUIRE_INT(post("/things/a", "Content-Type: text/plain\r\n", "{}"), 415);
    REQUIRE_INT(ask("POST /things/a HTTP/1.1\r\nHost: localhost\r\n" JSON
                    "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n7\r\n{\"a\":1}\r\n0\r\n\r\n"),
                200);
    REQUIRE(has("\"body\":{\"a\":1}"));
}

static void body_limits_are_kept(void **state)
{
    (void)state;
    // By Content-Length: refused before anything of the body was sent.
    int fd = dial();
    const char head[] = "POST /things/a HTTP/1.1\r\nHost: localhost\r\n" JSON "Content-Length: 9000000\r\n\r\n";
    put(fd, head, sizeof head - 1);
    take(fd, answer, sizeof answer, NULL);
    close(fd);
    REQUIRE(has("HTTP/1.1 413"));
    REQUIRE(has("request_too_large"));
    // Waiting for 100 Continue: the answer comes instead.
    const char expect[] = "POST /things/a HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n" JSON
                          "Content-Length: 2000\r\n\r\n";
    fd = dial();
    put(fd, expect, sizeof expect - 1);
    take(fd, answer, sizeof answer, NULL);
    close(fd);
    REQUIRE(strncmp(answer, "HTTP/1.1 413", 12) == 0);
    // Chunked: cut at the limit.
    fd = dial();
    const char chunked[] = "POST /things/a HTTP/1.1\r\nHost: localhost\r\n" JSON "Transfer-Encoding: chunked\r\n\r\n";
    put(fd, chunked, sizeof chunked - 1);
    char chunk[4096 + 16];
    int length = snprintf(chunk, sizeof chunk, "1000\r\n");
    memset(chunk + length, ' ', 4096);
    memcpy(chunk + length + 4096, "\r\n", 2);
    size_t sent = 0;
    while (sent < 64 << 20 && send(fd, chunk, (size_t)length + 4098, MSG_NOSIGNAL) > 0)
        sent += 4096;
    REQUIRE(sent < 64 << 20);
    take(fd, answer, sizeof answer, NULL);
    close(fd);
    // A chunked body that is just over the limit and ends gets its answer on an orderly connection.
    char text[8192];
    memset(chunk, ' ', 1200);
    chunk[1200] = 0;
    snprintf(text, sizeof text, "%s4b0\r\n%s\r\n0\r\n\r\n", chunked, chunk);
    REQUIRE_INT(ask(text), 413);
}

#define FORM "Content-Type: multipart/form-data; boundary=B\r\n"
static void forms_take_parts_in_any_order(void **state)
{
    (void)state;
    REQUIRE_INT(post("/upload", FORM,
                     "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"C:\\\\x\\\\tr.jsonl\"\r\n"
                     "Content-Type: application/octet-stream\r\n\r\nab\r\n-\r\n--b\r\n--B\r\n"
                     "Content-Disposition: form-data; name=\"purpose\"\r\n\r\nfine-tune\r\n--B--\r\n"),
                200);
    REQUIRE(has("\"filename\":\"tr.jsonl\""));
    REQUIRE(has("\"bytes\":10")); // ab CRLF - CRLF --b
    REQUIRE(has("\"value\":\"fine-tune\""));
    REQUIRE_INT(post("/upload", FORM, "--B\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n\r\n--B--"), 200);
    REQUIRE(has("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")); // of nothing
    REQUIRE_INT(post("/raw", "Content-Type: image/png\r\n", "pixels"), 200);
    REQUIRE(has("\"name\":\"body\""));
    REQUIRE(has("\"bytes\":6"));
    static const char *const bad[] = {
        "",
        "--B\r\n",
        "--B\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc",
        "--B\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--B--\r\n",
        "--B\r\n\r\nabc\r\n--B--\r\n",
        "--Bx\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nabc\r\n--B--\r\n",
        "--B\r\nContent-Disposition: form-data; name=\"p\"\r\n\r\n\xff\r\n--B--\r\n",
        ("--B\r\nContent-Disposition: form-data; name=\"p\"\r\nContent-Transfer-Encoding: base64\r\n\r\nYQ==\r\n"
         "--B--\r\n"),
    };
    for (int i = 1; i < 8; i++)
        if (post("/upload", FORM, bad[i]) != 400)
            fail_msg("form %d: %s", i, answer);
    REQUIRE_INT(post("/upload", "Content-Type: multipart/form-data\r\n", "x"), 400);
    REQUIRE_INT(post("/upload", JSON, "{}"), 415);
    // Nothing stays behind.
    DIR *dir = opendir(folder);
    int left = 0;
    for (struct dirent *e; (e = readdir(dir));)
        left += e->d_name[0] != '.';
    closedir(dir);
    REQUIRE_INT(left, 1); // "served"
}

static bool sink_begin(void *context, const char *name, const char *filename, const char *type, struct vireo_error *e)
{
    (void)type, (void)e;
    char *log = context;
    size_t used = strlen(log);
    snprintf(log + used, 512 - used, "[%s|%s]", name, filename ? filename : "-");
    return true;
}
static bool sink_data(void *context, const void *bytes, size_t count, struct vireo_error *e)
{
    (void)e;
    char *log = context;
    size_t used = strlen(log);
    snprintf(log + used, 512 - used, "%.*s", (int)count, (const char *)bytes);
    return true;
}
static bool sink_end(void *context, struct vireo_error *e)
{
    return sink_data(context, ";", 1, e);
}

static void a_form_reads_the_same_in_pieces_of_any_size(void **state)
{
    (void)state;
    static const char body[] =
        "preamble\r\n--a-b\r\nContent-Disposition: form-data; name=\"x\"; filename*=UTF-8''%e2%82%ac.txt\r\n"
        "\r\none\r\n--a-\r\r\n--a-c\r\n--a-b \r\ncontent-disposition: form-data; name=y\r\n\r\n"
        "\r\n--a-b--epilogue";
    for (size_t step = 1; step < sizeof body; step++) {
        char log[512] = "";
        struct form f;
        struct form_sink sink = {sink_begin, sink_data, sink_end, log};
        REQUIRE_OK(form_init(&f, "multipart/form-data; charset=x; boundary=\"a-b\"", &sink, &err));
        for (size_t at = 0; at < sizeof body - 1; at += step) {
            size_t count = sizeof body - 1 - at < step ? sizeof body - 1 - at : step;
            REQUIRE_OK(form_feed(&f, body + at, count, &err));
        }
        REQUIRE_OK(form_finish(&f, &err));
        REQUIRE_STRING(log, "[x|\xe2\x82\xac.txt]one\r\n--a-\r\r\n--a-c;[y|-];");
    }
}

static void smuggling_is_refused_and_the_connection_ends(void **state)
{
    (void)state;
#define H "Host: localhost\r\n"
    static const char *const bad[] = {
        "POST /things/a HTTP/1.1\r\n" H JSON "Content-Length: 2\r\nContent-Length: 7\r\n\r\n{}GET / HTTP/1.1\r\n\r\n",
        "POST /things/a HTTP/1.1\r\n" H JSON "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        "POST /things/a HTTP/1.1\r\n" H JSON "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /things/a HTTP/1.1\r\n" H JSON "Transfer-Encoding: gzip\r\n\r\n{}",
        "POST /things/a HTTP/1.1\r\n" H JSON "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        ("POST /things/a HTTP/1.1\r\n" H JSON
         "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        "POST /things/a HTTP/1.1\r\n" H JSON "Content-Length: +2\r\n\r\n{}",
        "POST /things/a HTTP/1.1\r\n" H JSON "Content-Length: 2 2\r\n\r\n{}",
        "POST /things/a HTTP/1.1\r\n" H JSON "Content-Length: -2\r\n\r\n{}",
        "POST /things/a HTTP/1.1\r\n" H JSON "Content-Length : 2\r\n\r\n{}",
        "GET /things/a HTTP/1.1\nHost: localhost\n\n",
        "GET /things/a HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
        "GET /things/a HTTP/1.1\r\n\r\n",
        "GET /things/a HTTP/2.5\r\n" H "\r\n",
        "GET /things/a HTTP/1.1\r\n" H "X: a\x01" "b\r\n\r\n",
        "GET things HTTP/1.1\r\n" H "\r\n",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int status = ask(bad[i]);
        if (status < 400 || status > 499)
            if (status != 505)
                fail_msg("request %zu: status %d\n%s\n%s", i, status, bad[i], answer);
        // (Where libmicrohttpd itself refuses, it sends its status line twice.)
        if (strstr(answer, "HTTP/1.1 200") || strstr(answer, "HTTP/1.1 404"))
            fail_msg("request %zu got a second answer:\n%s", i, answer);
    }
    static const char nul[] = "GET /things/a\0b HTTP/1.1\r\nHost: localhost\r\n\r\n";
    int status = ask_bytes(nul, sizeof nul - 1);
    if (status >= 200 && status < 300)
        fail_msg("NUL in the target: %s", answer);
}

static void hosts_and_origins_are_checked(void **state)
{
    (void)state;
    static const struct {
        const char *host;
        int status;
    } hosts[] = {{"localhost:8000", 200},   {"127.0.0.1", 200},    {"[::1]:9", 200},
                 {"vireo.example", 200},    {"VIREO.example:1", 200}, {"evil.example", 403},
                 {"localhost.evil.example", 403}, {"a b", 400},      {"localhost:x", 400}};
    char text[256];
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        snprintf(text, sizeof text, "GET /things/a HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", hosts[i].host);
        int status = ask(text);
        if (status != hosts[i].status)
            fail_msg("Host %s: %d", hosts[i].host, status);
    }
    REQUIRE_INT(post("/things/a", JSON "Origin: http://localhost\r\n", "{}"), 200);
    REQUIRE_INT(post("/things/a", JSON "Origin: https://ui.example\r\n", "{}"), 200);
    REQUIRE_INT(post("/things/a", JSON "Origin: http://evil.example\r\n", "{}"), 403);
    REQUIRE_INT(post("/things/a", JSON "Origin: null\r\n", "{}"), 403);
    REQUIRE_INT(ask("GET /things/a HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n"
                    "Connection: close\r\n\r\n"),
                200);
}

static double closes_after(int fd, const char *drip, int every_ms)
{
    double start = clock_seconds();
    while (clock_seconds() - start < 4) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, every_ms) > 0) {
            char byte;
            if (recv(fd, &byte, 1, 0) <= 0)
                break;
        }
        if (drip && send(fd, drip, 1, MSG_NOSIGNAL) < 0)
            break;
    }
    close(fd);
    return clock_seconds() - start;
}

static void slow_clients_are_cut_at_absolute_deadlines(void **state)
{
    (void)state;
    int fd = dial();
    put(fd, "GET /thi", 8);
    double silent = closes_after(fd, NULL, 100);
    fd = dial();
    put(fd, "GET /things/a HTTP/1.1\r\nX: ", 27);
    double dripping = closes_after(fd, "x", 100);
    fd = dial();
    const char head[] = "POST /things/a HTTP/1.1\r\nHost: localhost\r\n" JSON "Content-Length: 900\r\n\r\n";
    put(fd, head, sizeof head - 1);
    double body = closes_after(fd, " ", 100);
    if (silent > 1.6 || silent < 0.5 || dripping > 1.6 || dripping < 0.5 || body > 2.2 || body < 0.5)
        fail_msg("cut after %.2f, %.2f, %.2f s; limits are 0.7 s", silent, dripping, body);
    REQUIRE_INT(ask(GET("/things/a")), 200);
}

static void files_answer_ranges_and_etags(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        int status;
        const char *holds;
    } cases[] = {
        {"", 200, "\r\n\r\n0123456789"},
        {"Range: bytes=2-4\r\n", 206, "\r\n\r\n234"},
        {"Range: bytes=7-\r\n", 206, "Content-Range: bytes 7-9/10"},
        {"Range: bytes=-3\r\n", 206, "\r\n\r\n789"},
        {"Range: bytes=-30\r\n", 206, "\r\n\r\n0123456789"},
        {"Range: bytes=5-99\r\n", 206, "\r\n\r\n56789"},
        {"Range: bytes=10-\r\n", 416, "Content-Range: bytes */10"},
        {"Range: bytes=4-2\r\n", 200, "0123456789"},
        {"Range: bytes=0-1,3-4\r\n", 200, "0123456789"},
        {"Range: lines=0-1\r\n", 200, "0123456789"},
        {"If-None-Match: \"tag\"\r\n", 304, "ETag: \"tag\""},
        {"If-None-Match: \"other\"\r\n", 200, "0123456789"},
        {"If-Range: \"other\"\r\nRange: bytes=2-4\r\n", 200, "0123456789"},
        {"If-Range: \"tag\"\r\nRange: bytes=2-4\r\n", 206, "\r\n\r\n234"},
    };
    char text[256];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text, "GET /file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n",
                 cases[i].header);
        if (ask(text) != cases[i].status || !has(cases[i].holds))
            fail_msg("case %zu (%s): %s", i, cases[i].header, answer);
    }
    ask(GET("/file"));
    REQUIRE(has("Content-Disposition: attachment; filename=\"a___.txt\"; filename*=UTF-8''a%22%C3%A9.txt"));
}

static void streams_send_keep_alive_and_end_cleanly(void **state)
{
    (void)state;
    int fd = dial();
    put(fd, GET("/stream"), strlen(GET("/stream")));
    take(fd, answer, sizeof answer, "data: first\n\n");
    REQUIRE(has("Content-Type: text/event-stream"));
    double start = clock_seconds();
    REQUIRE(take(fd, answer, sizeof answer, ":\n") > 0);
    REQUIRE(clock_seconds() - start > 1.2 && clock_seconds() - start < 2.5);
    REQUIRE(sse_send(open_stream, "second"));
    REQUIRE(take(fd, answer, sizeof answer, "data: second\n\n") > 0);
    sse_send(open_stream, "[DONE]");
    sse_close(open_stream);
    REQUIRE(!sse_send(open_stream, "late"));
    take(fd, answer, sizeof answer, NULL);
    REQUIRE(has("data: [DONE]\n\n"));
    REQUIRE(has("\r\n0\r\n\r\n"));
    REQUIRE(!has("late"));
    close(fd);
    sse_unref(&open_stream);
    REQUIRE_INT(gone_count, 0);
}

static void a_client_that_leaves_a_stream_is_noticed(void **state)
{
    (void)state;
    gone_count = 0;
    int fd = dial();
    put(fd, GET("/stream"), strlen(GET("/stream")));
    take(fd, answer, sizeof answer, "first");
    close(fd);
    pause_ms(1000);
    REQUIRE_INT(gone_count, 1);
    REQUIRE_INT(gone_id, 7);
    REQUIRE(!sse_send(open_stream, "x"));
    sse_unref(&open_stream);
}

static void a_slow_reader_is_cut_not_buffered(void **state)
{
    (void)state;
    gone_count = 0;
    int fd = dial();
    put(fd, GET("/stream"), strlen(GET("/stream")));
    take(fd, answer, sizeof answer, "first");
    char big[8192];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    size_t sent = 0;
    while (sent < 256 << 20 && sse_send(open_stream, big))
        sent += sizeof big;
    REQUIRE(sent < 256 << 20);
    REQUIRE_INT(gone_count, 1);
    close(fd);
    sse_unref(&open_stream);
}

static void sources_are_asked_until_they_have_no_more(void **state)
{
    (void)state;
    fills = released_count = 0;
    int fd = dial();
    put(fd, GET("/source"), strlen(GET("/source")));
    char seen[4096];
    take(fd, seen, sizeof seen, "n3\n\n");
    REQUIRE(strstr(seen, "retry: 3000\n\n"));
    REQUIRE(strstr(seen, "id: 1\nevent: count\ndata: n1\n\n"));
    REQUIRE_INT(fills, 3);
    http_poke(server, "other");
    pause_ms(100);
    REQUIRE_INT(fills, 3);
    http_poke(server, "job");
    REQUIRE(take(fd, seen, sizeof seen, "n4\n\n") > 0);
    close(fd);
    pause_ms(1000);
    REQUIRE_INT(released_count, 1);
}

static void requests_are_answered_later(void **state)
{
    (void)state;
    gone_count = 0;
    held = NULL;
    int fd = dial();
    const char text[] = "POST /later HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
    put(fd, text, sizeof text - 1);
    for (int i = 0; i < 100 && !held; i++)
        pause_ms(10);
    REQUIRE(held);
    REQUIRE_OK(response_text(request_response(held), "text/plain", "at last", &err));
    request_answer(held, NULL);
    take(fd, answer, sizeof answer, "at last");
    REQUIRE(has("200 OK"));
    // The same connection goes on; this time the client leaves before the answer.
    held = NULL;
    put(fd, text, sizeof text - 1);
    for (int i = 0; i < 100 && !held; i++)
        pause_ms(10);
    close(fd);
    pause_ms(1000);
    REQUIRE_INT(gone_count, 1);
    REQUIRE_INT(gone_id, 9);
    vireo_fail(&err, VIREO_CANCELLED, "gone");
    request_answer(held, &err);
    REQUIRE_INT(ask(GET("/things/a")), 200);
}

static void connections_are_kept_for_further_requests(void **state)
{
    (void)state;
    int fd = dial();
    const char text[] = "GET /things/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (int i = 0; i < 3; i++) {
        put(fd, text, sizeof text - 1);
        REQUIRE(take(fd, answer, sizeof answer, "\"q\":null}") > 0);
        REQUIRE(has("200 OK"));
    }
    // After an error with a small body too.
    const char bad[] = "POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    put(fd, bad, sizeof bad - 1);
    REQUIRE(take(fd, answer, sizeof answer, "not_found") > 0);
    put(fd, text, sizeof text - 1);
    REQUIRE(take(fd, answer, sizeof answer, "\"q\":null}") > 0);
    close(fd);
}

static void the_client_reads_answers_errors_and_streams(void **state);

static bool on_event(void *context, const char *event, const char *data, const char *id)
{
    char *log = context;
    size_t used = strlen(log);
    snprintf(log + used, 256 - used, "%s/%s/%s ", id, event, data);
    return strcmp(data, "n3") != 0;
}

static void the_client_reads_answers_errors_and_streams(void **state)
{
    (void)state;
    struct http_client_params p = {.url = http_server_url(server)};
    struct http_client *c = http_client_create(&p, &err);
    REQUIRE(c);
    json_t *body = json_pack("{s:i}", "a", 1), *out = NULL;
    char path[128] = "/things/", log[256] = "";
    http_escape(path + 8, sizeof path - 8, "x/y z");
    REQUIRE_OK(http_client_json(c, "POST", path, body, &out, &err));
    REQUIRE_STRING(json_string_value(json_object_get(out, "id")), "x/y z");
    json_decref(out);
    json_decref(body);
    REQUIRE_FAIL(http_client_json(c, "GET", "/fail/conflict", NULL, &out, &err), VIREO_CONFLICT);
    REQUIRE_STRING(err.kind, "resource_in_use");
    struct http_client_part parts[] = {{.name = "purpose", .value = "vision"},
                                       {.name = "file", .bytes = "abc", .count = 3, .filename = "a.png"}};
    REQUIRE_OK(http_client_form(c, "/upload", parts, 2, &out, &err));
    REQUIRE_INT(json_array_size(json_object_get(out, "parts")), 2);
    json_decref(out);
    fills = 0;
    REQUIRE_OK(http_client_stream(c, "GET", "/source", NULL, on_event, log, &err));
    REQUIRE_STRING(log, "1/count/n1 2/count/n2 3/count/n3 ");
    http_client_destroy(&c);
    p.url = "http://127.0.0.1:1";
    c = http_client_create(&p, &err);
    REQUIRE_FAIL(http_client_json(c, "GET", "/", NULL, &out, &err), VIREO_UNAVAILABLE);
    http_client_destroy(&c);
}

static void *many_requests(void *context)
{
    (void)context;
    struct http_client_params p = {.url = http_server_url(server)};
    struct vireo_error e;
    struct http_client *c = http_client_create(&p, &e);
    long good = 0;
    for (int i = 0; i < 100; i++) {
        json_t *out = NULL;
        good += http_client_json(c, "POST", "/things/a", NULL, &out, &e);
        json_decref(out);
    }
    http_client_destroy(&c);
    return (void *)good;
}

static void many_clients_at_once(void **state)
{
    (void)state;
    pthread_t threads[10];
    for (int i = 0; i < 10; i++)
        REQUIRE_INT(pthread_create(&threads[i], NULL, many_requests, NULL), 0);
    for (int i = 0; i < 10; i++) {
        void *good;
        pthread_join(threads[i], &good);
        REQUIRE_INT((long)good, 100);
    }
}

static void draining_waits_for_streams_and_refuses_new_work(void **state)
{
    (void)state;
    int fd = dial(), second = dial();
    put(fd, GET("/stream"), strlen(GET("/stream")));
    take(fd, answer, sizeof answer, "first");
    const char keep[] = "GET /things/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    put(second, keep, sizeof keep - 1);
    take(second, answer, sizeof answer, "\"q\":null}");
    REQUIRE(!http_server_drain(server, 100));
    REQUIRE(http_server_draining(server));
    const char more[] = "POST /things/a HTTP/1.1\r\nHost: localhost\r\n" JSON "Content-Length: 2\r\n\r\n{}";
    put(second, more, sizeof more - 1);
    take(second, answer, sizeof answer, NULL);
    REQUIRE(has("503 "));
    REQUIRE(has("Connection: close"));
    sse_close(open_stream);
    sse_unref(&open_stream);
    REQUIRE(http_server_drain(server, 3000));
    take(fd, answer, sizeof answer, NULL);
    close(fd);
    close(second);
}

static void stopping_ends_streams_that_still_run(void **state)
{
    (void)state;
    gone_count = 0;
    int fd = dial();
    put(fd, GET("/source"), strlen(GET("/source")));
    fills = 0;
    take(fd, answer, sizeof answer, "n3\n\n");
    double start = clock_seconds();
    http_server_stop(&server);
    REQUIRE(clock_seconds() - start < 3);
    close(fd);
}

static void binds_need_keys_and_tls(void **state)
{
    (void)state;
    REQUIRE(http_bind_allowed("127.0.0.1", false, false, false, &err));
    REQUIRE(http_bind_allowed("localhost", false, false, false, &err));
    REQUIRE_FAIL(http_bind_allowed("0.0.0.0", false, true, true, &err), VIREO_FORBIDDEN);
    REQUIRE_FAIL(http_bind_allowed("0.0.0.0", true, false, false, &err), VIREO_FORBIDDEN);
    REQUIRE(http_bind_allowed("0.0.0.0", true, false, true, &err));
    REQUIRE(http_bind_allowed("10.1.2.3", true, true, false, &err));
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(routes_decode_each_segment_after_the_split),
        T(answers_carry_the_common_headers),
        T(unknown_paths_and_methods),
        T(errors_have_the_api_shape),
        T(json_bodies),
        T(body_limits_are_kept),
        T(forms_take_parts_in_any_order),
        T(a_form_reads_the_same_in_pieces_of_any_size),
        T(smuggling_is_refused_and_the_connection_ends),
        T(hosts_and_origins_are_checked),
        T(slow_clients_are_cut_at_absolute_deadlines),
        T(files_answer_ranges_and_etags),
        T(streams_send_keep_alive_and_end_cleanly),
        T(a_client_that_leaves_a_stream_is_noticed),
        T(a_slow_reader_is_cut_not_buffered),
        T(sources_are_asked_until_they_have_no_more),
        T(requests_are_answered_later),
        T(connections_are_kept_for_further_requests),
        T(the_client_reads_answers_errors_and_streams),
        T(many_clients_at_once),
        T(draining_waits_for_streams_and_refuses_new_work),
        T(stopping_ends_streams_that_still_run),
        cmocka_unit_test(binds_need_keys_and_tls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
