// /v1/vireo/evaluations
#include "server/api/evaluation_json.h"
#include "server/api/object_json.h"
#include "server/jobs/evaluation.h"
#include "server/routes/training.h"
#include "server/store/evaluations.h"

#include <stdlib.h>
#include <string.h>

static json_t *show(struct app *app, const struct store_evaluation *e)
{
    return evaluation_json_show(e, app->jobs ? evaluation_progress(app->jobs, e->id) : 0);
}

static bool answer(struct request *req, struct response *res, const char *id, struct vireo_error *err)
{
    struct store_evaluation e;
    return store_evaluation_find(app_of(req)->store, id, request_arena(req), &e, err) &&
           response_json(res, show(app_of(req), &e), err);
}

static bool create(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    json_t *body;
    struct evaluation_request r;
    struct store_model model;
    if (!request_json_object(req, &body, err) || !evaluation_json_read(body, request_arena(req), &r, err))
        return false;
    bool done = routes_model(req, r.model, &model, err) && routes_training_file(req, "file", &r.file, err);
    if (done && !app->jobs)
        done = vireo_fail(err, VIREO_UNAVAILABLE, "This server runs no workers.");
    json_t *spec = done ? json_pack("{s:o}", "spec", job_spec_format(&r.spec)) : NULL;
    char *text = spec ? json_dumps(spec, JSON_COMPACT) : NULL;
    job_spec_finish(&r.spec);
    json_decref(spec);
    if (!done)
        return false;
    struct store_evaluation e = {.model = r.model, .file_id = r.file, .spec = text, .key_id = request_caller(req)->key_id};
    done = text ? evaluation_create(app->jobs, &e, request_arena(req), err) : vireo_fail_memory(err, 4096);
    free(text);
    return done && answer(req, res, e.id, err);
}

static bool list(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    struct store_page page;
    struct store_evaluation *rows;
    size_t count;
    bool more;
    if (!routes_page(req, 20, 100, &page, err) ||
        !store_evaluation_list(app->store, &page, request_arena(req), &rows, &count, &more, err))
        return false;
    json_t *data = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(data, show(app, &rows[i]));
    return response_json(res, api_list(data, more), err);
}

static bool get(struct request *req, struct response *res, struct vireo_error *err)
{
    return answer(req, res, request_path_value(req, "id"), err);
}

static bool cancel(struct request *req, struct response *res, struct vireo_error *err)
{
    const char *id = request_path_value(req, "id");
    if (!app_of(req)->jobs)
        return vireo_fail(err, VIREO_UNAVAILABLE, "This server runs no workers.");
    return evaluation_cancel(app_of(req)->jobs, id, err) && answer(req, res, id, err);
}

// Rows in the order of the file; "after" is the place of the last one seen, as rows have no ids of their own.
static bool rows(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    const char *id = request_path_value(req, "id");
    struct store_evaluation e;
    int64_t after = -1, limit = 100;
    const char **texts;
    size_t count;
    bool more;
    if (!store_evaluation_find(app->store, id, request_arena(req), &e, err) ||
        !request_query_integer(req, "after", 0, INT64_MAX - 1, &after, err) ||
        !request_query_integer(req, "limit", 1, 1000, &limit, err) ||
        !store_evaluation_rows(app->store, id, after + 1, (int)limit, request_arena(req), &texts, &count, &more, err))
        return false;
    json_t *data = json_array();
    for (size_t i = 0; i < count; i++) {
        json_t *row = api_parse(texts[i]);
        char place[24];
        snprintf(place, sizeof place, "%lld", (long long)(after + 1 + (int64_t)i));
        json_object_set_new(row, "id", json_string(place));
        json_array_append_new(data, row);
    }
    return response_json(res, api_list(data, more), err);
}

const struct route route_evaluations[] = {
    {"POST", "/v1/vireo/evaluations", HTTP_TRAIN, HTTP_BODY_JSON, 0, create},
    {"GET", "/v1/vireo/evaluations", HTTP_READ, HTTP_BODY_NONE, 0, list},
    {"GET", "/v1/vireo/evaluations/{id}", HTTP_READ, HTTP_BODY_NONE, 0, get},
    {"POST", "/v1/vireo/evaluations/{id}/cancel", HTTP_TRAIN, HTTP_BODY_JSON, 0, cancel},
    {"GET", "/v1/vireo/evaluations/{id}/rows", HTTP_READ, HTTP_BODY_NONE, 0, rows},
    {0},
};
