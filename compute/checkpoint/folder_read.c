#include "compute/checkpoint/folder_inside.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/hash.h"
#include "compute/base/json.h"
#include "compute/base/thread.h"
#include "compute/checkpoint/names.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// One listed file, checked by a thread of its own.
struct check {
    const char *name, *sha256;
    char path[CHECKPOINT_PATH + CHECKPOINT_NAME + 1];
    bool fine;
    struct vireo_error err;
};

static void check_hash(void *context, size_t i)
{
    struct check *c = (struct check *)context + i;
    char text[HASH_TEXT];
    c->fine = hash_file(c->path, text, &c->err);
    if (c->fine && strcmp(text, c->sha256) != 0)
        c->fine = vireo_fail(&c->err, VIREO_CORRUPT, "%s: its SHA-256 is not the one in the manifest", c->name);
}

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

// A weight file that the manifest does not know would be read in place of those it does.
static bool has_no_strange_weights(const char *path, const json_t *files, struct vireo_error *err)
{
    bool done = true;
    DIR *folder = opendir(path);
    if (!folder)
        return vireo_fail_errno(err, "cannot open folder %s", path);
    for (struct dirent *entry; done && (entry = readdir(folder));) {
        if (!ends_with(entry->d_name, ".safetensors") && !ends_with(entry->d_name, ".safetensors.index.json"))
            continue;
        bool known = false;
        size_t i;
        const json_t *file;
        json_array_foreach(files, i, file)
            known |= strcmp(json_string_value(json_object_get(file, "name")), entry->d_name) == 0;
        if (!known) {
            char shown[CHECKPOINT_PRINTABLE];
            done = vireo_fail(err, VIREO_CORRUPT, "%s is not in the manifest",
                              checkpoint_printable(entry->d_name, shown));
        }
    }
    closedir(folder);
    return done;
}

// The manifest, proven by manifest.sha256. NULL on failure.
static json_t *load_manifest(const char *path, struct vireo_error *err)
{
    char name[CHECKPOINT_PATH + CHECKPOINT_NAME], line[96];
    struct file_bytes text = {0}, sum = {0};
    json_t *manifest = NULL;
    if (!checkpoint_join(name, sizeof name, path, "manifest.json", err))
        return NULL;
    if (!file_exists(name)) {
        vireo_fail(err, VIREO_CORRUPT, "manifest.json is missing");
        return NULL;
    }
    if (!file_read(name, CHECKPOINT_MAX_MANIFEST, &text, err) ||
        !checkpoint_join(name, sizeof name, path, "manifest.sha256", err))
        goto done;
    if (!file_exists(name)) {
        vireo_fail(err, VIREO_CORRUPT, "manifest.sha256 is missing");
        goto done;
    }
    if (!file_read(name, 4096, &sum, err))
        goto done;
    if (!checkpoint_manifest_line(text.data, text.size, line))
        vireo_fail(err, VIREO_INTERNAL, "SHA-256 failed on manifest.json");
    else if (sum.size != strlen(line) || memcmp(sum.data, line, sum.size) != 0)
        vireo_fail(err, VIREO_CORRUPT, "manifest.json does not match manifest.sha256");
    else if (!(manifest = vireo_json_parse(text.data, text.size, err)) && err->code == VIREO_INVALID)
        err->code = VIREO_CORRUPT;
done:
    file_bytes_free(&text);
    file_bytes_free(&sum);
    return manifest;
}

// Fills one check from an entry of the manifest and compares the size.
static bool prepare(struct check *c, const char *path, const json_t *file, uint64_t *total, struct vireo_error *err)
{
    const char *name = NULL, *sha256 = NULL;
    int64_t bytes = -1;
    struct stat info;
    if (!json_get_string_required(file, "files", "name", &name, err) ||
        !json_get_string_required(file, "files", "sha256", &sha256, err) ||
        !json_get_integer(file, "files", "bytes", 0, INT64_MAX, &bytes, err)) {
        if (err->code == VIREO_INVALID)
            err->code = VIREO_CORRUPT;
        return false;
    }
    if (!checkpoint_name_is_fine(name) || strlen(sha256) != HASH_TEXT - 1 || bytes < 0)
        return vireo_fail(err, VIREO_CORRUPT, "the manifest has a malformed file entry");
    c->name = name;
    c->sha256 = sha256;
    if (!checkpoint_join(c->path, sizeof c->path, path, name, err))
        return false;
    if (lstat(c->path, &info) != 0)
        return vireo_fail(err, VIREO_CORRUPT, "%s is missing", name);
    if (!S_ISREG(info.st_mode))
        return vireo_fail(err, VIREO_CORRUPT, "%s is not a regular file", name);
    if (info.st_size != bytes)
        return vireo_fail(err, VIREO_CORRUPT, "%s has %lld bytes, the manifest says %lld", name,
                          (long long)info.st_size,
                          (long long)bytes);
    *total += (uint64_t)bytes;
    return true;
}

