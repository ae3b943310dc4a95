// 1 if both cleaned texts are numbers and equal, 0 if they differ; no answer if either is not a number. VLM-R1:
// numeric_reward, but infinity and digits with underscores are not numbers.
#include "compute/rewards/parse.h"
#include "compute/rewards/reward.h"

#include <stdlib.h>

static bool score(const struct reward_input *in, struct reward_result *out, struct vireo_error *err)
{
    char *given = NULL, *truth = NULL;
    size_t given_size, truth_size;
    double a, b;
    if (!in->reference)
        return reward_give(out, REWARD_BAD_DATA, 0, "the row has no reference");
    bool ok = parse_text_clean(parse_text_of(in->completion, in->completion_bytes), &given, &given_size, err) &&
              parse_text_clean(parse_text_of(in->reference, in->reference_bytes), &truth, &truth_size, err);
    if (!ok)
        ;
    else if (!number_of_text(parse_text_of(truth, truth_size), &b))
        reward_give(out, REWARD_BAD_DATA, 0, "the reference \"%.40s\" is not a number", truth);
    else if (!number_of_text(parse_text_of(given, given_size), &a))
        reward_give(out, REWARD_NO_ANSWER, 0, "\"%.40s\" is not a number", given);
    else
        reward_give(out, REWARD_OK, a == b, "%.17g %s %.17g", a, a == b ? "equals" : "is not", b);
    free(given);
    free(truth);
    return ok;
}

const struct reward_rule reward_numeric = {
    .name = "numeric",
    .summary = "1 if the answer and the reference are equal numbers",
    .needs_reference = true,
    .check = reward_check_none,
    .score = score,
};
