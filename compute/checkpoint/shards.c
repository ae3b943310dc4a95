#include "compute/checkpoint/shards.h"

#include "compute/base/arena.h"
#include "compute/base/check.h"
#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/checkpoint/names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILES = 1000, MAX_INDEX = 64 << 20 };

struct item {
    struct safetensor tensor; // with the normalised name
    const char *stored;
};

struct shards {
    struct arena memory; // names and items
    struct safetensors *files[MAX_FILES];
    const char *file_names[MAX_FILES];
    size_t file_count;
    struct item *items; // by normalised name
    size_t count;
    enum shards_layout layout;
    uint64_t parameters, bytes;
};

const char *shards_layout_name(enum shards_layout layout)
{
    static const char *const names[] = {"hub", "nested", "outer"};
    return names[layout];
}

// What stands in front of a name in each layout; the first match wins, so the longer one stands first.
static const struct {
    enum shards_layout layout;
    const char *stored, *normalised;
} prefixes[] = {
    {SHARDS_NESTED, "model.visual.", "visual."},
    {SHARDS_NESTED, "model.language_model.", "model."},
    {SHARDS_OUTER, "language_model.model.", "model."},
    {SHARDS_OUTER, "language_model.lm_head.", "lm_head."},
};

static bool join(char *buffer, size_t size, const char *front, const char *back)
{
    int length = snprintf(buffer, size, "%s%s", front, back);
    return length >= 0 && (size_t)length < size;
}

bool shards_normalise(const char *stored, char *buffer, size_t size)
{
    for (size_t i = 0; i < VIREO_COUNT(prefixes); i++) {
        size_t length = strlen(prefixes[i].stored);
        if (strncmp(stored, prefixes[i].stored, length) == 0)
            return join(buffer, size, prefixes[i].normalised, stored + length);
    }
    return join(buffer, size, "", stored);
}

bool shards_stored_name(enum shards_layout layout, const char *normalised, char *buffer, size_t size)
{
    for (size_t i = 0; i < VIREO_COUNT(prefixes); i++) {
        size_t length = strlen(prefixes[i].normalised);
        if (prefixes[i].layout == layout && strncmp(normalised, prefixes[i].normalised, length) == 0)
            return join(buffer, size, prefixes[i].stored, normalised + length);
    }
    return join(buffer, size, "", normalised);
}

static enum shards_layout layout_of(const char *stored)
{
    for (size_t i = 0; i < VIREO_COUNT(prefixes); i++)
        if (strncmp(stored, prefixes[i].stored, strlen(prefixes[i].stored)) == 0)
            return prefixes[i].layout;
    return SHARDS_HUB;
}

// Names in an index come from a stranger: plain file names beside the index, nothing else.
static bool is_shard_name(const char *name)
{
    static const char end[] = ".safetensors";
    size_t length = strlen(name);
    return length > strlen(end) && length <= 255 && name[0] != '.' && !strchr(name, '/') && !strchr(name, '\\') &&
           strcmp(name + length - strlen(end), end) == 0;
}

static bool add_file(struct shards *s, const char *folder, const char *name, struct vireo_error *err)
{
    char path[1024];
    if (s->file_count == MAX_FILES)
        return vireo_fail(err, VIREO_CORRUPT, "the index names more than %d files", MAX_FILES);
    int length = snprintf(path, sizeof path, "%s/%s", folder, name);
    if (length < 0 || (size_t)length >= sizeof path)
        return vireo_fail(err, VIREO_IO, "path too long: %.80s...", folder);
    if (!file_exists(path))
        return vireo_fail(err, VIREO_CORRUPT, "the index names %.100s, which is not there", name);
    if (!safetensors_open(path, &s->files[s->file_count], err))
        return false;
    s->file_names[s->file_count++] = name;
    return true;
}

