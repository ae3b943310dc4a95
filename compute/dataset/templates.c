// VLM-R1's prompts, verbatim for interoperability (open_r1/vlm_modules, open_r1/grpo_jsonl.py).
#include "compute/dataset/jsonl.h"

#include "compute/base/check.h"

#include <string.h>

#define ENCLOSED                                                                                                      \
    "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "             \
    "respectively, i.e., <think> reasoning process here </think><answer> "
#define FIRST_THINKS                                                                                                  \
    "First thinks about the reasoning process in the mind and then provides the user with the answer. " ENCLOSED
#define FIRST_OUTPUT                                                                                                  \
    "{Question} First output the thinking process in <think> </think> tags and then output the final answer in "      \
    "<answer> </answer> tags."

static const struct {
    const char *name, *text;
} templates[] = {
    {"default", FIRST_OUTPUT},
    {"rec", FIRST_OUTPUT " Output the final answer in JSON format."},
    {"ic", "{Question} " FIRST_THINKS "json format answer here </answer>"},
    {"odLength", FIRST_THINKS "answer here </answer>\n{Question}"},
};

const char *const vlm_r1_system_prompt =
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer. " ENCLOSED
    "answer here </answer>";

const char *question_template(const char *name)
{
    for (size_t i = 0; i < VIREO_COUNT(templates); i++)
        if (strcmp(templates[i].name, name) == 0)
            return templates[i].text;
    return NULL;
}
