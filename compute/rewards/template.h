// The templates of graders: text with {{ item.path }} and {{ sample.output_text }} in it.
//
// A path starts with `item`, `sample.output_text` or `sample.output_json` and goes on with .name, [n] or ["name"].
// Spaces inside the braces are optional. A string is put in as it is, any other JSON as its compact dump. No filters,
// loops or expressions; what is put in is never expanded again. `sample.output_tools` is an empty list: tools are not
// built.
#ifndef VIREO_REWARDS_TEMPLATE_H
#define VIREO_REWARDS_TEMPLATE_H

#include "compute/base/error.h"

#include <jansson.h>
#include <stddef.h>

enum { REWARD_TEMPLATE_BYTES = 64 * 1024, REWARD_TEMPLATE_STEPS = 16 };

struct reward_template; // immutable once compiled

// `path` names the template in errors. NULL on error.
struct reward_template *reward_template_create(const char *text, const char *path, struct vireo_error *err);
void reward_template_destroy(struct reward_template **t);
const char *reward_template_text(const struct reward_template *t);
// Top-level item keys used, in order of appearance, repeats included; NULL past the last.
const char *reward_template_item_key(const struct reward_template *t, size_t index);

enum template_outcome {
    TEMPLATE_OK = 0,
    TEMPLATE_NO_VARIABLE, // the item lacks the path
    TEMPLATE_NO_MEMBER,   // the sample's JSON lacks the path
    TEMPLATE_NOT_JSON,    // output_json is used and the text is not JSON
};
// Values a template sees. `output_json` is parsed by the caller once per sample; NULL if the text is not JSON.
struct template_values {
    const char *output_text;
    size_t output_bytes;
    const json_t *output_json;
    const json_t *item;
};
// Expands into *text (free; NUL-terminated). On an outcome other than TEMPLATE_OK *text is NULL and `missing` names the
// path. False only without memory.
bool reward_template_expand(const struct reward_template *t, const struct template_values *v, char **text,
                            size_t *bytes,
                            enum template_outcome *outcome, char missing[96], struct vireo_error *err);
// True if some variable starts with sample.output_json.
bool reward_template_uses_json(const struct reward_template *t);

#endif
