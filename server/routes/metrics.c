// /metrics: Prometheus text 0.0.4. Routes appear by their pattern, never by a raw path.
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/os.h"
#include "server/routes/common.h"
#include "server/store/jobs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

enum { ROWS = 2048 };

static void head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void single(FILE *out, const char *name, const char *type, const char *help, double value)
{
    head(out, name, type, help);
    fprintf(out, "%s %.17g\n", name, value);
}

static void requests(FILE *out, struct http_server *http, struct http_count *rows)
{
    size_t count = http_server_counts(http, rows, ROWS);
    count = count < ROWS ? count : ROWS;
    head(out, "vireo_http_requests_total", "counter", "Requests answered, by route, method and status.");
    for (size_t i = 0; i < count; i++)
        fprintf(out, "vireo_http_requests_total{route=\"%s\",method=\"%s\",code=\"%d\"} %llu\n", rows[i].pattern,
                rows[i].method, rows[i].status, (unsigned long long)rows[i].count);
    head(out, "vireo_http_request_seconds", "summary", "Time from complete header to the end of the answer.");
    for (size_t i = 0; i < count; i++)
        fprintf(out,
                "vireo_http_request_seconds_sum{route=\"%s\",method=\"%s\",code=\"%d\"} %.6f\n"
                "vireo_http_request_seconds_count{route=\"%s\",method=\"%s\",code=\"%d\"} %llu\n",
                rows[i].pattern, rows[i].method, rows[i].status, rows[i].seconds, rows[i].pattern, rows[i].method,
                rows[i].status, (unsigned long long)rows[i].count);
}

static bool write_all(struct app *app, FILE *out, struct http_count *rows, struct vireo_error *err)
{
    int64_t counts[7];
    uint64_t writes;
    struct statvfs info;
    struct http_gauges gauges = {0};
    if (!store_job_counts(app->store, counts, err))
        return false;
    head(out, "vireo_build_info", "gauge", "The version running.");
    fprintf(out, "vireo_build_info{version=\"%s\"} 1\n", http_version());
    head(out, "vireo_jobs", "gauge", "Fine-tuning jobs by status.");
    for (int i = 0; store_job_statuses[i]; i++)
        fprintf(out, "vireo_jobs{status=\"%s\"} %lld\n", store_job_statuses[i], (long long)counts[i]);
    double seconds = store_write_seconds(app->store, &writes);
    head(out, "vireo_db_write_seconds", "summary", "Time in database commits, over the changes they held.");
    fprintf(out, "vireo_db_write_seconds_sum %.6f\nvireo_db_write_seconds_count %llu\n", seconds,
            (unsigned long long)writes);
    single(out, "vireo_store_read_only", "gauge", "1 after a disk error.", store_is_read_only(app->store, NULL, 0));
    if (statvfs(store_folder(app->store), &info) == 0)
        single(out, "vireo_disk_free_bytes", "gauge", "Free bytes where the data folder lies.",
               (double)info.f_bavail * (double)info.f_frsize);
    if (app->http) {
        http_server_gauges(app->http, &gauges);
        single(out, "vireo_http_connections", "gauge", "Open connections.", (double)gauges.connections);
        single(out, "vireo_http_requests_in_flight", "gauge", "Requests begun and not yet answered.",
               (double)gauges.in_flight);
        single(out, "vireo_sse_clients", "gauge", "Open event streams.", (double)gauges.streams);
        requests(out, app->http, rows);
    }
    single(out, "process_cpu_seconds_total", "counter", "CPU time of this process.", clock_cpu_seconds());
    single(out, "process_resident_memory_max_bytes", "gauge", "Peak resident memory.", (double)os_peak_rss());
    if (app->hooks.metrics)
        app->hooks.metrics(app->hooks.context, out);
    return true;
}

static bool get(struct request *req, struct response *res, struct vireo_error *err)
{
    char *text = NULL;
    size_t size = 0;
    struct http_count *rows = vireo_calloc(ROWS, sizeof *rows);
    FILE *out = rows ? open_memstream(&text, &size) : NULL;
    bool ok = out ? write_all(app_of(req), out, rows, err) : vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
    if (out && fclose(out) != 0 && ok)
        ok = vireo_fail(err, VIREO_NO_MEMORY, "out of memory");
    ok = ok && response_bytes(res, "text/plain; version=0.0.4; charset=utf-8", text, size, err);
    free(text);
    free(rows);
    return ok;
}

const struct route route_metrics[] = {
    {"GET", "/metrics", HTTP_READ, HTTP_BODY_NONE, 0, get},
    {0},
};
