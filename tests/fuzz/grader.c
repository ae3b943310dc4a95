// Grader definitions: any JSON is refused with a field or compiles; what compiles normalises to itself and runs.
#include "compute/base/json.h"
#include "compute/rewards/grader.h"
#include "tests/fuzz/require.h"

static const char text[] = "<think>a</think><answer>{\"bbox_2d\": [1, 2, 3, 4]}</answer>";

static void run(const struct grader *g)
{
    struct vireo_error err;
    struct grade grade;
    struct grader_sample s = {.text = text, .text_bytes = sizeof text - 1};
    json_t *item = json_pack("{s:[i,i,i,i], s:s}", "solution", 1, 2, 3, 4, "label", "x");
    FUZZ_REQUIRE(item && grader_run(g, &s, item, &grade, &err));
    FUZZ_REQUIRE(isfinite(grade.reward) && grade.count == grader_part_count(g));
    for (size_t i = 0; i < grade.count; i++)
        FUZZ_REQUIRE(isfinite(grade.parts[i].value));
    json_decref(item);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vireo_error err = {0};
    json_t *definition = vireo_json_parse((const char *)data, size, NULL);
    if (!definition)
        return 0;
    struct grader *g = grader_create(definition, "grader", &err);
    if (!g)
        FUZZ_REQUIRE(err.param[0] && err.message[0]);
    json_decref(definition);
    if (!g)
        return 0;
    run(g);
    json_t *normal = grader_to_json(g, &err);
    struct grader *again = grader_create(normal, "grader", &err);
    FUZZ_REQUIRE(again);
    json_t *twice = grader_to_json(again, &err);
    FUZZ_REQUIRE(json_equal(normal, twice));
    json_decref(normal);
    json_decref(twice);
    grader_destroy(&g);
    grader_destroy(&again);
    return 0;
}
