// 1 if the cleaned completion equals the cleaned reference, else 0. VLM-R1: all_match_reward.
#include "compute/rewards/parse.h"
#include "compute/rewards/reward.h"

#include <stdlib.h>

static bool score(const struct reward_input *in, struct reward_result *out, struct vireo_error *err)
{
    char *given = NULL, *truth = NULL;
    size_t given_size, truth_size;
    if (!in->reference)
        return reward_give(out, REWARD_BAD_DATA, 0, "the row has no reference");
    bool ok = parse_text_clean(parse_text_of(in->completion, in->completion_bytes), &given, &given_size, err) &&
              parse_text_clean(parse_text_of(in->reference, in->reference_bytes), &truth, &truth_size, err);
    if (ok) {
        bool equal = parse_text_equal(parse_text_of(given, given_size), parse_text_of(truth, truth_size));
        reward_give(out, REWARD_OK, equal, "\"%.40s\" %s \"%.40s\"", given, equal ? "equals" : "is not", truth);
    }
    free(given);
    free(truth);
    return ok;
}

const struct reward_rule reward_all_match = {
    .name = "all_match",
    .summary = "1 if the answer equals the reference apart from case, outer white space and final dots",
    .needs_reference = true,
    .check = reward_check_none,
    .score = score,
};
