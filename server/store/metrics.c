#include "server/store/metrics.h"

#include "compute/base/clock.h"
#include "server/store/events.h"
#include "server/store/rows.h"
#include "server/store/store_internal.h"

static void read_metric(sqlite3_stmt *q, struct arena *a, struct store_metric *m)
{
    *m = (struct store_metric){.step = sqlite3_column_int64(q, 0),
                               .values = db_text(a, q, 1),
                               .created_at = sqlite3_column_int64(q, 2)};
}

struct adding {
    const char *job_id;
    const struct store_metric *metric;
    const struct store_progress *progress;
    struct store_event *event;
};
static bool add(struct db *db, void *context, struct vireo_error *err)
{
    struct adding *c = context;
    const struct store_metric *m = c->metric;
    if (!db_run(db, err, "INSERT OR REPLACE INTO metrics(job_id,step,created_at,metric_values) VALUES(?,?,?,?)", "tiit",
                c->job_id, m->step, m->created_at ? m->created_at : clock_unix(), m->values))
        return false;
    const struct store_progress *p = c->progress;
    if (p && !db_run(db, err,
                     "UPDATE jobs SET step=CASE WHEN ?1<0 THEN step ELSE ?1 END,"
                     " total_steps=CASE WHEN ?2<0 THEN total_steps ELSE ?2 END,"
                     " trained_tokens=CASE WHEN ?3<0 THEN trained_tokens ELSE ?3 END,"
                     " eta_seconds=CASE WHEN ?4<0 THEN eta_seconds ELSE ?4 END WHERE id=?5",
                     "iiidt", p->step, p->total_steps, p->trained_tokens, p->eta_seconds, c->job_id))
        return false;
    return !c->event || store_events_insert(db, c->event, 1, err);
}

bool store_metric_add(struct store *s, const char *job_id, const struct store_metric *m,
                      const struct store_progress *progress, struct store_event *event, struct vireo_error *err)
{
    struct adding c = {.job_id = job_id, .metric = m, .progress = progress, .event = event};
    if (event)
        event->job_id = job_id;
    return store_write(s, add, &c, err);
}

struct list {
    const char *job_id;
    int64_t from, to;
    struct arena *arena;
    struct store_metric *rows;
    size_t count;
};
static bool list(struct db *db, void *context, struct vireo_error *err)
{
    struct list *c = context;
    sqlite3_stmt *q = db_query(db, err,
                               "SELECT step,metric_values,created_at FROM metrics"
                               " WHERE job_id=? AND step BETWEEN ? AND ? ORDER BY step",
                               "tii", c->job_id, c->from, c->to);
    STORE_COLLECT(db, q, c, read_metric, struct store_metric, err);
}

bool store_metric_list(struct store *s, const char *job_id, int64_t from, int64_t to, struct arena *a,
                       struct store_metric **rows, size_t *count, struct vireo_error *err)
{
    struct list c = {.job_id = job_id, .from = from, .to = to, .arena = a};
    if (!store_read(s, list, &c, err))
        return false;
    *rows = c.rows;
    *count = c.count;
    return true;
}

static bool last(struct db *db, void *context, struct vireo_error *err)
{
    struct store_find *c = context;
    sqlite3_stmt *q = db_query(db, err,
                               "SELECT step,metric_values,created_at FROM metrics WHERE job_id=?"
                               " ORDER BY step DESC LIMIT 1",
                               "t", c->id);
    int got = q ? db_step(db, q, err) : -1;
    if (got > 0) {
        read_metric(q, c->arena, c->out);
        db_done(q);
    }
    return got > 0 || (got == 0 && vireo_fail(err, VIREO_NOT_FOUND, "The job has no metrics yet."));
}

bool store_metric_last(struct store *s, const char *job_id, struct arena *a, struct store_metric *out,
                       struct vireo_error *err)
{
    struct store_metric metric;
    struct store_find c = {.id = job_id, .arena = a, .out = &metric};
    if (!store_read(s, last, &c, err) || store_out_of_memory(a, err))
        return false;
    *out = metric;
    return true;
}
