// The contract, openapi.yaml, against what it describes: the table of routes, the memory plan of a job.
#include "compute/base/check.h"
#include "compute/train/trainer.h"
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

// Every member the plan has is described and required, within its bounds; nothing else is.
static void check_plan(const struct job_spec *spec, const struct plan_facts *facts, uint64_t available, const json_t *schema)
{
    json_t *plan = NULL, *value, *described = json_object_get(schema, "properties");
    REQUIRE_OK(train_plan(spec, facts, available, &plan, &err));
    const char *name;
    json_object_foreach(plan, name, value) {
        json_t *property = json_object_get(described, name);
        if (!property)
            fail_msg("not in openapi.yaml: %s of a plan", name);
        REQUIRE_STRING(json_string_value(json_object_get(property, "type")), "integer");
        REQUIRE(json_object_get(property, "description") && json_is_integer(value));
        const json_t *least = json_object_get(property, "minimum");
        if (!least || json_integer_value(value) < json_integer_value(least))
            fail_msg("%s of a plan is %lld, less than it may be", name, (long long)json_integer_value(value));
    }
    json_object_foreach(described, name, value) {
        if (!json_object_get(plan, name))
            fail_msg("no such member of a plan: %s", name);
    }
    size_t i;
    json_array_foreach(json_object_get(schema, "required"), i, value)
        REQUIRE(json_object_get(described, json_string_value(value)));
    REQUIRE_INT(i, json_object_size(described));
    REQUIRE(json_is_false(json_object_get(schema, "additionalProperties")));
    json_decref(plan);
}

static void a_plan_is_as_the_contract_says(void **state)
{
    (void)state;
    json_error_t where;
    char folder[1024];
    json_t *document = json_loadb((const char *)openapi_files[0].bytes, openapi_files[0].size, 0, &where);
    json_t *schemas = json_object_get(json_object_get(document, "components"), "schemas");
    json_t *own = json_object_get(json_object_get(json_object_get(schemas, "Job"), "properties"), "vireo");
    json_t *plan = json_object_get(json_object_get(own, "properties"), "plan");
    REQUIRE_STRING(json_string_value(json_object_get(plan, "$ref")), "#/components/schemas/MemoryPlan");
    snprintf(folder, sizeof folder, "%s", test_data("fixtures/tiny-qwen2_5_vl"));
    static const enum job_method methods[] = {JOB_SFT, JOB_GRPO};
    for (size_t i = 0; i < VIREO_COUNT(methods); i++) {
        struct job_spec spec;
        struct plan_facts facts;
        job_spec_defaults(&spec, methods[i]);
        spec.model_folder = folder;
        spec.training_file = folder;
        REQUIRE_OK(plan_facts_read(&spec, &facts, &err));
        check_plan(&spec, &facts, (uint64_t)1 << 40, json_object_get(schemas, "MemoryPlan"));
        check_plan(&spec, &facts, UINT64_MAX, json_object_get(schemas, "MemoryPlan")); // not known
        plan_facts_finish(&facts);
    }
    json_decref(document);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_route_table_and_the_contract_agree),
        cmocka_unit_test(a_plan_is_as_the_contract_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
