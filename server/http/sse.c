#include "server/http/sse.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "server/http/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct sse {
    struct http_server *server;
    _Atomic int references;
    pthread_mutex_t lock; // guards all below; rank 2. MHD's own locks may be taken inside
    struct MHD_Connection *connection;
    char *buffer;
    size_t start, size, capacity;
    bool suspended; // the connection sleeps until there is something to send
    bool closed;    // by the producer: what is buffered still goes out
    bool aborted;   // client gone or too slow: nothing goes out
    bool detached;  // the connection is done with us
    int64_t last_ms;
    void (*gone)(void *context, uint64_t id);
    void *gone_context;
    uint64_t gone_id;
    struct sse_source source;
    bool filling, again, more, released;
    struct task fill_task;
};

struct sse *sse_create(struct http_server *server, const struct sse_source *source, struct vireo_error *err)
{
    struct sse *s = vireo_calloc(1, sizeof *s);
    if (!s) {
        vireo_fail_memory(err, sizeof *s);
        return NULL;
    }
    s->server = server;
    s->references = 1;
    s->last_ms = now_ms();
    if (source)
        s->source = *source;
    pthread_mutex_init(&s->lock, NULL);
    atomic_fetch_add(&server->streams, 1);
    return s;
}

struct sse *sse_ref(struct sse *s)
{
    atomic_fetch_add(&s->references, 1);
    return s;
}

void sse_unref(struct sse **sp)
{
    struct sse *s = *sp;
    *sp = NULL;
    if (!s || atomic_fetch_sub(&s->references, 1) > 1)
        return;
    if (s->source.release && !s->released)
        s->source.release(s->source.context);
    atomic_fetch_sub(&s->server->streams, 1);
    pthread_mutex_destroy(&s->lock);
    free(s->buffer);
    free(s);
}

static void wake(struct sse *s) // with lock
{
    if (s->suspended) {
        s->suspended = false;
        MHD_resume_connection(s->connection);
    }
}

struct notice {
    void (*gone)(void *context, uint64_t id);
    void *context;
    uint64_t id;
};
static struct notice take_gone(struct sse *s) // with lock
{
    struct notice n = {.gone = s->gone, .context = s->gone_context, .id = s->gone_id};
    s->gone = NULL;
    return n;
}
static void tell(struct notice n) // without lock
{
    if (n.gone)
        n.gone(n.context, n.id);
}

// Room for `more` bytes behind the present ones; moves them to the front when needed.
static bool make_room(struct sse *s, size_t more)
{
    if (s->start + s->size + more <= s->capacity)
        return true;
    if (s->start) {
        memmove(s->buffer, s->buffer + s->start, s->size);
        s->start = 0;
    }
    if (s->size + more <= s->capacity)
        return true;
    size_t capacity = VIREO_MIN(VIREO_MAX(s->capacity * 2, s->size + more + 1024), (size_t)SSE_BUFFER_BYTES);
    char *grown = vireo_realloc(s->buffer, capacity);
    if (!grown)
        return false;
    s->buffer = grown;
    s->capacity = capacity;
    return true;
}

struct piece {
    const char *bytes;
    size_t count;
};
// All pieces or none. false: closed, gone, or cut off now because the reader is too slow.
static bool append(struct sse *s, const struct piece *pieces, int count)
{
    size_t total = 0;
    for (int i = 0; i < count; i++)
        total += pieces[i].count;
    pthread_mutex_lock(&s->lock);
    bool open = !s->closed && !s->aborted && !s->detached;
    struct notice notice = {0};
    if (open && (s->size + total > SSE_BUFFER_BYTES || !make_room(s, total))) {
        open = false;
        s->aborted = true;
        notice = take_gone(s);
        wake(s);
    }
    for (int i = 0; open && i < count; i++) {
        memcpy(s->buffer + s->start + s->size, pieces[i].bytes, pieces[i].count);
        s->size += pieces[i].count;
    }
    if (open) {
        s->last_ms = now_ms();
        wake(s);
    }
    pthread_mutex_unlock(&s->lock);
    tell(notice);
    return open;
}

bool sse_send_bytes(struct sse *s, const char *data, size_t count)
{
    struct piece pieces[] = {{"data: ", 6}, {data, count}, {"\n\n", 2}};
    return append(s, pieces, 3);
}

bool sse_send(struct sse *s, const char *data)
{
    return sse_send_bytes(s, data, strlen(data));
}

bool sse_event(struct sse *s, uint64_t id, const char *event, const char *data)
{
    char head[160] = "";
    int used = 0;
    if (id)
        used = snprintf(head, sizeof head, "id: %llu\n", (unsigned long long)id);
    if (event)
        used += snprintf(head + used, sizeof head - (size_t)used, "event: %.80s\n", event);
    struct piece pieces[] = {{head, (size_t)used}, {"data: ", 6}, {data, strlen(data)}, {"\n\n", 2}};
    return append(s, pieces, 4);
}

bool sse_retry(struct sse *s, int ms)
{
    char line[48];
    struct piece piece = {line, (size_t)snprintf(line, sizeof line, "retry: %d\n\n", ms)};
    return append(s, &piece, 1);
}

size_t sse_room(struct sse *s)
{
    pthread_mutex_lock(&s->lock);
    size_t room = s->closed || s->aborted || s->detached ? 0 : SSE_BUFFER_BYTES - s->size;
    pthread_mutex_unlock(&s->lock);
    return room;
}

bool sse_is_open(struct sse *s)
{
    pthread_mutex_lock(&s->lock);
    bool open = !s->closed && !s->aborted && !s->detached;
    pthread_mutex_unlock(&s->lock);
    return open;
}

