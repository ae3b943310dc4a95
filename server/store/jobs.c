#include "server/store/jobs.h"

#include "compute/base/clock.h"
#include "server/store/events.h"
#include "server/store/table.h"

#define COLUMNS                                                                                                       \
    "seq,id,status,model,training_file,validation_file,spec,resolved,metadata,error,fine_tuned_model,result_file,"    \
    "progress,key_id,created_at,started_at,finished_at,paused_at,step,total_steps,trained_tokens,checkpoint_step,"    \
    "attempts,priority,eta_seconds"

const char *const store_job_statuses[8] = {"validating_files", "queued", "running",   "paused",
                                           "succeeded",        "failed", "cancelled", NULL};

bool store_status_is_final(const char *status)
{
    return strcmp(status, "succeeded") == 0 || strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0;
}

static void read_job(sqlite3_stmt *q, struct arena *a, void *row)
{
    struct store_job *j = row;
    *j = (struct store_job){.seq = sqlite3_column_int64(q, 0),
                            .id = db_text(a, q, 1),
                            .status = db_text(a, q, 2),
                            .model = db_text(a, q, 3),
                            .training_file = db_text(a, q, 4),
                            .validation_file = db_text(a, q, 5),
                            .spec = db_text(a, q, 6),
                            .resolved = db_text(a, q, 7),
                            .metadata = db_text(a, q, 8),
                            .error = db_text(a, q, 9),
                            .fine_tuned_model = db_text(a, q, 10),
                            .result_file = db_text(a, q, 11),
                            .progress = db_text(a, q, 12),
                            .key_id = db_text(a, q, 13),
                            .created_at = sqlite3_column_int64(q, 14),
                            .started_at = sqlite3_column_int64(q, 15),
                            .finished_at = sqlite3_column_int64(q, 16),
                            .paused_at = sqlite3_column_int64(q, 17),
                            .step = sqlite3_column_int64(q, 18),
                            .total_steps = sqlite3_column_int64(q, 19),
                            .trained_tokens = sqlite3_column_int64(q, 20),
                            .checkpoint_step = sqlite3_column_int64(q, 21),
                            .attempts = sqlite3_column_int64(q, 22),
                            .priority = sqlite3_column_int64(q, 23),
                            .eta_seconds = sqlite3_column_double(q, 24)};
}

static const struct store_table table = {.kind = "job_not_found",
                                         .what = "fine-tuning job",
                                         .size = sizeof(struct store_job),
                                         .read = read_job,
                                         STORE_TABLE_SQL("jobs", COLUMNS, "1")};

// --- adding ----------------------------------------------------------------------------------------------------------

struct adding {
    struct store_job *job;
    struct store_event *events;
    size_t event_count;
    const struct store_idempotency *once;
};
static bool add(struct db *db, void *context, struct vireo_error *err)
{
    struct adding *c = context;
    struct store_job *j = c->job;
    if (c->once) {
        int64_t now = clock_unix();
        if (!db_run(db, err, "DELETE FROM idempotency WHERE created_at<?", "i", now - 86400))
            return false;
        // Two equal requests at one moment: the second finds the first's row here and makes nothing.
        int64_t known = 0;
        if (db_integer(db, err, &known, "SELECT count(*) FROM idempotency WHERE key_id=? AND route=? AND key=?", "ttt",
                       c->once->key_id, c->once->route, c->once->key) < 0)
            return false;
        if (known)
            return vireo_fail_kind(err, VIREO_CONFLICT, "idempotency_in_progress", NULL,
                                   "A request with this Idempotency-Key is being answered; try again.");
        if (!db_run(db, err, "INSERT INTO idempotency(key_id,route,key,body_sha256,resource,created_at)"
                             " VALUES(?,?,?,?,?,?)",
                    "ttttti", c->once->key_id, c->once->route, c->once->key, c->once->body_sha256, j->id, now))
            return false;
    }
    if (!db_run(db, err,
                "INSERT INTO jobs(id,status,model,training_file,validation_file,spec,resolved,metadata,error,"
                "fine_tuned_model,progress,key_id,created_at,total_steps,priority,eta_seconds)"
                " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
                "tttttttttttt" "iiid", j->id, j->status, j->model, j->training_file, j->validation_file, j->spec,
                j->resolved, j->metadata ? j->metadata : "{}", j->error, j->fine_tuned_model,
                j->progress ? j->progress : "{}", j->key_id ? j->key_id : "", j->created_at, j->total_steps,
                j->priority, j->eta_seconds))
        return false;
    j->seq = db_last_row(db);
    return store_events_insert(db, c->events, c->event_count, err);
}

