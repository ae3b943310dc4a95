// /v1/vireo/keys: made and listed by administrators; the key itself is shown once.
#include "compute/base/clock.h"
#include "compute/base/json.h"
#include "server/api/object_json.h"
#include "server/routes/common.h"
#include "server/store/keys.h"

#include <string.h>

static bool read_scopes(json_t *body, unsigned *scopes, struct vireo_error *err)
{
    json_t *list = NULL;
    if (!json_get_array(body, "", "scopes", &list, err))
        return false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        unsigned bit = name ? auth_scope_from_name(name) : 0;
        char param[32];
        snprintf(param, sizeof param, "scopes[%zu]", i);
        if (!bit)
            return vireo_fail_param(err, param, "A scope is one of read, infer, train, admin, not '%.40s'.",
                                    name ? name : "?");
        *scopes = (i ? *scopes : 0) | bit;
    }
    return !list || json_array_size(list) || vireo_fail_param(err, "scopes", "'scopes' must not be empty.");
}

static bool create(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    json_t *body;
    const char *name = NULL;
    unsigned scopes = AUTH_DEFAULT;
    int64_t seconds = 0;
    static const char *const known[] = {"name", "scopes", "expires_in", "vireo", NULL};
    if (!request_json_object(req, &body, err) || !request_ignore_unknown(req, known, err) ||
        !json_get_string_required(body, "", "name", &name, err) || !read_scopes(body, &scopes, err) ||
        !json_get_integer(body, "", "expires_in", 60, 10ll * 365 * 86400, &seconds, err))
        return false;
    if (!name[0] || strlen(name) > 64)
        return vireo_fail_param(err, "name", "'name' must have 1 to 64 characters.");
    char key[AUTH_KEY_TEXT], prefix[AUTH_PREFIX + 1];
    struct store_key row = {.name = name, .prefix = prefix, .scopes = scopes, .created_at = clock_unix()};
    auth_key_create(key);
    if (!auth_key_digest(key, row.digest, prefix))
        return vireo_fail(err, VIREO_NO_MEMORY, "cannot hash a key");
    row.expires_at = seconds ? row.created_at + seconds : 0;
    if (!store_key_add(app->store, &row, request_arena(req), err) || !app_load_keys(app, err))
        return false;
    json_t *object = api_key(&row);
    json_object_set_new(object, "key", json_string(key));
    return response_json(res, object, err);
}

static json_t *key_json(const void *row)
{
    return api_key(row);
}

static bool list(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_key *rows;
    size_t count;
    struct vireo_error problem;
    // A store that cannot be written still lists its keys.
    bool saved = app_save_usage(app_of(req), &problem);
    (void)saved;
    return store_key_list(app_of(req)->store, request_arena(req), &rows, &count, err) &&
           routes_list(res, rows, count, sizeof *rows, false, key_json, err);
}

static bool delete(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    const char *id = request_path_value(req, "id");
    return store_key_delete(app->store, id, err) && app_load_keys(app, err) &&
           response_json(res, api_deleted(id, "vireo.key"), err);
}

const struct route route_keys[] = {
    {"POST", "/v1/vireo/keys", HTTP_ADMIN, HTTP_BODY_JSON, 0, create},
    {"GET", "/v1/vireo/keys", HTTP_ADMIN, HTTP_BODY_NONE, 0, list},
    {"DELETE", "/v1/vireo/keys/{id}", HTTP_ADMIN, HTTP_BODY_JSON, 0, delete},
    {0},
};
