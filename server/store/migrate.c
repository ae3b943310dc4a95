#include "server/store/migrate.h"

#include "compute/base/check.h"
#include "compute/base/file.h"
#include "compute/base/log.h"

#include <stdio.h>

#include "schema_sql.h"

#define LOG_MODULE "store"

// Step i brings version i to i + 1. A released step is never edited; a change is a new one.
static const char *const steps[] = {schema_sql};

int store_version_newest(void)
{
    return (int)VIREO_COUNT(steps);
}

// The online backup makes a consistent copy whatever the WAL holds.
static bool back_up(struct db *db, const char *folder, int version, struct vireo_error *err)
{
    char path[600], temporary[640];
    snprintf(path, sizeof path, "%s/backup-v%d.db", folder, version);
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    remove(temporary);
    sqlite3 *copy = NULL;
    bool ok = sqlite3_open(temporary, &copy) == SQLITE_OK;
    if (ok) {
        sqlite3_backup *backup = sqlite3_backup_init(copy, "main", db->handle, "main");
        ok = backup && sqlite3_backup_step(backup, -1) == SQLITE_DONE;
        ok = sqlite3_backup_finish(backup) == SQLITE_OK && ok;
    }
    sqlite3_close(copy);
    if (!ok) {
        remove(temporary);
        return vireo_fail(err, VIREO_IO, "cannot back up the database before its migration from version %d", version);
    }
    return file_rename(temporary, path, err);
}

bool store_migrate(struct db *db, const char *folder, struct vireo_error *err)
{
    int64_t version = 0;
    if (db_integer(db, err, &version, "PRAGMA user_version", "") < 0)
        return false;
    if (version > store_version_newest())
        return vireo_fail(err, VIREO_UNSUPPORTED, "the data folder is of a newer Vireo (schema %lld, known %d)",
                          (long long)version, store_version_newest());
    if (version == store_version_newest())
        return true;
    if (version > 0) {
        if (!back_up(db, folder, (int)version, err))
            return false;
        log_info("migrating the database from version %lld to %d", (long long)version, store_version_newest());
    }
    if (!db_exec(db, "BEGIN IMMEDIATE", err))
        return false;
    bool ok = true;
    for (int i = (int)version; ok && i < store_version_newest(); i++)
        ok = db_exec(db, steps[i], err);
    char set[64];
    snprintf(set, sizeof set, "PRAGMA user_version=%d", store_version_newest());
    ok = ok && db_exec(db, set, err) && db_exec(db, "COMMIT", err);
    if (!ok)
        db_exec(db, "ROLLBACK", NULL);
    return ok;
}
