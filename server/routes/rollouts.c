// /v1/vireo/jobs/{id}/groups and /v1/vireo/samples/{id}: what was sampled, and how it was rewarded.
#include "server/api/object_json.h"
#include "server/routes/common.h"
#include "server/store/jobs.h"
#include "server/store/rollouts.h"

#include <string.h>

static json_t *group_json(const void *row)
{
    return api_group(row);
}

static bool list(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    const char *id = request_path_value(req, "id"), *step = request_query(req, "step");
    struct store_job job;
    struct store_page page;
    struct store_group *rows;
    struct store_group_filter filter = {.job_id = id, .step = -1, .sort = request_query(req, "sort")};
    size_t count;
    bool more;
    if (!store_job_find(app->store, id, request_arena(req), &job, err) || !routes_page(req, 20, 100, &page, err))
        return false;
    if (filter.sort && strcmp(filter.sort, "reward_std") != 0 && strcmp(filter.sort, "mean_reward") != 0 &&
        strcmp(filter.sort, "reward_mean") != 0)
        return vireo_fail_param(err, "sort", "Invalid value for 'sort': expected reward_std or mean_reward, got '%.40s'.",
                                filter.sort);
    if (filter.sort && strcmp(filter.sort, "mean_reward") == 0)
        filter.sort = "reward_mean";
    // "latest": the newest step of which groups are stored.
    if (step && strcmp(step, "latest") == 0)
        filter.step = job.step;
    else if (!request_query_integer(req, "step", 0, INT64_MAX, &filter.step, err))
        return false;
    return store_group_list(app->store, &filter, &page, request_arena(req), &rows, &count, &more, err) &&
           routes_list(res, rows, count, sizeof *rows, more, group_json, err);
}

static bool get_group(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_group g;
    return store_group_find(app_of(req)->store, request_path_value(req, "id"), request_arena(req), &g, err) &&
           response_json(res, api_group(&g), err);
}

static bool get_sample(struct request *req, struct response *res, struct vireo_error *err)
{
    struct store_sample s;
    if (!store_sample_find(app_of(req)->store, request_path_value(req, "id"), request_arena(req), &s, err))
        return false;
    json_t *o = api_parse(s.data);
    json_object_set_new(o, "id", json_string(s.id));
    json_object_set_new(o, "object", json_string("vireo.sample"));
    return response_json(res, o, err);
}

const struct route route_rollouts[] = {
    {"GET", "/v1/vireo/jobs/{id}/groups", HTTP_READ, HTTP_BODY_NONE, 0, list},
    {"GET", "/v1/vireo/groups/{id}", HTTP_READ, HTTP_BODY_NONE, 0, get_group},
    {"GET", "/v1/vireo/samples/{id}", HTTP_READ, HTTP_BODY_NONE, 0, get_sample},
    {0},
};
