// Reward rules: one text, one reference, one number and the sentence that explains it.
//
// A rule is a constant table row (struct reward_rule) in its own file; the list of rules is in meson.build. Rules are
// pure: no state, no I/O, no randomness, so they may be called from any number of threads at once and give the same
// double every time. They follow VLM-R1's rules where that code is right; cases/rewards.json is their executable form.
#ifndef VIREO_REWARDS_REWARD_H
#define VIREO_REWARDS_REWARD_H

#include "compute/base/error.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

// What one completion is judged by. Everything is borrowed for the length of the call.
struct reward_input {
    const char *completion; // text without special tokens, NUL-terminated; may hold invalid UTF-8
    size_t completion_bytes;
    // ground truth as text (strings as they are, other JSON dumped); NULL if the rule needs none
    const char *reference;
    size_t reference_bytes;
    const json_t *params;   // the rule's own parameters, already accepted by check(); NULL = none given
    const json_t *item;     // the dataset row's own fields; NULL = none
    double image_size[2];   // width, height in pixels of the image file; 0 = unknown
    double model_size[2];   // width, height in pixels of what the model saw; 0 = unknown
    int64_t tokens;         // length of the completion in tokens; < 0 = unknown
};

enum reward_status {
    REWARD_OK = 0,
    REWARD_UNREADABLE, // the completion holds no answer of the kind the rule looks for; value is what that earns
    REWARD_NO_ANSWER,  // the rule does not apply to this pair (VLM-R1's None); value is 0
    REWARD_BAD_DATA,   // the row's reference, sizes or method cannot be used; value is 0
};

struct reward_result {
    double value; // finite
    enum reward_status status;
    char reason[160]; // one sentence, e.g. "IoU 0.62 of [1, 2, 3, 4] with [1, 2, 3, 6]"
};

struct reward_rule {
    const char *name;     // as users write it
    const char *summary;  // one sentence for lists and error messages
    bool needs_reference; // false: `reference` is never read
    // Validates params (an object, or NULL = none given). `path` is where params stand in the client's document.
    bool (*check)(const json_t *params, const char *path, struct vireo_error *err);
    // Fills *out. The only failure is lack of memory (false); everything else is a status.
    bool (*score)(const struct reward_input *in, struct reward_result *out, struct vireo_error *err);
};

// All rules built into this program, in the order of the list, ended by NULL.
extern const struct reward_rule *const reward_rules[];
// By name; NULL if there is no such rule.
const struct reward_rule *reward_find(const char *name);
// "format, format_rec, iou, …": names of all rules, for error messages. Writes into buffer, returns it.
const char *reward_names(char *buffer, size_t size);

// For rules without parameters: refuses any member of params.
bool reward_check_none(const json_t *params, const char *path, struct vireo_error *err);
// Sets value, status and the sentence; returns true.
bool reward_give(struct reward_result *out, enum reward_status status, double value, const char *fmt, ...)
    VIREO_PRINTF(4, 5);
// Every byte that is not part of valid UTF-8 becomes '?', in place: reasons quote what models write and go out as JSON.
void reward_mend_utf8(char *text);

#endif