// Opens all files of the index and holds it against them. The names live as long as `index` does.
static bool open_index(struct shards *s, const char *folder, const char *path, struct vireo_error *err)
{
    char shown[CHECKPOINT_PRINTABLE];
    bool done = false;
    json_t *index = vireo_json_load(path, MAX_INDEX, err);
    if (!index) {
        if (err && err->code == VIREO_INVALID)
            err->code = VIREO_CORRUPT;
        return false;
    }
    json_t *map = json_object_get(index, "weight_map"), *value;
    const char *name;
    size_t last = 0, total = 0;
    if (!json_is_object(map) || json_object_size(map) == 0) {
        vireo_fail(err, VIREO_CORRUPT, "model.safetensors.index.json has no weight_map");
        goto done;
    }
    json_object_foreach(map, name, value) {
        const char *file = json_string_value(value);
        checkpoint_printable(name, shown);
        if (!file || !is_shard_name(file)) {
            vireo_fail(err, VIREO_CORRUPT, "model.safetensors.index.json: tensor %s has no file name of a shard",
                       shown);
            goto done;
        }
        if (last >= s->file_count || strcmp(s->file_names[last], file) != 0)
            for (last = 0; last < s->file_count && strcmp(s->file_names[last], file) != 0;)
                last++;
        if (last == s->file_count && !add_file(s, folder, file, err))
            goto done;
        if (!safetensors_find(s->files[last], name)) {
            char shown_file[CHECKPOINT_PRINTABLE];
            vireo_fail(err, VIREO_CORRUPT, "tensor %s is not in %s, where the index puts it", shown,
                       checkpoint_printable(file, shown_file));
            goto done;
        }
    }
    for (size_t i = 0; i < s->file_count; i++)
        total += safetensors_count(s->files[i]);
    if (total != json_object_size(map)) {
        vireo_fail(err, VIREO_CORRUPT, "the index names %zu tensors, its files hold %zu", json_object_size(map), total);
        goto done;
    }
    done = true;
done:
    for (size_t i = 0; i < s->file_count; i++)
        s->file_names[i] = NULL;
    json_decref(index);
    return done;
}

static int compare_item(const void *a, const void *b)
{
    const struct item *x = a, *y = b;
    return strcmp(x->tensor.name, y->tensor.name);
}

static bool collect(struct shards *s, struct vireo_error *err)
{
    char name[SAFETENSORS_MAX_NAME + 32], shown[CHECKPOINT_PRINTABLE];
    for (size_t f = 0; f < s->file_count; f++)
        s->count += safetensors_count(s->files[f]);
    s->items = arena_array(&s->memory, struct item, s->count);
    for (size_t f = 0, used = 0; s->items && f < s->file_count; f++)
        for (size_t i = 0; i < safetensors_count(s->files[f]); i++, used++) {
            const struct safetensor *t = safetensors_at(s->files[f], i);
            struct item *item = &s->items[used];
            if (!shards_normalise(t->name, name, sizeof name))
                return vireo_fail(err, VIREO_CORRUPT, "tensor name too long: %s", checkpoint_printable(t->name, shown));
            item->tensor = *t;
            item->stored = t->name;
            item->tensor.name = strcmp(name, t->name) == 0 ? t->name : arena_copy_string(&s->memory, name);
            if (!item->tensor.name)
                return vireo_fail_memory(err, sizeof name);
            if (s->layout == SHARDS_HUB)
                s->layout = layout_of(t->name);
            s->parameters += t->count;
            s->bytes += t->bytes;
        }
    if (arena_failed(&s->memory))
        return vireo_fail_memory(err, s->count * sizeof *s->items);
    qsort(s->items, s->count, sizeof *s->items, compare_item);
    for (size_t i = 1; i < s->count; i++)
        if (strcmp(s->items[i - 1].tensor.name, s->items[i].tensor.name) == 0)
            return vireo_fail(err, VIREO_CORRUPT, "tensor %s is stored twice",
                              checkpoint_printable(s->items[i].tensor.name, shown));
    return true;
}

