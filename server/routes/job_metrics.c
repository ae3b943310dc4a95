// /v1/vireo/jobs/{id}/metrics: columns over steps, as JSON and as CSV.
#include "compute/base/json.h"
#include "server/routes/common.h"
#include "server/store/jobs.h"
#include "server/store/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct table {
    json_t **rows; // flat objects, one a step
    int64_t *steps;
    size_t count;
    const char **names; // columns besides "step", in byte order
    size_t name_count;
};

// Clock readings stand in their own object; here they become columns "timing/...", and step_time under TRL's name.
static json_t *flatten(const char *text)
{
    json_t *o = vireo_json_parse(text, strlen(text), NULL), *timing = json_incref(json_object_get(o, "timing")), *value;
    const char *key;
    char name[96];
    json_object_del(o, "timing");
    json_object_foreach (timing, key, value) {
        snprintf(name, sizeof name, strcmp(key, "step_time") == 0 || strcmp(key, "eta_seconds") == 0 ? "%.60s" : "timing/%.60s",
                 key);
        json_object_set(o, name, value);
    }
    json_decref(timing);
    return o;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// Whether `name` is one of the comma-separated `wanted` (NULL: all).
static bool wanted_name(const char *wanted, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = wanted; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
        if (strncmp(at, name, n) == 0 && (at[n] == ',' || !at[n]))
            return true;
    return !wanted;
}

static bool read_table(struct request *req, struct table *t, struct vireo_error *err)
{
    struct app *app = app_of(req);
    struct arena *a = request_arena(req);
    const char *id = request_path_value(req, "id"), *names = request_query(req, "names"), *key;
    struct store_job job;
    struct store_metric *rows;
    int64_t from = 0, to = INT64_MAX;
    size_t count;
    json_t *value, *all = json_object();
    bool done = store_job_find(app->store, id, a, &job, err) &&
                request_query_integer(req, "from", 0, INT64_MAX, &from, err) &&
                request_query_integer(req, "to", 0, INT64_MAX, &to, err) &&
                store_metric_list(app->store, id, from, to, a, &rows, &count, err);
    if (done) {
        *t = (struct table){.rows = arena_array(a, json_t *, count + 1), .count = count};
        t->steps = arena_array(a, int64_t, count + 1);
        done = (t->rows && t->steps && all) || vireo_fail_memory(err, count * 16);
    }
    for (size_t i = 0; done && i < count; i++) {
        t->rows[i] = flatten(rows[i].values);
        t->steps[i] = rows[i].step;
        json_object_foreach (t->rows[i], key, value)
            if (strcmp(key, "step") != 0 && wanted_name(names, key) && (json_is_number(value) || json_is_null(value)))
                json_object_set_new(all, key, json_null());
    }
    if (done) {
        t->names = arena_array(a, const char *, json_object_size(all) + 1);
        json_object_foreach (all, key, value)
            if (t->names)
                t->names[t->name_count++] = arena_copy_string(a, key);
        if (t->names)
            qsort(t->names, t->name_count, sizeof *t->names, by_text);
    }
    json_decref(all);
    return done;
}

static void free_table(struct table *t)
{
    for (size_t i = 0; t->rows && i < t->count; i++)
        json_decref(t->rows[i]);
}

// Which rows to show when there are more than `points`: in each stretch the rows with the least and the greatest value of any
// column, so that no spike disappears; the first and the last always.
static size_t thin(const struct table *t, size_t points, bool *keep)
{
    size_t kept = 0, stretches = points / (2 * (t->name_count ? t->name_count : 1));
    if (t->count <= points || stretches < 1) {
        // Many columns: even steps are all that fits.
        for (size_t i = 0; i < t->count; i++)
            keep[i] = t->count <= points || i * points / t->count != (i + 1) * points / t->count || i == 0;
    } else {
        for (size_t s = 0; s < stretches; s++) {
            size_t first = s * t->count / stretches, end = (s + 1) * t->count / stretches;
            for (size_t n = 0; n < t->name_count; n++) {
                size_t least = first, most = first;
                for (size_t i = first; i < end; i++) {
                    double v = json_number_value(json_object_get(t->rows[i], t->names[n]));
                    if (v < json_number_value(json_object_get(t->rows[least], t->names[n])))
                        least = i;
                    if (v > json_number_value(json_object_get(t->rows[most], t->names[n])))
                        most = i;
                }
                keep[least] = keep[most] = true;
            }
        }
    }
    if (t->count)
        keep[0] = keep[t->count - 1] = true;
    for (size_t i = 0; i < t->count; i++)
        kept += keep[i];
    return kept;
}

static bool get(struct request *req, struct response *res, struct vireo_error *err)
{
    struct table t = {0};
    int64_t points = 100000;
    if (!request_query_integer(req, "points", 2, 100000, &points, err) || !read_table(req, &t, err)) {
        free_table(&t);
        return false;
    }
    bool *keep = arena_array(request_arena(req), bool, t.count + 1);
    json_t *o = keep ? json_object() : NULL, *steps = json_array();
    if (keep)
        thin(&t, (size_t)points, keep);
    for (size_t i = 0; o && i < t.count; i++)
        if (keep[i])
            json_array_append_new(steps, json_integer(t.steps[i]));
    if (o)
        json_object_set_new(o, "step", steps);
    for (size_t n = 0; o && n < t.name_count; n++) {
        json_t *column = json_array();
        for (size_t i = 0; i < t.count; i++) {
            json_t *value = json_object_get(t.rows[i], t.names[n]);
            if (keep[i])
                json_array_append_new(column, value ? json_incref(value) : json_null());
        }
        json_object_set_new(o, t.names[n], column);
    }
    free_table(&t);
    return response_json(res, o, err);
}

static bool get_csv(struct request *req, struct response *res, struct vireo_error *err)
{
    struct table t = {0};
    char *text = NULL;
    size_t size;
    if (!read_table(req, &t, err)) {
        free_table(&t);
        return false;
    }
    FILE *out = open_memstream(&text, &size);
    if (!out) {
        free_table(&t);
        return vireo_fail_memory(err, 4096);
    }
    fputs("step", out);
    for (size_t n = 0; n < t.name_count; n++)
        fprintf(out, ",%s", t.names[n]);
    for (size_t i = 0; i < t.count; i++) {
        fprintf(out, "\n%lld", (long long)t.steps[i]);
        for (size_t n = 0; n < t.name_count; n++) {
            const json_t *value = json_object_get(t.rows[i], t.names[n]);
            if (json_is_integer(value))
                fprintf(out, ",%lld", (long long)json_integer_value(value));
            else if (json_is_real(value))
                fprintf(out, ",%.17g", json_real_value(value));
            else
                fputc(',', out);
        }
    }
    fputc('\n', out);
    fclose(out);
    free_table(&t);
    bool done = text && response_bytes(res, "text/csv; charset=utf-8", text, size, err);
    free(text);
    return done;
}

const struct route route_job_metrics[] = {
    {"GET", "/v1/vireo/jobs/{id}/metrics", HTTP_READ, HTTP_BODY_NONE, 0, get},
    {"GET", "/v1/vireo/jobs/{id}/metrics.csv", HTTP_READ, HTTP_BODY_NONE, 0, get_csv},
    {0},
};
