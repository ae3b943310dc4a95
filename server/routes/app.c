#include "server/routes/app.h"

#include "compute/base/log.h"
#include "server/routes/route_list.h"
#include "server/routes/ui.h"
#include "server/store/keys.h"

#include <string.h>

#define LOG_MODULE "http"

bool app_authorize(void *context, const struct request *req, enum http_scope scope, struct http_caller *caller,
                   struct vireo_error *err)
{
    struct app *app = context;
    // Scrapers on this machine need no key; elsewhere /metrics wants the scope its route names.
    if (app->bound_to_loopback && strcmp(request_path(req), "/metrics") == 0)
        scope = HTTP_PUBLIC;
    struct auth_request ask = {.authorization = request_header(req, "Authorization"),
                               .session = request_cookie(req, "vireo_session"),
                               .address = request_address(req),
                               .loopback = app->bound_to_loopback && request_from_loopback(req),
                               .needed = scope};
    struct auth_result result;
    if (!auth_check(app->auth, &ask, &result, err))
        return false;
    memcpy(caller->key_id, result.key_id, sizeof caller->key_id);
    caller->scopes = result.scopes;
    return true;
}

void app_finished(void *context, const struct request *req, int status, double seconds)
{
    (void)context;
    const char *method = request_method(req), *path = request_path(req);
    log_debug("%s %s %d request=%s seconds=%.4f", method ? method : "?", path ? path : "?", status, request_id(req),
              seconds);
}

bool app_load_keys(struct app *app, struct vireo_error *err)
{
    struct arena arena;
    struct store_key *rows;
    size_t count;
    arena_init(&arena, 0);
    bool ok = store_key_list(app->store, &arena, &rows, &count, err);
    struct auth_key *keys = ok ? arena_array(&arena, struct auth_key, count + 1) : NULL;
    if (ok && !keys)
        ok = vireo_fail_memory(err, count * sizeof *keys);
    for (size_t i = 0; ok && i < count; i++) {
        keys[i].scopes = rows[i].scopes;
        keys[i].expires_at = rows[i].expires_at;
        memcpy(keys[i].digest, rows[i].digest, sizeof keys[i].digest);
        snprintf(keys[i].id, sizeof keys[i].id, "%s", rows[i].id);
        snprintf(keys[i].prefix, sizeof keys[i].prefix, "%s", rows[i].prefix);
    }
    ok = ok && auth_set_keys(app->auth, keys, count, err);
    arena_finish(&arena);
    return ok;
}

bool app_save_usage(struct app *app, struct vireo_error *err)
{
    struct arena arena;
    struct store_key *rows;
    size_t count;
    arena_init(&arena, 0);
    bool ok = store_key_list(app->store, &arena, &rows, &count, err);
    for (size_t i = 0; ok && i < count; i++) {
        int64_t last = auth_last_used(app->auth, rows[i].id);
        if (last > rows[i].last_used_at)
            ok = store_key_used(app->store, rows[i].id, last, err);
    }
    arena_finish(&arena);
    return ok;
}

#define X(name) extern const struct route route_##name[];
ROUTE_LIST(X)
#undef X

struct router *app_router(struct vireo_error *err)
{
#define X(name) route_##name,
    static const struct route *const lists[] = {ROUTE_LIST(X)};
#undef X
    struct router *r = router_create(err);
    bool ok = r != NULL;
    for (size_t i = 0; ok && i < sizeof lists / sizeof *lists; i++) {
        size_t count = 0;
        while (lists[i][count].method)
            count++;
        ok = router_add(r, lists[i], count, err);
    }
    size_t pages;
    const struct route *ui = ok ? ui_routes(&pages) : NULL;
    if (!ok || !router_add(r, ui, pages, err))
        router_destroy(&r);
    return r;
}