bool store_job_add(struct store *s, struct store_job *j, struct store_event *first, size_t first_count,
                   const struct store_idempotency *once, struct arena *a, struct vireo_error *err)
{
    if (!j->id && !(j->id = store_new_id(a, "ftjob-", err)))
        return false;
    if (!j->created_at)
        j->created_at = clock_unix();
    for (size_t i = 0; i < first_count; i++)
        first[i].job_id = j->id;
    struct adding c = {.job = j, .events = first, .event_count = first_count, .once = once};
    return store_write(s, add, &c, err);
}

// --- reading ---------------------------------------------------------------------------------------------------------

bool store_job_find(struct store *s, const char *id, struct arena *a, struct store_job *out, struct vireo_error *err)
{
    return store_table_find(s, &table, id, a, out, err);
}

struct list {
    const struct store_page *page;
    const struct store_job_filter *filter;
    struct arena *arena;
    struct store_job *rows;
    size_t count;
};
#define FILTER                                                                                                        \
    " AND (?2 IS NULL OR status=?2)"                                                                                  \
    " AND (?3 IS NULL OR EXISTS (SELECT 1 FROM json_each(metadata) WHERE json_each.key=?3 AND json_each.value=?4))"   \
    " AND (?5=0 OR metadata='{}')"
static bool list(struct db *db, void *context, struct vireo_error *err)
{
    struct list *c = context;
    static const struct store_job_filter none = {0};
    const struct store_job_filter *f = c->filter ? c->filter : &none;
    int64_t after;
    if (!store_page_start(db, table.seq, c->page, &after, err))
        return false;
    sqlite3_stmt *q =
        db_query(db, err,
                 c->page->ascending ? "SELECT " COLUMNS " FROM jobs WHERE seq>?1" FILTER " ORDER BY seq LIMIT ?6"
                                    : "SELECT " COLUMNS " FROM jobs WHERE seq<?1" FILTER " ORDER BY seq DESC LIMIT ?6",
                 "itttii", after, f->status, f->metadata_key, f->metadata_value, (int64_t)f->metadata_null,
                 (int64_t)c->page->limit + 1);
    STORE_COLLECT(db, q, c, read_job, struct store_job, err);
}

bool store_job_list(struct store *s, const struct store_page *page, const struct store_job_filter *filter,
                    struct arena *a, struct store_job **rows, size_t *count, bool *has_more, struct vireo_error *err)
{
    struct list c = {.page = page, .filter = filter, .arena = a};
    if (!store_read(s, list, &c, err))
        return false;
    *has_more = store_cut(&c.count, page->limit);
    *rows = c.rows;
    *count = c.count;
    return true;
}

static bool unfinished(struct db *db, void *context, struct vireo_error *err)
{
    struct list *c = context;
    sqlite3_stmt *q = db_query(db, err,
                               "SELECT " COLUMNS " FROM jobs WHERE status NOT IN ('succeeded','failed','cancelled')"
                               " ORDER BY priority DESC, seq",
                               "");
    STORE_COLLECT(db, q, c, read_job, struct store_job, err);
}

