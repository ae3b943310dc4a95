// The data folder: SQLite for records, content-addressed blobs, checkpoints and models as folders.
//
//   DIR/lock            held by the one process that has the folder open
//   DIR/vireo.db        WAL, synchronous=FULL; DIR/backup-vN.db before each migration
//   DIR/blobs/aa/<sha256>
//   DIR/tmp/            spooled uploads; emptied at start
//   DIR/models/<folder> DIR/jobs/<id>/…   written by workers, named by rows
//
// One thread owns the only writing connection and all WAL checkpoints (reliability.md finding 5). store_write queues a
// function for it and returns when its transaction is on disk; several waiting ones share a commit. Readers have their
// own read-only connections. Every function of the row headers (files.h, jobs.h, ...) may be called from any thread;
// results live in the caller's arena. "find" functions return false with VIREO_NOT_FOUND.
//
// After a failed commit or fsync the store is read-only for the rest of its life: writes fail with VIREO_UNAVAILABLE.
#ifndef VIREO_STORE_STORE_H
#define VIREO_STORE_STORE_H

#include "compute/base/arena.h"
#include "compute/base/error.h"

#include <stddef.h>
#include <stdint.h>

struct store;
// Creates the folder if needed, takes the lock (VIREO_CONFLICT when another process has it), checks and migrates the
// database, removes temporary files, reconciles blobs and rows. NULL + err.
struct store *store_open(const char *folder, struct vireo_error *err);
void store_close(struct store **s); // last commit is on disk; NULL is fine

const char *store_folder(const struct store *s); // absolute
const char *store_temp_folder(const struct store *s); // on the blobs' file system; emptied at start
bool store_is_read_only(struct store *s, char *reason, size_t size); // reason may be NULL
// Database answers and the folder can be written; for /readyz.
bool store_check(struct store *s, struct vireo_error *err);
double store_write_seconds(struct store *s, uint64_t *count); // time spent in commits, for /metrics

// A page of a list: what follows the row `after` in the wanted order. A deleted id still has its place; one that never
// was is VIREO_INVALID with param "after".
struct store_page {
    const char *after; // NULL: from the start
    int limit;         // rows wanted, >= 1
    bool ascending;    // false: newest first
};
// Filled by lists: rows are in the caller's array type; has_more tells that at least one more follows.

// --- for the row files -----------------------------------------------------------------------------------------------
struct db; // one connection with its prepared statements
typedef bool (*store_fn)(struct db *db, void *context, struct vireo_error *err);
// Runs fn in a transaction on the writer thread; false from fn rolls its part back. Returns after commit.
// Fault point: store.commit.
bool store_write(struct store *s, store_fn fn, void *context, struct vireo_error *err);
// Runs fn on a reading connection (one snapshot for the whole call), on the caller's thread.
bool store_read(struct store *s, store_fn fn, void *context, struct vireo_error *err);

#endif
