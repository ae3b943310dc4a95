// Images and datasets over HTTP, archives among them.
#include "compute/image/png.h"
#include "compute/worker/worker.h"
#include "server/store/files.h"
#include "tests/unit/routes.h"

#include <archive.h>
#include <archive_entry.h>

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

// Archives are read by a worker, which is this program again.
int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "worker") == 0)
        return worker_main(argc - 1, argv + 1);
    const struct CMUnitTest tests[] = {
        T(images_are_one_id_a_content),
        T(datasets_from_uploaded_parts),
        T(datasets_from_files_and_images_by_id),
        T(bad_rows_are_listed_and_nothing_is_stored),
        T(hostile_archives_are_refused),
        T(a_worker_that_dies_fails_the_request_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