bool store_job_unfinished(struct store *s, struct arena *a, struct store_job **rows, size_t *count,
                          struct vireo_error *err)
{
    struct list c = {.arena = a};
    if (!store_read(s, unfinished, &c, err))
        return false;
    *rows = c.rows;
    *count = c.count;
    return true;
}

static bool counts(struct db *db, void *context, struct vireo_error *err)
{
    int64_t *out = context;
    memset(out, 0, 7 * sizeof *out);
    sqlite3_stmt *q = db_query(db, err, "SELECT status, count(*) FROM jobs GROUP BY status", "");
    int got = -1;
    while (q && (got = db_step(db, q, err)) > 0)
        for (int i = 0; store_job_statuses[i]; i++)
            if (strcmp(store_job_statuses[i], (const char *)sqlite3_column_text(q, 0)) == 0)
                out[i] = sqlite3_column_int64(q, 1);
    return got == 0;
}

bool store_job_counts(struct store *s, int64_t out[7], struct vireo_error *err)
{
    return store_read(s, counts, out, err);
}

// --- changing --------------------------------------------------------------------------------------------------------

struct update {
    const struct store_job *job;
    unsigned mask;
    const char *expected;
    struct store_event *events;
    size_t event_count;
};
static bool update(struct db *db, void *context, struct vireo_error *err)
{
    struct update *c = context;
    const struct store_job *j = c->job;
    unsigned m = c->mask;
    sqlite3_stmt *q = db_query(db, err, "SELECT status FROM jobs WHERE id=?", "t", j->id);
    int got = q ? db_step(db, q, err) : -1;
    if (got <= 0)
        return got == 0 && store_missing(err, "job_not_found", "fine-tuning job", j->id);
    char status[32];
    snprintf(status, sizeof status, "%s", (const char *)sqlite3_column_text(q, 0));
    db_done(q);
    if (c->expected && strcmp(status, c->expected) != 0)
        return vireo_fail_kind(err, VIREO_CONFLICT, "invalid_state", NULL, "The job is '%s', not '%s'.", status,
                               c->expected);
    return (!(m & STORE_JOB_STATUS) ||
            db_run(db, err, "UPDATE jobs SET status=? WHERE id=?", "tt", j->status, j->id)) &&
           (!(m & STORE_JOB_RESOLVED) ||
            db_run(db, err, "UPDATE jobs SET resolved=? WHERE id=?", "tt", j->resolved, j->id)) &&
           (!(m & STORE_JOB_ERROR) || db_run(db, err, "UPDATE jobs SET error=? WHERE id=?", "tt", j->error, j->id)) &&
           (!(m & STORE_JOB_MODEL) ||
            db_run(db, err, "UPDATE jobs SET fine_tuned_model=? WHERE id=?", "tt", j->fine_tuned_model, j->id)) &&
           (!(m & STORE_JOB_RESULT) ||
            db_run(db, err, "UPDATE jobs SET result_file=? WHERE id=?", "tt", j->result_file, j->id)) &&
           (!(m & STORE_JOB_PROGRESS) ||
            db_run(db, err, "UPDATE jobs SET step=?, total_steps=?, trained_tokens=?, eta_seconds=?, progress=? WHERE "
                   "id=?",
                   "iiidtt", j->step, j->total_steps, j->trained_tokens, j->eta_seconds,
                   j->progress ? j->progress : "{}", j->id)) &&
           (!(m & STORE_JOB_STARTED) ||
            db_run(db, err, "UPDATE jobs SET started_at=? WHERE id=?", "it", j->started_at, j->id)) &&
           (!(m & STORE_JOB_FINISHED) ||
            db_run(db, err, "UPDATE jobs SET finished_at=? WHERE id=?", "it", j->finished_at, j->id)) &&
           (!(m & STORE_JOB_PAUSED) ||
            db_run(db, err, "UPDATE jobs SET paused_at=? WHERE id=?", "it", j->paused_at, j->id)) &&
           (!(m & STORE_JOB_CHECKPOINT) ||
            db_run(db, err, "UPDATE jobs SET checkpoint_step=? WHERE id=?", "it", j->checkpoint_step, j->id)) &&
           (!(m & STORE_JOB_ATTEMPTS) ||
            db_run(db, err, "UPDATE jobs SET attempts=? WHERE id=?", "it", j->attempts, j->id)) &&
           (!(m & STORE_JOB_PRIORITY) ||
            db_run(db, err, "UPDATE jobs SET priority=? WHERE id=?", "it", j->priority, j->id)) &&
           store_events_insert(db, c->events, c->event_count, err);
}

