// Runs the executable form of VLM-R1's reward rules: reward_cases FILE [--only GROUP,GROUP…]
//
// One line a group: its name, equal and all cases; SKIP where the rule is not built. Exit 0 all equal, 1 on a miss, a
// broken file or when nothing ran, 2 when a group (asked for, or any without --only) is not built.
#include "compute/base/json.h"
#include "compute/rewards/reward.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double tolerance = 1e-6; // as the file says: its values are rounded to nine digits

// Groups whose name is not the rule's own.
static const struct {
    const char *group, *rule, *params;
} presets[] = {
    {"format_rec_qwen", "format_rec", "{\"family\":\"qwen\"}"},
    {"format_rec_internvl", "format_rec", "{\"family\":\"internvl\"}"},
    {"format_rec_glm", "format_rec", "{\"family\":\"glm\"}"},
    {"iou_qwen", "iou", "{\"coords\":\"model_input\"}"},
    {"iou_internvl", "iou", "{\"coords\":\"absolute\"}"},
    {"iou_glm", "iou", "{\"coords\":\"absolute\"}"},
};

static bool is_asked(const char *only, const char *group)
{
    size_t length = strlen(group);
    for (const char *at = only; at && *at;) {
        const char *comma = strchr(at, ',');
        size_t n = comma ? (size_t)(comma - at) : strlen(at);
        if (n == length && memcmp(at, group, n) == 0)
            return true;
        at = comma ? comma + 1 : NULL;
    }
    return !only;
}

static double number_at(const json_t *params, const char *key, size_t index)
{
    return json_number_value(json_array_get(json_object_get(params, key), index));
}

static bool run_case(const struct reward_rule *rule, const json_t *rule_params, const json_t *c,
                     struct reward_result *result)
{
    const json_t *completion = json_object_get(c, "completion"), *solution = json_object_get(c, "solution");
    const json_t *p = json_object_get(c, "params"), *length = json_object_get(p, "gen_len");
    struct vireo_error err;
    struct reward_input in = {
        .completion = json_string_value(completion),
        .completion_bytes = json_string_length(completion),
        .reference = json_string_value(solution),
        .reference_bytes = json_string_length(solution),
        .params = rule_params,
        .image_size = {number_at(p, "image_size", 0), number_at(p, "image_size", 1)},
        .model_size = {number_at(p, "image_grid_thw", 2) * 14, number_at(p, "image_grid_thw", 1) * 14},
        .tokens = length ? json_integer_value(length) : -1,
    };
    if (!in.completion || !rule->score(&in, result, &err))
        return false;
    const json_t *expected = json_object_get(c, "reward");
    if (json_is_null(expected))
        return result->status == REWARD_NO_ANSWER || result->status == REWARD_BAD_DATA;
    return json_is_number(expected) && result->status != REWARD_NO_ANSWER &&
           fabs(result->value - json_number_value(expected)) <= tolerance;
}

// Cases that are not equal, or -1 if the rule is not built.
static int run_group(const char *group, const json_t *cases)
{
    const char *name = group;
    json_t *params = NULL;
    for (size_t i = 0; i < sizeof presets / sizeof presets[0]; i++)
        if (strcmp(presets[i].group, group) == 0) {
            name = presets[i].rule;
            params = json_loads(presets[i].params, 0, NULL);
        }
    const struct reward_rule *rule = reward_find(name);
    if (!rule) {
        printf("%-20s SKIP (rule %s is not built)\n", group, name);
        json_decref(params);
        return -1;
    }
    size_t equal = 0, count = json_array_size(cases);
    for (size_t i = 0; i < count; i++) {
        struct reward_result result = {0};
        const json_t *c = json_array_get(cases, i);
        if (run_case(rule, params, c, &result)) {
            equal++;
            continue;
        }
        char *expected = json_dumps(json_object_get(c, "reward"), JSON_ENCODE_ANY);
        fprintf(stderr, "%s[%zu] (%s): expected %s, got %.9g (status %d): %s\n", group, i,
                json_string_value(json_object_get(c, "note")), expected ? expected : "?", result.value,
                (int)result.status, result.reason);
        free(expected);
    }
    printf("%-20s %zu of %zu equal\n", group, equal, count);
    json_decref(params);
    return (int)(count - equal) + (count == 0);
}

int main(int argc, char **argv)
{
    const char *only = argc == 4 && strcmp(argv[2], "--only") == 0 ? argv[3] : NULL;
    struct vireo_error err;
    if (argc != 2 && !only) {
        fprintf(stderr, "usage: %s FILE [--only GROUP,GROUP...]\n", argv[0]);
        return 1;
    }
    json_t *file = vireo_json_load(argv[1], 64 << 20, &err), *value;
    if (!file) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    const char *group;
    int missed = 0, skipped = 0, ran = 0;
    size_t asked = 1;
    for (const char *at = only; at && (at = strchr(at, ',')) != NULL; at++)
        asked++;
    json_object_foreach(file, group, value) {
        if (group[0] == '_' || !is_asked(only, group))
            continue;
        int result = run_group(group, json_object_get(value, "cases"));
        missed += result > 0 ? result : 0;
        skipped += result < 0;
        ran += result >= 0;
    }
    json_decref(file);
    if (only && (size_t)(ran + skipped) < asked) {
        fprintf(stderr, "--only names %zu groups, the file has %d of them\n", asked, ran + skipped);
        return 1;
    }
    return missed || !ran ? 1 : skipped ? 2 : 0;
}
