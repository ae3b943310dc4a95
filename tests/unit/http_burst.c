// Many connections of the HTTP server at once: as many get ready on one worker as it takes in one look, or a moment before the
// server ends.
#include "tests/unit/http.h"

#include <poll.h>
#include <pthread.h>
#ifdef __linux__
#include <sys/epoll.h>
#endif
#include <time.h>

enum { BATCH = 128, CONNECTIONS = 2 * BATCH + 2 }; // with two workers one has a batch and one more
enum { KEPT = 64 };

static pthread_t worker_of[CONNECTIONS];
static _Atomic bool hold, is_held;

static void pause_ms(int ms)
{
    struct timespec t = {.tv_nsec = ms * 1000000L};
    nanosleep(&t, NULL);
}

// On the thread of the request's worker: notes it, and keeps it busy while `hold` is set.
static bool note_worker(void *app, const struct request *req, enum http_scope scope, struct http_caller *caller,
                        struct vireo_error *e)
{
    (void)app, (void)scope, (void)caller;
    worker_of[strtol(request_query(req, "n"), NULL, 10)] = pthread_self();
    if (!request_header(req, "X-Hold"))
        return true;
    is_held = true;
    for (int i = 0; i < 10000 && hold; i++)
        pause_ms(1);
    return vireo_fail(e, VIREO_UNAUTHORIZED, "held"); // refused: nothing wakes the worker for it later
}

static void send_request(int fd, int n, const char *header)
{
    char text[128];
    int length = snprintf(text, sizeof text, "GET /things/a?n=%d HTTP/1.1\r\nHost: localhost\r\n%s\r\n", n, header);
    put(fd, text, (size_t)length);
}

// How many of the connections had an answer within 5 s.
static int count_answered(const int *fds, int count)
{
    int answered = 0;
    double end = clock_seconds() + 5;
    for (int i = 0; i < count; i++) {
        struct pollfd p = {.fd = fds[i], .events = POLLIN};
        double left = end - clock_seconds();
        answered += poll(&p, 1, left > 0 ? (int)(left * 1000) : 0) == 1;
    }
    return answered;
}

static void bursts_of_any_size_are_answered(void **state)
{
    (void)state;
    static const int sizes[] = {1, BATCH - 1, BATCH, BATCH + 1};
    int fds[CONNECTIONS], mine[CONNECTIONS], count = 0;
    for (int i = 0; i < CONNECTIONS; i++) {
        fds[i] = dial();
        send_request(fds[i], i, "");
        take(fds[i], answer, sizeof answer, "\"q\":null}");
    }
    for (int i = 0; i < CONNECTIONS; i++)
        count += pthread_equal(worker_of[i], worker_of[0]) != 0;
    bool is_first = count > CONNECTIONS / 2;
    count = 0;
    for (int i = 0; i < CONNECTIONS; i++)
        if ((pthread_equal(worker_of[i], worker_of[0]) != 0) == is_first)
            mine[count++] = fds[i];
    REQUIRE(count > BATCH);
    for (int k = 0; k < 4 && sizes[k] < count; k++) {
        // While the worker is busy with another connection's request, as many get ready as are to be.
        hold = true;
        is_held = false;
        send_request(mine[count - 1], 0, "X-Hold: 1\r\n");
        while (!is_held)
            pause_ms(1);
        for (int i = 0; i < sizes[k]; i++)
            send_request(mine[i], 0, "");
        pause_ms(50);
        hold = false;
        int answered = count_answered(mine, sizes[k]);
        if (answered != sizes[k])
            fail_msg("%d of %d requests that came at once had an answer after 5 s", answered, sizes[k]);
        take(mine[count - 1], answer, sizeof answer, "held");
        for (int i = 0; i < sizes[k]; i++)
            take(mine[i], answer, sizeof answer, "\"q\":null}");
    }
    for (int i = 0; i < CONNECTIONS; i++)
        close(fds[i]);
}

static void *send_to_all(void *context)
{
    static const char *const requests[] = {"GET /things/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
                                           "GET /source HTTP/1.1\r\nHost: localhost\r\n\r\n"};
    const int *fds = context;
    pause_ms(20);
    for (int i = 0; i < KEPT; i++) {
        send(fds[i], requests[i % 2], strlen(requests[i % 2]), MSG_NOSIGNAL);
        for (volatile int k = 0; k < 2000; k++) // over a few of the milliseconds in which it stops
            ;
    }
    return NULL;
}

// On kept connections. libmicrohttpd aborts the process where one is suspended when it ends.
static void requests_may_come_while_the_server_stops(void **state)
{
    for (int round = 0; round < 12; round++) {
        int fds[KEPT];
        pthread_t sender;
        REQUIRE_INT(set_up(state), 0);
        for (int i = 0; i < KEPT; i++) {
            fds[i] = dial();
            send_request(fds[i], 0, "");
            take(fds[i], answer, sizeof answer, "\"q\":null}");
        }
        REQUIRE_INT(pthread_create(&sender, NULL, send_to_all, fds), 0);
        pause_ms(20);
        double start = clock_seconds();
        http_server_stop(&server);
        REQUIRE(clock_seconds() - start < 3);
        pthread_join(sender, NULL);
        for (int i = 0; i < KEPT; i++)
            close(fds[i]);
        REQUIRE_INT(tear_down(state), 0);
    }
}

#ifdef __linux__
// libmicrohttpd aborts where it is one: two of its threads may take the listening socket out of a set (server/http/epoll.c).
static void removing_twice_is_no_error(void **state)
{
    (void)state;
    int set = epoll_create1(0), fd = socket(AF_INET, SOCK_STREAM, 0);
    struct epoll_event event = {.events = EPOLLIN};
    REQUIRE_INT(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event), 0);
    REQUIRE_INT(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event), -1);
    REQUIRE_INT(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL), 0);
    REQUIRE_INT(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL), 0);
    REQUIRE_INT(epoll_ctl(set, EPOLL_CTL_DEL, -1, NULL), -1);
    close(fd);
    close(set);
}
#endif

static int set_up_noting(void **state)
{
    (void)state;
    return set_up_with(note_worker);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bursts_of_any_size_are_answered, set_up_noting, tear_down),
        cmocka_unit_test(requests_may_come_while_the_server_stops),
#ifdef __linux__
        cmocka_unit_test(removing_twice_is_no_error),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
