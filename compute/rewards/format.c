// 1 if the WHOLE completion is <think>.*?</think>\s*<answer>.*?</answer> (dot matches newline), else 0.
// VLM-R1: format_reward, open_r1/grpo_jsonl.py.
#include "compute/rewards/parse.h"
#include "compute/rewards/reward.h"

static bool score(const struct reward_input *in, struct reward_result *out, struct vireo_error *err)
{
    if (think_answer_whole(parse_text_of(in->completion, in->completion_bytes)))
        return reward_give(out, REWARD_OK, 1, "the text is one think block and then one answer block");
    return reward_give(out, REWARD_OK, 0, "the text is not <think>…</think><answer>…</answer> from start to end");
}

const struct reward_rule reward_format = {
    .name = "format",
    .summary = "1 if the whole text is <think>…</think><answer>…</answer>",
    .check = reward_check_none,
    .score = score,
};
