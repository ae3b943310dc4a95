// One SQLite connection with its prepared statements, and short forms for binding and reading. For server/store only.
#ifndef VIREO_STORE_DB_H
#define VIREO_STORE_DB_H

#include "compute/base/arena.h"
#include "compute/base/error.h"

#include <sqlite3.h>
#include <stdint.h>

enum { DB_STATEMENTS = 96 };
struct db {
    sqlite3 *handle;
    struct {
        const char *sql; // compared by address first: literals
        sqlite3_stmt *stmt;
    } cached[DB_STATEMENTS];
    int cached_count;
    bool broken; // an I/O error was seen; the store goes read-only
};

// writer: creates, WAL, FULL; else read-only. Path must be on a local file system.
bool db_open(struct db *db, const char *path, bool writer, struct vireo_error *err);
void db_close(struct db *db); // a zeroed one is fine

bool db_exec(struct db *db, const char *sql, struct vireo_error *err); // no parameters, any number of statements
// types, one letter a parameter: t const char * (NULL -> NULL), i int64_t, d double, b const void * + int64_t size.
bool db_run(struct db *db, struct vireo_error *err, const char *sql, const char *types, ...);
// A bound statement to step; NULL + err. One of the same SQL may be open at a time.
sqlite3_stmt *db_query(struct db *db, struct vireo_error *err, const char *sql, const char *types, ...);
// 1: a row; 0: end (reset); -1: err (reset).
int db_step(struct db *db, sqlite3_stmt *stmt, struct vireo_error *err);
void db_done(sqlite3_stmt *stmt); // ends a query before its end
// First column of the first row; 1 found, 0 no row, -1 err.
int db_integer(struct db *db, struct vireo_error *err, int64_t *out, const char *sql, const char *types, ...);
int64_t db_changes(struct db *db);
int64_t db_last_row(struct db *db);

const char *db_text(struct arena *a, sqlite3_stmt *stmt, int column); // copy; NULL for NULL
// Sets err from the connection's last error: full disk, no memory, constraint, I/O.
bool db_fail(struct db *db, const char *what, struct vireo_error *err);

#endif
