// /v1/fine_tuning/jobs/{id}/events, paged and as a stream.
#include "compute/base/fault.h"
#include "server/api/object_json.h"
#include "server/routes/common.h"
#include "server/store/events.h"
#include "server/store/jobs.h"

#include <stdlib.h>
#include <string.h>

static json_t *event_json(const void *row)
{
    return api_event(row);
}

static bool list(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    const char *id = request_path_value(req, "id");
    struct store_job job;
    struct store_page page;
    struct store_event *rows;
    size_t count;
    bool more;
    return store_job_find(app->store, id, request_arena(req), &job, err) && routes_page(req, 20, 1000, &page, err) &&
           store_event_list(app->store, id, &page, request_arena(req), &rows, &count, &more, err) &&
           routes_list(res, rows, count, sizeof *rows, more, event_json, err);
}

// ---- the stream

struct follower {
    struct store *store;
    char job_id[64];
    int64_t after;
    bool begun;
};

static void release(void *context)
{
    free(context);
}

static const char *event_name(const struct store_event *e)
{
    // Changes of status are messages in the list; a stream tells them apart.
    return e->data && strncmp(e->data, "{\"status\":", 10) == 0 ? "status" : e->type;
}

// Rows after the last one sent, oldest first; the terminal status ends the stream once nothing is left before it.
static bool fill(void *context, struct sse *s)
{
    struct follower *f = context;
    struct arena arena;
    struct store_event *rows;
    struct store_job job;
    size_t count = 0;
    bool more = false;
    arena_init(&arena, 0);
    if (!f->begun) {
        f->begun = true;
        sse_retry(s, 3000);
    }
    // The status is read first: events that a final status came with are in the store then.
    bool known = store_job_find(f->store, f->job_id, &arena, &job, NULL);
    bool final = !known || store_status_is_final(job.status);
    if (!store_event_since(f->store, f->job_id, f->after, 64, &arena, &rows, &count, NULL)) {
        sse_close(s);
        arena_finish(&arena);
        return false;
    }
    for (size_t i = 0; i < count; i++) {
        json_t *o = api_event(&rows[i]);
        char *text = json_dumps(o, JSON_COMPACT);
        json_decref(o);
        if (!text || sse_room(s) < strlen(text) + 128) {
            free(text);
            more = true;
            break;
        }
        sse_event(s, (uint64_t)rows[i].seq, event_name(&rows[i]), text);
        free(text);
        f->after = rows[i].seq;
    }
    arena_finish(&arena);
    if (count == 64)
        more = true;
    if (final && !more)
        sse_close(s);
    return more;
}

static bool stream(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    const char *id = request_path_value(req, "id"), *last = request_header(req, "Last-Event-ID");
    struct store_job job;
    if (!store_job_find(app->store, id, request_arena(req), &job, err))
        return false;
    int64_t after = 0;
    if (last) {
        char *end;
        after = strtoll(last, &end, 10);
        if (!*last || *end || after < 0)
            return vireo_fail_param(err, "Last-Event-ID", "Last-Event-ID must be the id of an event of this stream.");
    }
    if (!request_query_integer(req, "after", 0, INT64_MAX, &after, err))
        return false;
    struct follower *f = vireo_calloc(1, sizeof *f);
    if (!f)
        return vireo_fail_memory(err, sizeof *f);
    f->store = app->store;
    f->after = after;
    snprintf(f->job_id, sizeof f->job_id, "%s", job.id);
    struct sse_source source = {.fill = fill, .release = release, .context = f};
    snprintf(source.topic, sizeof source.topic, "%s", job.id);
    struct sse *s = response_stream(res, &source, err);
    if (!s) {
        free(f);
        return false;
    }
    sse_poke(s);
    sse_unref(&s);
    return true;
}

const struct route route_job_events[] = {
    {"GET", "/v1/fine_tuning/jobs/{id}/events", HTTP_READ, HTTP_BODY_NONE, 0, list},
    {"GET", "/v1/fine_tuning/jobs/{id}/events/stream", HTTP_READ, HTTP_BODY_NONE, 0, stream},
    {0},
};
