// The HTTP server asked for one answer: routing, bodies, forms, guards, deadlines, ranges.
#include "tests/unit/http.h"

#include "compute/base/clock.h"
#include "server/http/client.h"
#include "server/http/form.h"

#include <dirent.h>
#include <poll.h>

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
        cmocka_unit_test(binds_need_keys_and_tls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