bool store_job_update(struct store *s, const struct store_job *j, unsigned mask, const char *expected,
                      struct store_event *events, size_t event_count, struct vireo_error *err)
{
    struct update c = {.job = j, .mask = mask, .expected = expected, .events = events, .event_count = event_count};
    for (size_t i = 0; i < event_count; i++)
        events[i].job_id = j->id;
    return store_write(s, update, &c, err);
}

struct rewind {
    const char *id;
    int64_t step;
    struct store_event *events;
    size_t count;
};
static bool rewind_job(struct db *db, void *context, struct vireo_error *err)
{
    struct rewind *c = context;
    return db_run(db, err, "DELETE FROM metrics WHERE job_id=? AND step>?", "ti", c->id, c->step) &&
           db_run(db, err, "DELETE FROM events WHERE job_id=? AND step>?", "ti", c->id, c->step) &&
           db_run(db, err,
                  "DELETE FROM samples WHERE group_id IN (SELECT id FROM groups WHERE job_id=? AND step>?)", "ti",
                  c->id, c->step) &&
           db_run(db, err, "DELETE FROM groups WHERE job_id=? AND step>?", "ti", c->id, c->step) &&
           db_run(db, err, "UPDATE checkpoints SET deleted_at=? WHERE job_id=? AND step>? AND deleted_at IS NULL",
                  "iti", clock_unix(), c->id, c->step) &&
           db_run(db, err, "UPDATE jobs SET step=min(step,?1), checkpoint_step=min(checkpoint_step,?1) WHERE id=?2",
                  "it", c->step, c->id) &&
           store_events_insert(db, c->events, c->count, err);
}

bool store_job_rewind(struct store *s, const char *job_id, int64_t step, struct store_event *events,
                      size_t event_count, struct vireo_error *err)
{
    struct rewind c = {.id = job_id, .step = step, .events = events, .count = event_count};
    for (size_t i = 0; i < event_count; i++)
        events[i].job_id = job_id;
    return store_write(s, rewind_job, &c, err);
}

// --- repeated requests -----------------------------------------------------------------------------------------------

struct repeat {
    const struct store_idempotency *once;
    struct arena *arena;
    const char *resource;
};
static bool find_repeat(struct db *db, void *context, struct vireo_error *err)
{
    struct repeat *c = context;
    sqlite3_stmt *q = db_query(db, err,
                               "SELECT resource, body_sha256 FROM idempotency"
                               " WHERE key_id=? AND route=? AND key=? AND created_at>=?",
                               "ttti", c->once->key_id, c->once->route, c->once->key, clock_unix() - 86400);
    int got = q ? db_step(db, q, err) : -1;
    if (got <= 0)
        return got == 0;
    bool same = strcmp((const char *)sqlite3_column_text(q, 1), c->once->body_sha256) == 0;
    c->resource = db_text(c->arena, q, 0);
    db_done(q);
    if (!same)
        return vireo_fail_kind(err, VIREO_CONFLICT, "idempotency_mismatch", NULL,
                               "This Idempotency-Key was used with another body.");
    return true;
}

bool store_idempotency_find(struct store *s, const struct store_idempotency *once, struct arena *a,
                            const char **resource, struct vireo_error *err)
{
    struct repeat c = {.once = once, .arena = a};
    if (!store_read(s, find_repeat, &c, err))
        return false;
    *resource = c.resource;
    return true;
}
