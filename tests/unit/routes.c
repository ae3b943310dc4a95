// Files, models, keys, operations and graders over HTTP and a real store, as a client sees them.
#include "compute/base/clock.h"
#include "server/store/jobs.h"
#include "server/store/models.h"
#include "tests/unit/routes.h"

static void files_come_back_as_they_went(void **state)
{
    (void)state;
    char path[256], *bytes;
    size_t count;
    upload("../../etc/tr.jsonl", "{\"a\":1}\n", 8, "fine-tune");
    REQUIRE_STRING(text_of("object"), "file");
    REQUIRE_STRING(text_of("filename"), "tr.jsonl");
    REQUIRE_STRING(text_of("status"), "processed");
    REQUIRE_INT(number_of("bytes"), 8);
    snprintf(path, sizeof path, "/v1/files/%s/content", file_id);
    REQUIRE_OK(http_client_get(serving.client, path, &bytes, &count, &err));
    REQUIRE_INT(count, 8);
    REQUIRE_STRING(bytes, "{\"a\":1}\n");
    free(bytes);
    snprintf(path, sizeof path, "/v1/files/%s", file_id);
    REQUIRE_OK(call("GET", path, NULL));
    REQUIRE_OK(call("DELETE", path, NULL));
    REQUIRE(json_is_true(json_object_get(out, "deleted")));
    REQUIRE_FAIL(call("GET", path, NULL), VIREO_NOT_FOUND);
    REQUIRE_STRING(err.kind, "file_not_found");
    REQUIRE_FAIL(call("DELETE", path, NULL), VIREO_NOT_FOUND);
}

static void bad_uploads_are_named(void **state)
{
    (void)state;
    struct http_client_part file = {.name = "file", .bytes = "x", .count = 1, .filename = "a"};
    struct http_client_part purpose = {.name = "purpose", .value = "vision"};
    struct http_client_part both[4] = {file, purpose};
    REQUIRE_FAIL(form("/v1/files", &file, 1), VIREO_INVALID);
    REQUIRE_STRING(err.param, "purpose");
    REQUIRE_FAIL(form("/v1/files", &purpose, 1), VIREO_INVALID);
    REQUIRE_STRING(err.param, "file");
    both[1].value = "theft";
    REQUIRE_FAIL(form("/v1/files", both, 2), VIREO_INVALID);
    REQUIRE(strstr(err.message, "theft") && strstr(err.message, "fine-tune"));
    both[1] = purpose;
    both[2] = (struct http_client_part){.name = "expires_after[anchor]", .value = "created_at"};
    both[3] = (struct http_client_part){.name = "expires_after[seconds]", .value = "60"};
    REQUIRE_FAIL(form("/v1/files", both, 4), VIREO_INVALID);
    both[3].value = "3600";
    REQUIRE_OK(form("/v1/files", both, 4));
    REQUIRE(number_of("expires_at") - number_of("created_at") >= 3600);
    REQUIRE_OK(call("GET", "/v1/files", NULL));
    REQUIRE_INT(items(), 1);
}

static void lists_page_by_the_last_id(void **state)
{
    (void)state;
    char path[128], text[8], seen[16] = "";
    for (int i = 0; i < 5; i++) {
        snprintf(text, sizeof text, "%d", i);
        upload(text, text, 1, "vision");
    }
    snprintf(path, sizeof path, "/v1/files?limit=2");
    for (int page = 0; page < 4; page++) {
        REQUIRE_OK(call("GET", path, NULL));
        for (size_t i = 0; i < items(); i++)
            strncat(seen, json_string_value(json_object_get(item(i), "filename")), 1);
        if (json_is_false(json_object_get(out, "has_more")))
            break;
        REQUIRE_STRING(json_string_value(json_object_get(item(1), "id")), text_of("last_id"));
        snprintf(path, sizeof path, "/v1/files?limit=2&after=%s", text_of("last_id"));
    }
    REQUIRE_STRING(seen, "43210");
    REQUIRE_FAIL(call("GET", "/v1/files?after=file-none", NULL), VIREO_INVALID);
    REQUIRE_STRING(err.param, "after");
    REQUIRE_FAIL(call("GET", "/v1/files?limit=0", NULL), VIREO_INVALID);
    REQUIRE_FAIL(call("GET", "/v1/files?limit=2x", NULL), VIREO_INVALID);
    REQUIRE_FAIL(call("GET", "/v1/files?order=up", NULL), VIREO_INVALID);
    REQUIRE_OK(call("GET", "/v1/files?order=asc&purpose=vision", NULL));
    REQUIRE_STRING(json_string_value(json_object_get(item(0), "filename")), "0");
}

