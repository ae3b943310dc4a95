// Request targets: splitting, decoding, matching, queries. What matches must decode to sane segments.
#include "server/http/router.h"
#include "tests/fuzz/require.h"

static bool never(struct request *req, struct response *res, struct vireo_error *err)
{
    (void)req, (void)res, (void)err;
    return false;
}

static const struct route routes[] = {
    {"GET", "/", HTTP_PUBLIC, 0, 0, never},
    {"GET", "/v1/files", HTTP_PUBLIC, 0, 0, never},
    {"GET", "/v1/files/{id}", HTTP_PUBLIC, 0, 0, never},
    {"DELETE", "/v1/files/{id}", HTTP_PUBLIC, 0, 0, never},
    {"GET", "/v1/files/{id}/content", HTTP_PUBLIC, 0, 0, never},
    {"POST", "/v1/files/special", HTTP_PUBLIC, 0, 0, never},
    {"GET", "/{a}/{b}/{c}/{d}", HTTP_PUBLIC, 0, 0, never},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct router *router;
    struct vireo_error err;
    if (!router) {
        router = router_create(&err);
        FUZZ_REQUIRE(router && router_add(router, routes, sizeof routes / sizeof *routes, &err));
    }
    static const char *const methods[] = {"GET", "HEAD", "DELETE", "POST", "BREW"};
    const char *method = methods[size ? data[0] % 5 : 0];
    struct arena arena;
    arena_init(&arena, 0);
    char *target = arena_copy_bytes(&arena, size ? data + 1 : data, size ? size - 1 : 0);
    struct route_match match;
    bool ok = router_match(router, method, target, &arena, &match, &err);
    FUZZ_REQUIRE(ok == (match.status != 400));
    FUZZ_REQUIRE((match.status == 200) == (match.route != NULL));
    FUZZ_REQUIRE((match.status == 405) == (match.allow[0] != 0));
    for (size_t i = 0; i < match.value_count; i++) {
        const char *value = match.values[i].value;
        FUZZ_REQUIRE(value[0] && strcmp(value, ".") != 0 && strcmp(value, "..") != 0);
        FUZZ_REQUIRE(url_is_utf8(value, strlen(value)));
        for (; *value; value++)
            FUZZ_REQUIRE((unsigned char)*value >= 0x20 && *value != 0x7f);
    }
    struct url_pair *pairs;
    if (url_parse_query(&arena, target, &pairs, &err))
        for (; pairs; pairs = pairs->next)
            FUZZ_REQUIRE(url_is_utf8(pairs->name, strlen(pairs->name)) && url_is_utf8(pairs->value, strlen(pairs->value)));
    arena_finish(&arena);
    return 0;
}
