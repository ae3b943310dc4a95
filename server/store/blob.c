#include "server/store/blob.h"

#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/hash.h"
#include "compute/base/log.h"
#include "server/store/store_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_MODULE "store"

struct blob_writer {
    struct store *store;
    struct hash *hash;
    uint64_t bytes;
    int fd;
    char path[BLOB_PATH];
};

static bool is_digest(const char *text)
{
    return text && strlen(text) == 64 && strspn(text, "0123456789abcdef") == 64;
}

bool blob_path(const struct store *s, const char *sha256, char path[BLOB_PATH])
{
    if (!is_digest(sha256))
        return false;
    return snprintf(path, BLOB_PATH, "%s/blobs/%.2s/%s", s->folder, sha256, sha256) < BLOB_PATH;
}

bool blob_exists(const struct store *s, const char *sha256, uint64_t *bytes)
{
    char path[BLOB_PATH];
    struct stat info;
    if (!blob_path(s, sha256, path) || stat(path, &info) != 0 || !S_ISREG(info.st_mode))
        return false;
    if (bytes)
        *bytes = (uint64_t)info.st_size;
    return true;
}

static bool pin(struct store *s, const char *sha256, struct vireo_error *err) // with blob_lock
{
    for (struct blob_pin *p = s->pins; p; p = p->next)
        if (strcmp(p->sha256, sha256) == 0) {
            p->count++;
            return true;
        }
    struct blob_pin *p = vireo_calloc(1, sizeof *p);
    if (!p)
        return vireo_fail_memory(err, sizeof *p);
    memcpy(p->sha256, sha256, 65);
    p->count = 1;
    p->next = s->pins;
    s->pins = p;
    return true;
}

void blob_unpin(struct store *s, const char *sha256)
{
    pthread_mutex_lock(&s->blob_lock);
    for (struct blob_pin **at = &s->pins; *at; at = &(*at)->next)
        if (strcmp((*at)->sha256, sha256) == 0) {
            struct blob_pin *p = *at;
            if (--p->count == 0) {
                *at = p->next;
                free(p);
            }
            break;
        }
    pthread_mutex_unlock(&s->blob_lock);
}

// A failed fdatasync has lost data for good: the descriptor is never synced again (reliability.md finding 4).
static bool sync_file(const char *path, struct vireo_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vireo_fail_errno(err, "cannot open an upload");
    bool ok = !vireo_fault("blob.fsync");
    errno = EIO;
    ok = ok && fdatasync(fd) == 0;
    if (!ok)
        vireo_fail_errno(err, "cannot sync an upload");
    if (close(fd) != 0 && ok)
        ok = vireo_fail_errno(err, "cannot close an upload");
    return ok;
}

// Into blobs/aa/, the folder made (and its parent synced) when it is the first with these digits.
static bool move_in(struct store *s, const char *temporary, const char *sha256, struct vireo_error *err)
{
    char folder[BLOB_PATH], parent[BLOB_PATH], path[BLOB_PATH];
    snprintf(parent, sizeof parent, "%s/blobs", s->folder);
    snprintf(folder, sizeof folder, "%s/blobs/%.2s", s->folder, sha256);
    blob_path(s, sha256, path);
    if (mkdir(folder, 0700) == 0) {
        if (!file_sync_folder(parent, err))
            return false;
    } else if (errno != EEXIST) {
        return vireo_fail_errno(err, "cannot make a blob folder");
    }
    errno = EIO;
    if (vireo_fault("blob.rename") || rename(temporary, path) != 0)
        return vireo_fail_errno(err, "cannot move an upload into place");
    return file_sync_folder(folder, err);
}

bool blob_adopt(struct store *s, const char *temporary, const char sha256[65], struct vireo_error *err)
{
    char reason[256];
    bool ok = is_digest(sha256) || vireo_fail(err, VIREO_INTERNAL, "not a digest");
    if (ok && store_is_read_only(s, reason, sizeof reason))
        ok = vireo_fail(err, VIREO_UNAVAILABLE, "the store is read-only after a disk error");
    ok = ok && sync_file(temporary, err);
    if (ok) {
        pthread_mutex_lock(&s->blob_lock);
        ok = pin(s, sha256, err);
        if (ok && !blob_exists(s, sha256, NULL)) {
            ok = move_in(s, temporary, sha256, err);
        }
        pthread_mutex_unlock(&s->blob_lock);
    }
    unlink(temporary); // gone already when it was renamed
    return ok;
}

struct blob_writer *blob_begin(struct store *s, struct vireo_error *err)
{
    struct blob_writer *w = vireo_calloc(1, sizeof *w);
    if (!w) {
        vireo_fail_memory(err, sizeof *w);
        return NULL;
    }
    w->store = s;
    w->hash = hash_create();
    snprintf(w->path, sizeof w->path, "%s/blob-XXXXXX", s->temp);
    w->fd = mkstemp(w->path);
    if (w->fd >= 0)
        fcntl(w->fd, F_SETFD, FD_CLOEXEC);
    if (w->fd < 0 || !w->hash) {
        vireo_fail_errno(err, "cannot make a temporary file");
        blob_abandon(&w);
        return NULL;
    }
    return w;
}

bool blob_add(struct blob_writer *w, const void *bytes, size_t count, struct vireo_error *err)
{
    const char *from = bytes;
    if (!hash_add(w->hash, bytes, count))
        return vireo_fail(err, VIREO_NO_MEMORY, "cannot hash an upload");
    w->bytes += count;
    while (count) {
        errno = EIO;
        ssize_t wrote = vireo_fault("blob.write") ? -1 : write(w->fd, from, count);
        if (wrote < 0 && errno == EINTR)
            continue;
        if (wrote <= 0)
            return vireo_fail_errno(err, "cannot write an upload");
        from += wrote;
        count -= (size_t)wrote;
    }
    return true;
}

