#include "server/store/keys.h"

#include "compute/base/clock.h"
#include "server/store/rows.h"
#include "server/store/store_internal.h"

static void read_key(sqlite3_stmt *q, struct arena *a, struct store_key *k)
{
    *k = (struct store_key){.id = db_text(a, q, 0),
                            .name = db_text(a, q, 1),
                            .prefix = db_text(a, q, 2),
                            .scopes = (unsigned)sqlite3_column_int64(q, 4),
                            .created_at = sqlite3_column_int64(q, 5),
                            .last_used_at = sqlite3_column_int64(q, 6),
                            .expires_at = sqlite3_column_int64(q, 7)};
    const void *digest = sqlite3_column_blob(q, 3);
    if (digest && sqlite3_column_bytes(q, 3) == (int)sizeof k->digest)
        memcpy(k->digest, digest, sizeof k->digest);
}

static bool add(struct db *db, void *context, struct vireo_error *err)
{
    struct store_key *k = context;
    return db_run(db, err, "INSERT INTO keys(id,name,prefix,digest,scopes,created_at,expires_at) VALUES(?,?,?,?,?,?,?)",
                  "tttbiii", k->id, k->name, k->prefix, (const void *)k->digest, (int64_t)sizeof k->digest,
                  (int64_t)k->scopes, k->created_at, k->expires_at);
}

bool store_key_add(struct store *s, struct store_key *k, struct arena *a, struct vireo_error *err)
{
    if (!k->id && !(k->id = store_new_id(a, "key_", err)))
        return false;
    if (!k->created_at)
        k->created_at = clock_unix();
    return store_write(s, add, k, err);
}

struct list {
    struct arena *arena;
    struct store_key *rows;
    size_t count;
};
static bool list(struct db *db, void *context, struct vireo_error *err)
{
    struct list *c = context;
    sqlite3_stmt *q = db_query(db, err,
                               "SELECT id,name,prefix,digest,scopes,created_at,last_used_at,expires_at FROM keys"
                               " WHERE revoked_at IS NULL ORDER BY seq",
                               "");
    STORE_COLLECT(db, q, c, read_key, struct store_key, err);
}

bool store_key_list(struct store *s, struct arena *a, struct store_key **rows, size_t *count, struct vireo_error *err)
{
    struct list c = {.arena = a};
    if (!store_read(s, list, &c, err))
        return false;
    *rows = c.rows;
    *count = c.count;
    return true;
}

static bool revoke(struct db *db, void *context, struct vireo_error *err)
{
    const char *id = context;
    return db_run(db, err, "UPDATE keys SET revoked_at=? WHERE id=? AND revoked_at IS NULL", "it", clock_unix(), id) &&
           (db_changes(db) || store_missing(err, "not_found", "key", id));
}

bool store_key_delete(struct store *s, const char *id, struct vireo_error *err)
{
    return store_write(s, revoke, (void *)(uintptr_t)id, err);
}

struct used {
    const char *id;
    int64_t when;
};
static bool used(struct db *db, void *context, struct vireo_error *err)
{
    struct used *c = context;
    return db_run(db, err, "UPDATE keys SET last_used_at=?1 WHERE id=?2 AND last_used_at<?1", "it", c->when, c->id);
}

bool store_key_used(struct store *s, const char *id, int64_t when, struct vireo_error *err)
{
    struct used c = {.id = id, .when = when};
    return store_write(s, used, &c, err);
}
