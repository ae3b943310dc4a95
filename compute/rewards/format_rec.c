// 1 if the text holds a think block, then an answer with a box in it, as the family writes boxes (VLM-R1:
// format_reward_rec of the VLM modules). Searches, so text around it is fine; the JSON need not be valid.
//   qwen     <think>.*?</think>\s*<answer>.*?\{.*\[\d+,\s*\d+,\s*\d+,\s*\d+\].*\}.*?</answer>
//   internvl the same without the braces
//   glm      <think>(.*?)<answer>(.*?)</answer>
#include "compute/base/json.h"
#include "compute/rewards/parse.h"
#include "compute/rewards/reward.h"

#include <stdint.h>
#include <stdio.h>

enum family { QWEN, INTERNVL, GLM };
static const char *const families[] = {"qwen", "internvl", "glm", NULL};
static const char *const known[] = {"family", NULL};

static bool check(const json_t *params, const char *path, struct vireo_error *err)
{
    const char *unknown;
    int family = QWEN;
    if (!params)
        return true;
    if (json_find_unknown((json_t *)params, known, &unknown)) {
        char full[128];
        return vireo_fail_kind(err, VIREO_INVALID, "unknown_parameter", json_path(full, sizeof full, path, unknown),
                               "Unknown parameter '%.60s': format_rec takes 'family'.", unknown);
    }
    return json_get_choice(params, path, "family", families, &family, err);
}

// Each element is searched behind the first place of the one before: for "does a match exist" the earliest is the best.
static const char *missing(struct text t, enum family family)
{
    size_t at;
    if (family == GLM) {
        at = parse_text_find(t, 0, "<think>");
        at = at == SIZE_MAX ? at : parse_text_find(t, at, "<answer>");
        return at == SIZE_MAX ? "<think>…<answer>" : parse_text_find(t, at, "</answer>") == SIZE_MAX ? "</answer>" : NULL;
    }
    at = think_answer_head(t, 0);
    if (at == SIZE_MAX)
        return "<think>…</think><answer>";
    if (family == QWEN && (at = parse_text_find(t, at, "{")) == SIZE_MAX)
        return "a brace before the box";
    double box[4];
    if (!box_find(t, at, box, NULL, &at))
        return "[x1, y1, x2, y2] of whole numbers";
    if (family == QWEN && (at = parse_text_find(t, at, "}")) == SIZE_MAX)
        return "a closing brace behind the box";
    return parse_text_find(t, at, "</answer>") == SIZE_MAX ? "</answer> behind the box" : NULL;
}

static bool score(const struct reward_input *in, struct reward_result *out, struct vireo_error *err)
{
    int family = QWEN;
    if (in->params && !json_get_choice(in->params, "params", "family", families, &family, NULL))
        return reward_give(out, REWARD_BAD_DATA, 0, "params.family is not a known family");
    const char *lacks = missing(parse_text_of(in->completion, in->completion_bytes), (enum family)family);
    if (lacks)
        return reward_give(out, REWARD_OK, 0, "the text lacks %s", lacks);
    return reward_give(out, REWARD_OK, 1, "think block, then an answer as %s writes it", families[family]);
}

const struct reward_rule reward_format_rec = {
    .name = "format_rec",
    .summary = "1 if a think block is followed by an answer that holds a box (params.family: qwen, internvl, glm)",
    .check = check,
    .score = score,
};
