// The threads that run handlers and fill streams: tasks in the order of their arrival, each on the handler that went to
// sleep last.
//
// Every handler sleeps on a condition variable of its own. One for all of them would lose a wake-up once in a long while:
// in glibc before 2.41 (Debian 12 has 2.36) a waiter that is preempted right after it took its signal, while others wait and
// are signalled twice, later gives back a signal it never stole, and after that one signal reaches nobody (bug 25847). The
// task would lie there until the next request comes, and a client that waits for its answer sends none. It takes a second
// waiter: with one, its group cannot be left behind while it is in there.
#include "compute/base/fault.h"
#include "server/http/internal.h"

#include <stdlib.h>

struct handler {
    struct http_server *server;
    pthread_t thread;
    pthread_cond_t woken;
    bool idle; // in the list of those that sleep
    struct handler *next_idle;
};

void http_submit(struct http_server *s, struct task *task)
{
    pthread_mutex_lock(&s->task_lock);
    task->next = NULL;
    *(s->last_task ? &s->last_task->next : &s->first_task) = task;
    s->last_task = task;
    struct handler *h = s->idle;
    if (h) { // else the first that has done its task looks here
        s->idle = h->next_idle;
        h->idle = false;
        pthread_cond_signal(&h->woken);
    }
    pthread_mutex_unlock(&s->task_lock);
}

// The next task; NULL: the pool ends and there is none.
static struct task *next_task(struct handler *h)
{
    struct http_server *s = h->server;
    pthread_mutex_lock(&s->task_lock);
    while (!s->first_task && !s->tasks_closing) {
        h->idle = true;
        h->next_idle = s->idle;
        s->idle = h;
        while (h->idle)
            pthread_cond_wait(&h->woken, &s->task_lock);
    }
    struct task *task = s->first_task;
    if (task && !(s->first_task = task->next))
        s->last_task = NULL;
    pthread_mutex_unlock(&s->task_lock);
    return task;
}

static void *handler_main(void *context)
{
    for (struct task *task; (task = next_task(context));)
        task->run(task->context);
    return NULL;
}

bool pool_start(struct http_server *s, struct vireo_error *err)
{
    s->handlers = vireo_calloc((size_t)s->params.handler_threads, sizeof *s->handlers);
    if (!s->handlers)
        return vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
    for (; s->handler_count < s->params.handler_threads; s->handler_count++) {
        struct handler *h = &s->handlers[s->handler_count];
        h->server = s;
        pthread_cond_init(&h->woken, NULL);
        if (pthread_create(&h->thread, NULL, handler_main, h) != 0) {
            pthread_cond_destroy(&h->woken);
            return vireo_fail(err, VIREO_INTERNAL, "cannot start a handler thread");
        }
    }
    return true;
}

void pool_stop(struct http_server *s)
{
    pthread_mutex_lock(&s->task_lock);
    s->tasks_closing = true;
    for (struct handler *h; (h = s->idle);) {
        s->idle = h->next_idle;
        h->idle = false;
        pthread_cond_signal(&h->woken);
    }
    pthread_mutex_unlock(&s->task_lock);
    for (int i = 0; i < s->handler_count; i++) {
        pthread_join(s->handlers[i].thread, NULL);
        pthread_cond_destroy(&s->handlers[i].woken);
    }
    free(s->handlers); // nobody is idle: http_submit, should it still be called, finds none
    s->handlers = NULL;
    s->handler_count = 0;
}
