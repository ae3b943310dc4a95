// /v1/vireo/session: the web page trades a key for a cookie, because an event stream cannot send a header.
#include "compute/base/json.h"
#include "server/routes/common.h"

static bool create(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    json_t *body;
    const char *key = NULL;
    char token[AUTH_KEY_RANDOM + 1], cookie[200];
    if (!request_json_object(req, &body, err) || !json_get_string_required(body, "", "key", &key, err) ||
        !auth_session_create(app->auth, key, request_address(req), token, err))
        return false;
    snprintf(cookie, sizeof cookie, "vireo_session=%s; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200%s", token,
             app->tls ? "; Secure" : "");
    response_header(res, "Set-Cookie", cookie);
    return response_json(res, json_pack("{s:s, s:i}", "object", "vireo.session", "expires_in", 43200), err);
}

static bool delete(struct request *req, struct response *res, struct vireo_error *err)
{
    const char *token = request_cookie(req, "vireo_session");
    if (token)
        auth_session_end(app_of(req)->auth, token);
    response_header(res, "Set-Cookie", "vireo_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    return response_json(res, json_pack("{s:s, s:b}", "object", "vireo.session", "deleted", 1), err);
}

const struct route route_session[] = {
    {"POST", "/v1/vireo/session", HTTP_PUBLIC, HTTP_BODY_JSON, 4096, create},
    {"DELETE", "/v1/vireo/session", HTTP_PUBLIC, HTTP_BODY_JSON, 4096, delete},
    {0},
};
