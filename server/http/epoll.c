// Why libmicrohttpd's wait for events is ours: it would stand still with work in hand.
//
// MHD_epoll takes up to 128 events at a time and, while it got all 128, asks again before it serves any of them. But it
// asks again with the time it would wait for a first event: where exactly 128 (256, ...) connections of one worker get
// ready together and nothing follows, it sleeps on, up to the idle limit or for ever, and all of them stay unserved (0.9.75,
// and 1.0.1 still; tests/unit/http_burst.c). It calls epoll_wait through the dynamic linker, so the function of that name
// here takes precedence, as MHD_queue_response does in refusal.c. After a full batch it only looks and does not wait: at
// worst there is nothing more, and libmicrohttpd serves what it has. Threads that are no workers get what they ask for.
#include "server/http/internal.h"

#ifdef __linux__
#include <sys/epoll.h>

static _Thread_local bool is_worker, was_full;

void epoll_thread_is_worker(void)
{
    is_worker = true;
}

int epoll_wait(int fd, struct epoll_event *events, int max, int timeout_ms)
{
    int count = epoll_pwait(fd, events, max, is_worker && was_full ? 0 : timeout_ms, NULL);
    was_full = count == max;
    return count;
}
#else
void epoll_thread_is_worker(void)
{
}
#endif
