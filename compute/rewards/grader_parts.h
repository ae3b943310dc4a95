// What a compiled grader is made of; shared by grader.c (which builds it) and grader_run.c (which only reads it).
#ifndef VIREO_REWARDS_GRADER_PARTS_H
#define VIREO_REWARDS_GRADER_PARTS_H

#include "compute/rewards/formula.h"
#include "compute/rewards/grader.h"
#include "compute/rewards/reward.h"
#include "compute/rewards/template.h"

enum grader_kind { GRADER_RULE, GRADER_STRING_CHECK };
enum string_operation { STRING_EQ, STRING_NE, STRING_LIKE, STRING_ILIKE };

struct grader_leaf {
    char name[GRADER_NAME_BYTES];
    enum grader_kind kind;
    const struct reward_rule *rule;               // GRADER_RULE
    json_t *params;                               // GRADER_RULE; NULL: none given
    enum string_operation operation;              // GRADER_STRING_CHECK
    struct reward_template *input, *reference;    // reference NULL: the rule reads none
    char input_path[128], reference_path[128];    // fields in the client's document
    bool input_is_output;                         // input is exactly the completion: no copy is made
};

struct grader {
    char name[GRADER_NAME_BYTES];
    bool multi;
    size_t count;
    struct grader_leaf leaves[GRADER_MAX_PARTS];
    char *calculate_output; // multi only
    struct formula *formula;
    bool uses_json; // some template names sample.output_json
};

#endif
