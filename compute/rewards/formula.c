#include "compute/rewards/formula.h"

#include "compute/base/check.h"
#include "compute/base/fault.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum opcode { NUMBER, NAME, ADD, SUB, MUL, DIV, POW, NEG, MIN, MAX, ABS, FLOOR, CEIL, EXP, SQRT, LOG };
// One step of the compiled formula, in reverse Polish order.
struct step {
    enum opcode op;
    double number; // NUMBER
    size_t name;   // NAME
};
enum { STACK = 4 * FORMULA_DEPTH };
struct formula {
    size_t count;
    struct step steps[];
};

static const struct {
    const char *name;
    enum opcode op;
} functions[] = {
    {"min", MIN}, {"max", MAX}, {"abs", ABS}, {"floor", FLOOR}, {"ceil", CEIL}, {"exp", EXP}, {"sqrt", SQRT},
    {"log", LOG},
};

// The state of one compilation. Failure is reported once, at the first place that cannot go on.
struct parser {
    const char *text, *at, *path;
    const char *const *names;
    size_t name_count, depth, height; // height: values on the stack behind the last step
    struct formula *out;
    size_t capacity;
    struct vireo_error *err;
};

static bool parse_sum(struct parser *p);

static bool wrong(struct parser *p, const char *expected)
{
    char seen[24] = "the end";
    if (*p->at)
        snprintf(seen, sizeof seen, "'%.10s'", p->at);
    return vireo_fail_param(p->err, p->path, "Invalid formula in '%s': expected %s at column %zu, got %s.", p->path,
                            expected, (size_t)(p->at - p->text) + 1, seen);
}

static bool emit(struct parser *p, struct step s)
{
    p->height += s.op == NUMBER || s.op == NAME ? 1 : 0;
    p->height -= (s.op >= ADD && s.op <= POW) || s.op == MIN || s.op == MAX ? 1 : 0;
    if (p->height > STACK)
        return wrong(p, "a formula nested less deeply");
    vireo_assert(p->out->count < p->capacity);
    p->out->steps[p->out->count++] = s;
    return true;
}

