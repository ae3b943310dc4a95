// /v1/models
#include "server/api/object_json.h"
#include "server/routes/common.h"
#include "server/store/models.h"

static json_t *model_json(struct app *app, const struct store_model *m)
{
    bool loaded = app->hooks.model_loaded && app->hooks.model_loaded(app->hooks.context, m->id);
    return api_model(m, loaded);
}

// One unpaged page, as clients expect it.
static bool list(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_model *rows;
    size_t count;
    if (!store_model_list(app_of(req)->store, request_arena(req), &rows, &count, err))
        return false;
    json_t *data = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(data, model_json(app_of(req), &rows[i]));
    return response_json(res, json_pack("{s:s, s:o}", "object", "list", "data", data), err);
}

static bool get(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_model m;
    return store_model_find(app_of(req)->store, request_path_value(req, "id"), request_arena(req), &m, err) &&
           response_json(res, model_json(app_of(req), &m), err);
}

static bool delete(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    const char *id = request_path_value(req, "id");
    struct store_model m;
    if (!store_model_find(app->store, id, request_arena(req), &m, err))
        return false;
    if (!m.parent)
        return vireo_fail_kind(err, VIREO_FORBIDDEN, "insufficient_scope", "model",
                               "'%.80s' is a base model: it is removed by 'vireo models remove' only.", id);
    if (app->hooks.model_release && !app->hooks.model_release(app->hooks.context, id, err))
        return false;
    return store_model_delete(app->store, id, false, err) && response_json(res, api_deleted(id, "model"), err);
}

const struct route route_models[] = {
    {"GET", "/v1/models", HTTP_READ, HTTP_BODY_NONE, 0, list},
    {"GET", "/v1/models/{id}", HTTP_READ, HTTP_BODY_NONE, 0, get},
    {"DELETE", "/v1/models/{id}", HTTP_TRAIN, HTTP_BODY_JSON, 0, delete},
    {0},
};
