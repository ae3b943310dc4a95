// The routes over a real store, served: what their tests share. Each test has a server of its own.
#ifndef VIREO_TESTS_UNIT_ROUTES_H
#define VIREO_TESTS_UNIT_ROUTES_H

#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "tests/check.h"
#include "tests/http/serving.h"

static struct vireo_error err;
static struct serving serving;
static json_t *out;

static inline int set_up(void **state)
{
    (void)state;
    if (serving_start(&serving, &err))
        return 0;
    fprintf(stderr, "%s\n", err.message);
    return 1;
}

static inline int tear_down(void **state)
{
    (void)state;
    json_decref(out);
    out = NULL;
    vireo_fault_set("");
    serving_stop(&serving);
    return 0;
}

static inline bool call(const char *method, const char *path, const char *body)
{
    json_error_t where;
    json_t *json = body ? json_loads(body, 0, &where) : NULL, *answer = NULL;
    bool ok = http_client_json(serving.client, method, path, json, &answer, &err);
    json_decref(json);
    if (ok) {
        json_decref(out);
        out = answer;
    }
    return ok;
}

static inline const char *text_of(const char *key)
{
    return json_string_value(json_object_get(out, key));
}
static inline long long number_of(const char *key)
{
    return json_integer_value(json_object_get(out, key));
}
static inline json_t *item(size_t i)
{
    return json_array_get(json_object_get(out, "data"), i);
}
static inline size_t items(void)
{
    return json_array_size(json_object_get(out, "data"));
}

static inline bool form(const char *path, const struct http_client_part *parts, size_t count)
{
    json_t *answer = NULL;
    bool ok = http_client_form(serving.client, path, parts, count, &answer, &err);
    if (ok) {
        json_decref(out);
        out = answer;
    }
    return ok;
}

static char file_id[64];
static inline void upload(const char *name, const void *bytes, size_t count, const char *purpose)
{
    struct http_client_part parts[] = {{.name = "file", .bytes = bytes, .count = count, .filename = name},
                                       {.name = "purpose", .value = purpose}};
    REQUIRE_OK(form("/v1/files", parts, 2));
    snprintf(file_id, sizeof file_id, "%s", text_of("id"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

#endif
