#include "server/store/models.h"

#include "compute/base/clock.h"
#include "compute/base/file.h"
#include "server/store/rows.h"
#include "server/store/store_internal.h"

#define COLUMNS                                                                                                       \
    "seq,id,folder,parent,job_id,family,adapter,owned_by,sha256,info,step,bytes,context_length,created_at"

static void read_model(sqlite3_stmt *q, struct arena *a, struct store_model *m)
{
    *m = (struct store_model){.id = db_text(a, q, 1),
                              .folder = db_text(a, q, 2),
                              .parent = db_text(a, q, 3),
                              .job_id = db_text(a, q, 4),
                              .family = db_text(a, q, 5),
                              .adapter = db_text(a, q, 6),
                              .owned_by = db_text(a, q, 7),
                              .sha256 = db_text(a, q, 8),
                              .info = db_text(a, q, 9),
                              .step = sqlite3_column_int64(q, 10),
                              .bytes = sqlite3_column_int64(q, 11),
                              .context_length = sqlite3_column_int64(q, 12),
                              .created_at = sqlite3_column_int64(q, 13)};
}

static bool add(struct db *db, void *context, struct vireo_error *err)
{
    struct store_model *m = context;
    int64_t known = 0;
    if (db_integer(db, err, &known, "SELECT count(*) FROM models WHERE id=? AND deleted_at IS NULL", "t", m->id) < 0)
        return false;
    if (known)
        return vireo_fail_kind(err, VIREO_CONFLICT, "resource_in_use", "name", "A model named '%.100s' exists already.",
                               m->id);
    return db_run(db, err,
                  "INSERT INTO models(id,folder,parent,job_id,family,adapter,owned_by,sha256,info,step,bytes,"
                  "context_length,created_at) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)",
                  "tttttttttiiii", m->id, m->folder, m->parent, m->job_id, m->family, m->adapter,
                  m->owned_by ? m->owned_by : "vireo", m->sha256 ? m->sha256 : "", m->info ? m->info : "{}", m->step,
                  m->bytes, m->context_length, m->created_at);
}

bool store_model_add(struct store *s, struct store_model *m, struct vireo_error *err)
{
    if (!m->created_at)
        m->created_at = clock_unix();
    return store_write(s, add, m, err);
}

static bool find(struct db *db, void *context, struct vireo_error *err)
{
    struct store_find *c = context;
    sqlite3_stmt *q = db_query(db, err, "SELECT " COLUMNS " FROM models WHERE id=? AND deleted_at IS NULL", "t", c->id);
    int got = q ? db_step(db, q, err) : -1;
    if (got > 0) {
        read_model(q, c->arena, c->out);
        db_done(q);
    }
    return got > 0 || (got == 0 && vireo_fail_kind(err, VIREO_NOT_FOUND, "model_not_found", "model",
                                                   "The model '%.80s' does not exist.", c->id));
}

bool store_model_find(struct store *s, const char *id, struct arena *a, struct store_model *out,
                      struct vireo_error *err)
{
    struct store_model model;
    struct store_find c = {.id = id, .arena = a, .out = &model};
    if (!store_read(s, find, &c, err) || store_out_of_memory(a, err))
        return false;
    *out = model;
    return true;
}

struct list {
    struct arena *arena;
    struct store_model *rows;
    size_t count;
};
static bool list(struct db *db, void *context, struct vireo_error *err)
{
    struct list *c = context;
    sqlite3_stmt *q = db_query(db, err, "SELECT " COLUMNS " FROM models WHERE deleted_at IS NULL ORDER BY seq", "");
    STORE_COLLECT(db, q, c, read_model, struct store_model, err);
}

bool store_model_list(struct store *s, struct arena *a, struct store_model **rows, size_t *count,
                      struct vireo_error *err)
{
    struct list c = {.arena = a};
    if (!store_read(s, list, &c, err))
        return false;
    *rows = c.rows;
    *count = c.count;
    return true;
}

struct removal {
    const char *id;
    bool force;
    char folder[512];
    int64_t others;
};
static bool delete_one(struct db *db, void *context, struct vireo_error *err)
{
    struct removal *c = context;
    sqlite3_stmt *q =
        db_query(db, err, "SELECT folder, parent IS NULL FROM models WHERE id=? AND deleted_at IS NULL", "t", c->id);
    int got = q ? db_step(db, q, err) : -1;
    if (got <= 0)
        return got == 0 && vireo_fail_kind(err, VIREO_NOT_FOUND, "model_not_found", "model",
                                           "The model '%.80s' does not exist.", c->id);
    snprintf(c->folder, sizeof c->folder, "%s", (const char *)sqlite3_column_text(q, 0));
    bool base = sqlite3_column_int64(q, 1) != 0;
    db_done(q);
    if (base && !c->force)
        return vireo_fail_kind(err, VIREO_FORBIDDEN, "insufficient_scope", "model",
                               "'%.80s' is a base model; only an administrator's command removes it.", c->id);
    int64_t jobs = 0;
    if (db_integer(db, err, &jobs,
                   "SELECT count(*) FROM jobs WHERE model=? AND status NOT IN ('succeeded','failed','cancelled')", "t",
                   c->id) < 0)
        return false;
    if (jobs)
        return vireo_fail_kind(err, VIREO_CONFLICT, "resource_in_use", "model",
                               "The model is used by %lld unfinished job%s.", (long long)jobs, jobs == 1 ? "" : "s");
    // Checkpoints own their folder; the model row of one is only another name for it.
    return db_run(db, err, "UPDATE models SET deleted_at=? WHERE id=? AND deleted_at IS NULL", "it", clock_unix(),
                  c->id) &&
           db_integer(db, err, &c->others,
                      "SELECT (SELECT count(*) FROM models WHERE folder=?1 AND deleted_at IS NULL)"
                      " + (SELECT count(*) FROM checkpoints WHERE folder=?1 AND deleted_at IS NULL)",
                      "t", c->folder) == 1;
}

bool store_model_delete(struct store *s, const char *id, bool force, struct vireo_error *err)
{
    struct removal c = {.id = id, .force = force};
    if (!store_write(s, delete_one, &c, err))
        return false;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", s->folder, c.folder);
    return c.others > 0 || !c.folder[0] || file_remove_tree(path, err);
}

const char *store_model_path(const struct store *s, const struct store_model *m, struct arena *a)
{
    return arena_format(a, "%s/%s", s->folder, m->folder);
}
