#include "server/cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct cli_option *find_option(const struct cli_option *options, const char *name, size_t length)
{
    for (const struct cli_option *o = options; o && o->name; o++)
        if (strlen(o->name) == length && strncmp(o->name, name, length) == 0)
            return o;
    return NULL;
}

static void print_options(FILE *out, const struct cli_option *options)
{
    for (const struct cli_option *o = options; o && o->name; o++) {
        char left[64];
        const char *space = o->help[0] == '-' ? NULL : strchr(o->help, ' ');
        if (space)
            snprintf(left, sizeof left, "%s %.*s", o->name, (int)(space - o->help), o->help);
        else
            snprintf(left, sizeof left, "%s", o->name);
        fprintf(out, "  %-26s %s\n", left, space ? space + 1 : o->help + 1);
    }
}

bool cli_parse(int argc, char **argv, const char *usage, const struct cli_option *options, struct cli_client_options *client,
               const char **rest, size_t rest_room, size_t *rest_count, int *status)
{
    struct cli_option own[] = {
        {"--url", "URL the server; else VIREO_URL, else http://127.0.0.1:8000", client ? &client->url : NULL, NULL},
        {"--key", "KEY API key; else VIREO_KEY", client ? &client->key : NULL, NULL},
        {0},
    };
    *rest_count = 0;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i], *equals = strchr(arg, '=');
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            printf("%s\nOptions:\n", usage);
            print_options(stdout, options);
            print_options(stdout, client ? own : NULL);
            *status = CLI_DONE;
            return false;
        }
        if (strncmp(arg, "--", 2) != 0) {
            if (*rest_count == rest_room) {
                fprintf(stderr, "vireo: unexpected argument '%s'\n\n%s", arg, usage);
                *status = CLI_USAGE;
                return false;
            }
            rest[(*rest_count)++] = arg;
            continue;
        }
        size_t length = equals ? (size_t)(equals - arg) : strlen(arg);
        const struct cli_option *o = find_option(options, arg, length);
        if (!o && client)
            o = find_option(own, arg, length);
        const char *value = equals ? equals + 1 : o && o->text && i + 1 < argc ? argv[++i] : NULL;
        if (!o || (o->text && !value) || (o->flag && equals)) {
            const char *fault = !o ? "unknown option" : o->text ? "a value is missing behind" : "no value goes with";
            fprintf(stderr, "vireo: %s '%.*s'\n\n%s", fault, (int)length, arg, usage);
            *status = CLI_USAGE;
            return false;
        }
        if (o->text)
            *o->text = value;
        else
            *o->flag = true;
    }
    return true;
}

bool cli_number(const char *name, const char *text, long long min, long long max, long long *out)
{
    char *end;
    if (!text)
        return true;
    long long n = strtoll(text, &end, 10);
    if (!*text || *end || n < min || n > max) {
        fprintf(stderr, "vireo: %s: expected a whole number from %lld to %lld, got '%s'\n", name, min, max, text);
        return false;
    }
    *out = n;
    return true;
}

int cli_report(const struct vireo_error *err)
{
    fprintf(stderr, "vireo: %s", err->message);
    if (err->param[0])
        fprintf(stderr, " (%s)", err->param);
    fputc('\n', stderr);
    return err->code == VIREO_UNAVAILABLE ? CLI_UNREACHABLE : CLI_FAILED;
}

int cli_print(json_t *o)
{
    json_dumpf(o, stdout, JSON_INDENT(2));
    fputc('\n', stdout);
    json_decref(o);
    return CLI_DONE;
}

struct http_client *cli_client(const struct cli_client_options *o)
{
    char url[256], key[128];
    struct http_client_params p = {.url = o->url, .key = o->key};
    struct vireo_error err;
    if (o->data && !o->url) {
        if (!control_ask(o->data, url, sizeof url, key, sizeof key)) {
            fprintf(stderr, "vireo: no server has '%s' open\n", o->data);
            return NULL;
        }
        p.url = url;
        if (!p.key && key[0])
            p.key = key;
    }
    struct http_client *c = http_client_create(&p, &err);
    if (!c)
        cli_report(&err);
    return c;
}
