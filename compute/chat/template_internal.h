// What the files of the template interpreter share; nobody else includes it.
#ifndef VIREO_CHAT_TEMPLATE_INTERNAL_H
#define VIREO_CHAT_TEMPLATE_INTERNAL_H

#include "compute/chat/template.h"

// ---- parsed template (template_parse.c, template_parse_*.c)

enum node_kind {
    // statements
    NODE_BODY,   // kids
    NODE_TEXT,   // text
    NODE_OUTPUT, // kids[0]
    NODE_IF,     // condition, body, condition, body, ..., then perhaps else body
    NODE_FOR,    // target, list, condition or NULL, body, else body or NULL
    NODE_SET,    // target, expression
    NODE_CAPTURE, // {% set x %}: target, body, filters (NODE_FILTER)...
    NODE_MACRO,  // text; kids: body, then defaults (NULL: none) of names[]
    NODE_FILTERED, // {% filter f %}: body, filters...
    NODE_BREAK,
    NODE_CONTINUE,
    // expressions
    NODE_CONSTANT, // string in text; others by `literal`
    NODE_NAME,
    NODE_LIST,
    NODE_TUPLE,
    NODE_DICT,    // key, value, ...
    NODE_UNARY,   // op, kids[0]
    NODE_CHAIN,   // kids joined by ops[i] between i and i + 1, from the left; arithmetic and ~
    NODE_COMPARE, // the same with comparisons: a < b <= c
    NODE_AND,
    NODE_OR,
    NODE_CONDITIONAL, // value, condition, else value or NULL
    NODE_POSTFIX,     // kids[0], then these in order:
    NODE_ATTRIBUTE,   // text
    NODE_INDEX,       // kids[0]
    NODE_SLICE,       // start, stop, step, each may be NULL
    NODE_CALL,        // arguments; names[i] NULL: positional
    NODE_FILTER,      // text, arguments
    NODE_TEST,        // text, arguments; op 1: negated
};
enum literal { LITERAL_STRING, LITERAL_INTEGER, LITERAL_REAL, LITERAL_TRUE, LITERAL_FALSE, LITERAL_NONE };
enum operator { OP_ADD, OP_SUB, OP_MUL, OP_DIV, OP_FLOOR, OP_MOD, OP_POW, OP_CONCAT, OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT,
                OP_GE, OP_IN, OP_NOT_IN, OP_NOT, OP_MINUS, OP_PLUS };

struct node {
    enum node_kind kind;
    enum literal literal;
    unsigned op;
    int line;
    const char *text;
    size_t length;
    struct node **kids;
    size_t count;
    unsigned char *ops;
    const char **names; // of call arguments, of macro parameters
    size_t name_count;
    int64_t integer;
    double real;
};

struct chat_template {
    struct arena arena;
    struct node *body, *tool_body; // tool_body: of the template named "tool_use"; NULL: none
    json_t *variables;             // special tokens of the folder; may be NULL
};

// Parses `length` bytes into a body; everything lives in `a`.
struct node *template_parse_source(struct arena *a, const char *source, size_t length, struct vireo_error *err);

// ---- values (template_value.c, template_text.c, template_compare.c; what a rendering may spend: template_budget.c)

enum value_kind {
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INTEGER,
    VALUE_REAL,
    VALUE_TEXT,
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_DICT,
    VALUE_JSON,
    VALUE_NAMESPACE,
    VALUE_LOOP,
    VALUE_MACRO,
    VALUE_FUNCTION
};

struct origin_run {
    size_t end;
    int32_t origin;
};
// A string and where its bytes came from. runs NULL: all from `origin`.
struct text {
    const char *bytes;
    size_t length;
    const struct origin_run *runs;
    size_t run_count;
    int32_t origin;
};

struct pair;
struct dict {
    struct pair *pairs;
    size_t count, capacity;
};
struct value {
    enum value_kind kind;
    union {
        bool boolean;
        int64_t integer;
        double real;
        struct text text;
        struct {
            struct value *items;
            size_t count;
        } list; // and tuple
        struct dict *dict; // and namespace
        struct {
            const json_t *value; // array or object
            int32_t origin;      // ORIGIN_BY_INDEX: element i is message i
        } json;
        struct loop *loop;
        struct macro *macro;
        int function;
        const char *name; // of what is undefined; may be NULL
    } as;
};
struct pair {
    struct value key, value;
};
enum { ORIGIN_BY_INDEX = -3 };

struct loop {
    const struct value *items;
    size_t index, count;
    int depth;
    struct value changed;
    bool has_changed;
};
struct scope {
    struct scope *parent;
    struct dict variables;
    bool captured; // a macro may come back to it: not to be used for the next turn of a loop
};
struct macro {
    const struct node *node;
    struct scope *scope;
};

