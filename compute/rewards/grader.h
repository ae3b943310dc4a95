// Graders: a JSON definition (api.md 7) compiled once, then run on samples.
//
// Built: `rule` (the table of reward.h), `string_check`, and `multi` over these. Any other type is refused by name.
// A wrong definition is an error of grader_create with the field's full path; trouble with one sample is never an error
// but a flag in the grade, with reward 0. A grader is immutable: any number of threads may run it at once.
#ifndef VIREO_REWARDS_GRADER_H
#define VIREO_REWARDS_GRADER_H

#include "compute/base/error.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

enum { GRADER_MAX_PARTS = 16, GRADER_NAME_BYTES = 65 };

struct grader;

// What the model gave, and what is known of its input. A zeroed struct with `text` set is a valid sample.
struct grader_sample {
    const char *text; // completion without special tokens
    size_t text_bytes;
    int64_t tokens;            // length in tokens; <= 0 = unknown
    double image_size[2];      // width, height of the first image file; 0 = take item.image_size
    double model_size[2];      // width, height of the model's input; 0 = take item.image_grid_thw times 14
};

// Why a reward is 0 where it should not be read as "wrong answer". Names as in the API's metadata.errors.
struct grade_errors {
    bool formula_parse_error;    // never at run time: a bad formula is refused at creation
    bool invalid_variable_error; // a template names something this item or this sample's JSON does not have
    bool sample_parse_error;     // the rule found no readable answer in the text, or output_json is not JSON
    bool other_error;            // the row's data cannot be used, or the formula gave no finite number
};

// One grader's view of one sample.
struct grade_part {
    double value; // finite; 0 on error
    struct grade_errors errors;
    char reason[160]; // one sentence for a person
};
struct grade {
    double reward; // of the whole grader; finite; a part with an error counts as its value, 0
    struct grade_errors errors; // of all parts and the formula together
    char reason[160];
    size_t count;  // parts, as grader_part_name counts them
    struct grade_part parts[GRADER_MAX_PARTS];
    // True if the fault lies with definition or data (invalid item variable, bad reference, formula), not with what the
    // model wrote. A trainer stops when this happens too often; an unreadable answer is what training is for.
    bool failed;
};

// Compiles a definition. `path` is its place in the client's document ("grader", "method.reinforcement.grader") and
// begins every `param` of an error. `definition` may be released afterwards. NULL on error; free with grader_destroy.
struct grader *grader_create(const json_t *definition, const char *path, struct vireo_error *err);
void grader_destroy(struct grader **g);

// The definition with every default filled in; a new reference. NULL without memory.
json_t *grader_to_json(const struct grader *g, struct vireo_error *err);

// The same as VLM-R1's --reward_funcs: a multi grader summing the named functions. Each is `accuracy`, `format`,
// `length` or `repetition`; `method` is what --reward_method names ("default" if NULL) and a row's accu_reward_method
// overrides it; `task_rec` maps accuracy and format to `iou` and `format_rec`. weights (one a function) may be NULL =
// all 1. New reference to a definition for grader_create; NULL on error.
json_t *grader_from_vlm_r1(const char *const *functions, size_t count, const char *method, bool task_rec,
                           const double *weights, struct vireo_error *err);

// As the definition has it.
const char *grader_name(const struct grader *g);
const char *grader_type(const struct grader *g); // "rule", "string_check", "multi"
// Sub-rewards: the graders of a multi in the order given, or the one grader itself.
size_t grader_part_count(const struct grader *g);
const char *grader_part_name(const struct grader *g, size_t part);
const char *grader_part_type(const struct grader *g, size_t part);

// Top-level members of `item` that templates name, repeats included; NULL when `index` is past the last. A job whose
// rows have no such member can be refused before it starts. *path is the template's field in the client's document.
const char *grader_item_key(const struct grader *g, size_t index, const char **path);

// Grades one sample. `item` may be NULL (no fields). The only error is lack of memory.
bool grader_run(const struct grader *g, const struct grader_sample *sample, const json_t *item, struct grade *out,
                struct vireo_error *err);

#endif