static void a_disk_error_is_an_answer_and_loses_nothing(void **state)
{
    (void)state;
    upload("kept", "kept", 4, "vision");
    char path[128];
    snprintf(path, sizeof path, "/v1/files/%s", file_id);
    struct http_client_part parts[] = {{.name = "file", .bytes = "lost", .count = 4, .filename = "x"},
                                       {.name = "purpose", .value = "vision"}};
    static const char *const points[] = {"fail:blob.write:1", "fail:blob.fsync:1", "fail:blob.rename:1"};
    for (int i = 0; i < 3; i++) {
        vireo_fault_set(points[i]);
        REQUIRE_FAIL(form("/v1/files", parts, 2), VIREO_NO_MEMORY); // any 500
        REQUIRE(!strstr(err.message, serving.folder));
    }
    vireo_fault_set("fail:store.commit:1");
    REQUIRE_FAIL(form("/v1/files", parts, 2), VIREO_NO_MEMORY);
    vireo_fault_set("");
    REQUIRE_FAIL(form("/v1/files", parts, 2), VIREO_UNAVAILABLE); // read-only now
    REQUIRE_OK(call("GET", path, NULL));
    REQUIRE_FAIL(call("GET", "/readyz", NULL), VIREO_UNAVAILABLE);
    REQUIRE_OK(call("GET", "/healthz", NULL));
}

// Each allocation of a request fails in turn: an error, or an answer that did without; the server goes on.
static void every_failed_allocation_is_survived(void **state)
{
    (void)state;
    static const struct {
        const char *method, *path, *body;
    } calls[] = {
        {"GET", "/v1/files?limit=5", NULL},
        {"POST", "/v1/vireo/keys?x=1", "{\"name\":\"k\",\"scopes\":[\"fly\"]}"},
        {"POST", "/v1/vireo/images",
         "{\"image\":\"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAA"
         "ABJRU5ErkJggg==\"}"},
        {"POST", "/v1/vireo/datasets", "{\"name\":\"d\",\"files\":[\"file-none\"]}"},
        {"GET", "/metrics", NULL},
        {"GET", "/v1/vireo/system", NULL},
    };
    struct http_client_part parts[] = {{.name = "file", .bytes = "kept", .count = 4, .filename = "x"},
                                       {.name = "purpose", .value = "vision"}};
    for (size_t i = 0; i <= sizeof calls / sizeof *calls; i++)
        for (int n = 1; n <= 40; n++) {
            char rule[32];
            snprintf(rule, sizeof rule, "fail:alloc:%d", n);
            vireo_fault_set(rule);
            if (i < sizeof calls / sizeof *calls)
                call(calls[i].method, calls[i].path, calls[i].body);
            else
                form("/v1/files", parts, 2);
            vireo_fault_set("");
            // A connection cut for want of memory is dialled anew by the next call.
            if (!call("GET", "/healthz", NULL) && !call("GET", "/healthz", NULL))
                fail_msg("after failing allocation %d of call %zu: %s", n, i, err.message);
        }
}

static void models_are_listed_and_guarded(void **state)
{
    (void)state;
    struct store_model base = {.id = "tiny", .folder = "models/tiny", .family = "qwen2_5_vl",
                               .info = "{\"vocab_size\":9}"};
    struct store_model tuned = {.id = "ft:tiny:o/x:rec:abcdefgh", .folder = "models/t", .family = "qwen2_5_vl",
                                .parent = "tiny"};
    REQUIRE_OK(store_model_add(serving.app.store, &base, &err));
    REQUIRE_OK(store_model_add(serving.app.store, &tuned, &err));
    REQUIRE_OK(call("GET", "/v1/models", NULL));
    REQUIRE_INT(items(), 2);
    REQUIRE_INT(json_integer_value(json_object_get(json_object_get(item(0), "vireo"), "vocab_size")), 9);
    REQUIRE_OK(call("GET", "/v1/models/ft:tiny:o%2Fx:rec:abcdefgh", NULL));
    REQUIRE_FAIL(call("DELETE", "/v1/models/tiny", NULL), VIREO_FORBIDDEN);
    REQUIRE_OK(call("DELETE", "/v1/models/ft:tiny:o%2Fx:rec:abcdefgh", NULL));
    REQUIRE_FAIL(call("GET", "/v1/models/ft:tiny:o%2Fx:rec:abcdefgh", NULL), VIREO_NOT_FOUND);
    REQUIRE_STRING(err.kind, "model_not_found");
}

static struct http_client *client_with(const char *key)
{
    struct http_client_params p = {.url = http_server_url(serving.app.http), .key = key};
    struct http_client *c = http_client_create(&p, &err);
    REQUIRE(c);
    return c;
}

