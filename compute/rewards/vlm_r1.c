// VLM-R1's command line as a grader: --reward_funcs, --reward_method, --task_type rec.
#include "compute/rewards/grader.h"
#include "compute/rewards/reward.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char *const functions[] = {"accuracy", "format", "length", "repetition", NULL};

static bool is_function(const char *name)
{
    for (size_t i = 0; functions[i]; i++)
        if (strcmp(functions[i], name) == 0)
            return true;
    return false;
}

// {"type": "rule", "rule", "params"} of one function.
static json_t *part_of(const char *function, const char *method, bool task_rec)
{
    const char *rule = function;
    json_t *params = json_object();
    if (task_rec && strcmp(function, "accuracy") == 0)
        rule = "iou";
    else if (task_rec && strcmp(function, "format") == 0)
        rule = "format_rec";
    else if (strcmp(function, "accuracy") == 0 && method && params)
        json_object_set_new(params, "method", json_string(method));
    return json_pack("{s:s, s:s, s:o}", "type", "rule", "rule", rule, "params", params);
}

json_t *grader_from_vlm_r1(const char *const *names, size_t count, const char *method, bool task_rec,
                           const double *weights, struct vireo_error *err)
{
    char formula[512] = "", field[48];
    if (count == 0 || count > 4) {
        vireo_fail_param(err, "reward_funcs", "Invalid value for 'reward_funcs': expected 1 to 4 names, got %zu.",
                         count);
        return NULL;
    }
    // VLM-R1 scores rows without a method by its `default` rule; where that is not built the row must name one.
    if (!method && reward_find("default"))
        method = "default";
    json_t *graders = json_object();
    for (size_t i = 0; i < count; i++) {
        snprintf(field, sizeof field, "reward_funcs[%zu]", i);
        if (!is_function(names[i])) {
            vireo_fail_param(err, field, "Invalid value for '%s': expected one of 'accuracy', 'format', 'length', "
                             "'repetition', got '%.60s'.", field, names[i]);
        } else if (json_object_get(graders, names[i])) {
            vireo_fail_param(err, field, "'%s' is named twice.", names[i]);
        } else if (weights && !isfinite(weights[i])) {
            snprintf(field, sizeof field, "reward_weights[%zu]", i);
            vireo_fail_param(err, field, "Invalid value for '%s': expected a finite number.", field);
        } else if (json_object_set_new(graders, names[i], part_of(names[i], method, task_rec)) != 0) {
            vireo_fail_memory(err, 0);
        } else {
            size_t used = strlen(formula);
            if (weights)
                snprintf(formula + used, sizeof formula - used, "%s(%.17g) * %s", i ? " + " : "", weights[i], names[i]);
            else
                snprintf(formula + used, sizeof formula - used, "%s%s", i ? " + " : "", names[i]);
            continue;
        }
        json_decref(graders);
        return NULL;
    }
    json_t *out = json_pack("{s:s, s:s, s:o, s:s}", "type", "multi", "name", "vlm_r1", "graders", graders,
                            "calculate_output", formula);
    if (!out)
        vireo_fail_memory(err, 0);
    return out;
}
