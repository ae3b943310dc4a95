// `vireo datasets`
#include "server/cli/cli.h"
#include "server/cli/draw.h"

#include "compute/base/fault.h"
#include "compute/dataset/shapes.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char usage[] =
    "usage: vireo datasets generate shapes --out DIR --count N [--kind sft|rft] [--objects MIN[-MAX]] [--pairs] [--sloppy]\n"
    "                                      [--scenes N] [--seed N]\n"
    "       vireo datasets upload PATH... --name NAME\n"
    "       vireo datasets draw DIR --before ROWS.json [--after ROWS.json] --out FILE.png [--count N]\n"
    "       vireo datasets list\n"
    "       vireo datasets delete ID\n\n"
    "generate  synthetic scenes of coloured shapes with questions about them: train.jsonl and one PNG a scene in DIR\n"
    "upload    JSON lines (VLM-R1's or OpenAI's form) with their pictures; a PATH is a file, an archive or a folder whose\n"
    "          .jsonl and picture files are taken. Prints the dataset's id and the id of its training file.\n"
    "draw      the first N rows of DIR (as generate writes it) with their true boxes and those of one or two evaluations\n"
    "          (vireo eval --rows ROWS.json), as one PNG\n";

struct generate {
    const char *out, *count, *kind, *objects, *scenes, *seed;
    bool pairs, sloppy;
};

static int generate(const struct generate *g)
{
    struct shapes_dataset d = {.objects_min = 1, .objects_max = 1, .pairs = g->pairs, .sloppy = g->sloppy};
    long long count = 0, scenes = 0, seed = 0;
    struct vireo_error err;
    if (!cli_number("--count", g->count, 1, 50000, &count) || !cli_number("--scenes", g->scenes, 0, 1000000, &scenes) ||
        !cli_number("--seed", g->seed, 0, INT64_MAX, &seed))
        return CLI_USAGE;
    if (g->kind && strcmp(g->kind, "sft") != 0 && strcmp(g->kind, "rft") != 0) {
        fprintf(stderr, "vireo: --kind: expected sft or rft, got '%s'\n", g->kind);
        return CLI_USAGE;
    }
    int got = g->objects ? sscanf(g->objects, "%d-%d", &d.objects_min, &d.objects_max) : 2;
    if (got < 1) {
        fprintf(stderr, "vireo: --objects: expected a number or a range such as 1-3, got '%s'\n", g->objects);
        return CLI_USAGE;
    }
    if (got == 1)
        d.objects_max = d.objects_min;
    d.kind = g->kind && strcmp(g->kind, "rft") == 0 ? SHAPES_RFT : SHAPES_SFT;
    d.count = (uint32_t)count;
    d.scenes = (uint32_t)scenes;
    d.seed = (uint64_t)seed;
    if (!shapes_write(&d, g->out, &err))
        return cli_report(&err);
    printf("%s/train.jsonl\n", g->out);
    return CLI_DONE;
}

struct parts {
    struct http_client_part *list;
    size_t count, capacity;
};

static bool add_file(struct parts *p, const char *path)
{
    if (p->count == p->capacity) {
        size_t capacity = p->capacity ? p->capacity * 2 : 256;
        struct http_client_part *grown = vireo_realloc(p->list, capacity * sizeof *grown);
        if (!grown)
            return false;
        p->list = grown;
        p->capacity = capacity;
    }
    char *copy = vireo_strdup(path);
    p->list[p->count++] = (struct http_client_part){.name = "files", .file = copy};
    return copy != NULL;
}

