#include "server/store/images.h"

#include "compute/base/clock.h"
#include "server/store/table.h"

#define COLUMNS "seq,id,sha256,format,filename,width,height,bytes,created_at"

static void read_image(sqlite3_stmt *q, struct arena *a, void *row)
{
    struct store_image *i = row;
    *i = (struct store_image){.id = db_text(a, q, 1),
                              .sha256 = db_text(a, q, 2),
                              .format = db_text(a, q, 3),
                              .filename = db_text(a, q, 4),
                              .width = sqlite3_column_int64(q, 5),
                              .height = sqlite3_column_int64(q, 6),
                              .bytes = sqlite3_column_int64(q, 7),
                              .created_at = sqlite3_column_int64(q, 8)};
}

static const struct store_table table = {.kind = "not_found",
                                         .what = "image",
                                         .size = sizeof(struct store_image),
                                         .read = read_image,
                                         STORE_TABLE_SQL("images", COLUMNS, "deleted_at IS NULL")};

struct adding {
    struct store_image *images;
    size_t count;
    struct arena *arena;
};
// With each new image an id was made beforehand; where the content is known already the row's id takes its place.
static bool add(struct db *db, void *context, struct vireo_error *err)
{
    struct adding *c = context;
    for (size_t n = 0; n < c->count; n++) {
        struct store_image *i = &c->images[n];
        sqlite3_stmt *q = db_query(db, err, "SELECT " COLUMNS " FROM images WHERE sha256=? AND deleted_at IS NULL", "t",
                                   i->sha256);
        int got = q ? db_step(db, q, err) : -1;
        if (got < 0)
            return false;
        if (got > 0) {
            read_image(q, c->arena, i);
            db_done(q);
            continue;
        }
        if (!db_run(db, err,
                    "INSERT INTO images(id,sha256,format,filename,width,height,bytes,created_at)"
                    " VALUES(?,?,?,?,?,?,?,?)",
                    "ttttiiii", i->id, i->sha256, i->format, i->filename ? i->filename : "", i->width, i->height,
                    i->bytes, i->created_at))
            return false;
    }
    return !store_out_of_memory(c->arena, err);
}

bool store_image_add(struct store *s, struct store_image *images, size_t count, struct arena *a,
                     struct vireo_error *err)
{
    struct adding c = {.images = images, .count = count, .arena = a};
    int64_t now = clock_unix();
    const char **digests = arena_array(a, const char *, count ? count : 1);
    if (!digests)
        return vireo_fail_memory(err, count * sizeof *digests);
    for (size_t i = 0; i < count; i++) {
        digests[i] = images[i].sha256;
        images[i].created_at = now;
        if (!(images[i].id = store_new_id(a, "img_", err)))
            return false;
    }
    if (!store_write(s, add, &c, err))
        return false;
    for (size_t i = 0; i < count; i++)
        blob_unpin(s, digests[i]);
    return true;
}

bool store_image_find(struct store *s, const char *id, struct arena *a, struct store_image *out,
                      struct vireo_error *err)
{
    return store_table_find(s, &table, id, a, out, err);
}

bool store_image_list(struct store *s, const struct store_page *page, struct arena *a, struct store_image **rows,
                      size_t *count, bool *has_more, struct vireo_error *err)
{
    void *found;
    bool done = store_table_page(s, &table, page, a, &found, count, has_more, err);
    if (done)
        *rows = found;
    return done;
}

struct removal {
    const char *id;
    char sha256[65];
};
static bool delete_one(struct db *db, void *context, struct vireo_error *err)
{
    struct removal *c = context;
    int64_t used = 0;
    if (db_integer(db, err, &used,
                   "SELECT count(*) FROM dataset_images i JOIN datasets d ON d.id=i.dataset_id"
                   " WHERE i.image_id=? AND d.deleted_at IS NULL",
                   "t", c->id) < 0)
        return false;
    if (used)
        return vireo_fail_kind(err, VIREO_CONFLICT, "resource_in_use", NULL,
                               "The image belongs to %lld dataset%s; delete %s first.", (long long)used,
                               used == 1 ? "" : "s", used == 1 ? "it" : "them");
    sqlite3_stmt *q = db_query(db, err, "SELECT sha256 FROM images WHERE id=? AND deleted_at IS NULL", "t", c->id);
    int got = q ? db_step(db, q, err) : -1;
    if (got <= 0)
        return got == 0 && store_missing(err, "not_found", "image", c->id);
    snprintf(c->sha256, 65, "%s", (const char *)sqlite3_column_text(q, 0));
    db_done(q);
    return db_run(db, err, "UPDATE images SET deleted_at=?, filename='' WHERE id=?", "it", clock_unix(), c->id);
}

bool store_image_delete(struct store *s, const char *id, struct vireo_error *err)
{
    struct removal c = {.id = id};
    return store_write(s, delete_one, &c, err) && blob_collect(s, c.sha256, err);
}
