// `vireo keys`
#include "server/cli/cli.h"

#include "compute/base/arena.h"
#include "compute/base/clock.h"
#include "server/auth/keys.h"
#include "server/store/keys.h"

#include <stdio.h>
#include <string.h>

static const char usage[] =
    "usage: vireo keys create --data DIR --name NAME [--scopes LIST] [--days N]\n"
    "       vireo keys list --data DIR\n"
    "       vireo keys delete ID --data DIR\n\n"
    "create prints the new key alone on standard output; it is stored hashed and cannot be shown again.\n"
    "Scopes: read, infer, train, admin, or all; without --scopes all but admin.\n"
    "Once a key exists every request needs one. The commands work whether or not a server has the folder open.\n";

static bool read_scopes(const char *text, unsigned *out)
{
    unsigned scopes = 0;
    char name[16];
    if (strcmp(text, "all") == 0) {
        *out = AUTH_ALL;
        return true;
    }
    for (const char *at = text; *at;) {
        size_t n = strcspn(at, ",");
        snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), at);
        unsigned bit = auth_scope_from_name(name);
        if (!bit) {
            fprintf(stderr, "vireo: --scopes: '%s' is none of read, infer, train, admin\n", name);
            return false;
        }
        scopes |= bit;
        at += n + (at[n] == ',');
    }
    *out = scopes;
    return true;
}

static int create_offline(const char *data, const char *name, unsigned scopes, long long days)
{
    struct vireo_error err;
    struct arena arena;
    char text[AUTH_KEY_TEXT], prefix[AUTH_PREFIX + 1];
    struct store_key k = {.name = name, .scopes = scopes, .prefix = prefix, .expires_at = days ? clock_unix() + days * 86400 : 0};
    arena_init(&arena, 0);
    auth_key_create(text);
    struct store *s = store_open(data, &err);
    bool done = s && auth_key_digest(text, k.digest, prefix) && store_key_add(s, &k, &arena, &err);
    store_close(&s);
    arena_finish(&arena);
    if (done)
        printf("%s\n", text);
    return done ? CLI_DONE : cli_report(&err);
}

static int create_online(const struct cli_client_options *client, const char *name, unsigned scopes, long long days)
{
    struct vireo_error err;
    json_t *answer = NULL, *list = json_array();
    for (unsigned bit = 1; bit <= AUTH_ADMIN; bit <<= 1)
        if (scopes & bit)
            json_array_append_new(list, json_string(auth_scope_name(bit)));
    json_t *body = json_pack("{s:s,s:o}", "name", name, "scopes", list);
    if (days)
        json_object_set_new(body, "expires_in", json_integer(days * 86400));
    struct http_client *c = cli_client(client);
    bool done = c && http_client_json(c, "POST", "/v1/vireo/keys", body, &answer, &err);
    json_decref(body);
    if (!c)
        return CLI_UNREACHABLE;
    http_client_destroy(&c);
    const char *key = json_string_value(json_object_get(answer, "key"));
    if (done && key)
        printf("%s\n", key);
    json_decref(answer);
    return done && key ? CLI_DONE : cli_report(&err);
}

static void print_key(const char *id, const char *prefix, const char *name, unsigned scopes)
{
    printf("%-30s sk-vireo-%s…  %-24s", id, prefix, name);
    for (unsigned bit = 1; bit <= AUTH_ADMIN; bit <<= 1)
        if (scopes & bit)
            printf(" %s", auth_scope_name(bit));
    putchar('\n');
}

static int list_or_delete(struct cli_client_options *client, const char *id)
{
    char url[256], key[128], path[256], escaped[160];
    struct vireo_error err;
    bool done;
    if (client->data && !client->url && !control_ask(client->data, url, sizeof url, key, sizeof key)) {
        struct arena arena;
        struct store_key *rows;
        size_t count = 0;
        arena_init(&arena, 0);
        struct store *s = store_open(client->data, &err);
        done = s && (id ? store_key_delete(s, id, &err) : store_key_list(s, &arena, &rows, &count, &err));
        for (size_t i = 0; done && i < count; i++)
            print_key(rows[i].id, rows[i].prefix, rows[i].name, rows[i].scopes);
        store_close(&s);
        arena_finish(&arena);
        return done ? CLI_DONE : cli_report(&err);
    }
    json_t *answer = NULL, *k;
    size_t i;
    struct http_client *c = cli_client(client);
    if (!c)
        return CLI_UNREACHABLE;
    snprintf(path, sizeof path, "/v1/vireo/keys%s%s", id ? "/" : "", id ? http_escape(escaped, sizeof escaped, id) : "");
    done = http_client_json(c, id ? "DELETE" : "GET", path, NULL, &answer, &err);
    http_client_destroy(&c);
    json_array_foreach (json_object_get(answer, "data"), i, k) {
        unsigned scopes = 0;
        size_t n;
        json_t *scope;
        json_array_foreach (json_object_get(k, "scopes"), n, scope)
            scopes |= auth_scope_from_name(json_string_value(scope));
        const char *prefix = json_string_value(json_object_get(k, "prefix")), *name = json_string_value(json_object_get(k, "name"));
        print_key(json_string_value(json_object_get(k, "id")), prefix ? prefix : "", name ? name : "", scopes);
    }
    json_decref(answer);
    return done ? CLI_DONE : cli_report(&err);
}

int cli_keys(int argc, char **argv)
{
    struct cli_client_options client = {0};
    const char *name = NULL, *scopes_text = NULL, *days_text = NULL, *rest[3];
    const struct cli_option options[] = {
        {"--data", "DIR data folder", &client.data, NULL},
        {"--name", "NAME what the key is for", &name, NULL},
        {"--scopes", "LIST read,infer,train,admin or all (read,infer,train)", &scopes_text, NULL},
        {"--days", "N the key ends after so many days (never)", &days_text, NULL},
        {0},
    };
    size_t count;
    int status;
    unsigned scopes = AUTH_DEFAULT;
    long long days = 0;
    if (!cli_parse(argc, argv, usage, options, &client, rest, 3, &count, &status))
        return status;
    const char *command = count ? rest[0] : "";
    if ((scopes_text && !read_scopes(scopes_text, &scopes)) || !cli_number("--days", days_text, 1, 36500, &days))
        return CLI_USAGE;
    if (strcmp(command, "create") == 0 && count == 1 && name && (client.data || client.url)) {
        char url[256], key[128];
        if (client.data && !client.url && !control_ask(client.data, url, sizeof url, key, sizeof key))
            return create_offline(client.data, name, scopes, days);
        return create_online(&client, name, scopes, days);
    }
    if (strcmp(command, "list") == 0 && count == 1)
        return list_or_delete(&client, NULL);
    if (strcmp(command, "delete") == 0 && count == 2)
        return list_or_delete(&client, rest[1]);
    fputs(usage, stderr);
    return CLI_USAGE;
}
