// The rows of a table as structs: one by its id, and pages. For server/store only.
#ifndef VIREO_STORE_TABLE_H
#define VIREO_STORE_TABLE_H

#include "server/store/rows.h"
#include "server/store/store_internal.h"

typedef void store_read_row(sqlite3_stmt *q, struct arena *a, void *row);
struct store_table {
    const char *kind, *what; // of the error for an unknown id: "not_found", "image"
    size_t size;             // of the struct
    store_read_row *read;
    const char *find;             // one row by id
    const char *seq;              // its place, by id; deleted rows too
    const char *after, *before;   // pages: rows behind a place, rows in front of it, newest first
};
// The texts above: literals, for statements are kept by them. living: a condition on rows that are not deleted, "1" for all.
#define STORE_TABLE_SQL(table, columns, living)                                                                       \
    .find = "SELECT " columns " FROM " table " WHERE id=? AND " living,                                               \
    .seq = "SELECT seq FROM " table " WHERE id=?",                                                                    \
    .after = "SELECT " columns " FROM " table " WHERE " living " AND seq>? ORDER BY seq LIMIT ?",                     \
    .before = "SELECT " columns " FROM " table " WHERE " living " AND seq<? ORDER BY seq DESC LIMIT ?"

// *out is written on success alone. VIREO_NOT_FOUND with the table's kind.
bool store_table_find(struct store *s, const struct store_table *t, const char *id, struct arena *a, void *out,
                      struct vireo_error *err);
// *rows: an array of structs in the arena.
bool store_table_page(struct store *s, const struct store_table *t, const struct store_page *page, struct arena *a, void **rows,
                      size_t *count, bool *has_more, struct vireo_error *err);

// Where a page begins: the seq of page->after, or an end. For tables whose pages have filters of their own.
bool store_page_start(struct db *db, const char *seq_sql, const struct store_page *page, int64_t *start, struct vireo_error *err);

#endif
