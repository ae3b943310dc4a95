// Bodies of POST /v1/chat/completions: any JSON is refused with a field and a sentence, or becomes a "generate" message whose
// placeholders of images agree with the images.
#include "compute/base/json.h"
#include "server/api/chat_json.h"
#include "tests/fuzz/require.h"

// Images are numbered in the order in which they stand.
static size_t image_parts(const json_t *messages)
{
    size_t m, p, count = 0;
    json_t *message, *part;
    json_array_foreach(messages, m, message) {
        FUZZ_REQUIRE(json_is_string(json_object_get(message, "role")) && json_is_array(json_object_get(message, "parts")));
        json_array_foreach(json_object_get(message, "parts"), p, part) {
            const json_t *image = json_object_get(part, "image");
            FUZZ_REQUIRE((image != NULL) != json_is_string(json_object_get(part, "text")));
            FUZZ_REQUIRE(!image || json_integer_value(image) == (json_int_t)count);
            count += image != NULL;
        }
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vireo_error err = {0};
    struct arena arena;
    struct chat_request_json r = {0};
    json_t *body = vireo_json_parse((const char *)data, size, &err);
    FUZZ_REQUIRE(body || err.message[0]);
    arena_init(&arena, 0);
    if (json_is_object(body)) {
        err = (struct vireo_error){0};
        if (chat_json_read(body, &arena, &r, &err)) {
            json_t *messages = json_object_get(r.message, "messages");
            FUZZ_REQUIRE(r.model && r.n >= 1 && r.n <= CHAT_MAX_CHOICES && r.image_count <= CHAT_MAX_IMAGES);
            FUZZ_REQUIRE(json_array_size(messages) > 0 && image_parts(messages) == r.image_count);
            for (size_t i = 0; i < r.image_count; i++)
                FUZZ_REQUIRE(r.images[i].param && (r.images[i].id != NULL) == (r.images[i].bytes == NULL));
            char *text = json_dumps(r.message, JSON_COMPACT);
            FUZZ_REQUIRE(text);
            free(text);
            json_decref(r.message);
        } else {
            FUZZ_REQUIRE(err.message[0] && (err.code == VIREO_INVALID || err.code == VIREO_UNSUPPORTED ||
                                            err.code == VIREO_TOO_LARGE));
        }
    }
    arena_finish(&arena);
    json_decref(body);
    return 0;
}
