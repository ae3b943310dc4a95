// A whole server of this process for tests: store in a fresh folder, all routes, 127.0.0.1 on a free port, no workers.
#ifndef VIREO_TESTS_HTTP_SERVING_H
#define VIREO_TESTS_HTTP_SERVING_H

#include "compute/base/file.h"
#include "server/http/client.h"
#include "server/routes/app.h"

#include <stdlib.h>

struct serving {
    char folder[64];
    struct app app;
    struct router *router;
    struct http_client *client;
};

static inline bool serving_start(struct serving *s, struct vireo_error *err)
{
    *s = (struct serving){.folder = "/tmp/vireo-serving-XXXXXX"};
    if (!mkdtemp(s->folder))
        return vireo_fail_errno(err, "mkdtemp");
    s->app.bound_to_loopback = true;
    s->app.store = store_open(s->folder, err);
    s->app.auth = auth_create(err);
    s->router = app_router(err);
    if (!s->app.store || !s->app.auth || !s->router || !app_load_keys(&s->app, err))
        return false;
    struct http_params params = {.temp_folder = store_temp_folder(s->app.store),
                                 .router = s->router,
                                 .app = &s->app,
                                 .authorize = app_authorize,
                                 .finished = app_finished,
                                 .min_free_bytes = 1,
                                 .header_ms = 2000};
    s->app.http = http_server_start(&params, err);
    if (!s->app.http)
        return false;
    struct http_client_params client = {.url = http_server_url(s->app.http), .key = ""};
    s->client = http_client_create(&client, err);
    return s->client != NULL;
}

static inline void serving_stop(struct serving *s)
{
    http_client_destroy(&s->client);
    http_server_stop(&s->app.http);
    router_destroy(&s->router);
    auth_destroy(&s->app.auth);
    store_close(&s->app.store);
    file_remove_tree(s->folder, NULL);
}

#endif
