// VLM-R1's `accuracy`: the rule that the row itself names in accu_reward_method, else params.method. So one dataset
// may mix counting, boxes and multiple choice. The other parameters (coords) go to the named rule.
#include "compute/base/json.h"
#include "compute/rewards/reward.h"

#include <stdio.h>
#include <string.h>

static const char *const known[] = {"method", "coords", NULL};
static const char *const coords[] = {"model_input", "absolute", NULL};

// NULL for unknown names and for accuracy itself, which would call itself for ever.
static const struct reward_rule *find_method(const char *name)
{
    return strcmp(name, "accuracy") == 0 ? NULL : reward_find(name);
}

static bool check(const json_t *params, const char *path, struct vireo_error *err)
{
    const char *unknown, *method = NULL;
    char full[128], names[256];
    int choice;
    if (!params)
        return true;
    if (json_find_unknown((json_t *)params, known, &unknown))
        return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", json_path(full, sizeof full, path, unknown),
                               "Unknown parameter '%.60s': accuracy takes 'method' and 'coords'.", unknown);
    if (!json_get_string(params, path, "method", &method, err) ||
        !json_get_choice(params, path, "coords", coords, &choice, err))
        return false;
    if (method && !find_method(method))
        return vireo_fail_kind(err, VIREO_UNSUPPORTED, "unsupported_value",
                               json_path(full, sizeof full, path, "method"),
                               "Rule '%.60s' is not built here; built are %s.", method,
                               reward_names(names, sizeof names));
    return true;
}

static bool score(const struct reward_input *in, struct reward_result *out, struct vireo_error *err)
{
    const char *method = NULL;
    const json_t *own = json_object_get(in->item, "accu_reward_method");
    if (own && !json_is_null(own)) {
        if (!json_is_string(own))
            return reward_give(out, REWARD_BAD_DATA, 0, "the row's accu_reward_method is not a string");
        method = json_string_value(own);
    } else {
        method = json_string_value(json_object_get(in->params, "method"));
    }
    if (!method)
        return reward_give(out, REWARD_BAD_DATA, 0, "neither the row's accu_reward_method nor params.method is set");
    const struct reward_rule *rule = find_method(method);
    if (!rule)
        return reward_give(out, REWARD_BAD_DATA, 0, "rule '%.60s' of accu_reward_method is not built", method);
    return rule->score(in, out, err);
}

const struct reward_rule reward_accuracy = {
    .name = "accuracy",
    .summary = "the rule named by the row's accu_reward_method, else by params.method",
    .needs_reference = true,
    .check = check,
    .score = score,
};
