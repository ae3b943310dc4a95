// What every route gets by request_app(): the open parts of the server. Made by server/cli/serve.c (and by tests).
#ifndef VIREO_ROUTES_APP_H
#define VIREO_ROUTES_APP_H

#include "server/auth/policy.h"
#include "server/http/server.h"
#include "server/store/store.h"

struct jobs; // server/jobs; NULL in a server without workers (tests of the other resources)

// What other layers add to pages of this one, so that routes need not know them. Any may be NULL.
struct app_hooks {
    // Appends Prometheus text to `out` (an open memory stream).
    void (*metrics)(void *context, void *file);
    // Adds members to the JSON object of GET /v1/vireo/system (devices, workers, queues).
    void (*system)(void *context, json_t *object);
    // False + err while something is missing; for /readyz.
    bool (*ready)(void *context, struct vireo_error *err);
    // True while `model` is loaded by a worker; for GET /v1/models.
    bool (*model_loaded)(void *context, const char *model);
    // A model is about to be deleted: unload it, or fail with VIREO_CONFLICT.
    bool (*model_release)(void *context, const char *model, struct vireo_error *err);
    void *context;
};

struct app {
    struct store *store;
    struct auth *auth;
    struct jobs *jobs;
    struct http_server *http; // set after http_server_start
    bool bound_to_loopback;
    bool tls;
    struct app_hooks hooks;
};

static inline struct app *app_of(const struct request *req)
{
    return request_app(req);
}

// http_params.authorize and .finished for a server whose app is a struct app.
bool app_authorize(void *app, const struct request *req, enum http_scope scope, struct http_caller *caller,
                   struct vireo_error *err);
void app_finished(void *app, const struct request *req, int status, double seconds);
// Reads the keys of the store into auth: at start and after each change.
bool app_load_keys(struct app *app, struct vireo_error *err);
// Writes to the store when each key was last used: when keys are listed, and at the end of the server.
bool app_save_usage(struct app *app, struct vireo_error *err);

// A router with every route of route_list.h. NULL + err.
struct router *app_router(struct vireo_error *err);

#endif
