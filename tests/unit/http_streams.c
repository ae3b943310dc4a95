// The HTTP server over longer than one answer: streams, clients that leave, late answers, kept connections, the client,
// shutting down.
#include "tests/unit/http.h"

#include "compute/base/clock.h"
#include "server/http/client.h"

#include <pthread.h>
#include <time.h>

static void pause_ms(int ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&t, NULL);
}

static void streams_send_keep_alive_and_end_cleanly(void **state)
{
    (void)state;
    int fd = dial();
    put(fd, GET("/stream"), strlen(GET("/stream")));
    take(fd, answer, sizeof answer, "data: first\n\n");
    REQUIRE(has("Content-Type: text/event-stream"));
    double start = clock_seconds();
    take(fd, answer, sizeof answer, ":\n");
    REQUIRE(clock_seconds() - start > 1.2 && clock_seconds() - start < 2.5);
    REQUIRE(sse_send(open_stream, "second"));
    take(fd, answer, sizeof answer, "data: second\n\n");
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
    take(fd, seen, sizeof seen, "n4\n\n");
    close(fd);
    pause_ms(1000);
    REQUIRE_INT(released_count, 1);
}

static void requests_are_answered_later(void **state)
{
    (void)state;
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
        take(fd, answer, sizeof answer, "\"q\":null}");
        REQUIRE(has("200 OK"));
    }
    // After an error with a small body too.
    const char bad[] = "POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello";
    put(fd, bad, sizeof bad - 1);
    take(fd, answer, sizeof answer, "not_found");
    put(fd, text, sizeof text - 1);
    take(fd, answer, sizeof answer, "\"q\":null}");
    close(fd);
}

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
    struct http_client_params p = {.url = http_server_url(server), .timeout_s = 30};
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
    struct http_client_params p = {.url = http_server_url(server), .timeout_s = 30};
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
    REQUIRE_INT(try_to_dial(), -1);
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
    int fd = dial();
    put(fd, GET("/source"), strlen(GET("/source")));
    take(fd, answer, sizeof answer, "n3\n\n");
    double start = clock_seconds();
    http_server_stop(&server);
    REQUIRE(clock_seconds() - start < 3);
    close(fd);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
