#include "server/store/datasets.h"

#include "compute/base/clock.h"
#include "server/store/table.h"

#define COLUMNS "seq,id,name,status,format,file_id,counts,errors,created_at"

static void read_dataset(sqlite3_stmt *q, struct arena *a, void *row)
{
    struct store_dataset *d = row;
    *d = (struct store_dataset){.id = db_text(a, q, 1),
                                .name = db_text(a, q, 2),
                                .status = db_text(a, q, 3),
                                .format = db_text(a, q, 4),
                                .file_id = db_text(a, q, 5),
                                .counts = db_text(a, q, 6),
                                .errors = db_text(a, q, 7),
                                .created_at = sqlite3_column_int64(q, 8)};
}

static const struct store_table table = {.kind = "not_found",
                                         .what = "dataset",
                                         .size = sizeof(struct store_dataset),
                                         .read = read_dataset,
                                         STORE_TABLE_SQL("datasets", COLUMNS, "deleted_at IS NULL")};

struct adding {
    struct store_dataset *dataset;
    const struct store_dataset_image *images;
    size_t count;
};
static bool add(struct db *db, void *context, struct vireo_error *err)
{
    struct adding *c = context;
    struct store_dataset *d = c->dataset;
    if (!db_run(db, err,
                "INSERT INTO datasets(id,name,status,format,file_id,counts,errors,created_at) VALUES(?,?,?,?,?,?,?,?)",
                "tttttt" "ti", d->id, d->name, d->status, d->format, d->file_id, d->counts, d->errors, d->created_at))
        return false;
    for (size_t i = 0; i < c->count; i++)
        if (!db_run(db, err, "INSERT INTO dataset_images(dataset_id,name,image_id) VALUES(?,?,?)", "ttt", d->id,
                    c->images[i].name, c->images[i].image_id))
            return false;
    return true;
}

bool store_dataset_add(struct store *s, struct store_dataset *d, const struct store_dataset_image *images,
                       size_t image_count, struct arena *a, struct vireo_error *err)
{
    struct adding c = {.dataset = d, .images = images, .count = image_count};
    if (!(d->id = store_new_id(a, "ds_", err)))
        return false;
    d->created_at = clock_unix();
    return store_write(s, add, &c, err);
}

bool store_dataset_find(struct store *s, const char *id, struct arena *a, struct store_dataset *out,
                        struct vireo_error *err)
{
    return store_table_find(s, &table, id, a, out, err);
}

bool store_dataset_list(struct store *s, const struct store_page *page, struct arena *a, struct store_dataset **rows,
                        size_t *count, bool *has_more, struct vireo_error *err)
{
    void *found;
    bool done = store_table_page(s, &table, page, a, &found, count, has_more, err);
    if (done)
        *rows = found;
    return done;
}

struct mapping {
    const char *id;
    struct arena *arena;
    struct store_dataset_image *rows;
    size_t count;
};
static void read_mapping(sqlite3_stmt *q, struct arena *a, struct store_dataset_image *i)
{
    *i = (struct store_dataset_image){.name = db_text(a, q, 0), .image_id = db_text(a, q, 1)};
}
static bool mapping(struct db *db, void *context, struct vireo_error *err)
{
    struct mapping *c = context;
    sqlite3_stmt *q =
        db_query(db, err, "SELECT name,image_id FROM dataset_images WHERE dataset_id=? ORDER BY name", "t", c->id);
    STORE_COLLECT(db, q, c, read_mapping, struct store_dataset_image, err);
}

bool store_dataset_images(struct store *s, const char *id, struct arena *a, struct store_dataset_image **rows,
                          size_t *count, struct vireo_error *err)
{
    struct mapping c = {.id = id, .arena = a};
    if (!store_read(s, mapping, &c, err))
        return false;
    *rows = c.rows;
    *count = c.count;
    return true;
}

struct removal {
    const char *id;
    char sha256[65];
};
static bool delete_one(struct db *db, void *context, struct vireo_error *err)
{
    struct removal *c = context;
    sqlite3_stmt *q =
        db_query(db, err,
                 "SELECT f.id FROM datasets d LEFT JOIN files f ON f.id=d.file_id AND f.deleted_at IS NULL"
                 " WHERE d.id=? AND d.deleted_at IS NULL",
                 "t", c->id);
    int got = q ? db_step(db, q, err) : -1;
    if (got <= 0)
        return got == 0 && store_missing(err, "not_found", "dataset", c->id);
    const char *text = (const char *)sqlite3_column_text(q, 0);
    char file[64] = "";
    snprintf(file, sizeof file, "%s", text ? text : "");
    db_done(q);
    return (!file[0] || store_file_remove(db, file, c->sha256, err)) &&
           db_run(db, err, "DELETE FROM dataset_images WHERE dataset_id=?", "t", c->id) &&
           db_run(db, err, "UPDATE datasets SET deleted_at=?, name='', errors='[]' WHERE id=?", "it", clock_unix(),
                  c->id);
}

bool store_dataset_delete(struct store *s, const char *id, struct vireo_error *err)
{
    struct removal c = {.id = id};
    return store_write(s, delete_one, &c, err) && blob_collect(s, c.sha256, err);
}
