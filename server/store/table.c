#include "server/store/table.h"

struct finding {
    const struct store_table *table;
    const char *id;
    struct arena *arena;
    void *out;
};

static bool find(struct db *db, void *context, struct vireo_error *err)
{
    struct finding *c = context;
    sqlite3_stmt *q = db_query(db, err, c->table->find, "t", c->id);
    int got = q ? db_step(db, q, err) : -1;
    if (got > 0) {
        c->table->read(q, c->arena, c->out);
        db_done(q);
    }
    return got > 0 || (got == 0 && store_missing(err, c->table->kind, c->table->what, c->id));
}

bool store_table_find(struct store *s, const struct store_table *t, const char *id, struct arena *a, void *out,
                      struct vireo_error *err)
{
    struct finding c = {t, id, a, arena_take(a, t->size)};
    if (!c.out)
        return vireo_fail_memory(err, t->size);
    if (!store_read(s, find, &c, err) || store_out_of_memory(a, err))
        return false;
    memcpy(out, c.out, t->size);
    return true;
}

bool store_page_start(struct db *db, const char *seq_sql, const struct store_page *page, int64_t *start, struct vireo_error *err)
{
    *start = page->ascending ? 0 : INT64_MAX;
    return !page->after || store_seq_of(db, seq_sql, page->after, start, err);
}

struct paging {
    const struct store_table *table;
    const struct store_page *page;
    struct arena *arena;
    char *rows;
    size_t count;
};

static bool list(struct db *db, void *context, struct vireo_error *err)
{
    struct paging *c = context;
    const struct store_table *t = c->table;
    int64_t start;
    if (!store_page_start(db, t->seq, c->page, &start, err))
        return false;
    sqlite3_stmt *q =
        db_query(db, err, c->page->ascending ? t->after : t->before, "ii", start, (int64_t)c->page->limit + 1);
    if (!q)
        return false;
    size_t capacity = 0;
    int got;
    while ((got = db_step(db, q, err)) > 0) {
        char *grown = store_grow(c->arena, c->rows, c->count, &capacity, t->size, err);
        if (!grown) {
            db_done(q);
            return false;
        }
        c->rows = grown;
        t->read(q, c->arena, c->rows + c->count++ * t->size);
    }
    return got == 0 && !store_out_of_memory(c->arena, err);
}

bool store_table_page(struct store *s, const struct store_table *t, const struct store_page *page, struct arena *a, void **rows,
                      size_t *count, bool *has_more, struct vireo_error *err)
{
    struct paging c = {.table = t, .page = page, .arena = a};
    if (!store_read(s, list, &c, err))
        return false;
    *has_more = store_cut(&c.count, page->limit);
    *rows = c.rows;
    *count = c.count;
    return true;
}
