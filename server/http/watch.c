// The watcher: absolute deadlines, clients that left while their connection sleeps, keep-alives of event streams.
//
// libmicrohttpd's timeout is an idle timeout (reliability.md finding 2): a client that sends a byte a second never runs
// into it. And a suspended connection is not looked at at all. Both are this thread's business.
#define _GNU_SOURCE // POLLRDHUP
#include "compute/base/check.h"
#include "compute/base/clock.h"
#include "server/http/internal.h"

#include <poll.h>
#include <sys/socket.h>
#include <time.h>

#ifndef POLLRDHUP
#define POLLRDHUP 0 // elsewhere the end of the peer's data tells; unread data (of TLS) hides it until something is sent
#endif

enum { TICK_MS = 200, BATCH = 128 };

int64_t now_ms(void)
{
    return (int64_t)(clock_seconds() * 1000);
}

void conn_phase_set(struct conn *c, enum conn_phase phase)
{
    c->phase = phase;
    c->phase_ms = now_ms();
}

// True: too late, or too slow.
static bool is_overdue(const struct http_params *p, struct conn *c, int64_t now)
{
    int64_t since = now - c->phase_ms;
    switch (atomic_load(&c->phase)) {
    case CONN_IDLE:
        return since > p->idle_ms;
    case CONN_HEADER:
        return since > p->header_ms;
    case CONN_BODY:
        if (c->window_ms < c->phase_ms) {
            c->window_ms = c->phase_ms;
            c->window_bytes = 0;
        }
        if (now - c->window_ms < p->body_window_ms)
            return false;
        if ((c->body_bytes - c->window_bytes) * 1000 < p->body_bytes_per_s * (uint64_t)(now - c->window_ms))
            return true;
        c->window_ms = now;
        c->window_bytes = c->body_bytes;
        return false;
    default:
        return false;
    }
}

static bool has_left(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN | POLLRDHUP};
    char byte;
    if (poll(&p, 1, 0) <= 0)
        return false;
    return p.revents & (POLLRDHUP | POLLHUP | POLLERR) || recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

struct found {
    struct sse *gone[BATCH], *quiet[BATCH];
    struct {
        void (*gone)(void *context, uint64_t id);
        void *context;
        uint64_t id;
    } requests[BATCH];
    size_t gone_count, quiet_count, request_count;
};

// With conn_lock. What needs calls into streams and owners is only collected here.
static void look(struct http_server *s, struct conn *c, int64_t now, struct found *f)
{
    if (!c->cut && is_overdue(&s->params, c, now)) {
        c->cut = true;
        shutdown(c->fd, SHUT_RDWR);
    }
    if (c->waiting && c->waiting->gone && f->request_count < BATCH && has_left(c->fd)) {
        f->requests[f->request_count].gone = c->waiting->gone;
        f->requests[f->request_count].context = c->waiting->gone_context;
        f->requests[f->request_count++].id = c->waiting->gone_id;
        c->waiting->gone = NULL;
    }
    if (c->stream && sse_is_waiting(c->stream)) {
        if (f->gone_count < BATCH && has_left(c->fd))
            f->gone[f->gone_count++] = sse_ref(c->stream);
        else if (f->quiet_count < BATCH)
            f->quiet[f->quiet_count++] = sse_ref(c->stream);
    }
}

void *watcher_main(void *context)
{
    struct http_server *s = context;
    size_t first = 0; // round robin where a tick finds more than a batch
    while (!s->watcher_stop) {
        struct timespec tick = {.tv_nsec = TICK_MS * 1000000L};
        nanosleep(&tick, NULL);
        struct found f = {0};
        int64_t now = now_ms();
        size_t index = 0;
        pthread_mutex_lock(&s->conn_lock);
        for (struct conn *c = s->conns; c; c = c->next)
            if (index++ >= first)
                look(s, c, now, &f);
        pthread_mutex_unlock(&s->conn_lock);
        first = f.quiet_count == BATCH && first < index ? first + BATCH : 0;
        for (size_t i = 0; i < f.request_count; i++)
            f.requests[i].gone(f.requests[i].context, f.requests[i].id);
        for (size_t i = 0; i < f.gone_count; i++) {
            sse_abort(f.gone[i]);
            sse_unref(&f.gone[i]);
        }
        for (size_t i = 0; i < f.quiet_count; i++) {
            sse_keep_alive(f.quiet[i], now, s->params.keep_alive_ms);
            sse_unref(&f.quiet[i]);
        }
    }
    return NULL;
}
