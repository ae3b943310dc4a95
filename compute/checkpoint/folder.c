#include "compute/checkpoint/folder_inside.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/hash.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BUFFER = 1 << 20 };

struct checkpoint_writer {
    char parent[CHECKPOINT_PATH], temporary[CHECKPOINT_PATH], final[CHECKPOINT_PATH];
    uint64_t step;
    json_t *files; // array of the manifest
    // the file being written
    int fd; // -1: none
    char name[CHECKPOINT_NAME];
    struct hash *hash;
    uint64_t bytes;
    uint8_t *buffer; // small writes are gathered
    size_t held;
    bool failed; // some step failed: only abandoning is left
};

static bool broken(const char *point)
{
    if (!vireo_fault(point))
        return false;
    errno = EIO;
    return true;
}

bool checkpoint_join(char *buffer, size_t size, const char *folder, const char *name, struct vireo_error *err)
{
    int length = snprintf(buffer, size, "%s/%s", folder, name);
    return (length >= 0 && (size_t)length < size) || vireo_fail(err, VIREO_IO, "path too long: %.80s...", folder);
}

bool checkpoint_step_path(char *buffer, size_t size, const char *parent, uint64_t step, const char *ending,
                          struct vireo_error *err)
{
    char name[64];
    snprintf(name, sizeof name, "step-%llu%.16s", (unsigned long long)step, ending);
    return checkpoint_join(buffer, size, parent, name, err);
}

bool checkpoint_step_parse(const char *name, const char *ending, uint64_t *step)
{
    uint64_t value = 0;
    if (strncmp(name, "step-", 5) != 0 || (name[5] == '0' && name[6] >= '0' && name[6] <= '9'))
        return false;
    const char *at = name + 5;
    for (; *at >= '0' && *at <= '9'; at++) {
        if (value > (INT64_MAX - 9) / 10)
            return false;
        value = value * 10 + (uint64_t)(*at - '0');
    }
    *step = value;
    return at > name + 5 && strcmp(at, ending) == 0;
}

