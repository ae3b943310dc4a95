#include "server/store/evaluations.h"

#include "compute/base/clock.h"
#include "server/store/table.h"

#define COLUMNS                                                                                                       \
    "id,status,model,file_id,spec,result,error,key_id,created_at,started_at,finished_at,attempts"

static void read_evaluation(sqlite3_stmt *q, struct arena *a, void *row)
{
    struct store_evaluation *e = row;
    *e = (struct store_evaluation){.id = db_text(a, q, 0),
                                   .status = db_text(a, q, 1),
                                   .model = db_text(a, q, 2),
                                   .file_id = db_text(a, q, 3),
                                   .spec = db_text(a, q, 4),
                                   .result = db_text(a, q, 5),
                                   .error = db_text(a, q, 6),
                                   .key_id = db_text(a, q, 7),
                                   .created_at = sqlite3_column_int64(q, 8),
                                   .started_at = sqlite3_column_int64(q, 9),
                                   .finished_at = sqlite3_column_int64(q, 10),
                                   .attempts = sqlite3_column_int64(q, 11)};
}

static const struct store_table table = {.kind = "not_found",
                                         .what = "evaluation",
                                         .size = sizeof(struct store_evaluation),
                                         .read = read_evaluation,
                                         STORE_TABLE_SQL("evaluations", COLUMNS, "1")};

static bool add(struct db *db, void *context, struct vireo_error *err)
{
    struct store_evaluation *e = context;
    return db_run(db, err,
                  "INSERT INTO evaluations(id,status,model,file_id,spec,key_id,created_at) VALUES(?,?,?,?,?,?,?)",
                  "ttttt" "ti", e->id, e->status, e->model, e->file_id, e->spec, e->key_id ? e->key_id : "", e->created_at);
}

bool store_evaluation_add(struct store *s, struct store_evaluation *e, struct arena *a, struct vireo_error *err)
{
    if (!e->id && !(e->id = store_new_id(a, "eval_", err)))
        return false;
    if (!e->created_at)
        e->created_at = clock_unix();
    return store_write(s, add, e, err);
}

bool store_evaluation_find(struct store *s, const char *id, struct arena *a, struct store_evaluation *out,
                           struct vireo_error *err)
{
    return store_table_find(s, &table, id, a, out, err);
}

bool store_evaluation_list(struct store *s, const struct store_page *page, struct arena *a, struct store_evaluation **rows,
                           size_t *count, bool *has_more, struct vireo_error *err)
{
    void *found;
    bool done = store_table_page(s, &table, page, a, &found, count, has_more, err);
    if (done)
        *rows = found;
    return done;
}

struct list {
    struct arena *arena;
    struct store_evaluation *rows;
    size_t count;
};
static bool unfinished(struct db *db, void *context, struct vireo_error *err)
{
    struct list *c = context;
    sqlite3_stmt *q = db_query(db, err,
                               "SELECT " COLUMNS " FROM evaluations WHERE status IN ('queued','running') ORDER BY seq", "");
    STORE_COLLECT(db, q, c, read_evaluation, struct store_evaluation, err);
}

bool store_evaluation_unfinished(struct store *s, struct arena *a, struct store_evaluation **rows, size_t *count,
                                 struct vireo_error *err)
{
    struct list c = {.arena = a};
    if (!store_read(s, unfinished, &c, err))
        return false;
    *rows = c.rows;
    *count = c.count;
    return true;
}

struct update {
    const struct store_evaluation *e;
    const char *expected;
    const char *const *rows;
    size_t row_count;
};
static bool update(struct db *db, void *context, struct vireo_error *err)
{
    struct update *c = context;
    const struct store_evaluation *e = c->e;
    int64_t matches = 0;
    if (db_integer(db, err, &matches, "SELECT count(*) FROM evaluations WHERE id=?1 AND (?2 IS NULL OR status=?2)", "tt",
                   e->id, c->expected) < 0)
        return false;
    if (!matches)
        return vireo_fail_kind(err, VIREO_CONFLICT, "invalid_state", NULL, "The evaluation is not '%s' any more.",
                               c->expected ? c->expected : "there");
    bool done = db_run(db, err,
                       "UPDATE evaluations SET status=?,result=?,error=?,started_at=?,finished_at=?,attempts=? WHERE id=?",
                       "ttt" "iiit", e->status, e->result, e->error, e->started_at, e->finished_at, e->attempts, e->id);
    if (done && c->row_count)
        done = db_run(db, err, "DELETE FROM evaluation_rows WHERE evaluation_id=?", "t", e->id);
    for (size_t i = 0; done && i < c->row_count; i++)
        done = db_run(db, err, "INSERT INTO evaluation_rows(evaluation_id,place,data) VALUES(?,?,?)", "tit", e->id,
                      (int64_t)i, c->rows[i]);
    return done;
}

bool store_evaluation_update(struct store *s, const struct store_evaluation *e, const char *expected,
                             const char *const *rows, size_t row_count, struct vireo_error *err)
{
    struct update c = {.e = e, .expected = expected, .rows = rows, .row_count = row_count};
    return store_write(s, update, &c, err);
}

struct row_list {
    const char *id;
    int64_t first, limit;
    struct arena *arena;
    const char **rows;
    size_t count;
};
static void read_row(sqlite3_stmt *q, struct arena *a, const char **out)
{
    *out = db_text(a, q, 0);
}
static bool list_rows(struct db *db, void *context, struct vireo_error *err)
{
    struct row_list *c = context;
    sqlite3_stmt *q = db_query(db, err,
                               "SELECT data FROM evaluation_rows WHERE evaluation_id=? AND place>=? ORDER BY place LIMIT ?",
                               "tii", c->id, c->first, c->limit + 1);
    STORE_COLLECT(db, q, c, read_row, const char *, err);
}

bool store_evaluation_rows(struct store *s, const char *id, int64_t first, int limit, struct arena *a, const char ***rows,
                           size_t *count, bool *has_more, struct vireo_error *err)
{
    struct row_list c = {.id = id, .first = first, .limit = limit, .arena = a};
    if (!store_read(s, list_rows, &c, err))
        return false;
    *has_more = store_cut(&c.count, limit);
    *rows = c.rows;
    *count = c.count;
    return true;
}
