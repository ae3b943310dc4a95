// Short forms that the row files share: ids, "not found", collecting the rows of a query. For server/store only.
#ifndef VIREO_STORE_ROWS_H
#define VIREO_STORE_ROWS_H

#include "compute/base/hash.h"
#include "server/store/db.h"
#include "server/store/files.h"

#include <stdio.h>
#include <string.h>

struct store_event;

// What most "find" functions carry to the reader.
struct store_find {
    const char *id;
    struct arena *arena;
    void *out;
};

// prefix + 24 random base62 characters, in the arena.
static inline const char *store_new_id(struct arena *a, const char *prefix, struct vireo_error *err)
{
    char *id = arena_take(a, 48);
    if (!id) {
        vireo_fail_memory(err, 48);
        return NULL;
    }
    random_id(id, 48, prefix, 24);
    return id;
}

static inline bool store_missing(struct vireo_error *err, const char *kind, const char *what, const char *id)
{
    return vireo_fail_kind(err, VIREO_NOT_FOUND, kind, NULL, "No such %s: '%.80s'.", what, id);
}

static inline bool store_out_of_memory(struct arena *a, struct vireo_error *err)
{
    return arena_failed(a) && !vireo_fail(err, VIREO_NO_MEMORY, "out of memory while reading records");
}

// Grows `*rows` (in the arena) to hold one more; NULL + err without memory.
static inline void *store_grow(struct arena *a, void *rows, size_t count, size_t *capacity, size_t size,
                               struct vireo_error *err)
{
    if (count < *capacity)
        return rows;
    size_t more = *capacity ? *capacity * 2 : 16;
    void *grown = arena_take_array(a, more, size);
    if (!grown) {
        vireo_fail_memory(err, more * size);
        return NULL;
    }
    if (count)
        memcpy(grown, rows, count * size);
    *capacity = more;
    return grown;
}

// Reads all rows of `query` into context->rows and ->count by read(query, context->arena, &row), and returns.
#define STORE_COLLECT(db, query, context, read, type, err)                                                            \
    do {                                                                                                              \
        if (!(query))                                                                                                 \
            return false;                                                                                             \
        size_t capacity_ = 0;                                                                                         \
        int got_;                                                                                                     \
        while ((got_ = db_step((db), (query), (err))) > 0) {                                                          \
            type *grown_ = store_grow((context)->arena, (context)->rows, (context)->count, &capacity_, sizeof(type),  \
                                      (err));                                                                         \
            if (!grown_) {                                                                                            \
                db_done(query);                                                                                       \
                return false;                                                                                         \
            }                                                                                                         \
            (context)->rows = grown_;                                                                                 \
            read((query), (context)->arena, &(context)->rows[(context)->count++]);                                    \
        }                                                                                                             \
        return got_ == 0 && !store_out_of_memory((context)->arena, (err));                                            \
    } while (0)

// Parts of a transaction, used by more than one file.
bool store_file_insert(struct db *db, struct store_file *f, struct vireo_error *err);
bool store_file_remove(struct db *db, const char *id, char sha256[65], struct vireo_error *err);
bool store_events_insert(struct db *db, struct store_event *events, size_t count, struct vireo_error *err);

#endif
