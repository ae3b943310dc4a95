#include "server/store/db.h"

#include "compute/base/check.h"

#include <stdarg.h>
#include <string.h>

bool db_fail(struct db *db, const char *what, struct vireo_error *err)
{
    int code = db->handle ? sqlite3_extended_errcode(db->handle) : SQLITE_NOMEM;
    const char *message = db->handle ? sqlite3_errmsg(db->handle) : "out of memory";
    switch (code & 0xff) {
    case SQLITE_NOMEM:
        return vireo_fail(err, VIREO_NO_MEMORY, "database: %s: out of memory", what);
    case SQLITE_FULL:
        return vireo_fail(err, VIREO_NO_SPACE, "database: %s: the disk is full", what);
    case SQLITE_CONSTRAINT:
        return vireo_fail(err, VIREO_CONFLICT, "database: %s: %s", what, message);
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
        db->broken = true;
        return vireo_fail(err, VIREO_CORRUPT, "database: %s: %s", what, message);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return vireo_fail(err, VIREO_UNAVAILABLE, "database: %s: %s", what, message);
    case SQLITE_ERROR:
    case SQLITE_MISUSE:
    case SQLITE_RANGE:
        return vireo_fail(err, VIREO_INTERNAL, "database: %s: %s", what, message);
    default:
        db->broken = true;
        return vireo_fail(err, VIREO_IO, "database: %s: %s", what, message);
    }
}

bool db_open(struct db *db, const char *path, bool writer, struct vireo_error *err)
{
    *db = (struct db){0};
    int flags = SQLITE_OPEN_NOMUTEX | (writer ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY);
    if (sqlite3_open_v2(path, &db->handle, flags, NULL) != SQLITE_OK) {
        db_fail(db, "opening", err);
        db_close(db);
        return false;
    }
    sqlite3_extended_result_codes(db->handle, 1);
    sqlite3_busy_timeout(db->handle, 5000);
    // Untrusted schema text must not reach extensions or the schema itself, should the file ever come from elsewhere.
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    sqlite3_db_config(db->handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    const char *pragmas = writer ? "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
                                   "PRAGMA journal_size_limit=16777216; PRAGMA mmap_size=0; PRAGMA cache_size=-8192"
                                 : "PRAGMA wal_autocheckpoint=0; PRAGMA query_only=ON; PRAGMA mmap_size=0;"
                                   "PRAGMA cache_size=-2048";
    if (!db_exec(db, pragmas, err)) {
        db_close(db);
        return false;
    }
    return true;
}

void db_close(struct db *db)
{
    for (int i = 0; i < db->cached_count; i++)
        sqlite3_finalize(db->cached[i].stmt);
    sqlite3_close(db->handle);
    *db = (struct db){0};
}

bool db_exec(struct db *db, const char *sql, struct vireo_error *err)
{
    if (sqlite3_exec(db->handle, sql, NULL, NULL, NULL) != SQLITE_OK)
        return db_fail(db, "statement", err);
    return true;
}

static sqlite3_stmt *prepared(struct db *db, const char *sql, struct vireo_error *err)
{
    for (int i = 0; i < db->cached_count; i++)
        if (db->cached[i].sql == sql || strcmp(db->cached[i].sql, sql) == 0)
            return db->cached[i].stmt;
    vireo_assert(db->cached_count < DB_STATEMENTS); // statements are literals of this folder
    sqlite3_stmt *stmt = NULL;
    if (sqlite3_prepare_v3(db->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL) != SQLITE_OK) {
        db_fail(db, "preparing", err);
        return NULL;
    }
    db->cached[db->cached_count].sql = sql;
    db->cached[db->cached_count++].stmt = stmt;
    return stmt;
}

// The texts bound must live until the statement is reset, which all callers' do: they are arguments.
static sqlite3_stmt *bound(struct db *db, struct vireo_error *err, const char *sql, const char *types, va_list args)
{
    sqlite3_stmt *stmt = prepared(db, sql, err);
    if (!stmt)
        return NULL;
    int code = SQLITE_OK;
    for (int i = 0; types[i] && code == SQLITE_OK; i++) {
        if (types[i] == 't') {
            const char *text = va_arg(args, const char *);
            code = text ? sqlite3_bind_text(stmt, i + 1, text, -1, SQLITE_STATIC) : sqlite3_bind_null(stmt, i + 1);
        } else if (types[i] == 'i') {
            code = sqlite3_bind_int64(stmt, i + 1, va_arg(args, int64_t));
        } else if (types[i] == 'd') {
            code = sqlite3_bind_double(stmt, i + 1, va_arg(args, double));
        } else {
            vireo_assert(types[i] == 'b');
            const void *bytes = va_arg(args, const void *);
            code = sqlite3_bind_blob64(stmt, i + 1, bytes, (sqlite3_uint64)va_arg(args, int64_t), SQLITE_STATIC);
        }
    }
    if (code != SQLITE_OK) {
        db_fail(db, "binding", err);
        db_done(stmt);
        return NULL;
    }
    return stmt;
}

int db_step(struct db *db, sqlite3_stmt *stmt, struct vireo_error *err)
{
    int code = sqlite3_step(stmt);
    if (code == SQLITE_ROW)
        return 1;
    if (code != SQLITE_DONE)
        db_fail(db, "query", err);
    db_done(stmt);
    return code == SQLITE_DONE ? 0 : -1;
}

void db_done(sqlite3_stmt *stmt)
{
    sqlite3_reset(stmt);
    sqlite3_clear_bindings(stmt);
}

bool db_run(struct db *db, struct vireo_error *err, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *stmt = bound(db, err, sql, types, args);
    va_end(args);
    if (!stmt)
        return false;
    int got;
    while ((got = db_step(db, stmt, err)) > 0)
        ;
    return got == 0;
}

sqlite3_stmt *db_query(struct db *db, struct vireo_error *err, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *stmt = bound(db, err, sql, types, args);
    va_end(args);
    return stmt;
}

int db_integer(struct db *db, struct vireo_error *err, int64_t *out, const char *sql, const char *types, ...)
{
    va_list args;
    va_start(args, types);
    sqlite3_stmt *stmt = bound(db, err, sql, types, args);
    va_end(args);
    if (!stmt)
        return -1;
    int got = db_step(db, stmt, err);
    if (got > 0) {
        *out = sqlite3_column_int64(stmt, 0);
        db_done(stmt);
    }
    return got;
}

int64_t db_changes(struct db *db)
{
    return sqlite3_changes64(db->handle);
}

int64_t db_last_row(struct db *db)
{
    return sqlite3_last_insert_rowid(db->handle);
}

const char *db_text(struct arena *a, sqlite3_stmt *stmt, int column)
{
    const char *text = (const char *)sqlite3_column_text(stmt, column);
    return text ? arena_copy_bytes(a, text, (size_t)sqlite3_column_bytes(stmt, column)) : NULL;
}
