// The routes over a real store, as a client sees them, and the contract: route table against openapi.yaml.
#include "compute/base/clock.h"
#include "compute/base/fault.h"
#include "compute/base/json.h"
#include "compute/image/png.h"
#include "compute/worker/worker.h"
#include "server/embedded.h"
#include "server/routes/ui.h"
#include "server/store/files.h"
#include "server/store/jobs.h"
#include "server/store/models.h"
#include "tests/check.h"
#include "tests/http/serving.h"

#include <archive.h>
#include <archive_entry.h>
#include <ctype.h>
#include <strings.h>

static struct vireo_error err;
static struct serving serving;
static json_t *out;

static int set_up(void **state)
{
    (void)state;
    if (serving_start(&serving, &err))
        return 0;
    fprintf(stderr, "%s\n", err.message);
    return 1;
}

static int tear_down(void **state)
{
    (void)state;
    json_decref(out);
    out = NULL;
    vireo_fault_set("");
    serving_stop(&serving);
    return 0;
}

// --- short forms -----------------------------------------------------------------------------------------------------

static bool call(const char *method, const char *path, const char *body)
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

static const char *text_of(const char *key)
{
    return json_string_value(json_object_get(out, key));
}
static long long number_of(const char *key)
{
    return json_integer_value(json_object_get(out, key));
}
static json_t *item(size_t i)
{
    return json_array_get(json_object_get(out, "data"), i);
}
static size_t items(void)
{
    return json_array_size(json_object_get(out, "data"));
}

static bool form(const char *path, const struct http_client_part *parts, size_t count)
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
static void upload(const char *name, const void *bytes, size_t count, const char *purpose)
{
    struct http_client_part parts[] = {{.name = "file", .bytes = bytes, .count = count, .filename = name},
                                       {.name = "purpose", .value = purpose}};
    REQUIRE_OK(form("/v1/files", parts, 2));
    snprintf(file_id, sizeof file_id, "%s", text_of("id"));
}

static uint8_t *png(uint32_t width, uint32_t height, uint8_t shade, size_t *count)
{
    struct image im;
    uint8_t *bytes;
    REQUIRE_OK(image_init(&im, width, height, &err));
    memset(im.rgb, shade, (size_t)width * height * 3);
    REQUIRE_OK(image_write_png(&im, &bytes, count, &err));
    image_finish(&im);
    return bytes;
}

struct entry {
    const char *name;
    const void *bytes;
    size_t count;
    const char *link;
};
static char *zip(const struct entry *entries, size_t entry_count, size_t *count)
{
    size_t capacity = 4 << 20;
    char *buffer = malloc(capacity);
    struct archive *a = archive_write_new();
    archive_write_set_format_zip(a);
    archive_write_open_memory(a, buffer, capacity, count);
    for (size_t i = 0; i < entry_count; i++) {
        struct archive_entry *e = archive_entry_new();
        archive_entry_set_pathname(e, entries[i].name);
        archive_entry_set_filetype(e, entries[i].link ? AE_IFLNK : AE_IFREG);
        archive_entry_set_perm(e, 0644);
        archive_entry_set_size(e, (la_int64_t)entries[i].count);
        if (entries[i].link)
            archive_entry_set_symlink(e, entries[i].link);
        archive_write_header(a, e);
        archive_write_data(a, entries[i].bytes, entries[i].count);
        archive_entry_free(e);
    }
    archive_write_close(a);
    archive_write_free(a);
    return buffer;
}

// --- files -----------------------------------------------------------------------------------------------------------

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

// --- images ----------------------------------------------------------------------------------------------------------