static void skip(struct parser *p)
{
    while (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r')
        p->at++;
}

static bool take(struct parser *p, char c)
{
    skip(p);
    if (*p->at != c)
        return false;
    p->at++;
    return true;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

// Digits with an optional point and exponent; never hexadecimal, inf or nan, which strtod alone would take.
static bool parse_number(struct parser *p)
{
    const char *start = p->at;
    size_t digits = 0;
    for (; is_digit(*p->at); p->at++)
        digits++;
    if (*p->at == '.')
        for (p->at++; is_digit(*p->at); p->at++)
            digits++;
    if (!digits)
        return wrong(p, "a digit");
    if (*p->at == 'e' || *p->at == 'E') {
        const char *exponent = p->at + 1 + (p->at[1] == '+' || p->at[1] == '-');
        if (is_digit(*exponent)) {
            while (is_digit(*exponent))
                exponent++;
            p->at = exponent;
        }
    }
    char copy[64];
    size_t length = (size_t)(p->at - start);
    if (length >= sizeof copy || is_name(*p->at)) {
        p->at = start;
        return wrong(p, "a number of at most 63 characters");
    }
    memcpy(copy, start, length);
    copy[length] = 0;
    double value = strtod(copy, NULL);
    if (!isfinite(value)) {
        p->at = start;
        return wrong(p, "a finite number");
    }
    return emit(p, (struct step){.op = NUMBER, .number = value});
}

// Behind the opening parenthesis of function `op`.
static bool parse_arguments(struct parser *p, enum opcode op)
{
    size_t count = 0;
    do {
        if (!parse_sum(p))
            return false;
        if (++count > 1 && op != MIN && op != MAX) {
            p->at--;
            return wrong(p, "one argument");
        }
        if (count > 1 && !emit(p, (struct step){.op = op}))
            return false;
    } while (take(p, ','));
    if (!take(p, ')'))
        return wrong(p, "',' or ')'");
    if (op == MIN || op == MAX)
        return count > 1 ? true : wrong(p, "a second argument of min or max before this place");
    return emit(p, (struct step){.op = op});
}

static bool parse_word(struct parser *p)
{
    const char *start = p->at;
    while (is_name(*p->at) || is_digit(*p->at))
        p->at++;
    size_t length = (size_t)(p->at - start);
    if (take(p, '(')) {
        for (size_t i = 0; i < VIREO_COUNT(functions); i++)
            if (strlen(functions[i].name) == length && memcmp(functions[i].name, start, length) == 0)
                return parse_arguments(p, functions[i].op);
        p->at = start;
        return wrong(p, "one of min, max, abs, floor, ceil, exp, sqrt, log");
    }
    for (size_t i = 0; i < p->name_count; i++)
        if (strlen(p->names[i]) == length && memcmp(p->names[i], start, length) == 0)
            return emit(p, (struct step){.op = NAME, .name = i});
    p->at = start;
    return wrong(p, "the name of one of the graders");
}

static bool parse_primary(struct parser *p)
{
    skip(p);
    if (is_digit(*p->at) || *p->at == '.')
        return parse_number(p);
    if (is_name(*p->at))
        return parse_word(p);
    if (!take(p, '('))
        return wrong(p, "a number, a grader's name, a function or '('");
    return parse_sum(p) && (take(p, ')') || wrong(p, "')'"));
}

// unary = "-" unary | primary [("^" | "**") unary]: the power binds tighter than the minus before it.
static bool parse_unary(struct parser *p)
{
    if (p->depth >= FORMULA_DEPTH)
        return wrong(p, "a formula nested at most 64 deep");
    p->depth++;
    bool ok;
    if (take(p, '-')) {
        ok = parse_unary(p) && emit(p, (struct step){.op = NEG});
    } else {
        ok = parse_primary(p);
        skip(p);
        size_t power = *p->at == '^' ? 1 : p->at[0] == '*' && p->at[1] == '*' ? 2 : 0;
        if (ok && power) {
            p->at += power;
            ok = parse_unary(p) && emit(p, (struct step){.op = POW});
        }
    }
    p->depth--;
    return ok;
}

static bool parse_product(struct parser *p)
{
    if (!parse_unary(p))
        return false;
    for (;;) {
        enum opcode op = take(p, '*') ? MUL : take(p, '/') ? DIV : NUMBER;
        if (op == NUMBER)
            return true;
        if (!parse_unary(p) || !emit(p, (struct step){.op = op}))
            return false;
    }
}

static bool parse_sum(struct parser *p)
{
    if (!parse_product(p))
        return false;
    for (;;) {
        enum opcode op = take(p, '+') ? ADD : take(p, '-') ? SUB : NUMBER;
        if (op == NUMBER)
            return true;
        if (!parse_product(p) || !emit(p, (struct step){.op = op}))
            return false;
    }
}

struct formula *formula_create(const char *text, const char *const *names, size_t count, const char *path,
                               struct vireo_error *err)
{
    size_t length = strlen(text);
    if (length > FORMULA_BYTES) {
        vireo_fail_param(err, path, "Invalid formula in '%s': at most %d characters, got %zu.", path, FORMULA_BYTES,
                         length);
        return NULL;
    }
    // Every step comes from at least one character of the text; min and max give one more an argument, paid by a comma.
    size_t capacity = length + 1;
    struct formula *f = vireo_alloc(sizeof *f + capacity * sizeof f->steps[0]);
    if (!f) {
        vireo_fail_memory(err, capacity * sizeof f->steps[0]);
        return NULL;
    }
    f->count = 0;
    struct parser p = {.text = text, .at = text, .path = path, .names = names, .name_count = count, .out = f,
                       .capacity = capacity, .err = err};
    bool ok = parse_sum(&p);
    skip(&p);
    if (ok && *p.at)
        ok = wrong(&p, "an operator or the end");
    if (!ok)
        formula_destroy(&f);
    return f;
}

void formula_destroy(struct formula **f)
{
    if (!f)
        return;
    free(*f);
    *f = NULL;
}

static double unary(enum opcode op, double x)
{
    switch (op) {
    case NEG: return -x;
    case ABS: return fabs(x);
    case FLOOR: return floor(x);
    case CEIL: return ceil(x);
    case EXP: return exp(x);
    case SQRT: return sqrt(x);
    default: return log(x);
    }
}

static double binary(enum opcode op, double a, double b)
{
    switch (op) {
    case ADD: return a + b;
    case SUB: return a - b;
    case MUL: return a * b;
    case DIV: return a / b;
    case POW: return pow(a, b);
    case MIN: return isnan(a) || isnan(b) ? NAN : fmin(a, b); // fmin alone would hide a NaN
    default: return isnan(a) || isnan(b) ? NAN : fmax(a, b);
    }
}

double formula_value(const struct formula *f, const double *values)
{
    double stack[STACK + 1];
    size_t height = 0;
    for (size_t i = 0; i < f->count; i++) {
        const struct step *s = &f->steps[i];
        if (s->op == NUMBER || s->op == NAME) {
            stack[height++] = s->op == NUMBER ? s->number : values[s->name];
        } else if ((s->op >= ADD && s->op <= POW) || s->op == MIN || s->op == MAX) {
            height--;
            stack[height - 1] = binary(s->op, stack[height - 1], stack[height]);
        } else {
            stack[height - 1] = unary(s->op, stack[height - 1]);
        }
    }
    return stack[0];
}
