#include "server/store/checkpoints.h"

#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "server/store/events.h"
#include "server/store/rows.h"
#include "server/store/store_internal.h"

#define COLUMNS "seq,id,job_id,model,folder,metrics,sha256,step,bytes,created_at"

static void read_checkpoint(sqlite3_stmt *q, struct arena *a, struct store_checkpoint *c)
{
    *c = (struct store_checkpoint){.seq = sqlite3_column_int64(q, 0),
                                   .id = db_text(a, q, 1),
                                   .job_id = db_text(a, q, 2),
                                   .model = db_text(a, q, 3),
                                   .folder = db_text(a, q, 4),
                                   .metrics = db_text(a, q, 5),
                                   .sha256 = db_text(a, q, 6),
                                   .step = sqlite3_column_int64(q, 7),
                                   .bytes = sqlite3_column_int64(q, 8),
                                   .created_at = sqlite3_column_int64(q, 9)};
}

struct adding {
    struct store_checkpoint *row;
    struct store_event *event;
};
static bool add(struct db *db, void *context, struct vireo_error *err)
{
    struct adding *a = context;
    struct store_checkpoint *c = a->row;
    if (vireo_fault("checkpoint.commit"))
        return vireo_fail(err, VIREO_IO, "database: commit of a checkpoint failed (fault point)");
    // A resume may write the same step again: the newer row counts.
    if (!db_run(db, err, "UPDATE checkpoints SET deleted_at=? WHERE job_id=? AND step=? AND deleted_at IS NULL", "iti",
                c->created_at, c->job_id, c->step) ||
        !db_run(db, err,
                "INSERT INTO checkpoints(id,job_id,model,folder,metrics,sha256,step,bytes,created_at)"
                " VALUES(?,?,?,?,?,?,?,?,?)",
                "tttttt" "iii", c->id, c->job_id, c->model ? c->model : "", c->folder,
                c->metrics ? c->metrics : "{}", c->sha256 ? c->sha256 : "", c->step, c->bytes, c->created_at))
        return false;
    c->seq = db_last_row(db);
    return db_run(db, err, "UPDATE jobs SET checkpoint_step=?, attempts=0 WHERE id=?", "it", c->step, c->job_id) &&
           (!a->event || store_events_insert(db, a->event, 1, err));
}

bool store_checkpoint_add(struct store *s, struct store_checkpoint *c, struct store_event *event, struct arena *a,
                          struct vireo_error *err)
{
    if (!c->id && !(c->id = store_new_id(a, "ftckpt_", err)))
        return false;
    if (!c->created_at)
        c->created_at = clock_unix();
    if (event)
        event->job_id = c->job_id;
    struct adding context = {.row = c, .event = event};
    return store_write(s, add, &context, err);
}

struct list {
    const char *job_id;
    const struct store_page *page;
    struct arena *arena;
    struct store_checkpoint *rows;
    size_t count;
};
static bool list(struct db *db, void *context, struct vireo_error *err)
{
    struct list *c = context;
    int64_t after = c->page->ascending ? 0 : INT64_MAX;
    if (c->page->after && !store_seq_of(db, "SELECT seq FROM checkpoints WHERE id=?", c->page->after, &after, err))
        return false;
    sqlite3_stmt *q = db_query(db, err,
                               c->page->ascending
                                   ? "SELECT " COLUMNS " FROM checkpoints WHERE job_id=? AND deleted_at IS NULL"
                                     " AND seq>? ORDER BY seq LIMIT ?"
                                   : "SELECT " COLUMNS " FROM checkpoints WHERE job_id=? AND deleted_at IS NULL"
                                     " AND seq<? ORDER BY seq DESC LIMIT ?",
                               "tii", c->job_id, after, (int64_t)c->page->limit + 1);
    STORE_COLLECT(db, q, c, read_checkpoint, struct store_checkpoint, err);
}

bool store_checkpoint_list(struct store *s, const char *job_id, const struct store_page *page, struct arena *a,
                           struct store_checkpoint **rows, size_t *count, bool *has_more, struct vireo_error *err)
{
    struct list c = {.job_id = job_id, .page = page, .arena = a};
    if (!store_read(s, list, &c, err))
        return false;
    *has_more = store_cut(&c.count, page->limit);
    *rows = c.rows;
    *count = c.count;
    return true;
}

static bool find(struct db *db, void *context, struct vireo_error *err)
{
    struct store_find *c = context;
    sqlite3_stmt *q =
        db_query(db, err, "SELECT " COLUMNS " FROM checkpoints WHERE id=? AND deleted_at IS NULL", "t", c->id);
    int got = q ? db_step(db, q, err) : -1;
    if (got > 0) {
        read_checkpoint(q, c->arena, c->out);
        db_done(q);
    }
    return got > 0 || (got == 0 && store_missing(err, "not_found", "checkpoint", c->id));
}

bool store_checkpoint_find(struct store *s, const char *id, struct arena *a, struct store_checkpoint *out,
                           struct vireo_error *err)
{
    struct store_checkpoint row;
    struct store_find c = {.id = id, .arena = a, .out = &row};
    if (!store_read(s, find, &c, err) || store_out_of_memory(a, err))
        return false;
    *out = row;
    return true;
}

static bool delete_one(struct db *db, void *context, struct vireo_error *err)
{
    const char *id = context;
    return db_run(db, err, "UPDATE checkpoints SET deleted_at=? WHERE id=? AND deleted_at IS NULL", "it", clock_unix(),
                  id) &&
           (db_changes(db) || store_missing(err, "not_found", "checkpoint", id));
}

bool store_checkpoint_delete(struct store *s, const char *id, struct vireo_error *err)
{
    return store_write(s, delete_one, (void *)(uintptr_t)id, err);
}
