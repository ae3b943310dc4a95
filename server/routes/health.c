// /healthz (the process answers), /readyz (it can do its work), /version
#include "server/routes/common.h"

static bool healthz(struct request *req, struct response *res, struct vireo_error *err)
{
    (void)req;
    return response_json(res, json_pack("{s:s}", "status", "ok"), err);
}

static bool readyz(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    struct vireo_error why = {0};
    json_t *reasons = json_array();
    if (!store_check(app->store, &why))
        json_array_append_new(reasons, json_string(why.message));
    if (app->http && http_server_draining(app->http))
        json_array_append_new(reasons, json_string("the server is shutting down"));
    if (app->hooks.ready && !app->hooks.ready(app->hooks.context, &why))
        json_array_append_new(reasons, json_string(why.message));
    bool ready = json_array_size(reasons) == 0;
    if (!ready) {
        response_status(res, 503);
        response_header(res, "Retry-After", "2");
    }
    return response_json(res, json_pack("{s:s, s:o}", "status", ready ? "ready" : "not_ready", "reasons", reasons),
                         err);
}

static bool version(struct request *req, struct response *res, struct vireo_error *err)
{
    (void)req;
    return response_json(res, json_pack("{s:s, s:s}", "name", "vireo", "version", http_version()), err);
}

const struct route route_health[] = {
    {"GET", "/healthz", HTTP_PUBLIC, HTTP_BODY_NONE, 0, healthz},
    {"GET", "/readyz", HTTP_PUBLIC, HTTP_BODY_NONE, 0, readyz},
    {"GET", "/version", HTTP_PUBLIC, HTTP_BODY_NONE, 0, version},
    {0},
};