static bool is_wanted(const char *name)
{
    static const char *const ends[] = {".jsonl", ".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".JPEG"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (n > strlen(ends[i]) && strcmp(name + n - strlen(ends[i]), ends[i]) == 0)
            return true;
    return false;
}

static int by_path(const void *a, const void *b)
{
    return strcmp(((const struct http_client_part *)a)->file, ((const struct http_client_part *)b)->file);
}

static bool add_path(struct parts *p, const char *path)
{
    struct stat info;
    char inner[4096];
    if (stat(path, &info) != 0) {
        fprintf(stderr, "vireo: there is no '%s'\n", path);
        return false;
    }
    if (!S_ISDIR(info.st_mode))
        return add_file(p, path);
    DIR *dir = opendir(path);
    bool done = dir != NULL;
    size_t first = p->count;
    for (struct dirent *e; done && (e = readdir(dir));)
        if (is_wanted(e->d_name)) {
            snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
            done = add_file(p, inner);
        }
    if (dir)
        closedir(dir);
    qsort(p->list + first, p->count - first, sizeof *p->list, by_path);
    return done;
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *text = json_string_value(json_object_get(o, key));
    return text ? text : "";
}

static int upload(const struct cli_client_options *client, const char *name, const char *const *paths, size_t count, bool json)
{
    struct parts p = {0};
    struct vireo_error err;
    json_t *answer = NULL;
    bool done = true;
    p.list = vireo_calloc(256, sizeof *p.list);
    p.capacity = p.list ? 256 : 0;
    if (p.list)
        p.list[p.count++] = (struct http_client_part){.name = "name", .value = name};
    for (size_t i = 0; done && i < count; i++)
        done = add_path(&p, paths[i]);
    struct http_client *c = done ? cli_client(client) : NULL;
    int status = CLI_FAILED;
    if (c && !http_client_form(c, "/v1/vireo/datasets", p.list, p.count, &answer, &err))
        status = cli_report(&err);
    else if (c)
        status = CLI_DONE;
    http_client_destroy(&c);
    for (size_t i = 1; i < p.count; i++)
        free((char *)p.list[i].file);
    free(p.list);
    if (status != CLI_DONE)
        return status;
    const char *file = json_string_value(json_object_get(answer, "file_id"));
    const char *state = json_string_value(json_object_get(answer, "status"));
    json_t *issue, *errors = json_object_get(answer, "errors");
    size_t i;
    if (json)
        return cli_print(answer);
    printf("%s %s\n", json_string_value(json_object_get(answer, "id")), file ? file : "-");
    json_array_foreach (errors, i, issue)
        fprintf(stderr, "vireo: %s line %d: %s\n", text_of(issue, "file"),
                (int)json_integer_value(json_object_get(issue, "line")), text_of(issue, "reason"));
    status = state && strcmp(state, "error") == 0 ? CLI_FAILED : CLI_DONE;
    json_decref(answer);
    return status;
}

static int list_or_delete(const struct cli_client_options *client, const char *id, bool json)
{
    struct vireo_error err;
    json_t *answer = NULL, *d;
    char path[512], escaped[300];
    size_t i;
    struct http_client *c = cli_client(client);
    if (!c)
        return CLI_UNREACHABLE;
    snprintf(path, sizeof path, "/v1/vireo/datasets%s%s", id ? "/" : "", id ? http_escape(escaped, sizeof escaped, id) : "");
    bool done = http_client_json(c, id ? "DELETE" : "GET", path, NULL, &answer, &err);
    http_client_destroy(&c);
    if (!done)
        return cli_report(&err);
    if (json)
        return cli_print(answer);
    json_array_foreach (json_object_get(answer, "data"), i, d) {
        const char *file = json_string_value(json_object_get(d, "file_id"));
        printf("%s  %-8s %-32s %6d rows  %s\n", json_string_value(json_object_get(d, "id")),
               json_string_value(json_object_get(d, "status")), json_string_value(json_object_get(d, "name")),
               (int)json_integer_value(json_object_get(json_object_get(d, "counts"), "rows")), file ? file : "");
    }
    json_decref(answer);
    return CLI_DONE;
}

static int draw(const char *folder, struct draw_params *d, const struct generate *g)
{
    struct vireo_error err;
    long long count = 12;
    if (!cli_number("--count", g->count, 1, 48, &count))
        return CLI_USAGE;
    d->data = folder;
    d->out = g->out;
    d->count = (uint32_t)count;
    return draw_comparison(d, &err) ? CLI_DONE : cli_report(&err);
}

int cli_datasets(int argc, char **argv)
{
    struct cli_client_options client = {0};
    struct generate g = {0};
    struct draw_params d = {0};
    const char *name = NULL, *rest[64];
    bool json = false;
    const struct cli_option options[] = {
        {"--out", "PATH folder or picture to write", &g.out, NULL},
        {"--count", "N rows (draw: 12)", &g.count, NULL},
        {"--kind", "KIND sft: with answers; rft: questions with what graders need (sft)", &g.kind, NULL},
        {"--objects", "RANGE objects a scene, such as 1, or 2-3 (1)", &g.objects, NULL},
        {"--scenes", "N pool of scenes the rows draw from; 0: a new one for each", &g.scenes, NULL},
        {"--seed", "N the same seed gives the same bytes (0)", &g.seed, NULL},
        {"--pairs", "-after each question one about another object of the picture", NULL, &g.pairs},
        {"--sloppy", "-labels as a hasty annotator writes them (sft)", NULL, &g.sloppy},
        {"--before", "FILE rows of an evaluation", &d.before, NULL},
        {"--after", "FILE rows of a second evaluation", &d.after, NULL},
        {"--name", "NAME what the dataset is called", &name, NULL},
        {"--json", "-the answer as it came", NULL, &json},
        {"--data", "DIR reach the server that has this folder open", &client.data, NULL},
        {0},
    };
    size_t count;
    int status;
    if (!cli_parse(argc, argv, usage, options, &client, rest, 64, &count, &status))
        return status;
    const char *command = count ? rest[0] : "";
    if (strcmp(command, "generate") == 0 && count == 2 && strcmp(rest[1], "shapes") == 0 && g.out && g.count)
        return generate(&g);
    if (strcmp(command, "draw") == 0 && count == 2 && g.out && d.before)
        return draw(rest[1], &d, &g);
    if (strcmp(command, "upload") == 0 && count >= 2 && name)
        return upload(&client, name, rest + 1, count - 1, json);
    if (strcmp(command, "list") == 0 && count == 1)
        return list_or_delete(&client, NULL, json);
    if (strcmp(command, "delete") == 0 && count == 2)
        return list_or_delete(&client, rest[1], json);
    fputs(usage, stderr);
    return CLI_USAGE;
}
