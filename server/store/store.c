#include "server/store/store.h"

#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/log.h"
#include "server/store/migrate.h"
#include "server/store/store_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define LOG_MODULE "store"

static void set_read_only(struct store *s, const char *reason)
{
    pthread_mutex_lock(&s->queue_lock);
    if (!s->read_only) {
        log_error("the store is read-only from now on: %s", reason);
        s->read_only = true;
        snprintf(s->read_only_reason, sizeof s->read_only_reason, "%s", reason);
    }
    pthread_mutex_unlock(&s->queue_lock);
}

// Runs the tasks of one batch in one transaction, each behind a savepoint of its own.
static void run_batch(struct store *s, struct store_task *tasks)
{
    struct db *db = &s->writer;
    struct vireo_error err = {0};
    double start = clock_seconds();
    bool ok = db_exec(db, "BEGIN IMMEDIATE", &err);
    for (struct store_task *t = tasks; ok && t; t = t->next) {
        ok = db_exec(db, "SAVEPOINT task", &err);
        if (!ok)
            break;
        t->ok = t->fn(db, t->context, &t->err);
        if (sqlite3_get_autocommit(db->handle)) {
            // SQLite rolled the whole transaction back by itself (full disk, no memory, I/O).
            ok = false;
            err = t->err;
            break;
        }
        if (!t->ok)
            ok = db_exec(db, "ROLLBACK TO task", &err);
        ok = ok && db_exec(db, "RELEASE task", &err);
    }
    if (ok && vireo_fault("store.commit")) {
        vireo_fail(&err, VIREO_IO, "database: commit failed (fault point)");
        db->broken = true;
        ok = false;
    }
    ok = ok && db_exec(db, "COMMIT", &err);
    if (!ok && db->handle && !sqlite3_get_autocommit(db->handle))
        db_exec(db, "ROLLBACK", NULL);
    if (db->broken)
        set_read_only(s, err.message[0] ? err.message : "an I/O error of the database");
    pthread_mutex_lock(&s->queue_lock);
    s->write_seconds += clock_seconds() - start;
    for (struct store_task *t = tasks, *next; t; t = next) {
        next = t->next;
        s->write_count++;
        if (!ok && (t->ok || t->err.code == VIREO_OK)) {
            t->ok = false;
            t->err = err;
        }
        t->done = true; // t may be gone as soon as the lock is released
    }
    pthread_cond_broadcast(&s->task_done);
    pthread_mutex_unlock(&s->queue_lock);
}

static void *writer_main(void *context)
{
    struct store *s = context;
    for (;;) {
        pthread_mutex_lock(&s->queue_lock);
        while (!s->first && !s->closing)
            pthread_cond_wait(&s->queue_filled, &s->queue_lock);
        struct store_task *batch = s->first;
        s->first = s->last = NULL;
        pthread_mutex_unlock(&s->queue_lock);
        if (!batch)
            return NULL;
        run_batch(s, batch);
    }
}

bool store_write(struct store *s, store_fn fn, void *context, struct vireo_error *err)
{
    struct store_task task = {.fn = fn, .context = context};
    pthread_mutex_lock(&s->queue_lock);
    if (s->read_only || s->closing) {
        vireo_fail(err, VIREO_UNAVAILABLE, "%s",
                   s->read_only ? "the store is read-only after a disk error; restart the server when the disk is well"
                                : "the server is shutting down");
        pthread_mutex_unlock(&s->queue_lock);
        return false;
    }
    *(s->last ? &s->last->next : &s->first) = &task;
    s->last = &task;
    pthread_cond_signal(&s->queue_filled);
    while (!task.done)
        pthread_cond_wait(&s->task_done, &s->queue_lock);
    pthread_mutex_unlock(&s->queue_lock);
    if (!task.ok && err)
        *err = task.err;
    return task.ok;
}

bool store_read(struct store *s, store_fn fn, void *context, struct vireo_error *err)
{
    int free_reader = -1;
    pthread_mutex_lock(&s->reader_lock);
    for (;;) {
        for (int i = 0; i < STORE_READERS && free_reader < 0; i++)
            if (!s->reader_busy[i])
                free_reader = i;
        if (free_reader >= 0)
            break;
        pthread_cond_wait(&s->reader_free, &s->reader_lock);
    }
    s->reader_busy[free_reader] = true;
    bool ok = s->reader_open[free_reader];
    pthread_mutex_unlock(&s->reader_lock);
    struct db *db = &s->readers[free_reader];
    if (!ok)
        ok = s->reader_open[free_reader] = db_open(db, s->db_path, false, err);
    if (ok) {
        ok = db_exec(db, "BEGIN", err);
        if (ok) {
            ok = fn(db, context, err);
            db_exec(db, "COMMIT", NULL); // ends the snapshot; nothing was written
        }
    }
    pthread_mutex_lock(&s->reader_lock);
    s->reader_busy[free_reader] = false;
    pthread_cond_broadcast(&s->reader_free); // glibc before 2.41 loses a signal among many waiters (bug 25847)
    pthread_mutex_unlock(&s->reader_lock);
    return ok;
}

static bool take_lock(struct store *s, struct vireo_error *err)
{
    char path[440];
    snprintf(path, sizeof path, "%s/lock", s->folder);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (s->lock_fd < 0)
        return vireo_fail_errno(err, "cannot open %s", path);
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0)
        return true;
    if (errno == EWOULDBLOCK)
        return vireo_fail(err, VIREO_CONFLICT, "another process has the data folder %s open", s->folder);
    return vireo_fail_errno(err, "cannot lock %s", path);
}

