// /v1/vireo/system: what an operator wants to see at a glance.
#include "compute/base/clock.h"
#include "compute/base/file.h"
#include "compute/base/os.h"
#include "server/routes/common.h"
#include "server/store/jobs.h"

#include <string.h>
#include <sys/statvfs.h>

static json_t *disk(const struct store *s)
{
    struct statvfs info;
    if (statvfs(store_folder(s), &info) != 0)
        return json_null();
    return json_pack("{s:I, s:I}", "free_bytes", (json_int_t)((uint64_t)info.f_bavail * info.f_frsize), "total_bytes",
                     (json_int_t)((uint64_t)info.f_blocks * info.f_frsize));
}

static bool get(struct request *req, struct response *res, struct vireo_error *err)
{
    struct app *app = app_of(req);
    int64_t counts[7];
    char reason[256];
    struct http_gauges gauges = {0};
    if (!store_job_counts(app->store, counts, err))
        return false;
    if (app->http)
        http_server_gauges(app->http, &gauges);
    json_t *jobs = json_object();
    for (int i = 0; store_job_statuses[i]; i++)
        json_object_set_new(jobs, store_job_statuses[i], json_integer(counts[i]));
    bool read_only = store_is_read_only(app->store, reason, sizeof reason);
    json_t *object = json_pack(
        "{s:s, s:s, s:I, s:o, s:b, s:o, s:{s:I, s:I, s:I}, s:{s:I, s:I}, s:b}", "object", "vireo.system", "version",
        http_version(), "time", (json_int_t)clock_unix(), "disk", disk(app->store), "read_only", read_only, "jobs",
            jobs,
        "http", "connections", (json_int_t)gauges.connections, "streams", (json_int_t)gauges.streams, "in_flight",
        (json_int_t)gauges.in_flight, "memory", "peak_rss_bytes", (json_int_t)os_peak_rss(), "total_bytes",
        (json_int_t)os_memory_bytes(), "keys_required", auth_key_count(app->auth) > 0);
    if (object && app->hooks.system)
        app->hooks.system(app->hooks.context, object);
    return response_json(res, object, err);
}

const struct route route_system[] = {
    {"GET", "/v1/vireo/system", HTTP_READ, HTTP_BODY_NONE, 0, get},
    {0},
};
