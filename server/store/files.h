// Uploaded files (/v1/files).
#ifndef VIREO_STORE_FILES_H
#define VIREO_STORE_FILES_H

#include "server/store/store.h"

struct store_file {
    const char *id; // "file-…"; NULL on add: made here
    const char *filename, *purpose, *sha256;
    const char *status;         // "uploaded", "processed", "error"
    const char *status_details; // NULL: none
    int64_t bytes, created_at, expires_at; // expires_at 0: never
};
// Fills id and, where it is 0, created_at in `f` (strings in the arena). The blob must be in place.
bool store_file_add(struct store *s, struct store_file *f, struct arena *a, struct vireo_error *err);
bool store_file_find(struct store *s, const char *id, struct arena *a, struct store_file *out, struct vireo_error *err);
// purpose NULL: all. *rows is an array in the arena.
bool store_file_list(struct store *s, const struct store_page *page, const char *purpose, struct arena *a,
                     struct store_file **rows, size_t *count, bool *has_more, struct vireo_error *err);
bool store_file_status(struct store *s, const char *id, const char *status, const char *details,
                       struct vireo_error *err);
// VIREO_CONFLICT (kind resource_in_use) while an unfinished job uses it. Collects its blob.
bool store_file_delete(struct store *s, const char *id, struct vireo_error *err);
// Deletes what expired before `now`; *count of them.
bool store_file_expire(struct store *s, int64_t now, size_t *count, struct vireo_error *err);

#endif