static bool make_folders(struct store *s, struct vireo_error *err)
{
    static const char *const names[] = {"blobs", "models", "jobs"};
    char path[440];
    // Uploads that no answer acknowledged.
    if (!file_remove_tree(s->temp, err) || !file_make_folders(s->temp, err))
        return false;
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", s->folder, names[i]);
        if (!file_make_folders(path, err))
            return false;
    }
    return file_sync_folder(s->folder, err);
}

static bool check_and_migrate(struct store *s, struct vireo_error *err)
{
    sqlite3_stmt *stmt = db_query(&s->writer, err, "PRAGMA quick_check(1)", "");
    if (!stmt || db_step(&s->writer, stmt, err) < 0)
        return false;
    const char *verdict = (const char *)sqlite3_column_text(stmt, 0);
    bool sane = verdict && strcmp(verdict, "ok") == 0;
    if (!sane)
        vireo_fail(err, VIREO_CORRUPT, "the database %s is damaged: %s", s->db_path, verdict ? verdict : "no verdict");
    db_done(stmt);
    return sane && store_migrate(&s->writer, s->folder, err);
}

struct store *store_open(const char *folder, struct vireo_error *err)
{
    struct store *s = vireo_calloc(1, sizeof *s);
    if (!s) {
        vireo_fail_memory(err, sizeof *s);
        return NULL;
    }
    s->lock_fd = -1;
    pthread_mutex_init(&s->queue_lock, NULL);
    pthread_mutex_init(&s->reader_lock, NULL);
    pthread_mutex_init(&s->blob_lock, NULL);
    pthread_cond_init(&s->queue_filled, NULL);
    pthread_cond_init(&s->task_done, NULL);
    pthread_cond_init(&s->reader_free, NULL);
    char *absolute = NULL;
    if (!file_make_folders(folder, err))
        goto failed;
    absolute = realpath(folder, NULL);
    if (!absolute || strlen(absolute) >= sizeof s->folder) {
        vireo_fail(err, VIREO_INVALID, "the data folder's path is too long or cannot be resolved: %s", folder);
        goto failed;
    }
    snprintf(s->folder, sizeof s->folder, "%s", absolute);
    snprintf(s->temp, sizeof s->temp, "%s/tmp", absolute);
    snprintf(s->db_path, sizeof s->db_path, "%s/vireo.db", absolute);
    if (!take_lock(s, err) || !make_folders(s, err) || !db_open(&s->writer, s->db_path, true, err) ||
        !check_and_migrate(s, err))
        goto failed;
    if (pthread_create(&s->thread, NULL, writer_main, s) != 0) {
        vireo_fail(err, VIREO_INTERNAL, "cannot start the store's thread");
        goto failed;
    }
    s->thread_started = true;
    if (!store_recover(s, err))
        goto failed;
    free(absolute);
    return s;
failed:
    free(absolute);
    store_close(&s);
    return NULL;
}

void store_close(struct store **sp)
{
    struct store *s = *sp;
    if (!s)
        return;
    if (s->thread_started) {
        pthread_mutex_lock(&s->queue_lock);
        s->closing = true;
        pthread_cond_signal(&s->queue_filled);
        pthread_mutex_unlock(&s->queue_lock);
        pthread_join(s->thread, NULL);
    }
    for (int i = 0; i < STORE_READERS; i++)
        db_close(&s->readers[i]);
    db_close(&s->writer); // the last connection: folds the WAL into the database
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    for (struct blob_pin *p = s->pins, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    pthread_mutex_destroy(&s->queue_lock);
    pthread_mutex_destroy(&s->reader_lock);
    pthread_mutex_destroy(&s->blob_lock);
    pthread_cond_destroy(&s->queue_filled);
    pthread_cond_destroy(&s->task_done);
    pthread_cond_destroy(&s->reader_free);
    free(s);
    *sp = NULL;
}

const char *store_folder(const struct store *s)
{
    return s->folder;
}

const char *store_temp_folder(const struct store *s)
{
    return s->temp;
}

bool store_is_read_only(struct store *s, char *reason, size_t size)
{
    pthread_mutex_lock(&s->queue_lock);
    bool read_only = s->read_only;
    if (reason)
        snprintf(reason, size, "%s", s->read_only_reason);
    pthread_mutex_unlock(&s->queue_lock);
    return read_only;
}

double store_write_seconds(struct store *s, uint64_t *count)
{
    pthread_mutex_lock(&s->queue_lock);
    double seconds = s->write_seconds;
    *count = s->write_count;
    pthread_mutex_unlock(&s->queue_lock);
    return seconds;
}

static bool read_one(struct db *db, void *context, struct vireo_error *err)
{
    return db_integer(db, err, context, "SELECT count(*) FROM sqlite_schema", "") == 1;
}

bool store_check(struct store *s, struct vireo_error *err)
{
    char reason[256];
    if (store_is_read_only(s, reason, sizeof reason))
        return vireo_fail(err, VIREO_UNAVAILABLE, "the store is read-only: %s", reason);
    int64_t tables = 0;
    if (!store_read(s, read_one, &tables, err))
        return false;
    if (access(s->temp, W_OK) != 0)
        return vireo_fail(err, VIREO_UNAVAILABLE, "the data folder cannot be written");
    return true;
}

bool store_seq_of(struct db *db, const char *sql, const char *id, int64_t *seq, struct vireo_error *err)
{
    int got = db_integer(db, err, seq, sql, "t", id);
    if (got == 0)
        vireo_fail_param(err, "after", "'after' names nothing that ever was in this list: '%.60s'", id);
    return got == 1;
}