static void a_key_closes_the_open_door(void **state)
{
    (void)state;
    char key[128], path[128];
    REQUIRE_FAIL(call("POST", "/v1/vireo/keys", "{\"name\":\"x\",\"scopes\":[\"root\"]}"), VIREO_INVALID);
    REQUIRE_STRING(err.param, "scopes[0]");
    REQUIRE_OK(call("POST", "/v1/vireo/keys", "{\"name\":\"boss\",\"scopes\":[\"read\",\"admin\"]}"));
    snprintf(key, sizeof key, "%s", text_of("key"));
    snprintf(path, sizeof path, "/v1/vireo/keys/%s", text_of("id"));
    REQUIRE(auth_key_is_wellformed(key));
    REQUIRE_FAIL(call("GET", "/v1/models", NULL), VIREO_UNAUTHORIZED);
    REQUIRE_OK(call("GET", "/healthz", NULL));
    REQUIRE_OK(call("GET", "/openapi.json", NULL));
    struct http_client *c = client_with(key);
    json_t *answer = NULL;
    REQUIRE_OK(http_client_json(c, "GET", "/v1/vireo/keys", NULL, &answer, &err));
    char *text = json_dumps(answer, 0);
    REQUIRE(!strstr(text, key) && !strstr(text, "digest"));
    json_t *first = json_array_get(json_object_get(answer, "data"), 0);
    REQUIRE(json_integer_value(json_object_get(first, "last_used_at")) >= clock_unix() - 5);
    free(text);
    json_decref(answer);
    REQUIRE_FAIL(http_client_json(c, "DELETE", "/v1/models/none", NULL, NULL, &err), VIREO_FORBIDDEN);
    // The page's session stands for the key.
    json_t *body = json_pack("{s:s}", "key", key);
    REQUIRE_OK(http_client_json(c, "POST", "/v1/vireo/session", body, NULL, &err));
    json_decref(body);
    REQUIRE_OK(http_client_json(c, "DELETE", path, NULL, NULL, &err));
    http_client_destroy(&c);
    REQUIRE_OK(call("GET", "/v1/models", NULL)); // no key left: open again on loopback
}

static void operations_answer(void **state)
{
    (void)state;
    char *bytes;
    size_t count;
    REQUIRE_OK(call("GET", "/readyz", NULL));
    REQUIRE_OK(call("GET", "/version", NULL));
    REQUIRE_STRING(text_of("version"), http_version());
    REQUIRE_OK(call("GET", "/v1/vireo/system", NULL));
    REQUIRE_INT(json_integer_value(json_object_get(json_object_get(out, "jobs"), "queued")), 0);
    REQUIRE_OK(http_client_get(serving.client, "/metrics", &bytes, &count, &err));
    REQUIRE(strstr(bytes, "vireo_http_requests_total{route=\"/readyz\",method=\"GET\",code=\"200\"} 1\n"));
    REQUIRE(strstr(bytes, "vireo_jobs{status=\"running\"} 0\n"));
    // Every line is a comment or `name{labels} number`; every family has its TYPE before.
    for (char *line = strtok(bytes, "\n"); line; line = strtok(NULL, "\n")) {
        char *end, *space = strrchr(line, ' ');
        if (line[0] == '#')
            continue;
        REQUIRE(space);
        strtod(space + 1, &end);
        if (*end)
            fail_msg("not a sample: %s", line);
    }
    free(bytes);
}

static void graders_run_and_are_checked(void **state)
{
    (void)state;
    REQUIRE_OK(call("POST", "/v1/fine_tuning/alpha/graders/run",
                    "{\"grader\":{\"type\":\"string_check\",\"name\":\"g\",\"input\":\"{{ sample.output_text }}\","
                    "\"reference\":\"{{ item.label }}\",\"operation\":\"eq\"},\"model_sample\":\"cat\","
                    "\"item\":{\"label\":\"cat\"}}"));
    REQUIRE_NEAR(json_number_value(json_object_get(out, "reward")), 1, 0);
    json_t *errors = json_object_get(json_object_get(out, "metadata"), "errors");
    REQUIRE(json_is_false(json_object_get(errors, "other_error")));
    REQUIRE_FAIL(call("POST", "/v1/fine_tuning/alpha/graders/validate", "{\"grader\":{\"type\":\"crystal_ball\"}}"),
                 VIREO_INVALID);
    REQUIRE(strncmp(err.param, "grader", 6) == 0);
    REQUIRE_OK(call("POST", "/v1/fine_tuning/alpha/graders/validate",
                    "{\"grader\":{\"type\":\"rule\",\"name\":\"f\",\"rule\":\"format\"}}"));
    REQUIRE(json_object_get(out, "grader"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(files_come_back_as_they_went),
        T(bad_uploads_are_named),
        T(lists_page_by_the_last_id),
        T(a_disk_error_is_an_answer_and_loses_nothing),
        T(every_failed_allocation_is_survived),
        T(models_are_listed_and_guarded),
        T(a_key_closes_the_open_door),
        T(operations_answer),
        T(graders_run_and_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
