#include "compute/worker/link.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/thread.h"
#include "compute/wire/frame.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOG_MODULE "worker"
#include "compute/base/log.h"

struct link {
    int fd;
    pthread_t reader;
    pthread_mutex_t send_lock; // guards writing to fd; rank: leaf
    struct queue *inbox;
    _Atomic int order;
    pthread_mutex_t ack_lock; // guards acked; rank: leaf
    pthread_cond_t acked_more;
    uint32_t acked;
};

static _Noreturn void orphaned(const char *why)
{
    log_info("the server is gone (%s)", why);
    _exit(WORKER_ORPHANED);
}

static void take_order(struct link *l, const json_t *message)
{
    const char *order = json_string_value(json_object_get(message, "order"));
    if (order && strcmp(order, "cancel") == 0)
        atomic_store(&l->order, TRAIN_CANCEL);
    else if (order && strcmp(order, "pause") == 0)
        atomic_store(&l->order, TRAIN_PAUSE);
}

static void *read_frames(void *context)
{
    struct link *l = context;
    struct frame_reader reader = {0};
    for (;;) {
        json_t *message;
        bool ended;
        struct vireo_error err;
        if (!frame_receive(l->fd, &reader, &message, &ended, &err))
            orphaned(ended ? "closed" : err.message);
        switch (message_kind_of(message)) {
        case MESSAGE_ORDER: take_order(l, message); break;
        case MESSAGE_ACK:
            pthread_mutex_lock(&l->ack_lock);
            l->acked = (uint32_t)json_integer_value(json_object_get(message, "step"));
            pthread_cond_broadcast(&l->acked_more);
            pthread_mutex_unlock(&l->ack_lock);
            break;
        case MESSAGE_PING: {
            json_t *pong = message_new(MESSAGE_PONG);
            if (pong)
                json_object_set(pong, "id", json_object_get(message, "id"));
            link_send(l, pong);
            break;
        }
        default:
            if (queue_push(l->inbox, message))
                continue;
        }
        json_decref(message);
    }
    return NULL;
}

struct link *link_open(int fd, struct vireo_error *err)
{
    struct link *l = vireo_calloc(1, sizeof *l);
    if (!l || !(l->inbox = queue_create(1024))) {
        free(l);
        vireo_fail_memory(err, sizeof *l);
        return NULL;
    }
    l->fd = fd;
    pthread_mutex_init(&l->send_lock, NULL);
    pthread_mutex_init(&l->ack_lock, NULL);
    pthread_cond_init(&l->acked_more, NULL);
    if (pthread_create(&l->reader, NULL, read_frames, l) != 0) {
        vireo_fail(err, VIREO_NO_MEMORY, "cannot start a thread");
        queue_destroy(&l->inbox);
        free(l);
        return NULL;
    }
    return l;
}

void link_send(struct link *l, json_t *message)
{
    link_send_bytes(l, message, NULL, 0);
}

void link_send_bytes(struct link *l, json_t *message, const void *bytes, size_t count)
{
    struct vireo_error err;
    if (!message) {
        log_error("out of memory while composing a message");
        return;
    }
    pthread_mutex_lock(&l->send_lock);
    bool sent = frame_send(l->fd, message, &err) && (!count || frame_send_bytes(l->fd, bytes, count, &err));
    pthread_mutex_unlock(&l->send_lock);
    const char *kind = json_string_value(json_object_get(message, "kind"));
    if (!sent && err.code != VIREO_IO)
        log_error("message '%s' was not sent: %s", kind ? kind : "?", err.message);
    else if (!sent)
        orphaned(err.message);
    json_decref(message);
}

void link_send_error(struct link *l, enum message_kind kind, const struct vireo_error *err)
{
    json_t *message = message_new(kind);
    if (message)
        json_object_set_new(message, "error", message_error(err));
    link_send(l, message);
}

json_t *link_receive(struct link *l, int timeout_ms)
{
    return queue_pop(l->inbox, timeout_ms);
}

enum train_order link_order(struct link *l)
{
    return (enum train_order)atomic_load(&l->order);
}

void link_wait_ack(struct link *l, uint32_t step)
{
    pthread_mutex_lock(&l->ack_lock);
    while (l->acked < step)
        pthread_cond_wait(&l->acked_more, &l->ack_lock);
    pthread_mutex_unlock(&l->ack_lock);
}