bool checkpoint_verify(const char *path, bool deep, struct checkpoint *out, struct vireo_error *err)
{
    struct vireo_error local;
    struct checkpoint c = {0};
    struct check *checks = NULL;
    bool done = false;
    err = err ? err : &local;
    if (strlen(path) >= sizeof c.path)
        return vireo_fail(err, VIREO_IO, "path too long: %.80s...", path);
    memcpy(c.path, path, strlen(path));
    if (!file_exists(path))
        return vireo_fail(err, VIREO_NOT_FOUND, "the checkpoint does not exist");
    c.manifest = load_manifest(path, err);
    if (!c.manifest)
        return false;

    const json_t *format = json_object_get(c.manifest, "format"), *version = json_object_get(c.manifest, "version");
    const json_t *step = json_object_get(c.manifest, "step"), *files = json_object_get(c.manifest, "files");
    c.state = json_object_get(c.manifest, "state");
    if (!json_is_string(format) || strcmp(json_string_value(format), CHECKPOINT_FORMAT) != 0 || !json_is_array(files) ||
        !json_is_integer(step) || json_integer_value(step) < 0 || !json_is_object(c.state)) {
        vireo_fail(err, VIREO_CORRUPT, "manifest.json is not a checkpoint's manifest");
        goto done;
    }
    if (!json_is_integer(version) || json_integer_value(version) != CHECKPOINT_VERSION) {
        vireo_fail(err, VIREO_UNSUPPORTED, "the checkpoint was written by another version (format %lld, this is %d)",
                   (long long)json_integer_value(version), CHECKPOINT_VERSION);
        goto done;
    }
    c.step = (uint64_t)json_integer_value(step);
    size_t count = json_array_size(files);
    checks = vireo_calloc(count, sizeof *checks);
    if (!checks) {
        vireo_fail_memory(err, count * sizeof *checks);
        goto done;
    }
    for (size_t i = 0; i < count; i++)
        if (!prepare(&checks[i], path, json_array_get(files, i), &c.bytes, err))
            goto done;
    if (!has_no_strange_weights(path, files, err))
        goto done;
    if (deep) {
        thread_for(count, 0, check_hash, checks);
        for (size_t i = 0; i < count; i++)
            if (!checks[i].fine) {
                *err = checks[i].err;
                goto done;
            }
    }
    done = true;
done:
    free(checks);
    if (done)
        *out = c;
    else
        checkpoint_finish(&c);
    return done;
}

void checkpoint_finish(struct checkpoint *c)
{
    json_decref(c->manifest);
    *c = (struct checkpoint){0};
}

bool checkpoint_open_path(const char *path, struct checkpoint *out, struct vireo_error *err)
{
    return checkpoint_verify(path, true, out, err);
}

bool checkpoint_open(const char *parent, uint64_t step, struct checkpoint *out, struct vireo_error *err)
{
    char path[CHECKPOINT_PATH];
    struct checkpoint c;
    if (!checkpoint_step_path(path, sizeof path, parent, step, "", err))
        return false;
    if (!checkpoint_verify(path, true, &c, err))
        return vireo_explain(err, "checkpoint step-%llu: ", (unsigned long long)step);
    if (c.step != step) {
        vireo_fail(err, VIREO_CORRUPT, "checkpoint step-%llu: its manifest is that of step %llu",
                   (unsigned long long)step, (unsigned long long)c.step);
        checkpoint_finish(&c);
        return false;
    }
    *out = c;
    return true;
}

bool checkpoint_open_newest(const char *parent,
                            void (*skipped)(void *context, uint64_t step, const struct vireo_error *why),
                            void *context, struct checkpoint *out, struct vireo_error *err)
{
    uint64_t *steps;
    size_t count;
    struct vireo_error why;
    if (!checkpoint_list(parent, &steps, &count, err))
        return false;
    bool done = false, tired = false;
    for (size_t i = 0; i < count && !done && !tired; i++) {
        done = checkpoint_open(parent, steps[i], out, &why);
        // Lack of memory says nothing about the folder: do not throw away work for it.
        tired = !done && why.code == VIREO_NO_MEMORY;
        if (!done && !tired && skipped)
            skipped(context, steps[i], &why);
    }
    free(steps);
    if (tired && err)
        *err = why;
    else if (!done && !tired)
        vireo_fail(err, VIREO_NOT_FOUND, count ? "None of the checkpoints is intact." : "There is no checkpoint.");
    return done;
}
