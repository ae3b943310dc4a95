// POST /v1/vireo/models: a new base model, random from a preset or copied from a folder of this machine.
#include "compute/base/json.h"
#include "server/api/object_json.h"
#include "server/jobs/jobs.h"
#include "server/routes/common.h"
#include "server/store/models.h"

static bool create(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    static const char *const known[] = {"name", "source", NULL};
    json_t *body, *source = NULL, *init = NULL;
    const char *name, *folder = NULL, *preset = NULL, *unknown;
    int64_t seed = 0;
    struct store_model m;
    if (!request_json_object(req, &body, err))
        return false;
    if (json_find_unknown(body, known, &unknown))
        return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", unknown, "Unknown parameter: '%.80s'.", unknown);
    if (!json_get_string_required(body, "", "name", &name, err) || !json_get_object(body, "", "source", &source, err) ||
        !json_get_object(source, "source", "init", &init, err) || !json_get_string(source, "source", "folder", &folder, err))
        return false;
    if (!init == !folder)
        return vireo_fail_kind(err, VIREO_INVALID, "missing_required_parameter", "source",
                               "'source' needs either 'init' {preset, seed} or 'folder'.");
    if (init && (!json_get_string_required(init, "source.init", "preset", &preset, err) ||
                 !json_get_integer(init, "source.init", "seed", 0, INT64_MAX, &seed, err)))
        return false;
    // A path is read with the server's rights: only who sits at this machine may name one.
    if (folder && !request_from_loopback(req))
        return vireo_fail_kind(err, VIREO_FORBIDDEN, "insufficient_scope", "source.folder",
                               "A folder can be named from the server's own machine only.");
    json_t *wanted = json_pack("{s:s?,s:s?,s:I}", "preset", preset, "folder", folder, "seed", (json_int_t)seed);
    bool done = jobs_model_add(app->store, name, wanted, request_arena(req), &m, err);
    json_decref(wanted);
    return done && response_json(res, api_model(&m, false), err);
}

// Base models are not deleted through /v1/models: this is the administrator's way.
static bool delete(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    const char *id = request_path_value(req, "id");
    if (app->hooks.model_release && !app->hooks.model_release(app->hooks.context, id, err))
        return false;
    return store_model_delete(app->store, id, true, err) && response_json(res, api_deleted(id, "model"), err);
}

const struct route route_base_models[] = {
    {"POST", "/v1/vireo/models", HTTP_ADMIN, HTTP_BODY_JSON, 0, create},
    {"DELETE", "/v1/vireo/models/{id}", HTTP_ADMIN, HTTP_BODY_JSON, 0, delete},
    {0},
};
