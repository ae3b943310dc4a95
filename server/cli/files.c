// `vireo files`
#include "server/cli/cli.h"

#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: vireo files upload FILE [--purpose fine-tune]\n"
    "       vireo files list [--json]\n"
    "       vireo files get ID --out FILE\n"
    "       vireo files delete ID\n\n"
    "upload prints the file's id.\n";

int cli_files(int argc, char **argv)
{
    struct cli_client_options client = {0};
    const char *purpose = "fine-tune", *out = NULL, *rest[3];
    bool json = false;
    const struct cli_option options[] = {
        {"--purpose", "PURPOSE fine-tune, evals, vision, user_data (fine-tune)", &purpose, NULL},
        {"--out", "FILE where to write", &out, NULL},
        {"--json", "-the answer as it came", NULL, &json},
        {"--data", "DIR reach the server that has this folder open", &client.data, NULL},
        {0},
    };
    size_t count, i;
    int status;
    if (!cli_parse(argc, argv, usage, options, &client, rest, 3, &count, &status))
        return status;
    const char *command = count ? rest[0] : "";
    bool upload = strcmp(command, "upload") == 0 && count == 2, list = strcmp(command, "list") == 0 && count == 1;
    bool get = strcmp(command, "get") == 0 && count == 2 && out, delete = strcmp(command, "delete") == 0 && count == 2;
    if (!upload && !list && !get && !delete) {
        fputs(usage, stderr);
        return CLI_USAGE;
    }
    struct http_client *c = cli_client(&client);
    if (!c)
        return CLI_UNREACHABLE;
    struct vireo_error err;
    json_t *answer = NULL, *f;
    char path[512], escaped[300];
    bool done;
    if (upload) {
        struct http_client_part parts[] = {{.name = "purpose", .value = purpose}, {.name = "file", .file = rest[1]}};
        done = http_client_form(c, "/v1/files", parts, 2, &answer, &err);
    } else if (list) {
        done = http_client_json(c, "GET", "/v1/files", NULL, &answer, &err);
    } else {
        snprintf(path, sizeof path, "/v1/files/%s%s", http_escape(escaped, sizeof escaped, rest[1]), get ? "/content" : "");
        done = get ? http_client_download(c, path, out, &err) : http_client_json(c, "DELETE", path, NULL, &answer, &err);
    }
    http_client_destroy(&c);
    if (!done)
        return cli_report(&err);
    if (json)
        return cli_print(answer);
    if (upload)
        printf("%s\n", json_string_value(json_object_get(answer, "id")));
    if (list)
        json_array_foreach (json_object_get(answer, "data"), i, f)
            printf("%s  %12lld  %-18s %s\n", json_string_value(json_object_get(f, "id")),
                   (long long)json_integer_value(json_object_get(f, "bytes")), json_string_value(json_object_get(f, "purpose")),
                   json_string_value(json_object_get(f, "filename")));
    json_decref(answer);
    return CLI_DONE;
}