bool checkpoint_name_is_fine(const char *name)
{
    size_t length = strlen(name);
    static const char fine[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    return length > 0 && length < CHECKPOINT_NAME && name[0] != '.' && strspn(name, fine) == length &&
           strcmp(name, "manifest.json") != 0 && strcmp(name, "manifest.sha256") != 0;
}

bool checkpoint_manifest_line(const void *manifest, size_t count, char line[96])
{
    uint8_t digest[HASH_BYTES];
    char text[HASH_TEXT];
    if (!hash_bytes(manifest, count, digest))
        return false;
    hash_text(digest, text);
    snprintf(line, 96, "%s  manifest.json\n", text);
    return true;
}

bool checkpoint_begin(struct checkpoint_writer **out, const char *parent, uint64_t step, struct vireo_error *err)
{
    struct checkpoint_writer *w = vireo_calloc(1, sizeof *w);
    if (!w)
        return vireo_fail_memory(err, sizeof *w);
    w->fd = -1;
    w->step = step;
    w->buffer = vireo_alloc(BUFFER);
    w->files = json_array();
    bool done = w->buffer && w->files;
    int length = snprintf(w->parent, sizeof w->parent, "%s", parent);
    if (!done)
        vireo_fail_memory(err, BUFFER);
    else if (step > INT64_MAX / 10)
        done = vireo_fail(err, VIREO_INVALID, "step %llu is too large", (unsigned long long)step);
    else
        done = ((length >= 0 && (size_t)length < sizeof w->parent) ||
                vireo_fail(err, VIREO_IO, "path too long: %.80s...", parent)) &&
               checkpoint_step_path(w->temporary, sizeof w->temporary, parent, step, ".tmp", err) &&
               checkpoint_step_path(w->final, sizeof w->final, parent, step, "", err) &&
               file_make_folders(parent, err) && file_remove_tree(w->temporary, err) &&
               (mkdir(w->temporary, 0700) == 0 || vireo_fail_errno(err, "cannot create folder %s", w->temporary));
    if (!done) {
        w->temporary[0] = 0; // not ours to remove
        checkpoint_abandon(&w);
        return false;
    }
    *out = w;
    return true;
}

// ---- one file

static bool open_file(struct checkpoint_writer *w, const char *name, struct vireo_error *err)
{
    char path[CHECKPOINT_PATH + CHECKPOINT_NAME + 1];
    vireo_assert(w->fd < 0);
    if (w->failed)
        return vireo_fail(err, VIREO_IO, "an earlier write to this checkpoint failed");
    if (!checkpoint_join(path, sizeof path, w->temporary, name, err))
        return false;
    w->hash = hash_create();
    if (!w->hash)
        return vireo_fail_memory(err, 64);
    w->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (w->fd < 0) {
        hash_destroy(&w->hash);
        return vireo_fail_errno(err, "cannot create %s in the checkpoint", name);
    }
    snprintf(w->name, sizeof w->name, "%s", name);
    w->bytes = w->held = 0;
    return true;
}

static bool put_out(struct checkpoint_writer *w, const uint8_t *at, size_t count, struct vireo_error *err)
{
    if (!hash_add(w->hash, at, count))
        return vireo_fail(err, VIREO_INTERNAL, "SHA-256 failed on %s", w->name);
    while (count > 0) {
        ssize_t n = broken("checkpoint.write") ? -1 : write(w->fd, at, count);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vireo_fail_errno(err, "cannot write %s of the checkpoint", w->name);
        at += n;
        count -= (size_t)n;
    }
    return true;
}

static bool write_piece(void *context, const void *bytes, size_t count, struct vireo_error *err)
{
    struct checkpoint_writer *w = context;
    vireo_assert(w->fd >= 0);
    if (w->failed)
        return vireo_fail(err, VIREO_IO, "an earlier write to this checkpoint failed");
    w->bytes += count;
    if (count == 0)
        return true;
    if (w->held + count <= BUFFER) {
        memcpy(w->buffer + w->held, bytes, count);
        w->held += count;
        return true;
    }
    size_t held = w->held;
    w->held = 0;
    if (!put_out(w, w->buffer, held, err) || !put_out(w, bytes, count, err)) {
        w->failed = true;
        return false;
    }
    return true;
}

// Digest of what was written; the descriptor is closed in any case.
static bool close_file(struct checkpoint_writer *w, char text[HASH_TEXT], struct vireo_error *err)
{
    uint8_t digest[HASH_BYTES];
    bool done = !w->failed || vireo_fail(err, VIREO_IO, "an earlier write to this checkpoint failed");
    done = done && put_out(w, w->buffer, w->held, err);
    if (done && (broken("checkpoint.fsync") || fsync(w->fd) != 0))
        done = vireo_fail_errno(err, "cannot sync %s of the checkpoint", w->name);
    if (close(w->fd) != 0 && done)
        done = vireo_fail_errno(err, "cannot close %s of the checkpoint", w->name);
    w->fd = -1;
    w->held = 0;
    if (done && !hash_end(w->hash, digest))
        done = vireo_fail(err, VIREO_INTERNAL, "SHA-256 failed on %s", w->name);
    hash_destroy(&w->hash);
    if (done)
        hash_text(digest, text);
    w->failed |= !done;
    return done;
}

bool checkpoint_file_open(struct checkpoint_writer *w, const char *name, struct byte_sink *out,
                          struct vireo_error *err)
{
    size_t i;
    const json_t *file;
    if (!checkpoint_name_is_fine(name))
        return vireo_fail(err, VIREO_INVALID, "\"%.60s\" cannot be the name of a checkpoint's file", name);
    json_array_foreach(w->files, i, file)
        if (strcmp(json_string_value(json_object_get(file, "name")), name) == 0)
            return vireo_fail(err, VIREO_INVALID, "the checkpoint already has a file %s", name);
    if (!open_file(w, name, err))
        return false;
    *out = (struct byte_sink){.write = write_piece, .context = w};
    return true;
}

bool checkpoint_file_close(struct checkpoint_writer *w, struct vireo_error *err)
{
    char text[HASH_TEXT];
    if (!close_file(w, text, err))
        return false;
    json_t *file = json_pack("{s:s, s:I, s:s}", "name", w->name, "bytes", (json_int_t)w->bytes, "sha256", text);
    if (!file || json_array_append_new(w->files, file) != 0) {
        w->failed = true;
        return vireo_fail_memory(err, 256);
    }
    return true;
}

bool checkpoint_add_bytes(struct checkpoint_writer *w, const char *name, const void *bytes, size_t count,
                          struct vireo_error *err)
{
    struct byte_sink sink;
    if (!checkpoint_file_open(w, name, &sink, err))
        return false;
    bool done = sink.write(sink.context, bytes, count, err);
    return checkpoint_file_close(w, done ? err : NULL) && done;
}

bool checkpoint_add_copy(struct checkpoint_writer *w, const char *name, const char *source, struct vireo_error *err)
{
    struct byte_sink sink;
    int fd = open(source, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return vireo_fail_errno(err, "cannot open %s", source);
    uint8_t *part = vireo_alloc(BUFFER);
    bool done = part || vireo_fail_memory(err, BUFFER);
    if (done && (done = checkpoint_file_open(w, name, &sink, err))) {
        for (;;) {
            ssize_t count = read(fd, part, BUFFER);
            if (count < 0 && errno == EINTR)
                continue;
            if (count < 0)
                done = vireo_fail_errno(err, "cannot read %s", source);
            if (count <= 0 || !(done = sink.write(sink.context, part, (size_t)count, err)))
                break;
        }
        w->failed |= !done; // half a copy must not be committed
        done = checkpoint_file_close(w, done ? err : NULL) && done;
    }
    free(part);
    close(fd);
    return done;
}

// ---- the whole

static bool write_plain(struct checkpoint_writer *w, const char *name, const void *bytes, size_t count,
                        struct vireo_error *err)
{
    char text[HASH_TEXT];
    if (!open_file(w, name, err))
        return false;
    bool done = write_piece(w, bytes, count, err);
    return close_file(w, text, done ? err : NULL) && done;
}

static bool write_manifest(struct checkpoint_writer *w, const json_t *state, struct vireo_error *err)
{
    char line[96];
    json_t *copy = state ? json_deep_copy(state) : json_object();
    json_t *manifest = json_pack("{s:s, s:i, s:I, s:O, s:o}", "format", CHECKPOINT_FORMAT, "version",
                                 CHECKPOINT_VERSION,
                                 "step", (json_int_t)w->step, "files", w->files, "state", copy);
    char *text = manifest ? json_dumps(manifest, JSON_INDENT(1) | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(manifest);
    if (!text)
        return vireo_fail_memory(err, CHECKPOINT_MAX_MANIFEST);
    size_t count = strlen(text);
    bool done = count <= CHECKPOINT_MAX_MANIFEST ||
                vireo_fail(err, VIREO_TOO_LARGE,
                           "the checkpoint's manifest would have %zu bytes, at most %d are allowed",
                           count, CHECKPOINT_MAX_MANIFEST);
    done = done && (checkpoint_manifest_line(text, count, line) || vireo_fail(err, VIREO_INTERNAL, "SHA-256 failed"));
    done = done && write_plain(w, "manifest.json", text, count, err) &&
           write_plain(w, "manifest.sha256", line, strlen(line), err);
    free(text);
    return done;
}

static bool sync_folder(const char *path, struct vireo_error *err)
{
    if (broken("checkpoint.fsync"))
        return vireo_fail_errno(err, "cannot sync folder %s", path);
    return file_sync_folder(path, err);
}

// An old folder of the same step steps aside under a name that checkpoint_clean knows how to bring back.
static bool put_in_place(struct checkpoint_writer *w, struct vireo_error *err)
{
    char aside[CHECKPOINT_PATH];
    bool replaces = file_exists(w->final);
    if (!checkpoint_step_path(aside, sizeof aside, w->parent, w->step, ".replaced", err))
        return false;
    if (replaces && (!file_remove_tree(aside, err) || !file_rename(w->final, aside, err)))
        return false;
    if (broken("checkpoint.rename") || rename(w->temporary, w->final) != 0) {
        vireo_fail_errno(err, "cannot rename the checkpoint to step-%llu", (unsigned long long)w->step);
        if (replaces)
            file_rename(aside, w->final, NULL);
        return false;
    }
    w->temporary[0] = 0;
    if (broken("checkpoint.commit"))
        return vireo_fail_errno(err, "cannot sync the folder of step-%llu", (unsigned long long)w->step);
    return sync_folder(w->parent, err) && (!replaces || file_remove_tree(aside, err));
}

bool checkpoint_commit(struct checkpoint_writer **w, const json_t *state, struct vireo_error *err)
{
    bool done = true;
    if (state && !json_is_object(state))
        done = vireo_fail(err, VIREO_INTERNAL, "the state of a checkpoint must be a JSON object");
    else if ((*w)->failed || (*w)->fd >= 0)
        done = vireo_fail(err, VIREO_IO, (*w)->fd >= 0 ? "a file of the checkpoint is still open"
                                                       : "an earlier write to this checkpoint failed");
    done = done && write_manifest(*w, state, err) && sync_folder((*w)->temporary, err) && put_in_place(*w, err);
    checkpoint_abandon(w);
    return done;
}

void checkpoint_abandon(struct checkpoint_writer **w)
{
    if (!*w)
        return;
    if ((*w)->fd >= 0)
        close((*w)->fd);
    if ((*w)->temporary[0])
        file_remove_tree((*w)->temporary, NULL); // what cannot be removed now is removed by checkpoint_clean
    hash_destroy(&(*w)->hash);
    json_decref((*w)->files);
    free((*w)->buffer);
    free(*w);
    *w = NULL;
}

// ---- housekeeping

static int compare_newest_first(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x > y ? -1 : x < y;
}

// Steps of all entries called step-N + ending.
static bool list(const char *parent, const char *ending, uint64_t **out, size_t *count, struct vireo_error *err)
{
    uint64_t *steps = NULL;
    size_t used = 0, room = 0;
    bool done = true;
    DIR *folder = opendir(parent);
    if (!folder && errno != ENOENT)
        return vireo_fail_errno(err, "cannot open folder %s", parent);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        uint64_t step;
        if (!checkpoint_step_parse(entry->d_name, ending, &step))
            continue;
        if (used == room) {
            room = room ? 2 * room : 16;
            uint64_t *more = vireo_realloc(steps, room * sizeof *more);
            if (!more) {
                done = vireo_fail_memory(err, room * sizeof *more);
                break;
            }
            steps = more;
        }
        steps[used++] = step;
    }
    if (folder)
        closedir(folder);
    if (!done) {
        free(steps);
        return false;
    }
    if (used)
        qsort(steps, used, sizeof *steps, compare_newest_first);
    *out = steps;
    *count = used;
    return true;
}

bool checkpoint_list(const char *parent, uint64_t **out, size_t *count, struct vireo_error *err)
{
    return list(parent, "", out, count, err);
}

// Renamed first, so that half a removal never looks like a checkpoint.
static bool remove_step(const char *parent, uint64_t step, struct vireo_error *err)
{
    char path[CHECKPOINT_PATH], temporary[CHECKPOINT_PATH];
    return checkpoint_step_path(path, sizeof path, parent, step, "", err) &&
           checkpoint_step_path(temporary, sizeof temporary, parent, step, ".tmp", err) &&
           file_remove_tree(temporary, err) && file_rename(path, temporary, err) && file_remove_tree(temporary, err);
}

bool checkpoint_prune(const char *parent, size_t keep, const uint64_t *protect, size_t protect_count, size_t *removed,
                      struct vireo_error *err)
{
    uint64_t *steps;
    size_t count, good = 0, gone = 0;
    if (!checkpoint_list(parent, &steps, &count, err))
        return false;
    bool done = true;
    for (size_t i = 0; done && i < count; i++) {
        char path[CHECKPOINT_PATH];
        struct checkpoint c;
        struct vireo_error why;
        bool is_protected = false;
        for (size_t p = 0; p < protect_count; p++)
            is_protected |= protect[p] == steps[i];
        if (good < VIREO_MAX(keep, 1)) {
            if (!(done = checkpoint_step_path(path, sizeof path, parent, steps[i], "", err)))
                break;
            if (checkpoint_verify(path, false, &c, &why)) {
                good += c.step == steps[i];
                checkpoint_finish(&c);
            } else if (why.code == VIREO_NO_MEMORY) {
                if (err)
                    *err = why;
                done = false;
            }
        } else if (!is_protected) {
            done = remove_step(parent, steps[i], err);
            gone += done;
        }
    }
    free(steps);
    if (removed)
        *removed = gone;
    return done;
}

bool checkpoint_clean(const char *parent, struct vireo_error *err)
{
    char path[CHECKPOINT_PATH], final[CHECKPOINT_PATH];
    uint64_t *steps;
    size_t count;
    bool done = true;
    if (!list(parent, ".tmp", &steps, &count, err))
        return false;
    for (size_t i = 0; done && i < count; i++)
        done = checkpoint_step_path(path, sizeof path, parent, steps[i], ".tmp", err) && file_remove_tree(path, err);
    free(steps);
    if (!done || !list(parent, ".replaced", &steps, &count, err))
        return false;
    for (size_t i = 0; done && i < count; i++)
        done = checkpoint_step_path(path, sizeof path, parent, steps[i], ".replaced", err) &&
               checkpoint_step_path(final, sizeof final, parent, steps[i], "", err) &&
               (file_exists(final) ? file_remove_tree(path, err) : file_rename(path, final, err));
    free(steps);
    return done;
}