bool blob_end(struct blob_writer **wp, char sha256[65], uint64_t *bytes, struct vireo_error *err)
{
    struct blob_writer *w = *wp;
    uint8_t digest[HASH_BYTES];
    bool ok = hash_end(w->hash, digest) || vireo_fail(err, VIREO_NO_MEMORY, "cannot hash an upload");
    if (close(w->fd) != 0 && ok)
        ok = vireo_fail_errno(err, "cannot close an upload");
    w->fd = -1;
    if (ok) {
        char text[65];
        hash_text(digest, text);
        ok = blob_adopt(w->store, w->path, text, err);
        if (ok) {
            memcpy(sha256, text, 65);
            if (bytes)
                *bytes = w->bytes;
        }
    }
    blob_abandon(wp);
    return ok;
}

void blob_abandon(struct blob_writer **wp)
{
    struct blob_writer *w = *wp;
    if (!w)
        return;
    if (w->fd >= 0)
        close(w->fd);
    unlink(w->path);
    hash_destroy(&w->hash);
    free(w);
    *wp = NULL;
}

bool blob_put(struct store *s, const void *bytes, size_t count, char sha256[65], struct vireo_error *err)
{
    struct blob_writer *w = blob_begin(s, err);
    if (!w)
        return false;
    if (!blob_add(w, bytes, count, err)) {
        blob_abandon(&w);
        return false;
    }
    return blob_end(&w, sha256, NULL, err);
}

#define NAMED_SQL                                                                                                     \
    "SELECT (SELECT count(*) FROM files WHERE sha256=?1 AND deleted_at IS NULL)"                                      \
    " + (SELECT count(*) FROM images WHERE sha256=?1 AND deleted_at IS NULL)"

struct named {
    const char *sha256;
    int64_t count;
};
static bool count_names(struct db *db, void *context, struct vireo_error *err)
{
    struct named *n = context;
    return db_integer(db, err, &n->count, NAMED_SQL, "t", n->sha256) == 1;
}

bool blob_collect(struct store *s, const char *sha256, struct vireo_error *err)
{
    char path[BLOB_PATH];
    if (!blob_path(s, sha256, path))
        return true;
    struct named named = {.sha256 = sha256};
    pthread_mutex_lock(&s->blob_lock);
    bool pinned = false;
    for (struct blob_pin *p = s->pins; p; p = p->next)
        pinned = pinned || strcmp(p->sha256, sha256) == 0;
    bool ok = pinned || store_read(s, count_names, &named, err);
    if (ok && !pinned && named.count == 0 && unlink(path) != 0 && errno != ENOENT)
        ok = vireo_fail_errno(err, "cannot remove a blob");
    pthread_mutex_unlock(&s->blob_lock);
    return ok;
}

// --- recovery --------------------------------------------------------------------------------------------------------

static void collect_folder(struct store *s, const char *name, int *removed)
{
    char folder[BLOB_PATH], path[BLOB_PATH + 300];
    snprintf(folder, sizeof folder, "%s/blobs/%.2s", s->folder, name);
    DIR *dir = opendir(folder);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        struct stat info;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        if (!is_digest(entry->d_name) || stat(path, &info) != 0 || info.st_mtime + 3600 > clock_unix())
            continue;
        struct named named = {.sha256 = entry->d_name};
        if (store_read(s, count_names, &named, NULL) && named.count == 0 && unlink(path) == 0)
            ++*removed;
    }
    closedir(dir);
}

struct lost {
    struct store *store;
    int files, images;
};
static bool mark_lost(struct db *db, void *context, struct vireo_error *err)
{
    struct lost *lost = context;
    sqlite3_stmt *stmt =
        db_query(db, err, "SELECT seq, sha256 FROM files WHERE deleted_at IS NULL AND status<>'error'", "");
    int got = stmt ? 1 : -1;
    while (stmt && (got = db_step(db, stmt, err)) > 0) {
        if (blob_exists(lost->store, (const char *)sqlite3_column_text(stmt, 1), NULL))
            continue;
        lost->files++;
        if (!db_run(db, err, "UPDATE files SET status='error', status_details='the content is missing from the disk'"
                             " WHERE seq=?", "i", sqlite3_column_int64(stmt, 0))) {
            db_done(stmt);
            return false;
        }
    }
    if (got < 0)
        return false;
    stmt = db_query(db, err, "SELECT sha256 FROM images WHERE deleted_at IS NULL", "");
    while (stmt && (got = db_step(db, stmt, err)) > 0)
        lost->images += !blob_exists(lost->store, (const char *)sqlite3_column_text(stmt, 0), NULL);
    return stmt && got == 0;
}

bool store_recover(struct store *s, struct vireo_error *err)
{
    char blobs[BLOB_PATH];
    int removed = 0;
    snprintf(blobs, sizeof blobs, "%s/blobs", s->folder);
    DIR *dir = opendir(blobs);
    if (!dir)
        return vireo_fail_errno(err, "cannot read the blob folder");
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strlen(entry->d_name) == 2 && strspn(entry->d_name, "0123456789abcdef") == 2)
            collect_folder(s, entry->d_name, &removed);
    closedir(dir);
    struct lost lost = {.store = s};
    if (!store_write(s, mark_lost, &lost, err))
        return false;
    if (removed)
        log_info("removed %d blobs that no record names", removed);
    if (lost.files || lost.images)
        log_error("contents missing from the disk: %d files (marked so), %d images", lost.files, lost.images);
    return true;
}