static void images_are_one_id_a_content(void **state)
{
    (void)state;
    size_t a_size, b_size, count;
    uint8_t *a = png(30, 20, 9, &a_size), *b = png(8, 8, 77, &b_size);
    struct http_client_part parts[] = {{.name = "file", .bytes = a, .count = a_size, .filename = "a.png"},
                                       {.name = "file", .bytes = b, .count = b_size, .filename = "b.png"},
                                       {.name = "file", .bytes = a, .count = a_size, .filename = "again.png"}};
    REQUIRE_OK(form("/v1/vireo/images", parts, 3));
    REQUIRE_INT(items(), 3);
    REQUIRE_INT(json_integer_value(json_object_get(item(0), "width")), 30);
    REQUIRE_INT(json_integer_value(json_object_get(item(0), "height")), 20);
    REQUIRE_STRING(json_string_value(json_object_get(item(0), "format")), "png");
    char id[64], path[128], *bytes;
    snprintf(id, sizeof id, "%s", json_string_value(json_object_get(item(0), "id")));
    REQUIRE_STRING(json_string_value(json_object_get(item(2), "id")), id);
    REQUIRE_OK(call("GET", "/v1/vireo/images", NULL));
    REQUIRE_INT(items(), 2);
    snprintf(path, sizeof path, "/v1/vireo/images/%s/content", id);
    REQUIRE_OK(http_client_get(serving.client, path, &bytes, &count, &err));
    REQUIRE(count == a_size && memcmp(bytes, a, count) == 0);
    free(bytes);
    REQUIRE_OK(call("POST", "/v1/vireo/images",
                    "{\"image\":\"data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+"
                    "M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==\"}"));
    REQUIRE_INT(json_integer_value(json_object_get(item(0), "width")), 1);
    // One bad one: none is kept.
    parts[1] = (struct http_client_part){.name = "file", .bytes = "no image", .count = 8, .filename = "c"};
    parts[0].bytes = b;
    REQUIRE_FAIL(form("/v1/vireo/images", parts, 2), VIREO_INVALID);
    REQUIRE_STRING(err.param, "file[1]");
    REQUIRE_FAIL(call("POST", "/v1/vireo/images", "{\"images\":[\"data:image/png;base64,????\"]}"), VIREO_INVALID);
    REQUIRE_FAIL(call("POST", "/v1/vireo/images", "{\"images\":7}"), VIREO_INVALID);
    REQUIRE_FAIL(call("POST", "/v1/vireo/images", "{}"), VIREO_INVALID);
    REQUIRE_OK(call("GET", "/v1/vireo/images", NULL));
    REQUIRE_INT(items(), 3);
    free(a);
    free(b);
}

// --- datasets --------------------------------------------------------------------------------------------------------

static const char rows_text[] =
    "{\"id\":1,\"image\":\"pics/a.png\",\"conversations\":[{\"from\":\"human\",\"value\":\"<image>Where is it?\"},"
    "{\"from\":\"gpt\",\"value\":\"[1, 2, 3, 4]\"}]}\n"
    "\n"
    "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"b.png\"}},"
    "{\"type\":\"text\",\"text\":\"And here?\"}]}],\"solution\":\"x\",\"weight\":0.1}\n";

