// Why epoll_wait and epoll_ctl of libmicrohttpd are ours. It calls them through the dynamic linker, so the functions of these
// names here take precedence, as MHD_queue_response does in refusal.c. Both faults are in 0.9.75, and in 1.0.1 still.
//
// It would stand still with work in hand: MHD_epoll takes up to 128 events at a time and, while it got all 128, asks again
// before it serves any of them. But it asks again with the time it would wait for a first event: where exactly 128 (256, ...)
// connections of one worker get ready together and nothing follows, it sleeps on, up to the idle limit or for ever, and all of
// them stay unserved (tests/unit/http_burst.c). After a full batch it now only looks and does not wait: at worst there is
// nothing more, and it serves what it has. Threads that are no workers get what they ask for.
//
// It would abort the process in one of some hundred drains under load: MHD_quiesce_daemon takes the listening socket out of a
// worker's set while the worker may do the same, and whichever comes second panics. Here to remove what is not there is no
// error. (The socket stays open until the daemon has ended, or a late removal could hit a connection that got its number.)
#include "server/http/internal.h"

#ifdef __linux__
#include <errno.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

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

int epoll_ctl(int fd, int operation, int target, struct epoll_event *event)
{
    int result = (int)syscall(SYS_epoll_ctl, fd, operation, target, event);
    return result < 0 && operation == EPOLL_CTL_DEL && errno == ENOENT ? 0 : result;
}
#else
void epoll_thread_is_worker(void)
{
}
#endif
