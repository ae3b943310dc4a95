// `vireo jobs`
#include "server/cli/cli.h"

#include "compute/base/json.h"

#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: vireo jobs create --file SPEC.json [--watch]\n"
    "       vireo jobs list\n"
    "       vireo jobs show|watch|cancel|pause|resume ID\n\n"
    "create  sends SPEC.json (the body of POST /v1/fine_tuning/jobs) and prints the job's id\n"
    "watch   follows the job's events to its end; status 0 only if the job succeeds\n";

static const char *text_of(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "";
}

static bool on_event(void *context, const char *event, const char *data, const char *id)
{
    struct vireo_error err;
    json_t *o = vireo_json_parse(data, strlen(data), &err);
    if (o) {
        printf("%s\n", text_of(o, "message"));
        fflush(stdout);
    }
    json_decref(o);
    return true;
}

static int watch(struct http_client *c, const char *id)
{
    char path[512], escaped[200];
    struct vireo_error err;
    json_t *job = NULL;
    http_escape(escaped, sizeof escaped, id);
    snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%s/events/stream", escaped);
    if (!http_client_stream(c, "GET", path, NULL, on_event, NULL, &err))
        return cli_report(&err);
    snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%s", escaped);
    if (!http_client_json(c, "GET", path, NULL, &job, &err))
        return cli_report(&err);
    bool done = strcmp(text_of(job, "status"), "succeeded") == 0;
    if (done)
        printf("%s\n", text_of(job, "fine_tuned_model"));
    else
        fprintf(stderr, "vireo: the job is %s: %s\n", text_of(job, "status"),
                text_of(json_object_get(job, "error"), "message"));
    json_decref(job);
    return done ? CLI_DONE : CLI_FAILED;
}

static int create(struct http_client *c, const char *file, bool and_watch)
{
    struct vireo_error err;
    json_t *body = vireo_json_load(file, 1 << 20, &err), *job = NULL;
    bool done = body && http_client_json(c, "POST", "/v1/fine_tuning/jobs", body, &job, &err);
    json_decref(body);
    if (!done)
        return cli_report(&err);
    printf("%s\n", text_of(job, "id"));
    fflush(stdout);
    int status = and_watch ? watch(c, text_of(job, "id")) : CLI_DONE;
    json_decref(job);
    return status;
}

static int list(struct http_client *c, bool json)
{
    struct vireo_error err;
    json_t *answer = NULL, *job;
    size_t i;
    if (!http_client_json(c, "GET", "/v1/fine_tuning/jobs?limit=100", NULL, &answer, &err))
        return cli_report(&err);
    if (json)
        return cli_print(answer);
    json_array_foreach (json_object_get(answer, "data"), i, job) {
        const json_t *own = json_object_get(job, "vireo");
        printf("%s  %-16s %5d/%-5d %-24s %s\n", text_of(job, "id"), text_of(job, "status"),
               (int)json_integer_value(json_object_get(own, "step")), (int)json_integer_value(json_object_get(own, "total_steps")),
               text_of(job, "model"), text_of(job, "fine_tuned_model"));
    }
    json_decref(answer);
    return CLI_DONE;
}

int cli_jobs(int argc, char **argv)
{
    struct cli_client_options client = {0};
    const char *file = NULL, *rest[3];
    bool json = false, and_watch = false;
    const struct cli_option options[] = {
        {"--file", "SPEC.json the job", &file, NULL},
        {"--watch", "-follow the job after creating it", NULL, &and_watch},
        {"--json", "-the answer as it came", NULL, &json},
        {"--data", "DIR reach the server that has this folder open", &client.data, NULL},
        {0},
    };
    static const char *const verbs[] = {"show", "watch", "cancel", "pause", "resume", NULL};
    size_t count, verb = 0;
    int status;
    if (!cli_parse(argc, argv, usage, options, &client, rest, 3, &count, &status))
        return status;
    const char *command = count ? rest[0] : "";
    while (verbs[verb] && strcmp(verbs[verb], command) != 0)
        verb++;
    bool create_job = strcmp(command, "create") == 0 && count == 1 && file, list_jobs = strcmp(command, "list") == 0 && count == 1;
    if (!create_job && !list_jobs && !(verbs[verb] && count == 2)) {
        fputs(usage, stderr);
        return CLI_USAGE;
    }
    struct http_client *c = cli_client(&client);
    if (!c)
        return CLI_UNREACHABLE;
    if (create_job) {
        status = create(c, file, and_watch);
    } else if (list_jobs) {
        status = list(c, json);
    } else if (verb == 1) {
        status = watch(c, rest[1]);
    } else {
        char path[512], escaped[200];
        struct vireo_error err;
        json_t *job = NULL;
        snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%s%s%s", http_escape(escaped, sizeof escaped, rest[1]),
                 verb ? "/" : "", verb ? verbs[verb] : "");
        if (!http_client_json(c, verb ? "POST" : "GET", path, NULL, &job, &err))
            status = cli_report(&err);
        else
            status = cli_print(job);
    }
    http_client_destroy(&c);
    return status;
}