static void datasets_from_uploaded_parts(void **state)
{
    (void)state;
    size_t a_size, b_size, zip_size, count;
    uint8_t *a = png(30, 20, 9, &a_size), *b = png(8, 8, 77, &b_size);
    struct entry entries[] = {{"train/a.png", a, a_size, NULL},
                              {"__MACOSX/._a.png", "junk", 4, NULL},
                              {"unused.png", b, b_size, NULL},
                              {"labels.txt", "l", 1, NULL}};
    char *archive = zip(entries, 4, &zip_size);
    struct http_client_part parts[] = {{.name = "name", .value = "boxes"},
                                       {.name = "file", .bytes = rows_text, .count = sizeof rows_text - 1,
                                        .filename = "r.jsonl"},
                                       {.name = "file", .bytes = archive, .count = zip_size, .filename = "i.zip"},
                                       {.name = "file", .bytes = b, .count = b_size, .filename = "b.png"}};
    REQUIRE_OK(form("/v1/vireo/datasets", parts, 4));
    REQUIRE_STRING(text_of("status"), "ready");
    REQUIRE_STRING(text_of("format"), "mixed");
    json_t *counts = json_object_get(out, "counts");
    REQUIRE_INT(json_integer_value(json_object_get(counts, "rows")), 2);
    REQUIRE_INT(json_integer_value(json_object_get(counts, "images")), 2);
    REQUIRE_INT(json_integer_value(json_object_get(counts, "skipped_images")), 1);
    char id[64], path[128], *bytes;
    snprintf(id, sizeof id, "%s", text_of("id"));
    snprintf(path, sizeof path, "/v1/vireo/datasets/%s/export", id);
    REQUIRE_OK(call("POST", path, NULL));
    snprintf(file_id, sizeof file_id, "%s", text_of("id"));
    REQUIRE_STRING(text_of("purpose"), "fine-tune");
    snprintf(path, sizeof path, "/v1/files/%s/content", file_id);
    REQUIRE_OK(http_client_get(serving.client, path, &bytes, &count, &err));
    REQUIRE(!strstr(bytes, ".png") && strstr(bytes, "\"image\":\"img_") && strstr(bytes, "\"url\":\"img_"));
    REQUIRE(strstr(bytes, "\"weight\":0.1"));
    free(bytes);
    snprintf(path, sizeof path, "/v1/vireo/datasets/%s/rows?limit=1", id);
    REQUIRE_OK(call("GET", path, NULL));
    REQUIRE_INT(items(), 1);
    REQUIRE(json_is_true(json_object_get(out, "has_more")));
    snprintf(path, sizeof path, "/v1/vireo/datasets/%s/rows?after=0", id);
    REQUIRE_OK(call("GET", path, NULL));
    REQUIRE_INT(items(), 1);
    REQUIRE(json_object_get(json_object_get(item(0), "row"), "messages"));
    snprintf(path, sizeof path, "/v1/vireo/datasets/%s", id);
    REQUIRE_OK(call("DELETE", path, NULL));
    REQUIRE_FAIL(call("GET", path, NULL), VIREO_NOT_FOUND);
    snprintf(path, sizeof path, "/v1/files/%s", file_id);
    REQUIRE_FAIL(call("GET", path, NULL), VIREO_NOT_FOUND);
    free(a);
    free(b);
    free(archive);
}

static void datasets_from_files_and_images_by_id(void **state)
{
    (void)state;
    size_t a_size, b_size, zip_size;
    uint8_t *a = png(30, 20, 9, &a_size), *b = png(8, 8, 77, &b_size);
    struct entry entries[] = {{"a.png", a, a_size, NULL}};
    char *archive = zip(entries, 1, &zip_size), rows[64], zips[64], body[1024];
    upload("r.jsonl", rows_text, sizeof rows_text - 1, "fine-tune");
    snprintf(rows, sizeof rows, "%s", file_id);
    upload("i.zip", archive, zip_size, "user_data");
    snprintf(zips, sizeof zips, "%s", file_id);
    struct http_client_part part = {.name = "file", .bytes = b, .count = b_size, .filename = "other.png"};
    REQUIRE_OK(form("/v1/vireo/images", &part, 1));
    snprintf(body, sizeof body,
             "{\"name\":\"d\",\"files\":[\"%s\"],\"images\":[\"%s\",{\"name\":\"b.png\",\"id\":\"%s\"}]}",
             rows, zips, json_string_value(json_object_get(item(0), "id")));
    REQUIRE_OK(call("POST", "/v1/vireo/datasets", body));
    REQUIRE_INT(json_integer_value(json_object_get(json_object_get(out, "counts"), "images")), 2);
    // Rows may name ids themselves, also of files.
    upload("b.png", b, b_size, "vision");
    snprintf(body, sizeof body,
             "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{\"url\":\"%s\"}},"
             "{\"type\":\"text\",\"text\":\"?\"}]},{\"role\":\"assistant\",\"content\":\"!\"}]}", file_id);
    upload("direct.jsonl", body, strlen(body), "fine-tune");
    snprintf(body, sizeof body, "{\"name\":\"e\",\"files\":[\"%s\"]}", file_id);
    REQUIRE_OK(call("POST", "/v1/vireo/datasets", body));
    REQUIRE_STRING(text_of("format"), "openai");
    free(a);
    free(b);
    free(archive);
}