bool shards_open(const char *folder, struct shards **out, struct vireo_error *err)
{
    char single[1024], index[1024];
    if (!join(single, sizeof single, folder, "/model.safetensors") ||
        !join(index, sizeof index, folder, "/model.safetensors.index.json"))
        return vireo_fail(err, VIREO_IO, "path too long: %.80s...", folder);
    bool have_single = file_exists(single);
    if (!have_single && !file_exists(index))
        return vireo_fail(err, VIREO_NOT_FOUND,
                          "The folder holds neither model.safetensors nor model.safetensors.index.json.");
    struct shards *s = vireo_calloc(1, sizeof *s);
    if (!s)
        return vireo_fail_memory(err, sizeof *s);
    arena_init(&s->memory, 0);
    struct vireo_error local;
    err = err ? err : &local;
    bool done = have_single ? add_file(s, folder, "model.safetensors", err) : open_index(s, folder, index, err);
    if (!done || !collect(s, err)) {
        shards_close(&s);
        return false;
    }
    *out = s;
    return true;
}

void shards_close(struct shards **s)
{
    if (!*s)
        return;
    for (size_t i = 0; i < (*s)->file_count; i++)
        safetensors_close(&(*s)->files[i]);
    arena_finish(&(*s)->memory);
    free(*s);
    *s = NULL;
}

void shards_forget(const struct shards *s)
{
    for (size_t i = 0; i < s->file_count; i++)
        safetensors_forget_all(s->files[i]);
}

static const struct item *find(const struct shards *s, const char *normalised)
{
    struct item key = {.tensor.name = normalised};
    return s->count ? bsearch(&key, s->items, s->count, sizeof key, compare_item) : NULL;
}

size_t shards_count(const struct shards *s)
{
    return s->count;
}

const struct safetensor *shards_at(const struct shards *s, size_t i)
{
    vireo_assert(i < s->count);
    return &s->items[i].tensor;
}

const struct safetensor *shards_find(const struct shards *s, const char *normalised)
{
    const struct item *item = find(s, normalised);
    return item ? &item->tensor : NULL;
}

const char *shards_name_on_disk(const struct shards *s, const char *normalised)
{
    const struct item *item = find(s, normalised);
    return item ? item->stored : NULL;
}

enum shards_layout shards_layout(const struct shards *s)
{
    return s->layout;
}

size_t shards_files(const struct shards *s)
{
    return s->file_count;
}

uint64_t shards_parameters(const struct shards *s)
{
    return s->parameters;
}

uint64_t shards_bytes(const struct shards *s)
{
    return s->bytes;
}

static void format_shape(int rank, const uint64_t *shape, char *buffer, size_t size)
{
    size_t used = 0;
    buffer[0] = 0;
    for (int i = 0; i < rank && used < size; i++) {
        int n = snprintf(buffer + used, size - used, "%s%llu", i ? ", " : "", (unsigned long long)shape[i]);
        used += n > 0 ? (size_t)n : 0;
    }
}

const struct safetensor *shards_get(const struct shards *s, const char *normalised, int rank, const uint64_t *shape,
                                    struct vireo_error *err)
{
    const struct safetensor *t = shards_find(s, normalised);
    if (!t) {
        vireo_fail(err, VIREO_CORRUPT, "The model has no tensor %s.", normalised);
        return NULL;
    }
    if (t->rank != rank || (rank > 0 && memcmp(t->shape, shape, (size_t)rank * sizeof *shape) != 0)) {
        char found[192], wanted[192];
        format_shape(t->rank, t->shape, found, sizeof found);
        format_shape(rank, shape, wanted, sizeof wanted);
        vireo_fail(err, VIREO_CORRUPT, "Tensor %s has the shape [%s]; the configuration asks for [%s].", normalised,
                   found,
                   wanted);
        return NULL;
    }
    return t;
}
