#include "server/store/events.h"

#include "compute/base/clock.h"
#include "server/store/rows.h"
#include "server/store/store_internal.h"

#define COLUMNS "seq,id,job_id,created_at,level,type,message,data,step"

static void read_event(sqlite3_stmt *q, struct arena *a, struct store_event *e)
{
    *e = (struct store_event){.seq = sqlite3_column_int64(q, 0),
                              .id = db_text(a, q, 1),
                              .job_id = db_text(a, q, 2),
                              .created_at = sqlite3_column_int64(q, 3),
                              .level = db_text(a, q, 4),
                              .type = db_text(a, q, 5),
                              .message = db_text(a, q, 6),
                              .data = db_text(a, q, 7),
                              .step = sqlite3_column_int64(q, 8)};
}

bool store_events_insert(struct db *db, struct store_event *events, size_t count, struct vireo_error *err)
{
    for (size_t i = 0; i < count; i++) {
        struct store_event *e = &events[i];
        char id[48];
        random_id(id, sizeof id, "ftevent-", 24);
        if (!e->created_at)
            e->created_at = clock_unix();
        if (!db_run(db, err,
                    "INSERT INTO events(id,job_id,created_at,level,type,message,data,step) VALUES(?,?,?,?,?,?,?,?)",
                    "ttittt" "ti", e->id ? e->id : id, e->job_id, e->created_at, e->level ? e->level : "info",
                    e->type ? e->type : "message", e->message ? e->message : "", e->data, e->step))
            return false;
        e->seq = db_last_row(db);
    }
    return true;
}

struct adding {
    struct store_event *events;
    size_t count;
};
static bool add(struct db *db, void *context, struct vireo_error *err)
{
    struct adding *c = context;
    return store_events_insert(db, c->events, c->count, err);
}

bool store_event_add(struct store *s, struct store_event *events, size_t count, struct vireo_error *err)
{
    struct adding c = {.events = events, .count = count};
    return store_write(s, add, &c, err);
}

struct list {
    const char *job_id;
    const struct store_page *page;
    int64_t after_seq;
    int64_t limit;
    struct arena *arena;
    struct store_event *rows;
    size_t count;
};
static bool list(struct db *db, void *context, struct vireo_error *err)
{
    struct list *c = context;
    int64_t after = c->page->ascending ? 0 : INT64_MAX;
    if (c->page->after && !store_seq_of(db, "SELECT seq FROM events WHERE id=?", c->page->after, &after, err))
        return false;
    sqlite3_stmt *q =
        db_query(db, err,
                 c->page->ascending
                     ? "SELECT " COLUMNS " FROM events WHERE job_id=? AND seq>? ORDER BY seq LIMIT ?"
                     : "SELECT " COLUMNS " FROM events WHERE job_id=? AND seq<? ORDER BY seq DESC LIMIT ?",
                 "tii", c->job_id, after, (int64_t)c->page->limit + 1);
    STORE_COLLECT(db, q, c, read_event, struct store_event, err);
}

bool store_event_list(struct store *s, const char *job_id, const struct store_page *page, struct arena *a,
                      struct store_event **rows, size_t *count, bool *has_more, struct vireo_error *err)
{
    struct list c = {.job_id = job_id, .page = page, .arena = a};
    if (!store_read(s, list, &c, err))
        return false;
    *has_more = store_cut(&c.count, page->limit);
    *rows = c.rows;
    *count = c.count;
    return true;
}

static bool since(struct db *db, void *context, struct vireo_error *err)
{
    struct list *c = context;
    sqlite3_stmt *q =
        c->job_id ? db_query(db, err, "SELECT " COLUMNS " FROM events WHERE job_id=? AND seq>? ORDER BY seq LIMIT ?",
                             "tii", c->job_id, c->after_seq, c->limit)
                  : db_query(db, err, "SELECT " COLUMNS " FROM events WHERE seq>? ORDER BY seq LIMIT ?", "ii",
                             c->after_seq, c->limit);
    STORE_COLLECT(db, q, c, read_event, struct store_event, err);
}

bool store_event_since(struct store *s, const char *job_id, int64_t after_seq, int limit, struct arena *a,
                       struct store_event **rows, size_t *count, struct vireo_error *err)
{
    struct list c = {.job_id = job_id, .after_seq = after_seq, .limit = limit, .arena = a};
    if (!store_read(s, since, &c, err))
        return false;
    *rows = c.rows;
    *count = c.count;
    return true;
}
