// Schema versions (PRAGMA user_version). Each step runs in one transaction; a copy of the database is made before.
#ifndef VIREO_STORE_MIGRATE_H
#define VIREO_STORE_MIGRATE_H

#include "server/store/db.h"

// Brings the database to the newest version. `folder` takes backup-v<old>.db. A database of a newer Vireo is refused.
bool store_migrate(struct db *db, const char *folder, struct vireo_error *err);
int store_version_newest(void);

#endif
