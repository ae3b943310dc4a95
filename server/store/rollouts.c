#include "server/store/rollouts.h"

#include "compute/base/clock.h"
#include "server/store/rows.h"
#include "server/store/store_internal.h"

#define COLUMNS "seq,id,job_id,step,place,row_id,data,reward_mean,reward_std,created_at"

static void read_group(sqlite3_stmt *q, struct arena *a, struct store_group *g)
{
    *g = (struct store_group){.seq = sqlite3_column_int64(q, 0),
                              .id = db_text(a, q, 1),
                              .job_id = db_text(a, q, 2),
                              .step = sqlite3_column_int64(q, 3),
                              .index = sqlite3_column_int64(q, 4),
                              .row_id = db_text(a, q, 5),
                              .data = db_text(a, q, 6),
                              .reward_mean = sqlite3_column_double(q, 7),
                              .reward_std = sqlite3_column_double(q, 8),
                              .created_at = sqlite3_column_int64(q, 9)};
}

static void read_sample(sqlite3_stmt *q, struct arena *a, struct store_sample *sample)
{
    *sample = (struct store_sample){.id = db_text(a, q, 0), .data = db_text(a, q, 1)};
}

struct adding {
    struct store_group *groups;
    size_t count;
};
static bool add(struct db *db, void *context, struct vireo_error *err)
{
    struct adding *c = context;
    for (size_t i = 0; i < c->count; i++) {
        struct store_group *g = &c->groups[i];
        if (!db_run(db, err,
                    "DELETE FROM samples WHERE group_id IN (SELECT id FROM groups WHERE job_id=? AND step=? AND place=?)",
                    "tii", g->job_id, g->step, g->index) ||
            !db_run(db, err, "DELETE FROM groups WHERE job_id=? AND step=? AND place=?", "tii", g->job_id, g->step,
                    g->index) ||
            !db_run(db, err,
                    "INSERT INTO groups(id,job_id,step,place,row_id,data,reward_mean,reward_std,created_at)"
                    " VALUES(?,?,?,?,?,?,?,?,?)",
                    "ttiittddi", g->id, g->job_id, g->step, g->index, g->row_id ? g->row_id : "", g->data,
                    g->reward_mean, g->reward_std, g->created_at))
            return false;
        g->seq = db_last_row(db);
        for (size_t k = 0; k < g->sample_count; k++)
            if (!db_run(db, err, "INSERT INTO samples(id,group_id,place,data) VALUES(?,?,?,?)", "ttit",
                        g->samples[k].id, g->id, (int64_t)k, g->samples[k].data))
                return false;
    }
    return true;
}

bool store_group_add(struct store *s, struct store_group *groups, size_t count, struct arena *a,
                     struct vireo_error *err)
{
    for (size_t i = 0; i < count; i++) {
        struct store_group *g = &groups[i];
        if (!g->id && !(g->id = store_new_id(a, "grp_", err)))
            return false;
        if (!g->created_at)
            g->created_at = clock_unix();
        for (size_t k = 0; k < g->sample_count; k++)
            if (!g->samples[k].id && !(g->samples[k].id = store_new_id(a, "smp_", err)))
                return false;
    }
    struct adding c = {.groups = groups, .count = count};
    return store_write(s, add, &c, err);
}

struct samples {
    const char *group_id;
    struct arena *arena;
    struct store_sample *rows;
    size_t count;
};
static bool collect_samples(struct db *db, struct samples *c, struct vireo_error *err)
{
    sqlite3_stmt *q = db_query(db, err, "SELECT id,data FROM samples WHERE group_id=? ORDER BY place", "t",
                               c->group_id);
    STORE_COLLECT(db, q, c, read_sample, struct store_sample, err);
}

static bool add_samples(struct db *db, struct store_group *g, struct arena *a, struct vireo_error *err)
{
    struct samples samples = {.group_id = g->id, .arena = a};
    if (!collect_samples(db, &samples, err))
        return false;
    g->samples = samples.rows;
    g->sample_count = samples.count;
    return true;
}

