#include "compute/dataset/jsonl.h"

#include "compute/base/check.h"
#include "compute/base/file.h"
#include "compute/base/json.h"
#include "compute/dataset/row.h"

#include <stdio.h>
#include <string.h>

// One reading of a file. `d` is under construction; it replaces the caller's only when all rows are good.
struct loader {
    const struct jsonl_options *options;
    struct dataset d;
    struct image_refs images;
    struct row_context row;
    struct jsonl_report report;
    uint32_t capacity;
    const json_t *group; // of the previous row; NULL: none
};

const char *jsonl_issue_text(const struct jsonl_issue *issue, char *buffer, size_t size)
{
    snprintf(buffer, size, "line %u: %s%s%s", issue->line, issue->param, issue->param[0] ? ": " : "", issue->message);
    return buffer;
}

static void note_issue(struct loader *l, uint32_t line, const struct vireo_error *why)
{
    l->report.bad_rows++;
    if (l->report.issue_count == JSONL_MAX_ISSUES)
        return;
    struct jsonl_issue *issue = &l->report.issues[l->report.issue_count++];
    issue->line = line;
    snprintf(issue->param, sizeof issue->param, "%s", why->param);
    snprintf(issue->message, sizeof issue->message, "%.255s", why->message);
}

// Faults of this process, as against faults of the row.
static bool is_fatal(enum vireo_code code)
{
    return code == VIREO_NO_MEMORY || code == VIREO_IO || code == VIREO_NO_SPACE || code == VIREO_INTERNAL ||
           code == VIREO_CANCELLED || code == VIREO_UNAVAILABLE;
}

// Rows of one group are neighbours with an equal, present "group".
static void set_unit(struct loader *l, struct sample *s)
{
    const json_t *group = json_object_get(s->item, "group");
    bool joins = group && !json_is_null(group) && l->group && json_equal(group, l->group);
    uint32_t before = l->d.count ? l->d.samples[l->d.count - 1].unit : 0;
    s->unit = l->d.count == 0 ? 0 : joins ? before : before + 1;
    l->group = group;
}

static json_t *parse_row(const char *bytes, size_t size, struct vireo_error *err)
{
    if (size > JSONL_ROW_BYTES) {
        vireo_fail(err, VIREO_INVALID, "row of %zu bytes, at most %d are allowed", size, JSONL_ROW_BYTES);
        return NULL;
    }
    json_t *row = vireo_json_parse(bytes, size, err);
    // The parser counts lines within the row, where there is only one: keep the column.
    char *column = row ? NULL : strstr(err->message, "line 1, ");
    if (column)
        memmove(column, column + 8, strlen(column + 8) + 1);
    return row;
}

// False only for faults of this process.
static bool read_line(struct loader *l, const char *bytes, size_t size, uint32_t line, struct vireo_error *err)
{
    struct vireo_error why = {0};
    struct sample s;
    l->report.rows++;
    json_t *row = parse_row(bytes, size, &why);
    bool good = row && row_read(&l->row, row, line, &s, &why);
    json_decref(row);
    if (good) {
        vireo_assert(l->d.count < l->capacity);
        set_unit(l, &s);
        l->d.form_count[s.form]++;
        l->d.samples[l->d.count++] = s;
        return true;
    }
    if (is_fatal(why.code)) {
        *err = why;
        return false;
    }
    note_issue(l, line, &why);
    return true;
}

static bool is_blank(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != ' ' && bytes[i] != '\t' && bytes[i] != '\r')
            return false;
    return true;
}

// Calls read_line for each line that is not blank; with l NULL only counts them.
static bool each_line(struct loader *l, const char *bytes, size_t size, uint32_t *rows, struct vireo_error *err)
{
    uint32_t line = 0;
    *rows = 0;
    for (size_t at = 0; at < size;) {
        const char *end = memchr(bytes + at, '\n', size - at);
        size_t length = end ? (size_t)(end - bytes) - at : size - at;
        line++;
        if (!is_blank(bytes + at, length)) {
            ++*rows;
            if (l && !read_line(l, bytes + at, length, line, err))
                return false;
        }
        at += length + 1;
    }
    return true;
}

static bool take_images(struct loader *l, struct vireo_error *err)
{
    struct dataset *d = &l->d;
    size_t bytes = l->images.count * sizeof d->images[0];
    d->image_count = l->images.count;
    d->images = arena_take(&d->arena, bytes);
    d->units = arena_array(&d->arena, uint32_t, d->count);
    if (!d->images || !d->units)
        return vireo_fail_memory(err, bytes);
    if (bytes)
        memcpy(d->images, l->images.images, bytes);
    for (uint32_t i = 0; i < d->count; i++)
        d->units[i] = d->samples[i].unit;
    return true;
}

static bool fail_bad_rows(const struct loader *l, struct vireo_error *err)
{
    char first[400];
    jsonl_issue_text(&l->report.issues[0], first, sizeof first);
    if (l->report.bad_rows == 1)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", NULL, "%s", first);
    return vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", NULL, "%s (and %u more bad rows)", first,
                           l->report.bad_rows - 1);
}

static bool load(struct loader *l, const char *bytes, size_t size, struct vireo_error *err)
{
    uint32_t rows, most = l->options->max_rows ? l->options->max_rows : JSONL_TRAIN_ROWS;
    const char *name = l->options->question_template;
    if (name && strcmp(name, "none") != 0) {
        l->row.template_text = question_template(name);
        if (!l->row.template_text)
            return vireo_fail_param(err, "question_template", "Invalid value for 'question_template': expected one of "
                                    "'default', 'rec', 'ic', 'odLength', 'none', got '%.60s'.", name);
    }
    if (size >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0) { // a byte order mark is not part of the first row
        bytes += 3;
        size -= 3;
    }
    each_line(NULL, bytes, size, &rows, err);
    if (rows == 0)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", NULL, "The file has no rows.");
    if (rows > most)
        return vireo_fail_kind(err, VIREO_INVALID, "invalid_file_format", NULL,
                               "The file has %u rows, at most %u are allowed.", rows, most);
    l->capacity = rows;
    l->d.samples = arena_array(&l->d.arena, struct sample, rows);
    if (!l->d.samples)
        return vireo_fail_memory(err, rows * sizeof(struct sample));
    if (!each_line(l, bytes, size, &rows, err))
        return false;
    return l->report.bad_rows ? fail_bad_rows(l, err) : take_images(l, err);
}

bool jsonl_parse(const char *bytes, size_t size, const struct jsonl_options *options, struct dataset *out,
                 struct jsonl_report *report, struct vireo_error *err)
{
    struct vireo_error own = {0};
    struct loader l = {.options = options};
    arena_init(&l.d.arena, 1 << 20);
    l.images = (struct image_refs){.arena = &l.d.arena, .resolver = &options->resolver};
    l.row = (struct row_context){.options = options, .arena = &l.d.arena, .images = &l.images};
    bool ok = load(&l, bytes, size, err ? err : &own);
    image_refs_finish(&l.images);
    if (report)
        *report = l.report;
    if (!ok) {
        dataset_finish(&l.d);
        return false;
    }
    *out = l.d;
    for (uint32_t i = 0; i < out->count; i++)
        out->samples[i].prompt.arena = &out->arena; // the arena has moved with its dataset
    return true;
}

bool jsonl_load(const char *path, const struct jsonl_options *options, struct dataset *out, struct jsonl_report *report,
                struct vireo_error *err)
{
    struct file_map map;
    if (!file_map_open(path, &map, err))
        return false;
    bool ok = jsonl_parse((const char *)map.data, map.size, options, out, report, err);
    file_map_close(&map);
    return ok;
}
