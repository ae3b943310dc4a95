// Tests (x is t), as Jinja's.
#include "compute/chat/template_internal.h"

#include "compute/base/check.h"

#include <math.h>
#include <string.h>

enum test_kind {
    TEST_DEFINED,
    TEST_UNDEFINED,
    TEST_NONE,
    TEST_STRING,
    TEST_NUMBER,
    TEST_INTEGER,
    TEST_FLOAT,
    TEST_BOOLEAN,
    TEST_TRUE,
    TEST_FALSE,
    TEST_MAPPING,
    TEST_ITERABLE,
    TEST_SEQUENCE,
    TEST_CALLABLE,
    TEST_ODD,
    TEST_EVEN,
    TEST_DIVISIBLE,
    TEST_EQ,
    TEST_NE,
    TEST_LT,
    TEST_LE,
    TEST_GT,
    TEST_GE,
    TEST_IN
};
static const struct {
    const char *name;
    enum test_kind kind;
} tests[] = {
    {"defined", TEST_DEFINED}, {"undefined", TEST_UNDEFINED}, {"none", TEST_NONE},         {"string", TEST_STRING},
    {"number", TEST_NUMBER},   {"integer", TEST_INTEGER},     {"float", TEST_FLOAT},       {"boolean", TEST_BOOLEAN},
    {"true", TEST_TRUE},       {"false", TEST_FALSE},         {"mapping", TEST_MAPPING},   {"iterable", TEST_ITERABLE},
    {"sequence", TEST_SEQUENCE}, {"callable", TEST_CALLABLE}, {"odd", TEST_ODD},           {"even", TEST_EVEN},
    {"divisibleby", TEST_DIVISIBLE}, {"eq", TEST_EQ},         {"equalto", TEST_EQ},        {"sameas", TEST_EQ},
    {"ne", TEST_NE},           {"lt", TEST_LT},               {"lessthan", TEST_LT},       {"le", TEST_LE},
    {"gt", TEST_GT},           {"greaterthan", TEST_GT},      {"ge", TEST_GE},             {"in", TEST_IN},
};

bool test_is_known(const char *name)
{
    for (size_t i = 0; i < VIREO_COUNT(tests); i++)
        if (strcmp(tests[i].name, name) == 0)
            return true;
    return false;
}

static bool compare_test(struct render *r, enum test_kind kind, const struct value *v, const struct value *with,
                         bool *out)
{
    int order = 0;
    if (!with)
        return render_fail(r, VIREO_INVALID, "the test needs a value to compare with");
    if (kind == TEST_IN)
        return value_contains(r, with, v, out);
    if (kind == TEST_EQ || kind == TEST_NE) {
        if (!value_equal(r, v, with, out))
            return false;
        *out = *out == (kind == TEST_EQ);
        return true;
    }
    if (!value_compare(r, v, with, &order))
        return false;
    *out = kind == TEST_LT ? order < 0 : kind == TEST_LE ? order <= 0 : kind == TEST_GT ? order > 0 : order >= 0;
    return true;
}

bool apply_test(struct render *r, const char *name, const struct value *v, const struct call *c, bool *out)
{
    size_t i = 0;
    while (i < VIREO_COUNT(tests) && strcmp(tests[i].name, name) != 0)
        i++;
    if (i == VIREO_COUNT(tests))
        return render_fail(r, VIREO_UNSUPPORTED, "unknown test \"%s\"", name);
    enum test_kind kind = tests[i].kind;
    const struct value *with = call_get(c, 0, NULL);
    bool iterable = value_is_sequence(v) || value_is_mapping(v) || v->kind == VALUE_TEXT;
    switch (kind) {
    case TEST_DEFINED: *out = v->kind != VALUE_UNDEFINED; return true;
    case TEST_UNDEFINED: *out = v->kind == VALUE_UNDEFINED; return true;
    case TEST_NONE: *out = v->kind == VALUE_NONE; return true;
    case TEST_STRING: *out = v->kind == VALUE_TEXT; return true;
    case TEST_NUMBER: *out = value_is_number(v); return true;
    case TEST_INTEGER: *out = v->kind == VALUE_INTEGER; return true;
    case TEST_FLOAT: *out = v->kind == VALUE_REAL; return true;
    case TEST_BOOLEAN: *out = v->kind == VALUE_BOOL; return true;
    case TEST_TRUE: *out = v->kind == VALUE_BOOL && v->as.boolean; return true;
    case TEST_FALSE: *out = v->kind == VALUE_BOOL && !v->as.boolean; return true;
    case TEST_MAPPING: *out = value_is_mapping(v); return true;
    case TEST_ITERABLE: *out = iterable || v->kind == VALUE_UNDEFINED; return true;
    case TEST_SEQUENCE: *out = iterable || v->kind == VALUE_UNDEFINED; return true;
    case TEST_CALLABLE: *out = v->kind == VALUE_MACRO || v->kind == VALUE_FUNCTION; return true;
    case TEST_ODD:
    case TEST_EVEN:
        if (v->kind != VALUE_INTEGER)
            return render_fail(r, VIREO_INVALID, "%s is neither odd nor even", value_kind_name(v));
        *out = (v->as.integer % 2 != 0) == (kind == TEST_ODD);
        return true;
    case TEST_DIVISIBLE:
        if (v->kind != VALUE_INTEGER || !with || with->kind != VALUE_INTEGER || with->as.integer == 0 ||
            with->as.integer == -1)
            return render_fail(r, VIREO_INVALID, "divisibleby needs two integers, the second not 0 or -1");
        *out = v->as.integer % with->as.integer == 0;
        return true;
    default: return compare_test(r, kind, v, with, out);
    }
}
