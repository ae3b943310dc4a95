// `vireo models`
#include "server/cli/cli.h"

#include "server/jobs/jobs.h"
#include "server/store/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: vireo models init --preset PRESET --name NAME --data DIR [--seed N]\n"
    "       vireo models import FOLDER --name NAME --data DIR\n"
    "       vireo models list\n"
    "       vireo models delete NAME [--data DIR]\n\n"
    "init    a model of a real architecture with random weights; presets: tiny (Qwen2.5-VL, 0.33 M parameters)\n"
    "import  copies a Hugging Face folder (config, tokenizer, safetensors) into the data folder\n"
    "delete  removes a model; base models need --data (or an administrator's key)\n"
    "init, import and delete work with --data whether or not a server has the folder open.\n";

// Without a server the folder is opened here; the same code makes the model.
static int add_offline(const char *data, const char *name, const json_t *source)
{
    struct vireo_error err;
    struct arena arena;
    struct store_model m;
    arena_init(&arena, 0);
    struct store *s = store_open(data, &err);
    bool done = s && jobs_model_add(s, name, source, &arena, &m, &err);
    if (done)
        printf("%s\n", m.id);
    store_close(&s);
    arena_finish(&arena);
    return done ? CLI_DONE : cli_report(&err);
}

static int send(const struct cli_client_options *client, const char *method, const char *path, const json_t *body)
{
    struct vireo_error err;
    json_t *answer = NULL;
    struct http_client *c = cli_client(client);
    if (!c)
        return CLI_UNREACHABLE;
    bool done = http_client_json(c, method, path, body, &answer, &err);
    http_client_destroy(&c);
    if (!done)
        return cli_report(&err);
    const char *id = json_string_value(json_object_get(answer, "id"));
    printf("%s\n", id ? id : "");
    json_decref(answer);
    return CLI_DONE;
}

static int add(struct cli_client_options *client, const char *name, const char *preset, const char *folder, long long seed)
{
    char url[256], key[128], absolute[4096];
    if (folder && !realpath(folder, absolute)) {
        fprintf(stderr, "vireo: there is no folder '%s'\n", folder);
        return CLI_FAILED;
    }
    json_t *source = preset ? json_pack("{s:s,s:I}", "preset", preset, "seed", (json_int_t)seed)
                            : json_pack("{s:s}", "folder", absolute);
    int status;
    if (client->data && !client->url && !control_ask(client->data, url, sizeof url, key, sizeof key)) {
        status = add_offline(client->data, name, source);
    } else {
        json_t *body = preset ? json_pack("{s:s,s:{s:O}}", "name", name, "source", "init", source)
                              : json_pack("{s:s,s:O}", "name", name, "source", source);
        status = send(client, "POST", "/v1/vireo/models", body);
        json_decref(body);
    }
    json_decref(source);
    return status;
}

static int list(const struct cli_client_options *client)
{
    struct vireo_error err;
    json_t *answer = NULL, *m;
    size_t i;
    struct http_client *c = cli_client(client);
    if (!c)
        return CLI_UNREACHABLE;
    bool done = http_client_json(c, "GET", "/v1/models", NULL, &answer, &err);
    http_client_destroy(&c);
    if (!done)
        return cli_report(&err);
    json_array_foreach (json_object_get(answer, "data"), i, m) {
        json_t *own = json_object_get(m, "vireo");
        const char *parent = json_string_value(json_object_get(own, "parent"));
        printf("%-48s %10.1f MiB  %s%s%s\n", json_string_value(json_object_get(m, "id")),
               json_number_value(json_object_get(own, "bytes")) / (1 << 20), parent ? "from " : "base", parent ? parent : "",
               json_is_true(json_object_get(own, "loaded")) ? ", loaded" : "");
    }
    json_decref(answer);
    return CLI_DONE;
}

static int delete_model(const struct cli_client_options *client, const char *name)
{
    char path[1024], escaped[900], url[256], key[128];
    struct vireo_error err;
    if (client->data && !client->url && !control_ask(client->data, url, sizeof url, key, sizeof key)) {
        struct store *s = store_open(client->data, &err);
        bool done = s && store_model_delete(s, name, true, &err);
        store_close(&s);
        return done ? CLI_DONE : cli_report(&err);
    }
    // Fine-tuned models are everybody's to delete, base models an administrator's.
    snprintf(path, sizeof path, "/v1/%s/%s", strncmp(name, "ft:", 3) == 0 ? "models" : "vireo/models",
             http_escape(escaped, sizeof escaped, name));
    return send(client, "DELETE", path, NULL);
}

int cli_models(int argc, char **argv)
{
    struct cli_client_options client = {0};
    const char *name = NULL, *preset = NULL, *seed_text = NULL, *rest[3];
    const struct cli_option options[] = {
        {"--name", "NAME what the model is called", &name, NULL},
        {"--preset", "PRESET which random model", &preset, NULL},
        {"--seed", "N of the random weights (0)", &seed_text, NULL},
        {"--data", "DIR data folder, with or without a running server", &client.data, NULL},
        {0},
    };
    size_t count;
    int status;
    long long seed = 0;
    if (!cli_parse(argc, argv, usage, options, &client, rest, 3, &count, &status))
        return status;
    const char *command = count ? rest[0] : "";
    if (!cli_number("--seed", seed_text, 0, INT64_MAX, &seed))
        return CLI_USAGE;
    if (strcmp(command, "init") == 0 && count == 1 && preset && name)
        return add(&client, name, preset, NULL, seed);
    if (strcmp(command, "import") == 0 && count == 2 && name)
        return add(&client, name, NULL, rest[1], 0);
    if (strcmp(command, "list") == 0 && count == 1)
        return list(&client);
    if ((strcmp(command, "delete") == 0 || strcmp(command, "remove") == 0) && count == 2)
        return delete_model(&client, rest[1]);
    fputs(usage, stderr);
    return CLI_USAGE;
}
