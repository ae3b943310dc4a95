// GET /v1/vireo/images/{id}/thumbnail. The picture is decoded in a sandboxed process, never here.
#include "server/jobs/jobs.h"
#include "server/routes/common.h"
#include "server/store/blob.h"
#include "server/store/images.h"

#include <stdlib.h>
#include <string.h>

static bool get(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    struct store_image i;
    int64_t side = 256;
    char path[BLOB_PATH], etag[96];
    uint8_t *png = NULL;
    size_t count = 0;
    if (!request_query_integer(req, "w", 16, 1024, &side, err) ||
        !store_image_find(app->store, request_path_value(req, "id"), request_arena(req), &i, err))
        return false;
    if (!app->jobs)
        return vireo_fail(err, VIREO_UNAVAILABLE, "This server runs no workers.");
    // The same picture and size give the same bytes for ever: a browser that has them need not ask again.
    snprintf(etag, sizeof etag, "\"%s-%d\"", i.sha256, (int)side);
    response_header(res, "ETag", etag);
    response_header(res, "Cache-Control", "private, max-age=31536000, immutable");
    const char *known = request_header(req, "If-None-Match");
    if (known && strcmp(known, etag) == 0) {
        response_status(res, 304);
        return response_bytes(res, "image/png", "", 0, err);
    }
    if (!blob_path(app->store, i.sha256, path) || !jobs_thumbnail(app->jobs, path, (int)side, &png, &count, err))
        return false;
    bool done = response_bytes(res, "image/png", png, count, err);
    free(png);
    return done;
}

const struct route route_thumbnails[] = {
    {"GET", "/v1/vireo/images/{id}/thumbnail", HTTP_READ, HTTP_BODY_NONE, 0, get},
    {0},
};
