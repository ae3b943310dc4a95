#include "compute/base/thread.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct loop {
    void (*work)(void *, size_t);
    void *context;
    size_t count;
    atomic_size_t next;
};

static void *run_loop(void *argument)
{
    struct loop *loop = argument;
    for (size_t i; (i = atomic_fetch_add(&loop->next, 1)) < loop->count;)
        loop->work(loop->context, i);
    return NULL;
}

int thread_cores(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > 256 ? 256 : (int)n;
}

void thread_for(size_t count, int threads, void (*work)(void *context, size_t i), void *context)
{
    enum { MOST = 64 };
    struct loop loop = {.work = work, .context = context, .count = count};
    int wanted = threads > 0 ? threads : thread_cores();
    wanted = VIREO_MIN(wanted, MOST);
    if ((size_t)wanted > count)
        wanted = (int)count;
    pthread_t others[MOST];
    int started = 0;
    // A thread that cannot be started is no error: the caller's own thread does the work.
    while (started < wanted - 1 && pthread_create(&others[started], NULL, run_loop, &loop) == 0)
        started++;
    run_loop(&loop);
    for (int i = 0; i < started; i++)
        pthread_join(others[i], NULL);
}

struct task {
    pthread_t thread;
    void (*work)(void *);
    void *context;
};

static void *run_task(void *argument)
{
    struct task *t = argument;
    t->work(t->context);
    return NULL;
}

struct task *task_start(void (*work)(void *context), void *context)
{
    struct task *t = vireo_calloc(1, sizeof *t);
    if (t)
        *t = (struct task){.work = work, .context = context};
    if (t && pthread_create(&t->thread, NULL, run_task, t) == 0)
        return t;
    free(t);
    return NULL;
}

void task_wait(struct task **t)
{
    if (!*t)
        return;
    pthread_join((*t)->thread, NULL);
    free(*t);
    *t = NULL;
}

struct queue {
    pthread_mutex_t lock; // guards all below; rank: leaf
    pthread_cond_t changed;
    void **items;
    size_t capacity, first, count;
    bool closed;
};

struct queue *queue_create(size_t capacity)
{
    struct queue *q = vireo_calloc(1, sizeof *q);
    void **items = vireo_calloc(capacity, sizeof *items);
    if (!q || !items) {
        free(q);
        free(items);
        return NULL;
    }
    q->items = items;
    q->capacity = capacity;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#ifndef __APPLE__
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(&q->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&q->lock, NULL);
    return q;
}

bool queue_push(struct queue *q, void *item)
{
    pthread_mutex_lock(&q->lock);
    while (!q->closed && q->count == q->capacity)
        pthread_cond_wait(&q->changed, &q->lock);
    bool taken = !q->closed;
    if (taken) {
        q->items[(q->first + q->count++) % q->capacity] = item;
        pthread_cond_broadcast(&q->changed);
    }
    pthread_mutex_unlock(&q->lock);
    return taken;
}

void *queue_pop(struct queue *q, int timeout_ms)
{
    struct timespec end;
#ifdef __APPLE__
    clock_gettime(CLOCK_REALTIME, &end);
#else
    clock_gettime(CLOCK_MONOTONIC, &end);
#endif
    if (timeout_ms > 0) {
        end.tv_sec += timeout_ms / 1000;
        end.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
        if (end.tv_nsec >= 1000000000) {
            end.tv_sec++;
            end.tv_nsec -= 1000000000;
        }
    }
    void *item = NULL;
    pthread_mutex_lock(&q->lock);
    while (q->count == 0 && !q->closed) {
        if (timeout_ms < 0)
            pthread_cond_wait(&q->changed, &q->lock);
        else if (timeout_ms == 0 || pthread_cond_timedwait(&q->changed, &q->lock, &end) == ETIMEDOUT)
            break;
    }
    if (q->count > 0) {
        item = q->items[q->first];
        q->first = (q->first + 1) % q->capacity;
        q->count--;
        pthread_cond_broadcast(&q->changed);
    }
    pthread_mutex_unlock(&q->lock);
    return item;
}

void queue_close(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
}

void queue_destroy(struct queue **q)
{
    if (!*q)
        return;
    pthread_cond_destroy(&(*q)->changed);
    pthread_mutex_destroy(&(*q)->lock);
    free((*q)->items);
    free(*q);
    *q = NULL;
}
