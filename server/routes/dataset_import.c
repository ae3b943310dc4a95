#include "server/routes/dataset_import.h"

#include "compute/base/fault.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/dataset/jsonl.h"
#include "compute/image/decode.h"
#include "server/jobs/unpack.h"
#include "server/store/blob.h"
#include "server/store/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_SOURCES = 16, ARCHIVES = 16 };

// Something a row may name.
struct candidate {
    const char *name; // as uploaded: "train/a.jpg"
    const char *path; // a file of its own, or the archive that it is in; NULL: in the store
    bool packed;      // image number `entry` of the archive
    size_t entry;
    const char *id; // img_…; NULL until stored
    struct store_image image;
    bool used;
};

struct source {
    const char *label, *path;
};

struct import {
    struct store *store;
    struct arena *arena;
    struct candidate *candidates;
    size_t count, capacity;
    size_t *by_name, *by_base; // indices, sorted
    struct source rows[ROW_SOURCES];
    size_t row_count;
    const char *archives[ARCHIVES];
    size_t archive_count;
};

// --- images ----------------------------------------------------------------------------------------------------------

bool image_describe(const void *bytes, size_t count, const char *place, struct store_image *out,
                    struct vireo_error *err)
{
    struct image_info info;
    if (!image_probe(bytes, count, NULL, &info, err)) {
        if (err && !err->param[0])
            snprintf(err->param, sizeof err->param, "%s", place);
        return vireo_explain(err, "%.100s: ", place);
    }
    static const char *const formats[] = {"unknown", "jpeg", "png", "webp"};
    out->format = formats[info.format];
    out->width = info.width;
    out->height = info.height;
    out->bytes = (int64_t)count;
    return true;
}

bool image_describe_file(const char *path, const char *place, struct store_image *out, struct vireo_error *err)
{
    struct file_map map;
    if (!file_map_open(path, &map, err))
        return false;
    bool ok = image_describe(map.data, map.size, place, out, err);
    file_map_close(&map);
    return ok;
}

struct import *import_create(struct store *s, struct arena *arena, struct vireo_error *err)
{
    struct import *i = vireo_calloc(1, sizeof *i);
    if (!i) {
        vireo_fail_memory(err, sizeof *i);
        return NULL;
    }
    i->store = s;
    i->arena = arena;
    return i;
}

void import_destroy(struct import **i)
{
    if (!*i)
        return;
    free((*i)->candidates);
    free((*i)->by_name);
    free((*i)->by_base);
    free(*i);
    *i = NULL;
}

static struct candidate *add_candidate(struct import *i, const char *name, struct vireo_error *err)
{
    if (i->count == i->capacity) {
        size_t more = i->capacity ? i->capacity * 2 : 256;
        struct candidate *grown = vireo_realloc(i->candidates, more * sizeof *grown);
        if (!grown) {
            vireo_fail_memory(err, more * sizeof *grown);
            return NULL;
        }
        i->candidates = grown;
        i->capacity = more;
    }
    struct candidate *c = &i->candidates[i->count];
    *c = (struct candidate){.name = arena_copy_string(i->arena, strncmp(name, "./", 2) == 0 ? name + 2 : name)};
    if (!c->name) {
        vireo_fail_memory(err, strlen(name));
        return NULL;
    }
    i->count++;
    return c;
}

struct listing {
    struct import *import;
    const char *path;
};

static bool note_entry(void *context, const struct unpack_image *image, const void *bytes, struct vireo_error *err)
{
    struct listing *l = context;
    struct candidate *c = add_candidate(l->import, image->name, err);
    (void)bytes;
    if (!c)
        return false;
    c->path = l->path;
    c->packed = true;
    c->entry = image->index;
    c->image.format = image->format;
    c->image.width = image->width;
    c->image.height = image->height;
    c->image.bytes = (int64_t)image->count;
    return true;
}

bool import_add_archive(struct import *i, const char *path, struct vireo_error *err)
{
    if (i->archive_count == ARCHIVES)
        return vireo_fail(err, VIREO_INVALID, "More than %d archives.", ARCHIVES);
    i->archives[i->archive_count++] = path;
    struct listing l = {i, path};
    return jobs_unpack(path, NULL, 0, note_entry, &l, err);
}

bool import_add_image_file(struct import *i, const char *name, const char *path, struct vireo_error *err)
{
    struct candidate *c = add_candidate(i, name, err);
    if (!c)
        return false;
    c->path = path;
    return image_describe_file(path, name, &c->image, err);
}