static void bad_rows_are_listed_and_nothing_is_stored(void **state)
{
    (void)state;
    static const char bad[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"a\"}]}\n"
                              "{\"messages\":[{\"role\":\"king\",\"content\":\"q\"}]}\n"
                              "not json\n"
                              "{\"image\":\"gone.png\",\"conversations\":[{\"from\":\"human\",\"value\":\"<image>q\"},"
                              "{\"from\":\"gpt\",\"value\":\"a\"}]}\n";
    struct http_client_part parts[] = {{.name = "name", .value = "bad"},
                                       {.name = "file", .bytes = bad, .count = sizeof bad - 1, .filename = "r.jsonl"}};
    REQUIRE_FAIL(form("/v1/vireo/datasets", parts, 2), VIREO_INVALID);
    REQUIRE_STRING(err.kind, "invalid_file_format");
    REQUIRE(strstr(err.message, "line 2"));
    REQUIRE_FAIL(form("/v1/vireo/datasets", parts + 1, 1), VIREO_INVALID);
    REQUIRE_STRING(err.param, "name");
    REQUIRE_OK(call("GET", "/v1/vireo/datasets", NULL));
    REQUIRE_INT(items(), 0);
    REQUIRE_OK(call("GET", "/v1/files", NULL));
    REQUIRE_INT(items(), 0);
    static const char *const bodies[] = {
        "{}", "{\"name\":\"x\"}", "{\"name\":\"x\",\"files\":[]}", "{\"name\":\"x\",\"files\":[1]}",
        "{\"name\":\"x\",\"files\":[\"file-none\"]}", "{\"name\":\"a/b\",\"files\":[\"file-none\"]}",
        "{\"name\":\"x\",\"files\":\"file-none\"}", "{\"name\":\"x\",\"files\":[\"file-none\"],\"format\":\"coco\"}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++)
        if (call("POST", "/v1/vireo/datasets", bodies[i]) || (err.code != VIREO_INVALID && err.code != VIREO_NOT_FOUND))
            fail_msg("%s: %s", bodies[i], err.message);
}

static const char one_row[] =
    "{\"id\":1,\"image\":\"pics/a.png\",\"conversations\":[{\"from\":\"human\",\"value\":\"<image>Where is it?\"},"
    "{\"from\":\"gpt\",\"value\":\"[1, 2, 3, 4]\"}]}\n";

static void hostile_archives_are_refused(void **state)
{
    (void)state;
    size_t size, zip_size;
    uint8_t *image = png(4, 4, 1, &size);
    char *zeros = calloc(1, 3 << 20);
    struct entry cases[] = {{"../a.png", image, size, NULL}, {"x/../../a.png", image, size, NULL},
                            {"/etc/a.png", image, size, NULL}, {"a.png", "", 0, "/etc/passwd"},
                            {"c:\\a.png", image, size, NULL},  {"bomb.bin", zeros, 3 << 20, NULL},
                            {"cut.png", image, size / 4, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *archive = zip(&cases[i], 1, &zip_size);
        struct http_client_part parts[] = {
            {.name = "name", .value = "bad"},
            {.name = "file", .bytes = rows_text, .count = sizeof rows_text - 1, .filename = "r.jsonl"},
            {.name = "file", .bytes = archive, .count = zip_size, .filename = "i.zip"}};
        bool ok = form("/v1/vireo/datasets", parts, 3);
        if (ok || (err.code != VIREO_INVALID && err.code != VIREO_TOO_LARGE) || strstr(err.message, "no image named"))
            fail_msg("archive %zu (%s): %s", i, cases[i].name, ok ? "taken" : err.message);
        if (!strstr(err.message, i == 4 ? "a.png" : cases[i].name)) // libarchive turns the backslash
            fail_msg("archive %zu: the entry '%s' is not named: %s", i, cases[i].name, err.message);
        free(archive);
    }
    free(image);
    free(zeros);
}

static bool import_zip(char *archive, size_t size)
{
    struct http_client_part parts[] = {
        {.name = "name", .value = "boxes"},
        {.name = "file", .bytes = one_row, .count = sizeof one_row - 1, .filename = "r.jsonl"},
        {.name = "file", .bytes = archive, .count = size, .filename = "i.zip"}};
    return form("/v1/vireo/datasets", parts, 3);
}

static void a_worker_that_dies_fails_the_request_alone(void **state)
{
    (void)state;
    size_t size, zip_size;
    uint8_t *image = png(30, 20, 9, &size);
    struct entry entries[] = {{"first.png", image, size, NULL}, {"pics/a.png", image, size, NULL}};
    char *archive = zip(entries, 2, &zip_size);
    // A crash as by a bug in a decoder: in the list, in the bytes, and at the very start.
    static const char *const faults[] = {"segv:unpack.entry:1", "segv:unpack.entry:2", "kill:unpack.entry:2",
                                         "exit:unpack.entry:1"};
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        setenv("VIREO_FAULT", faults[i], 1); // for the workers; this process has read its own
        REQUIRE_FAIL(import_zip(archive, zip_size), VIREO_INVALID);
        REQUIRE_STRING(err.kind, "invalid_file_format");
        REQUIRE_STRING(err.param, "file");
        REQUIRE(strstr(err.message, "The archive could not be read"));
#ifdef __SANITIZE_ADDRESS__ // it would report the crash first, which the sandbox does not let it
        REQUIRE(strstr(err.message, "The worker "));
#else
        REQUIRE(strstr(err.message, i == 3 ? "status 3" : i == 2 ? "signal 9" : "signal 11"));
#endif
        REQUIRE(i == 0 || i == 3 || strstr(err.message, "behind its entry 'first.png'"));
        REQUIRE_OK(call("GET", "/v1/vireo/images", NULL));
        REQUIRE_INT(items(), 0);
    }
    unsetenv("VIREO_FAULT");
    vireo_fault_set("fail:process.start:1");
    REQUIRE_FAIL(import_zip(archive, zip_size), VIREO_UNAVAILABLE);
    vireo_fault_set("");
    REQUIRE_OK(import_zip(archive, zip_size));
    REQUIRE_OK(call("GET", "/v1/vireo/images", NULL));
    REQUIRE_INT(items(), 1);
    free(image);
    free(archive);
}

// --- the rest --------------------------------------------------------------------------------------------------------

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

// Archives are read by a worker, which is this program again.
int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "worker") == 0)
        return worker_main(argc - 1, argv + 1);
#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(files_come_back_as_they_went),
        T(bad_uploads_are_named),
        T(lists_page_by_the_last_id),
        T(a_disk_error_is_an_answer_and_loses_nothing),
        T(every_failed_allocation_is_survived),
        T(images_are_one_id_a_content),
        T(datasets_from_uploaded_parts),
        T(datasets_from_files_and_images_by_id),
        T(bad_rows_are_listed_and_nothing_is_stored),
        T(hostile_archives_are_refused),
        T(a_worker_that_dies_fails_the_request_alone),
        T(models_are_listed_and_guarded),
        T(a_key_closes_the_open_door),
        T(operations_answer),
        T(graders_run_and_are_checked),
        T(the_route_table_and_the_contract_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
