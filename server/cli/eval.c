// `vireo eval`: creates an evaluation, waits for it, prints the score.
#include "server/cli/cli.h"

#include "compute/base/file.h"
#include "compute/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char usage[] =
    "usage: vireo eval --model M --dataset D --grader G.json [--temperature T] [--n N] [--max-tokens N] [--limit N]\n"
    "                  [--seed N] [--max-pixels N] [--rows FILE] [--json]\n\n"
    "D is a dataset's id or a file's id. G.json holds a grader (see\n"
    "POST /v1/fine_tuning/alpha/graders/run). Temperature 0 is greedy.\n";

static const char *text_of(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "";
}

// All rows of a result, page by page, as one JSON list.
static bool save_rows(struct http_client *c, const char *id, const char *file, struct vireo_error *err)
{
    char path[256];
    json_t *all = json_array(), *page = NULL;
    bool done = all || vireo_fail_memory(err, 64), more = true;
    for (json_int_t after = -1; done && more; after = (json_int_t)json_array_size(all) - 1) {
        int used = snprintf(path, sizeof path, "/v1/vireo/evaluations/%s/rows?limit=100", id);
        if (after >= 0)
            snprintf(path + used, sizeof path - (size_t)used, "&after=%lld", (long long)after);
        done = http_client_json(c, "GET", path, NULL, &page, err);
        const json_t *rows = done ? json_object_get(page, "data") : NULL;
        more = json_array_size(rows) > 0 && json_is_true(json_object_get(page, "has_more"));
        if (done && json_array_extend(all, json_object_get(page, "data")) != 0)
            done = vireo_fail_memory(err, 64);
        json_decref(page);
        page = NULL;
    }
    char *text = done ? json_dumps(all, JSON_INDENT(1)) : NULL;
    done = done && (text || vireo_fail_memory(err, 64)) && file_write_atomic(file, text, strlen(text), err);
    free(text);
    json_decref(all);
    return done;
}

static int wait_for(struct http_client *c, const char *id, const char *rows, bool json)
{
    char path[256];
    struct vireo_error err;
    snprintf(path, sizeof path, "/v1/vireo/evaluations/%s", id);
    for (;;) {
        json_t *e = NULL;
        if (!http_client_json(c, "GET", path, NULL, &e, &err))
            return cli_report(&err);
        const char *status = text_of(e, "status");
        bool open = strcmp(status, "queued") == 0 || strcmp(status, "running") == 0, good = strcmp(status, "succeeded") == 0;
        if (open) {
            json_decref(e);
            nanosleep(&(struct timespec){.tv_nsec = 250000000}, NULL);
            continue;
        }
        if (!good)
            fprintf(stderr, "vireo: the evaluation is %s: %s\n", status, text_of(json_object_get(e, "error"), "message"));
        if (good && rows && !save_rows(c, id, rows, &err)) {
            json_decref(e);
            return cli_report(&err);
        }
        if (json) {
            cli_print(e);
            return good ? CLI_DONE : CLI_FAILED;
        }
        const json_t *r = json_object_get(e, "result");
        const char *name;
        json_t *value;
        if (good) {
            printf("%-28s %8.4f ± %.4f  (n %d)\n", "mean reward", json_number_value(json_object_get(r, "mean_reward")),
                   json_number_value(json_object_get(r, "reward_ci95")), (int)json_integer_value(json_object_get(r, "n")));
            json_object_foreach (json_object_get(r, "rewards"), name, value)
                printf("  %-26s %8.4f\n", name, json_number_value(value));
            printf("%-28s %8.1f\n", "mean completion length", json_number_value(json_object_get(r, "completions_mean_length")));
        }
        json_decref(e);
        return good ? CLI_DONE : CLI_FAILED;
    }
}

int cli_eval(int argc, char **argv)
{
    struct cli_client_options client = {0};
    const char *model = NULL, *dataset = NULL, *grader_file = NULL, *temperature = NULL, *n_text = NULL, *tokens = NULL;
    const char *limit = NULL, *seed = NULL, *rows = NULL, *pixels = NULL, *rest[1];
    bool json = false;
    const struct cli_option options[] = {
        {"--model", "NAME which model", &model, NULL},
        {"--dataset", "ID dataset or file", &dataset, NULL},
        {"--grader", "FILE grader as JSON", &grader_file, NULL},
        {"--temperature", "T 0: greedy (0)", &temperature, NULL},
        {"--n", "N answers a row (1)", &n_text, NULL},
        {"--max-tokens", "N longest answer (256)", &tokens, NULL},
        {"--limit", "N first rows only (all)", &limit, NULL},
        {"--seed", "N of the sampling (0)", &seed, NULL},
        {"--max-pixels", "N larger pictures are made smaller (the model's)", &pixels, NULL},
        {"--rows", "FILE write every row with its answers there, as JSON", &rows, NULL},
        {"--json", "-the whole object", NULL, &json},
        {"--data", "DIR reach the server that has this folder open", &client.data, NULL},
        {0},
    };
    const struct whole {
        const char *option, *field, *const *text;
        long long min, max;
    } wholes[] = {{"--n", "n", &n_text, 1, 128},
                  {"--max-tokens", "max_completion_tokens", &tokens, 1, 1 << 20},
                  {"--limit", "limit", &limit, 1, 100000000},
                  {"--max-pixels", "max_pixels", &pixels, 784, 1000000000},
                  {"--seed", "seed", &seed, 0, INT64_MAX}};
    size_t count;
    int status;
    struct vireo_error err;
    if (!cli_parse(argc, argv, usage, options, &client, rest, 0, &count, &status))
        return status;
    if (!model || !dataset || !grader_file) {
        fputs(usage, stderr);
        return CLI_USAGE;
    }
    json_t *grader = vireo_json_load(grader_file, 1 << 20, &err), *answer = NULL;
    if (!grader)
        return cli_report(&err);
    json_t *body = json_pack("{s:s,s:s,s:o,s:f}", "model", model, "file", dataset, "grader", grader, "temperature",
                             temperature ? strtod(temperature, NULL) : 0.0);
    for (size_t i = 0; i < sizeof wholes / sizeof wholes[0]; i++) {
        long long value;
        if (!*wholes[i].text)
            continue;
        if (!cli_number(wholes[i].option, *wholes[i].text, wholes[i].min, wholes[i].max, &value))
            return CLI_USAGE;
        json_object_set_new(body, wholes[i].field, json_integer(value));
    }
    struct http_client *c = cli_client(&client);
    bool done = c && http_client_json(c, "POST", "/v1/vireo/evaluations", body, &answer, &err);
    json_decref(body);
    if (!c)
        return CLI_UNREACHABLE;
    status = done ? wait_for(c, text_of(answer, "id"), rows, json) : cli_report(&err);
    json_decref(answer);
    http_client_destroy(&c);
    return status;
}