struct builder {
    char *bytes;
    size_t length, capacity;
    struct origin_run *runs;
    size_t run_count, run_capacity;
};

enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };
struct render {
    struct arena arena;
    struct vireo_error *err;
    struct scope *scope;
    struct builder *out;
    enum flow flow;
    int64_t steps, now;
    int depth, nesting, macros, loops, line; // of evaluation; of values compared; macro calls; loops
};

// All that return bool: false = failed, the error is set.
bool render_fail(struct render *r, enum vireo_code code, const char *fmt, ...) VIREO_PRINTF(3, 4);
bool render_spend(struct render *r, size_t steps);       // counts towards TEMPLATE_MAX_STEPS
bool render_spend_bytes(struct render *r, size_t bytes); // for work on this many bytes; also holds the size limit
void *render_take(struct render *r, size_t count, size_t size); // NULL + error
// Makes room for `wanted` elements in *array, which holds `used` of them; capacities double.
bool render_grow(struct render *r, void *array, size_t used, size_t wanted, size_t *capacity, size_t size);

bool builder_add(struct render *r, struct builder *b, struct text t);
bool builder_add_own(struct render *r, struct builder *b, const char *bytes, size_t length, int32_t origin);
struct value builder_value(const struct builder *b);

struct text text_slice(struct render *r, struct text t, size_t from, size_t to, bool *ok);
int32_t text_origin(struct text t); // the one that is not the template's, if there is any
bool text_is(struct text t, const char *literal);
// Position of `needle` in hay[from..], SIZE_MAX if absent.
bool text_find(struct render *r, struct text hay, size_t from, struct text needle, size_t *at);
size_t text_characters(struct text t);
size_t text_step(struct text t, size_t at); // bytes of the character there
bool is_space_at(struct text t, size_t at, size_t *step);
struct text text_strip(struct render *r, struct text t, const struct text *set, bool left, bool right, bool *ok);

struct value value_text(const char *literal);
struct value value_integer(int64_t i);
struct value value_bool(bool b);
struct value value_list(struct value *items, size_t count);
struct value value_none(void);
struct value value_undefined(const char *name);
struct value value_json(const json_t *json, int32_t origin, const char *key);

const char *value_kind_name(const struct value *v);
bool value_truth(const struct value *v);
bool value_equal(struct render *r, const struct value *a, const struct value *b, bool *out);
bool value_compare(struct render *r, const struct value *a, const struct value *b, int *out);
bool value_to_text(struct render *r, const struct value *v, struct text *out); // as {{ v }} prints it
bool value_is_number(const struct value *v);
double value_number(const struct value *v);
bool value_is_mapping(const struct value *v);
bool value_is_sequence(const struct value *v); // list, tuple, JSON array
bool value_length(struct render *r, const struct value *v, size_t *out);
// Elements for iteration: of lists, keys of mappings, characters of strings; nothing of undefined.
bool value_items(struct render *r, const struct value *v, struct value **items, size_t *count);
bool value_pairs(struct render *r, const struct value *v, struct pair **pairs, size_t *count);
bool value_lookup(struct render *r, const struct value *map, struct text key, struct value *out, bool *found);
bool value_contains(struct render *r, const struct value *in, const struct value *what, bool *out);
int32_t value_origin(const struct value *v); // one origin for all that is inside
bool dict_set(struct render *r, struct dict *d, struct value key, struct value value);

struct dump_style {
    bool python;       // repr() instead of JSON
    bool ascii, sort;
    int indent;        // -1: one line
    const char *item_separator, *key_separator;
};
bool value_dump(struct render *r, const struct value *v, const struct dump_style *style,
                struct text *out); // template_dump.c

// ---- calls (template_filters.c, template_methods.c)

enum { CALL_MAX_ARGUMENTS = 16 };
struct call {
    struct value values[CALL_MAX_ARGUMENTS];
    const char *names[CALL_MAX_ARGUMENTS];
    size_t count;
};
// The argument `name`, or the one at `position` among the positional ones; NULL if not given.
const struct value *call_get(const struct call *c, size_t position, const char *name);
bool filter_is_known(const char *name);
bool test_is_known(const char *name);
bool apply_filter(struct render *r, const char *name, const struct value *in, const struct call *c, struct value *out);
bool apply_test(struct render *r, const char *name, const struct value *in, const struct call *c, bool *out);
// *known false: the value has no such method.
bool call_method(struct render *r, const struct value *self, const char *name, const struct call *c, struct value *out,
                 bool *known);
bool call_function(struct render *r, int function, const struct call *c, struct value *out);
int function_find(const char *name); // -1: none

// ---- evaluation (template_eval.c, template_execute.c, template_access.c)

bool eval(struct render *r, const struct node *n, struct value *out);
bool execute(struct render *r, const struct node *n);
bool get_attribute(struct render *r, const struct value *of, const char *name, size_t length, struct value *out);

#endif