void sse_close(struct sse *s)
{
    pthread_mutex_lock(&s->lock);
    s->closed = true;
    s->gone = NULL;
    wake(s);
    pthread_mutex_unlock(&s->lock);
}

void sse_on_gone(struct sse *s, void (*gone)(void *context, uint64_t id), void *context, uint64_t id)
{
    pthread_mutex_lock(&s->lock);
    s->gone = s->closed ? NULL : gone;
    s->gone_context = context;
    s->gone_id = id;
    struct notice notice = {0};
    if (s->aborted || s->detached)
        notice = take_gone(s);
    pthread_mutex_unlock(&s->lock);
    tell(notice);
}

const char *sse_topic(const struct sse *s)
{
    return s->source.topic;
}

// --- sources ---------------------------------------------------------------------------------------------------------

static void run_fill(void *context);

static void schedule(struct sse *s) // with lock
{
    if (!s->source.fill || s->filling || s->closed || s->aborted || s->detached)
        return;
    s->filling = true;
    s->again = false;
    s->fill_task = (struct task){.run = run_fill, .context = sse_ref(s)};
    http_submit(s->server, &s->fill_task);
}

static bool half_empty(const struct sse *s)
{
    return s->size < SSE_BUFFER_BYTES / 2;
}

static void run_fill(void *context)
{
    struct sse *s = context;
    bool more = s->source.fill(s->source.context, s);
    pthread_mutex_lock(&s->lock);
    s->filling = false;
    s->more = more;
    bool release = s->detached && s->source.release && !s->released;
    s->released = s->released || release;
    if (s->again || (s->more && half_empty(s)))
        schedule(s);
    pthread_mutex_unlock(&s->lock);
    if (release)
        s->source.release(s->source.context);
    sse_unref(&s);
}

void sse_poke(struct sse *s)
{
    pthread_mutex_lock(&s->lock);
    s->again = true;
    if (s->connection)
        schedule(s);
    pthread_mutex_unlock(&s->lock);
}

// --- the connection's side -------------------------------------------------------------------------------------------

void sse_attach(struct sse *s, struct MHD_Connection *connection)
{
    pthread_mutex_lock(&s->lock);
    s->connection = connection;
    pthread_mutex_unlock(&s->lock);
}

void sse_start(struct sse *s)
{
    pthread_mutex_lock(&s->lock);
    schedule(s);
    pthread_mutex_unlock(&s->lock);
}

ssize_t sse_read(void *context, uint64_t pos, char *buffer, size_t max)
{
    struct sse *s = context;
    ssize_t result = 0;
    (void)pos;
    pthread_mutex_lock(&s->lock);
    if (s->aborted) {
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (s->size) {
        size_t count = VIREO_MIN(s->size, max);
        memcpy(buffer, s->buffer + s->start, count);
        s->start += count;
        s->size -= count;
        if (!s->size)
            s->start = 0;
        if (s->more && half_empty(s))
            schedule(s);
        result = (ssize_t)count;
    } else if (s->closed) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (s->server->closing) { // nobody would resume it
        result = MHD_CONTENT_READER_END_WITH_ERROR;
    } else {
        s->suspended = true;
        MHD_suspend_connection(s->connection);
    }
    pthread_mutex_unlock(&s->lock);
    return result;
}

void sse_detach(struct sse *s)
{
    pthread_mutex_lock(&s->lock);
    struct notice notice = {0};
    s->detached = true;
    s->suspended = false;
    s->connection = NULL;
    if (!s->closed)
        notice = take_gone(s);
    bool release = !s->filling && s->source.release && !s->released;
    s->released = s->released || release;
    pthread_mutex_unlock(&s->lock);
    tell(notice);
    if (release)
        s->source.release(s->source.context);
}

bool sse_is_waiting(struct sse *s)
{
    pthread_mutex_lock(&s->lock);
    bool waiting = s->suspended;
    pthread_mutex_unlock(&s->lock);
    return waiting;
}

bool sse_is_aborted(struct sse *s)
{
    pthread_mutex_lock(&s->lock);
    bool aborted = s->aborted;
    pthread_mutex_unlock(&s->lock);
    return aborted;
}

void sse_abort(struct sse *s)
{
    pthread_mutex_lock(&s->lock);
    s->aborted = true;
    struct notice notice = {0};
    if (!s->closed)
        notice = take_gone(s);
    wake(s);
    pthread_mutex_unlock(&s->lock);
    tell(notice);
}

void sse_keep_alive(struct sse *s, int64_t now, int every_ms)
{
    pthread_mutex_lock(&s->lock);
    bool due = s->suspended && now - s->last_ms >= every_ms;
    pthread_mutex_unlock(&s->lock);
    struct piece piece = {":\n", 2};
    if (due)
        append(s, &piece, 1);
}

void http_poke(struct http_server *server, const char *topic)
{
    struct sse *found[64];
    size_t count, skip = 0;
    do { // in batches, so that no stream is touched with the connections' lock held
        size_t seen = 0;
        count = 0;
        pthread_mutex_lock(&server->conn_lock);
        for (struct conn *c = server->conns; c && count < VIREO_COUNT(found); c = c->next)
            if (c->stream && strcmp(sse_topic(c->stream), topic) == 0 && seen++ >= skip)
                found[count++] = sse_ref(c->stream);
        pthread_mutex_unlock(&server->conn_lock);
        skip += count;
        for (size_t i = 0; i < count; i++) {
            sse_poke(found[i]);
            sse_unref(&found[i]);
        }
    } while (count == VIREO_COUNT(found));
}
