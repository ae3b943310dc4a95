// /v1/fine_tuning/jobs/{id}/checkpoints
#include "server/api/object_json.h"
#include "server/routes/common.h"
#include "server/store/checkpoints.h"
#include "server/store/jobs.h"

static json_t *checkpoint_json(const void *row)
{
    return api_checkpoint(row);
}

static bool list(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    const char *id = request_path_value(req, "id");
    struct store_job job;
    struct store_page page;
    struct store_checkpoint *rows;
    size_t count;
    bool more;
    return store_job_find(app->store, id, request_arena(req), &job, err) && routes_page(req, 10, 100, &page, err) &&
           store_checkpoint_list(app->store, id, &page, request_arena(req), &rows, &count, &more, err) &&
           routes_list(res, rows, count, sizeof *rows, more, checkpoint_json, err);
}

const struct route route_job_checkpoints[] = {
    {"GET", "/v1/fine_tuning/jobs/{id}/checkpoints", HTTP_READ, HTTP_BODY_NONE, 0, list},
    {0},
};
