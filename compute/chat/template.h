// Chat templates: a bounded interpreter of the Jinja that model folders carry.
//
// Rules of the environment are transformers': trim_blocks, lstrip_blocks, one trailing newline dropped, break/continue,
// `tojson` without HTML escapes (non-ASCII kept, ", " and ": "), raise_exception(), strftime_now(), lists and mappings
// that cannot be changed. Statements: if/elif/else, for (else, filter, unpacking, recursive refused), set (also blocks,
// tuples, namespace attributes), macro, filter blocks, break, continue, raw, generation (its body is rendered).
// Expressions: all of Jinja's operators, slices, conditional, calls, `is` tests, the filters and string methods that
// templates use. Anything else is refused when the template is parsed or run, by its name. Two things differ from
// Jinja: changing the case of letters that are not ASCII is refused, and a list that is printed whole shows characters
// beyond ASCII as they are, where Python escapes those it cannot print.
//
// Limits: 1e6 steps, 4 MiB of output, 64 levels of nesting and of macro calls, 96 MiB of working memory, 1 MiB of
// source: a template is a program from a model folder, not to be trusted with our time or memory. A template never
// changes after loading: any number of threads may render it at once.
#ifndef VIREO_CHAT_TEMPLATE_H
#define VIREO_CHAT_TEMPLATE_H

#include "compute/base/arena.h"
#include "compute/base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TEMPLATE_MAX_STEPS = 1000000,
    TEMPLATE_MAX_OUTPUT = 4 << 20,
    TEMPLATE_MAX_DEPTH = 64,
    TEMPLATE_MAX_SOURCE = 1 << 20,
    TEMPLATE_MAX_MEMORY = 96 << 20,
};

struct chat_template;

// From a model folder: chat_template.jinja, else chat_template.json, else tokenizer_config.json ("chat_template", a
// string or a list of named ones: "default", and "tool_use" when tools are given). The special tokens of
// tokenizer_config.json (bos_token, eos_token, ...) become variables. VIREO_NOT_FOUND: the folder has no template.
// VIREO_CORRUPT: the template does not parse; the message names the line.
struct chat_template *template_load(const char *folder, struct vireo_error *err);
struct chat_template *template_parse(const char *source, size_t length, struct vireo_error *err);
void template_destroy(struct chat_template **t); // NULL and a NULL pointer are fine

struct template_input {
    const json_t *messages; // array; e.g. of chat_messages_json
    const json_t *tools;    // array of OpenAI's tool objects, or NULL
    bool add_generation_prompt;
    const json_t *variables; // object of further variables (add_vision_id, enable_thinking, ...), or NULL; trusted
    int64_t now;             // seconds since 1970 for strftime_now (in UTC); the template gets no other clock
};

enum { TEMPLATE_OWN = -1, TEMPLATE_TOOLS = -2 };

// A stretch of the output by origin: TEMPLATE_OWN is the template's own text, TEMPLATE_TOOLS came from `tools`, n >= 0
// from message n (content, tool calls, names; not its role). Text of users keeps its mark through concatenation,
// slicing, filters and methods, so that special tokens in it can be told from the template's (tokenizer_encode_spans).
struct template_segment {
    const char *text; // points into the output's text
    size_t length;    // > 0
    int32_t origin;
};
struct template_output {
    char *text; // the whole output, NUL behind
    size_t length;
    struct template_segment *segments; // cover the text, in order
    size_t segment_count;
};

// Output in the arena `a`. Errors: VIREO_INVALID (the template refuses these messages by raise_exception, or a value
// has the wrong type; the message says where), VIREO_TOO_LARGE (a limit), VIREO_UNSUPPORTED, VIREO_NO_MEMORY.
bool template_render(const struct chat_template *t, const struct template_input *in, struct arena *a,
                     struct template_output *out, struct vireo_error *err);

#endif
