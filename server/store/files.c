#include "server/store/files.h"

#include "compute/base/clock.h"
#include "compute/base/hash.h"
#include "server/store/table.h"

#define COLUMNS "seq,id,filename,purpose,sha256,status,status_details,bytes,created_at,expires_at"

static void read_file(sqlite3_stmt *q, struct arena *a, void *row)
{
    struct store_file *f = row;
    *f = (struct store_file){.id = db_text(a, q, 1),
                             .filename = db_text(a, q, 2),
                             .purpose = db_text(a, q, 3),
                             .sha256 = db_text(a, q, 4),
                             .status = db_text(a, q, 5),
                             .status_details = db_text(a, q, 6),
                             .bytes = sqlite3_column_int64(q, 7),
                             .created_at = sqlite3_column_int64(q, 8),
                             .expires_at = sqlite3_column_int64(q, 9)};
}

static const struct store_table table = {.kind = "file_not_found",
                                         .what = "file",
                                         .size = sizeof(struct store_file),
                                         .read = read_file,
                                         STORE_TABLE_SQL("files", COLUMNS, "deleted_at IS NULL")};

bool store_file_insert(struct db *db, struct store_file *f, struct vireo_error *err)
{
    return db_run(db, err,
                  "INSERT INTO files(id,filename,purpose,sha256,status,status_details,bytes,created_at,expires_at)"
                  " VALUES(?,?,?,?,?,?,?,?,?)",
                  "ttttttiii", f->id, f->filename, f->purpose, f->sha256, f->status, f->status_details, f->bytes,
                  f->created_at, f->expires_at);
}

static bool add(struct db *db, void *context, struct vireo_error *err)
{
    return store_file_insert(db, context, err);
}

bool store_file_add(struct store *s, struct store_file *f, struct arena *a, struct vireo_error *err)
{
    if (!f->id && !(f->id = store_new_id(a, "file-", err)))
        return false;
    if (!f->created_at)
        f->created_at = clock_unix();
    if (!store_write(s, add, f, err))
        return false;
    blob_unpin(s, f->sha256);
    return true;
}

bool store_file_find(struct store *s, const char *id, struct arena *a, struct store_file *out, struct vireo_error *err)
{
    return store_table_find(s, &table, id, a, out, err);
}

struct list {
    const struct store_page *page;
    const char *purpose;
    struct arena *arena;
    struct store_file *rows;
    size_t count;
};
static bool list(struct db *db, void *context, struct vireo_error *err)
{
    struct list *c = context;
    int64_t after;
    if (!store_page_start(db, table.seq, c->page, &after, err))
        return false;
    sqlite3_stmt *q = db_query(db, err,
                               c->page->ascending
                                   ? "SELECT " COLUMNS " FROM files WHERE deleted_at IS NULL AND seq>?1"
                                     " AND (?2 IS NULL OR purpose=?2) ORDER BY seq LIMIT ?3"
                                   : "SELECT " COLUMNS " FROM files WHERE deleted_at IS NULL AND seq<?1"
                                     " AND (?2 IS NULL OR purpose=?2) ORDER BY seq DESC LIMIT ?3",
                               "iti", after, c->purpose, (int64_t)c->page->limit + 1);
    STORE_COLLECT(db, q, c, read_file, struct store_file, err);
}

bool store_file_list(struct store *s, const struct store_page *page, const char *purpose, struct arena *a,
                     struct store_file **rows, size_t *count, bool *has_more, struct vireo_error *err)
{
    struct list c = {.page = page, .purpose = purpose, .arena = a};
    if (!store_read(s, list, &c, err))
        return false;
    *has_more = store_cut(&c.count, page->limit);
    *rows = c.rows;
    *count = c.count;
    return true;
}

struct status {
    const char *id, *status, *details;
};
static bool set_status(struct db *db, void *context, struct vireo_error *err)
{
    struct status *c = context;
    return db_run(db, err, "UPDATE files SET status=?, status_details=? WHERE id=? AND deleted_at IS NULL", "ttt",
                  c->status, c->details, c->id) &&
           (db_changes(db) || store_missing(err, "file_not_found", "file", c->id));
}

bool store_file_status(struct store *s, const char *id, const char *status, const char *details,
                       struct vireo_error *err)
{
    struct status c = {.id = id, .status = status, .details = details};
    return store_write(s, set_status, &c, err);
}

struct removal {
    const char *id;
    int64_t now;
    char sha256[65];
    bool any;
};

bool store_file_remove(struct db *db, const char *id, char sha256[65], struct vireo_error *err)
{
    int64_t jobs = 0;
    if (db_integer(db, err, &jobs,
                   "SELECT count(*) FROM jobs WHERE (training_file=?1 OR validation_file=?1)"
                   " AND status NOT IN ('succeeded','failed','cancelled')",
                   "t", id) < 0)
        return false;
    if (jobs)
        return vireo_fail_kind(err, VIREO_CONFLICT, "resource_in_use", NULL,
                               "The file is used by %lld unfinished job%s; cancel or await %s first.", (long long)jobs,
                               jobs == 1 ? "" : "s", jobs == 1 ? "it" : "them");
    sqlite3_stmt *q = db_query(db, err, "SELECT sha256 FROM files WHERE id=? AND deleted_at IS NULL", "t", id);
    int got = q ? db_step(db, q, err) : -1;
    if (got <= 0)
        return got == 0 && store_missing(err, "file_not_found", "file", id);
    snprintf(sha256, 65, "%s", (const char *)sqlite3_column_text(q, 0));
    db_done(q);
    return db_run(db, err, "UPDATE files SET deleted_at=?, filename='' WHERE id=?", "it", clock_unix(), id);
}

static bool delete_one(struct db *db, void *context, struct vireo_error *err)
{
    struct removal *c = context;
    return store_file_remove(db, c->id, c->sha256, err);
}

bool store_file_delete(struct store *s, const char *id, struct vireo_error *err)
{
    struct removal c = {.id = id};
    return store_write(s, delete_one, &c, err) && blob_collect(s, c.sha256, err);
}

// The oldest expired file that no unfinished job uses.
static bool expire_one(struct db *db, void *context, struct vireo_error *err)
{
    struct removal *c = context;
    sqlite3_stmt *q = db_query(db, err,
                               "SELECT id FROM files f WHERE deleted_at IS NULL AND expires_at>0 AND expires_at<=?"
                               " AND NOT EXISTS (SELECT 1 FROM jobs WHERE (training_file=f.id OR validation_file=f.id)"
                               " AND status NOT IN ('succeeded','failed','cancelled')) LIMIT 1",
                               "i", c->now);
    int got = q ? db_step(db, q, err) : -1;
    if (got <= 0)
        return got == 0;
    char id[64];
    snprintf(id, sizeof id, "%s", (const char *)sqlite3_column_text(q, 0));
    db_done(q);
    c->any = true;
    return store_file_remove(db, id, c->sha256, err);
}

bool store_file_expire(struct store *s, int64_t now, size_t *count, struct vireo_error *err)
{
    size_t removed = 0;
    for (;;) {
        struct removal c = {.now = now};
        if (!store_write(s, expire_one, &c, err))
            return false;
        if (!c.any)
            break;
        removed++;
        if (!blob_collect(s, c.sha256, err))
            return false;
    }
    *count = removed;
    return true;
}