bool import_add_image(struct import *i, const char *name, const char *id, struct vireo_error *err)
{
    struct store_image image;
    if (!store_image_find(i->store, id, i->arena, &image, err))
        return false;
    struct candidate *c = add_candidate(i, name ? name : image.filename, err);
    if (!c)
        return false;
    c->id = image.id;
    c->image = image;
    return true;
}

bool import_add_rows(struct import *i, const char *label, const char *path, struct vireo_error *err)
{
    if (i->row_count == ROW_SOURCES)
        return vireo_fail(err, VIREO_INVALID, "More than %d files of rows.", ROW_SOURCES);
    i->rows[i->row_count++] = (struct source){.label = label, .path = path};
    return true;
}

// --- finding what a row names ----------------------------------------------------------------------------------------

static const char *base_of(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

// qsort has no context: the list that this thread is sorting.
static _Thread_local const struct candidate *sorted;
static int compare_names(const void *a, const void *b)
{
    return strcmp(sorted[*(const size_t *)a].name, sorted[*(const size_t *)b].name);
}
static int compare_bases(const void *a, const void *b)
{
    return strcmp(base_of(sorted[*(const size_t *)a].name), base_of(sorted[*(const size_t *)b].name));
}

static bool sort_candidates(struct import *i, struct vireo_error *err)
{
    i->by_name = vireo_calloc(i->count + 1, sizeof *i->by_name);
    i->by_base = vireo_calloc(i->count + 1, sizeof *i->by_base);
    if (!i->by_name || !i->by_base)
        return vireo_fail_memory(err, i->count * sizeof *i->by_name);
    for (size_t k = 0; k < i->count; k++)
        i->by_name[k] = i->by_base[k] = k;
    sorted = i->candidates;
    qsort(i->by_name, i->count, sizeof *i->by_name, compare_names);
    qsort(i->by_base, i->count, sizeof *i->by_base, compare_bases);
    for (size_t k = 1; k < i->count; k++) {
        const struct candidate *a = &i->candidates[i->by_name[k - 1]], *b = &i->candidates[i->by_name[k]];
        if (a->name[0] && strcmp(a->name, b->name) == 0)
            return vireo_fail_kind(err, VIREO_INVALID, "invalid_value", "images", "Two images are named '%.100s'.",
                                   a->name);
    }
    return true;
}

// First position in `order` whose key is not below `name`.
static size_t lower_bound(const struct import *i, const size_t *order, bool base, const char *name)
{
    size_t low = 0, high = i->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        const char *key = i->candidates[order[middle]].name;
        if (strcmp(base ? base_of(key) : key, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct candidate *find_name(struct import *i, const char *name, struct vireo_error *err)
{
    if (strncmp(name, "./", 2) == 0)
        name += 2;
    size_t at = lower_bound(i, i->by_name, false, name);
    if (at < i->count && strcmp(i->candidates[i->by_name[at]].name, name) == 0)
        return &i->candidates[i->by_name[at]];
    // Rows often say "images/a.jpg" where the archive has "a.jpg", or the other way round.
    const char *base = base_of(name);
    at = lower_bound(i, i->by_base, true, base);
    if (at >= i->count || strcmp(base_of(i->candidates[i->by_base[at]].name), base) != 0) {
        vireo_fail(err, VIREO_INVALID, "no image named '%.100s' was uploaded", name);
        return NULL;
    }
    if (at + 1 < i->count && strcmp(base_of(i->candidates[i->by_base[at + 1]].name), base) == 0) {
        vireo_fail(err, VIREO_INVALID, "several images are named '%.100s' in different folders", base);
        return NULL;
    }
    return &i->candidates[i->by_base[at]];
}

// An image of this server, or an uploaded file that is one; kept as a candidate under its id.
static struct candidate *find_id(struct import *i, const char *id, struct vireo_error *err)
{
    size_t at = lower_bound(i, i->by_name, false, id);
    if (at < i->count && strcmp(i->candidates[i->by_name[at]].name, id) == 0)
        return &i->candidates[i->by_name[at]];
    struct candidate found = {.used = true};
    if (strncmp(id, "img_", 4) == 0) {
        if (!store_image_find(i->store, id, i->arena, &found.image, err))
            return NULL;
        found.id = found.image.id;
    } else {
        struct store_file file;
        char path[BLOB_PATH];
        if (!store_file_find(i->store, id, i->arena, &file, err) || !blob_path(i->store, file.sha256, path) ||
            !image_describe_file(path, id, &found.image, err))
            return NULL;
        found.image.sha256 = file.sha256;
        found.image.filename = file.filename;
    }
    struct candidate *c = add_candidate(i, id, err);
    size_t *grown = c ? vireo_realloc(i->by_name, (i->count + 1) * sizeof *grown) : NULL;
    if (!grown)
        return NULL;
    i->by_name = grown;
    memmove(grown + at + 1, grown + at, (i->count - 1 - at) * sizeof *grown);
    grown[at] = i->count - 1;
    grown = vireo_realloc(i->by_base, (i->count + 1) * sizeof *grown);
    if (!grown)
        return NULL;
    i->by_base = grown;
    size_t base_at = 0;
    while (base_at < i->count - 1 && strcmp(base_of(i->candidates[grown[base_at]].name), id) < 0)
        base_at++;
    memmove(grown + base_at + 1, grown + base_at, (i->count - 1 - base_at) * sizeof *grown);
    grown[base_at] = i->count - 1;
    found.name = c->name;
    *c = found;
    return c;
}

static struct candidate *find_reference(struct import *i, enum image_form form, const char *name,
                                        struct vireo_error *err)
{
    return form == IMAGE_ID ? find_id(i, name, err) : find_name(i, name, err);
}

static bool resolve(void *context, enum image_form form, const char *name, char id[JSONL_ID_BYTES],
                    struct vireo_error *err)
{
    struct import *i = context;
    struct candidate *c = find_reference(i, form, name, err);
    if (!c)
        return false;
    c->used = true;
    snprintf(id, JSONL_ID_BYTES, "%s", c->id ? c->id : "pending");
    return true;
}

// --- checking --------------------------------------------------------------------------------------------------------

struct totals {
    size_t rows, forms[3];
};

static void add_issues(json_t *list, const char *label, const struct jsonl_report *report)
{
    for (uint32_t k = 0; k < report->issue_count; k++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:s, s:s}", "file", label, "line",
                                              (json_int_t)report->issues[k].line, "param", report->issues[k].param,
                                              "reason", report->issues[k].message));
}

static bool check_rows(struct import *i, struct totals *totals, json_t *issues, struct vireo_error *err)
{
    bool all = true;
    for (size_t k = 0; k < i->row_count; k++) {
        struct jsonl_options options = {.resolver = {.resolve = resolve, .context = i}};
        struct jsonl_report report = {0};
        struct dataset rows = {0};
        struct vireo_error first;
        if (!jsonl_load(i->rows[k].path, &options, &rows, &report, &first)) {
            if (first.code != VIREO_INVALID)
                return vireo_fail(err, first.code, "%s: %s", i->rows[k].label, first.message);
            add_issues(issues, i->rows[k].label, &report);
            if (all)
                *err = first;
            if (all && i->row_count > 1)
                vireo_explain(err, "%.80s: ", i->rows[k].label);
            all = false;
            continue;
        }
        totals->rows += rows.count;
        for (int form = 0; form < 3; form++)
            totals->forms[form] += rows.form_count[form];
        dataset_finish(&rows);
    }
    if (all && !totals->rows)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", "files", "The files hold no rows.");
    return all;
}

// --- storing ---------------------------------------------------------------------------------------------------------

static bool keep_digest(struct import *i, struct candidate *c, const char sha[65], struct vireo_error *err)
{
    c->image.sha256 = arena_copy_string(i->arena, sha);
    return c->image.sha256 || vireo_fail_memory(err, 65);
}

struct storing {
    struct import *import;
    struct candidate **owners; // of the wanted entries, in their order
    size_t at;
};

static bool store_entry(void *context, const struct unpack_image *image, const void *bytes, struct vireo_error *err)
{
    struct storing *s = context;
    struct candidate *c = s->owners[s->at++];
    char sha[65];
    return blob_put(s->import->store, bytes, image->count, sha, err) && keep_digest(s->import, c, sha, err);
}

// The images of one archive that rows name.
static bool store_packed(struct import *i, const char *archive, struct vireo_error *err)
{
    size_t *wanted = vireo_calloc(i->count + 1, sizeof *wanted), count = 0;
    struct storing s = {.import = i, .owners = vireo_calloc(i->count + 1, sizeof *s.owners)};
    bool ok = (wanted && s.owners) || vireo_fail_memory(err, i->count * sizeof *wanted);
    for (size_t k = 0; ok && k < i->count; k++) { // noted in the archive's order
        struct candidate *c = &i->candidates[k];
        if (c->packed && c->used && c->path == archive) {
            s.owners[count] = c;
            wanted[count++] = c->entry;
        }
    }
    ok = ok && jobs_unpack(archive, wanted, count, store_entry, &s, err);
    free(wanted);
    free(s.owners);
    return ok;
}

static bool store_file_bytes(struct import *i, struct candidate *c, struct vireo_error *err)
{
    struct file_map map;
    char sha[65];
    if (!file_map_open(c->path, &map, err))
        return false;
    bool ok = blob_put(i->store, map.data, map.size, sha, err) && keep_digest(i, c, sha, err);
    file_map_close(&map);
    return ok;
}

static bool store_images(struct import *i, size_t *stored, size_t *skipped, struct vireo_error *err)
{
    for (size_t k = 0; k < i->archive_count; k++)
        if (!store_packed(i, i->archives[k], err))
            return false;
    struct store_image *images = arena_array(i->arena, struct store_image, i->count + 1);
    struct candidate **owners = arena_array(i->arena, struct candidate *, i->count + 1);
    size_t count = 0;
    if (!images || !owners)
        return vireo_fail_memory(err, i->count * sizeof *images);
    *stored = *skipped = 0;
    for (size_t k = 0; k < i->count; k++) {
        struct candidate *c = &i->candidates[k];
        *stored += c->used;
        *skipped += !c->used;
        if (!c->used || c->id)
            continue;
        if (c->path && !c->packed && !store_file_bytes(i, c, err))
            return false;
        if (!c->image.filename)
            c->image.filename = base_of(c->name);
        owners[count] = c;
        images[count++] = c->image;
    }
    if (count && !store_image_add(i->store, images, count, i->arena, err))
        return false;
    for (size_t k = 0; k < count; k++)
        owners[k]->id = images[k].id;
    return true;
}

// --- rewriting -------------------------------------------------------------------------------------------------------

static bool new_reference(struct import *i, const char *old, const char **out, struct vireo_error *err)
{
    *out = NULL;
    if (strncmp(old, "data:", 5) == 0)
        return true; // carried in the row
    size_t prefix = strncmp(old, "img_", 4) == 0 ? 4 : strncmp(old, "file-", 5) == 0 ? 5 : 0;
    bool id = prefix && strlen(old) == prefix + 24 && !strpbrk(old + prefix, "./_-");
    struct candidate *c = find_reference(i, id ? IMAGE_ID : IMAGE_NAME, old, err);
    if (c)
        *out = c->id;
    return c != NULL;
}

static bool rewrite_member(struct import *i, json_t *object, const char *key, struct vireo_error *err)
{
    const char *old = json_string_value(json_object_get(object, key)), *id;
    if (!old)
        return true;
    return new_reference(i, old, &id, err) &&
           (!id || json_object_set_new(object, key, json_string(id)) == 0 || vireo_fail_memory(err, 64));
}

static bool rewrite_row(struct import *i, json_t *row, struct vireo_error *err)
{
    json_t *message, *part, *image = json_object_get(row, "image");
    size_t m, p;
    json_array_foreach(json_object_get(row, "messages"), m, message) {
        json_array_foreach(json_object_get(message, "content"), p, part) {
            const char *type = json_string_value(json_object_get(part, "type"));
            json_t *url = json_object_get(part, "image_url");
            if (type && strcmp(type, "image_url") == 0 &&
                !(json_is_object(url) ? rewrite_member(i, url, "url", err) : rewrite_member(i, part, "image_url", err)))
                return false;
            if (type && strcmp(type, "file") == 0 && !rewrite_member(i, json_object_get(part, "file"), "file_id", err))
                return false;
        }
    }
    if (!json_object_get(row, "conversations"))
        return true;
    if (json_is_string(image))
        return rewrite_member(i, row, "image", err);
    for (size_t k = 0; k < json_array_size(image); k++) {
        const char *id;
        if (!new_reference(i, json_string_value(json_array_get(image, k)), &id, err))
            return false;
        if (id && json_array_set_new(image, k, json_string(id)) != 0)
            return vireo_fail_memory(err, 64);
    }
    return true;
}

static bool rewrite_file(struct import *i, const struct source *source, struct blob_writer *out,
                         struct vireo_error *err)
{
    struct file_map map;
    if (!file_map_open(source->path, &map, err))
        return false;
    const char *at = (const char *)map.data, *end = at + map.size;
    bool ok = true;
    if (map.size >= 3 && memcmp(at, "\xef\xbb\xbf", 3) == 0)
        at += 3;
    while (ok && at < end) {
        const char *line = at, *stop = memchr(at, '\n', (size_t)(end - at));
        size_t length = (size_t)((stop ? stop : end) - line), blank = 0;
        at = stop ? stop + 1 : end;
        while (blank < length && strchr(" \t\r", line[blank]) && line[blank])
            blank++;
        if (blank == length)
            continue;
        json_t *row = vireo_json_parse(line, length, err);
        ok = row && rewrite_row(i, row, err);
        char *text = ok ? json_dumps(row, JSON_COMPACT) : NULL;
        ok = ok && ((text && blob_add(out, text, strlen(text), err) && blob_add(out, "\n", 1, err)) ||
                    (!text && vireo_fail(err, VIREO_NO_MEMORY, "out of memory")));
        free(text);
        json_decref(row);
    }
    file_map_close(&map);
    return ok;
}

static bool store_rows(struct import *i, const char *name, struct store_file *out, struct vireo_error *err)
{
    struct blob_writer *writer = blob_begin(i->store, err);
    bool ok = writer != NULL;
    for (size_t k = 0; ok && k < i->row_count; k++)
        ok = rewrite_file(i, &i->rows[k], writer, err);
    if (!ok) {
        blob_abandon(&writer);
        return false;
    }
    char sha[65];
    uint64_t bytes;
    if (!blob_end(&writer, sha, &bytes, err))
        return false;
    *out = (struct store_file){.filename = arena_format(i->arena, "%.200s.jsonl", name),
                               .purpose = "fine-tune",
                               .sha256 = arena_copy_string(i->arena, sha),
                               .status = "processed",
                               .bytes = (int64_t)bytes};
    return out->filename && out->sha256 ? store_file_add(i->store, out, i->arena, err) : vireo_fail_memory(err, 265);
}

static bool add_dataset(struct import *i, const char *name, const struct totals *totals, size_t images, size_t skipped,
                        const char *file_id, struct store_dataset *out, struct vireo_error *err)
{
    struct store_dataset_image *mapped = arena_array(i->arena, struct store_dataset_image, i->count + 1);
    size_t count = 0;
    if (!mapped)
        return vireo_fail_memory(err, i->count * sizeof *mapped);
    for (size_t k = 0; k < i->count; k++)
        if (i->candidates[k].used)
            mapped[count++] = (struct store_dataset_image){.name = i->candidates[k].name,
                                                           .image_id = i->candidates[k].id};
    size_t vlm = totals->forms[SAMPLE_VLM_R1];
    *out = (struct store_dataset){
        .name = name,
        .status = "ready",
        .format = vlm == totals->rows ? "vlm_r1" : vlm ? "mixed" : "openai",
        .file_id = file_id,
        .counts = arena_format(i->arena,
                               "{\"rows\":%zu,\"images\":%zu,\"skipped_images\":%zu,\"sft\":%zu,\"rft\":%zu,\"vlm_r1\":%zu}",
                               totals->rows, images, skipped, totals->forms[SAMPLE_SFT], totals->forms[SAMPLE_RFT],
                                   vlm),
        .errors = "[]"};
    return out->counts ? store_dataset_add(i->store, out, mapped, count, i->arena, err) : vireo_fail_memory(err, 200);
}

bool import_finish(struct import *i, const char *name, struct store_dataset *out, json_t **issues,
                   struct vireo_error *err)
{
    struct totals totals = {0};
    struct store_file file;
    size_t images = 0, skipped = 0;
    json_t *found = json_array();
    if (!found)
        return vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
    if (!sort_candidates(i, err) || !check_rows(i, &totals, found, err)) {
        *issues = found;
        return false;
    }
    json_decref(found);
    return store_images(i, &images, &skipped, err) && store_rows(i, name, &file, err) &&
           add_dataset(i, name, &totals, images, skipped, file.id, out, err);
}