struct list {
    const struct store_group_filter *filter;
    const struct store_page *page;
    struct arena *arena;
    struct store_group *rows;
    size_t count;
};

// Sorted by a reward, "after" continues behind (value, seq) of the row it names; a pair keeps equal values apart.
#define BY(column, op, direction)                                                                                     \
    "SELECT " COLUMNS " FROM groups WHERE job_id=?1 AND (?2<0 OR step=?2)"                                            \
    " AND (?3 IS NULL OR (" column ",seq) " op " (SELECT " column ",seq FROM groups WHERE id=?3))"                    \
    " ORDER BY " column " " direction ", seq " direction " LIMIT ?4"
static bool collect_groups(struct db *db, struct list *c, struct vireo_error *err)
{
    const char *sort = c->filter->sort;
    const char *sql;
    if (sort && strcmp(sort, "reward_std") == 0)
        sql = c->page->ascending ? BY("reward_std", ">", "ASC") : BY("reward_std", "<", "DESC");
    else if (sort && strcmp(sort, "reward_mean") == 0)
        sql = c->page->ascending ? BY("reward_mean", ">", "ASC") : BY("reward_mean", "<", "DESC");
    else
        sql = c->page->ascending ? BY("step", ">", "ASC") : BY("step", "<", "DESC");
    sqlite3_stmt *q =
        db_query(db, err, sql, "titi", c->filter->job_id, c->filter->step, c->page->after, (int64_t)c->page->limit + 1);
    STORE_COLLECT(db, q, c, read_group, struct store_group, err);
}

static bool list(struct db *db, void *context, struct vireo_error *err)
{
    struct list *c = context;
    int64_t seq;
    if (c->page->after && !store_seq_of(db, "SELECT seq FROM groups WHERE id=?", c->page->after, &seq, err))
        return false;
    if (!collect_groups(db, c, err))
        return false;
    for (size_t i = 0; i < c->count; i++)
        if (!add_samples(db, &c->rows[i], c->arena, err))
            return false;
    return true;
}

bool store_group_list(struct store *s, const struct store_group_filter *filter, const struct store_page *page,
                      struct arena *a, struct store_group **rows, size_t *count, bool *has_more,
                      struct vireo_error *err)
{
    struct list c = {.filter = filter, .page = page, .arena = a};
    if (!store_read(s, list, &c, err))
        return false;
    *has_more = store_cut(&c.count, page->limit);
    *rows = c.rows;
    *count = c.count;
    return true;
}

static bool find(struct db *db, void *context, struct vireo_error *err)
{
    struct store_find *c = context;
    sqlite3_stmt *q = db_query(db, err, "SELECT " COLUMNS " FROM groups WHERE id=?", "t", c->id);
    int got = q ? db_step(db, q, err) : -1;
    if (got <= 0)
        return got == 0 && store_missing(err, "not_found", "group", c->id);
    read_group(q, c->arena, c->out);
    db_done(q);
    return add_samples(db, c->out, c->arena, err);
}

bool store_group_find(struct store *s, const char *id, struct arena *a, struct store_group *out,
                      struct vireo_error *err)
{
    struct store_group group;
    struct store_find c = {.id = id, .arena = a, .out = &group};
    if (!store_read(s, find, &c, err) || store_out_of_memory(a, err))
        return false;
    *out = group;
    return true;
}

static bool find_sample(struct db *db, void *context, struct vireo_error *err)
{
    struct store_find *c = context;
    sqlite3_stmt *q = db_query(db, err, "SELECT id,data FROM samples WHERE id=?", "t", c->id);
    int got = q ? db_step(db, q, err) : -1;
    if (got > 0) {
        read_sample(q, c->arena, c->out);
        db_done(q);
    }
    return got > 0 || (got == 0 && store_missing(err, "not_found", "sample", c->id));
}

bool store_sample_find(struct store *s, const char *id, struct arena *a, struct store_sample *out,
                       struct vireo_error *err)
{
    struct store_sample sample;
    struct store_find c = {.id = id, .arena = a, .out = &sample};
    if (!store_read(s, find_sample, &c, err) || store_out_of_memory(a, err))
        return false;
    *out = sample;
    return true;
}
