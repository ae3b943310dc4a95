// The contract, openapi.yaml, against what it describes: the table of routes, the memory plan of a job.
#include "server/embedded.h"
#include "server/routes/ui.h"
#include "tests/unit/routes.h"

#include <ctype.h>
#include <strings.h>

static bool is_page(const char *pattern)
{
    size_t count;
    const struct route *pages = ui_routes(&count);
    for (size_t i = 0; i < count; i++)
        if (strcmp(pages[i].pattern, pattern) == 0)
            return true;
    return false;
}

static void the_route_table_and_the_contract_agree(void **state)
{
    (void)state;
    json_error_t where;
    json_t *document = json_loadb((const char *)openapi_files[0].bytes, openapi_files[0].size, 0, &where);
    json_t *paths = json_object_get(document, "paths"), *operations, *operation;
    REQUIRE(paths);
    char missing[4096] = "", method[16];
    const char *path, *verb;
    size_t used = 0, documented = 0;
    for (size_t i = 0; i < router_count(serving.router); i++) {
        const struct route *r = router_at(serving.router, i);
        if (is_page(r->pattern))
            continue;
        snprintf(method, sizeof method, "%s", r->method);
        for (char *c = method; *c; c++)
            *c = (char)tolower((unsigned char)*c);
        operation = json_object_get(json_object_get(paths, r->pattern), method);
        documented += operation != NULL;
        if (!operation)
            used += (size_t)snprintf(missing + used, sizeof missing - used, "not in openapi.yaml: %s %s\n", r->method,
                                     r->pattern);
        // A public route says so, and only such.
        json_t *security = json_object_get(operation, "security");
        if (operation && (r->scope == HTTP_PUBLIC) != (security && json_array_size(security) == 0))
            used += (size_t)snprintf(missing + used, sizeof missing - used, "security differs: %s %s\n", r->method,
                                     r->pattern);
        if (used > sizeof missing - 300)
            break;
    }
    json_object_foreach(paths, path, operations) {
        json_object_foreach(operations, verb, operation) {
            bool found = strcmp(verb, "parameters") == 0;
            for (size_t i = 0; i < router_count(serving.router) && !found; i++) {
                const struct route *r = router_at(serving.router, i);
                found = strcmp(r->pattern, path) == 0 && strcasecmp(r->method, verb) == 0;
            }
            if (!found && used < sizeof missing - 300)
                used += (size_t)snprintf(missing + used, sizeof missing - used, "no such route: %s %s\n", verb, path);
        }
    }
    json_decref(document);
    REQUIRE(documented > 20);
    if (used)
        fail_msg("%s", missing);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_route_table_and_the_contract_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
