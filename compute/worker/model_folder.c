#include "compute/worker/model_folder.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/hash.h"
#include "compute/base/json.h"
#include "compute/models/model.h"
#include "compute/models/preset.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATH = 700, MAX_FILES = 512, NAME = 256 };

// Runs `fill` on folder.tmp, then gives it its name.
static bool make_folder(const char *folder, bool (*fill)(const char *temporary, const void *context, struct vireo_error *err),
                        const void *context, struct vireo_error *err)
{
    char temporary[PATH];
    snprintf(temporary, sizeof temporary, "%s.tmp", folder);
    if (file_exists(folder))
        return vireo_fail_kind(err, VIREO_CONFLICT, "resource_in_use", "name", "A model folder of this name exists.");
    bool done = file_remove_tree(temporary, err) && file_make_folders(temporary, err) && fill(temporary, context, err) &&
                file_sync_folder(temporary, err) && file_rename(temporary, folder, err);
    if (!done)
        file_remove_tree(temporary, NULL);
    return done;
}

struct preset {
    const char *name;
    uint64_t seed;
};
static bool fill_preset(const char *temporary, const void *context, struct vireo_error *err)
{
    const struct preset *p = context;
    return model_preset_write(p->name, p->seed, temporary, err);
}

bool model_folder_init(const char *preset, uint64_t seed, const char *folder, struct vireo_error *err)
{
    return make_folder(folder, fill_preset, &(struct preset){preset, seed}, err);
}

// ---- listing

struct names {
    char name[MAX_FILES][NAME];
    size_t count;
};

static int by_bytes(const void *a, const void *b)
{
    return strcmp(a, b);
}

static bool ends_in(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcmp(name + n - k, end) == 0;
}

static bool belongs(const char *name)
{
    for (size_t i = 0; model_side_files[i]; i++)
        if (strcmp(name, model_side_files[i]) == 0)
            return true;
    return ends_in(name, ".safetensors") || ends_in(name, ".safetensors.index.json");
}

static bool list_files(const char *folder, struct names *out, struct vireo_error *err)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return vireo_fail_kind(err, VIREO_NOT_FOUND, "not_found", "source", "The model folder cannot be opened.");
    bool done = true;
    for (struct dirent *e; done && (e = readdir(dir));) {
        if (!belongs(e->d_name))
            continue;
        if (out->count == MAX_FILES || strlen(e->d_name) >= NAME)
            done = vireo_fail(err, VIREO_TOO_LARGE, "the model folder has more than %d files", MAX_FILES);
        else
            snprintf(out->name[out->count++], NAME, "%s", e->d_name);
    }
    closedir(dir);
    qsort(out->name, out->count, NAME, by_bytes);
    return done;
}

// ---- copying

static bool copy_file(const char *from, const char *to, struct vireo_error *err)
{
    enum { PIECE = 1 << 20 };
    FILE *in = fopen(from, "rb");
    char *buffer = vireo_alloc(PIECE);
    struct file_writer w;
    bool open = in && buffer && file_writer_open(&w, to, err), done = open;
    if (!in)
        vireo_fail_errno(err, "cannot read a file of the model");
    for (size_t n; done && (n = fread(buffer, 1, PIECE, in)) > 0;)
        done = file_writer_write(&w, buffer, n, err);
    if (done && ferror(in))
        done = vireo_fail_errno(err, "cannot read a file of the model");
    if (done)
        done = file_writer_commit(&w, err);
    else if (open)
        file_writer_abandon(&w);
    if (in)
        fclose(in);
    free(buffer);
    return done;
}

static bool fill_copy(const char *temporary, const void *context, struct vireo_error *err)
{
    const char *source = context;
    char from[PATH], to[PATH];
    struct names *names = vireo_calloc(1, sizeof *names);
    bool done = names ? list_files(source, names, err) : vireo_fail_memory(err, sizeof *names);
    if (done && !names->count)
        done = vireo_fail_kind(err, VIREO_INVALID, "invalid_value", "source",
                               "The folder holds no model: config.json and *.safetensors are expected.");
    for (size_t i = 0; done && i < names->count; i++) {
        if ((size_t)snprintf(from, sizeof from, "%s/%s", source, names->name[i]) >= sizeof from ||
            (size_t)snprintf(to, sizeof to, "%s/%s", temporary, names->name[i]) >= sizeof to)
            done = vireo_fail(err, VIREO_INVALID, "the path of the model folder is too long");
        done = done && copy_file(from, to, err);
    }
    // Before it gets its name: a folder that cannot be loaded must not become a model.
    json_t *facts = NULL;
    done = done && model_folder_inspect(temporary, &facts, err);
    json_decref(facts);
    free(names);
    return done;
}

bool model_folder_copy(const char *source, const char *folder, struct vireo_error *err)
{
    return make_folder(folder, fill_copy, source, err);
}

// ---- inspecting

static bool check_weights(const struct model *m, const char *folder, uint64_t *bytes, struct vireo_error *err)
{
    struct shards *shards = NULL;
    if (!shards_open(folder, &shards, err))
        return false;
    bool done = true;
    for (size_t i = 0; done && i < m->param_count; i++)
        done = shards_get(shards, m->params[i].name, m->params[i].rank, m->params[i].shape, err) != NULL;
    *bytes = shards_bytes(shards);
    shards_close(&shards);
    return done;
}

static bool digest_files(const char *folder, char text[HASH_TEXT], struct vireo_error *err)
{
    struct names *names = vireo_calloc(1, sizeof *names);
    struct hash *h = hash_create();
    bool done = names && h ? list_files(folder, names, err) : vireo_fail_memory(err, sizeof *names);
    for (size_t i = 0; done && i < names->count; i++) {
        char path[PATH], one[HASH_TEXT], line[NAME + HASH_TEXT + 4];
        snprintf(path, sizeof path, "%s/%s", folder, names->name[i]);
        done = hash_file(path, one, err);
        snprintf(line, sizeof line, "%s  %s\n", one, names->name[i]);
        done = done && hash_add(h, line, strlen(line));
    }
    uint8_t digest[HASH_BYTES];
    if (done && hash_end(h, digest))
        hash_text(digest, text);
    hash_destroy(&h);
    free(names);
    return done;
}

bool model_folder_inspect(const char *folder, json_t **facts, struct vireo_error *err)
{
    char path[PATH], sha256[HASH_TEXT];
    uint64_t bytes = 0;
    snprintf(path, sizeof path, "%s/config.json", folder);
    json_t *config = vireo_json_load(path, 4 << 20, err);
    if (!config)
        return false;
    struct model *m = model_describe(config, err);
    bool done = m && check_weights(m, folder, &bytes, err) && digest_files(folder, sha256, err);
    if (done) {
        *facts = json_pack("{s:s,s:I,s:I,s:s,s:i,s:i,s:s,s:i,s:i}", "family", m->family->name, "parameters",
                           (json_int_t)model_parameters(m), "bytes", (json_int_t)bytes, "sha256", sha256, "context_length",
                           (int)m->config.text.max_position_embeddings, "vocab_size", (int)m->config.text.vocab_size, "dtype",
                           dtype_name(m->config.stored), "patch_size", (int)m->config.vision.patch_size, "merge_size",
                           (int)m->config.vision.spatial_merge_size);
        done = *facts != NULL || vireo_fail_memory(err, 512);
    }
    model_destroy(&m);
    json_decref(config);
    return done;
}
