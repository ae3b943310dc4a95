// Runs the expressions of a parsed template: names, calls, operators.
#include "compute/chat/template_eval.h"

#include "compute/base/check.h"

#include <math.h>
#include <string.h>

// Frames of eval and execute on the C stack: a level of nesting in the source is at most a dozen of them.
enum { MAX_FRAMES = 16 * TEMPLATE_MAX_DEPTH };

bool render_enter(struct render *r, const struct node *n)
{
    r->line = n->line;
    if (++r->depth > MAX_FRAMES)
        return render_fail(r, VIREO_TOO_LARGE, "nested too deeply");
    return render_spend(r, 1);
}

bool find_name(struct render *r, const char *name, struct value *out)
{
    struct text key = value_text(name).as.text;
    for (struct scope *s = r->scope; s; s = s->parent) {
        struct value variables = {.kind = VALUE_DICT, .as.dict = &s->variables};
        bool found;
        if (!value_lookup(r, &variables, key, out, &found))
            return false;
        if (found)
            return true;
    }
    int function = function_find(name);
    *out = function < 0 ? value_undefined(name) : (struct value){.kind = VALUE_FUNCTION, .as.function = function};
    return true;
}

// ---- calls

static bool eval_arguments(struct render *r, const struct node *n, struct call *c)
{
    c->count = n->count;
    vireo_assert(n->count <= CALL_MAX_ARGUMENTS);
    for (size_t i = 0; i < n->count; i++) {
        c->names[i] = n->names ? n->names[i] : NULL;
        if (!eval(r, n->kids[i], &c->values[i]))
            return false;
    }
    return true;
}

static bool call_macro(struct render *r, const struct macro *m, const struct call *c, struct value *out)
{
    const struct node *n = m->node;
    struct scope *scope = r->scope;
    struct builder b = {0}, *target = r->out;
    size_t used = 0;
    if (++r->macros > TEMPLATE_MAX_DEPTH)
        return render_fail(r, VIREO_TOO_LARGE, "more than %d macro calls inside each other", TEMPLATE_MAX_DEPTH);
    r->scope = m->scope;
    if (!push_scope(r))
        return false;
    for (size_t i = 0; i < n->name_count; i++) {
        const struct value *given = call_get(c, i, n->names[i]);
        struct value v = value_undefined(n->names[i]);
        used += given != NULL;
        if (given)
            v = *given;
        else if (n->kids[i + 1] && !eval(r, n->kids[i + 1], &v))
            return false;
        if (!dict_set(r, &r->scope->variables, value_text(n->names[i]), v))
            return false;
    }
    if (used != c->count)
        return render_fail(r, VIREO_INVALID, "the macro %s does not take these arguments", n->text);
    r->out = &b;
    int loops = r->loops;
    r->loops = 0;
    if (!execute(r, n->kids[0]))
        return false;
    r->loops = loops;
    r->out = target;
    r->scope = scope;
    r->macros--;
    *out = builder_value(&b);
    return true;
}

static bool call_value(struct render *r, const struct value *what, const struct call *c, struct value *out)
{
    if (what->kind == VALUE_MACRO)
        return call_macro(r, what->as.macro, c, out);
    if (what->kind == VALUE_FUNCTION)
        return call_function(r, what->as.function, c, out);
    if (what->kind == VALUE_UNDEFINED)
        return render_fail(r, VIREO_INVALID, "%s is undefined and cannot be called",
                           what->as.name ? what->as.name : "the value");
    return render_fail(r, VIREO_INVALID, "%s cannot be called", value_kind_name(what));
}

static bool call_node(struct render *r, const struct value *of, const struct node *name, const struct node *n,
                      struct value *out)
{
    struct call c = {0};
    bool known = false;
    struct value what = *of;
    if (!eval_arguments(r, n, &c))
        return false;
    r->line = n->line;
    if (name) {
        if (of->kind == VALUE_UNDEFINED)
            return refuse_undefined(r, of, name->text);
        if (!call_method(r, of, name->text, &c, out, &known))
            return false;
        if (known)
            return true;
        if (!one_attribute(r, of, name->text, &what))
            return false;
        if (what.kind == VALUE_UNDEFINED)
            return render_fail(r, VIREO_UNSUPPORTED, "%s has no method %s here", value_kind_name(of), name->text);
    }
    return call_value(r, &what, &c, out);
}

bool filter_node(struct render *r, const struct node *n, const struct value *in, struct value *out)
{
    struct call c = {0};
    if (!eval_arguments(r, n, &c))
        return false;
    r->line = n->line;
    return apply_filter(r, n->text, in, &c, out);
}

static bool test_node(struct render *r, const struct node *n, const struct value *in, struct value *out)
{
    struct call c = {0};
    bool yes;
    if (!eval_arguments(r, n, &c) || !apply_test(r, n->text, in, &c, &yes))
        return false;
    *out = value_bool(yes != (n->op != 0));
    return true;
}

static bool eval_postfix(struct render *r, const struct node *n, struct value *out)
{
    struct value at, next, key;
    if (!eval(r, n->kids[0], &at))
        return false;
    for (size_t i = 1; i < n->count; i++) {
        const struct node *op = n->kids[i];
        bool ok;
        if (!render_spend(r, 1))
            return false;
        switch (op->kind) {
        case NODE_ATTRIBUTE:
            if (i + 1 < n->count && n->kids[i + 1]->kind == NODE_CALL)
                ok = call_node(r, &at, op, n->kids[++i], &next);
            else
                ok = one_attribute(r, &at, op->text, &next);
            break;
        case NODE_INDEX: ok = eval(r, op->kids[0], &key) && index_value(r, &at, &key, &next); break;
        case NODE_SLICE: ok = slice_value(r, &at, op, &next); break;
        case NODE_CALL: ok = call_node(r, &at, NULL, op, &next); break;
        case NODE_FILTER: ok = filter_node(r, op, &at, &next); break;
        default: ok = test_node(r, op, &at, &next); break;
        }
        if (!ok)
            return false;
        at = next;
    }
    *out = at;
    return true;
}

// ---- operators

static bool join_texts(struct render *r, struct text a, struct text b, struct value *out)
{
    struct builder made = {0};
    if (!builder_add(r, &made, a) || !builder_add(r, &made, b))
        return false;
    *out = builder_value(&made);
    return true;
}

static bool join_lists(struct render *r, const struct value *a, const struct value *b, struct value *out)
{
    struct value *x, *y;
    size_t n, m;
    if (!value_items(r, a, &x, &n) || !value_items(r, b, &y, &m) || !render_spend(r, (n + m) / 4))
        return false;
    struct value *items = render_take(r, n + m, sizeof *items);
    if (!items)
        return false;
    if (n)
        memcpy(items, x, n * sizeof *items);
    if (m)
        memcpy(items + n, y, m * sizeof *items);
    *out = value_list(items, n + m);
    if (a->kind == VALUE_TUPLE && b->kind == VALUE_TUPLE)
        out->kind = VALUE_TUPLE;
    return true;
}

static bool repeat_text(struct render *r, struct text t, int64_t times, struct value *out)
{
    struct builder b = {0};
    for (int64_t i = 0; i < times && t.length; i++)
        if (!render_spend(r, 1) || !builder_add(r, &b, t))
            return false;
    *out = builder_value(&b);
    return true;
}

static int64_t whole(const struct value *v)
{
    return v->kind == VALUE_BOOL ? v->as.boolean : v->as.integer;
}

static bool integers(struct render *r, enum operator op, int64_t a, int64_t b, struct value *out)
{
    int64_t made = 0;
    bool wrong = false;
    switch (op) {
    case OP_ADD: wrong = __builtin_add_overflow(a, b, &made); break;
    case OP_SUB: wrong = __builtin_sub_overflow(a, b, &made); break;
    case OP_MUL: wrong = __builtin_mul_overflow(a, b, &made); break;
    case OP_POW:
        made = 1;
        for (int64_t i = 0; i < b && !wrong; i++)
            wrong = i > 64 || __builtin_mul_overflow(made, a, &made);
        break;
    default: // floor division and its remainder, rounding down as Python does
        if (b == 0)
            return render_fail(r, VIREO_INVALID, "division by zero");
        if (b == -1) {
            wrong = op == OP_FLOOR && __builtin_sub_overflow((int64_t)0, a, &made);
            break;
        }
        made = op == OP_FLOOR ? a / b - (a % b != 0 && (a < 0) != (b < 0))
                              : a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0);
    }
    if (wrong)
        return render_fail(r, VIREO_INVALID, "the number is too large");
    *out = value_integer(made);
    return true;
}

static bool arithmetic(struct render *r, enum operator op, const struct value *a, const struct value *b,
                       struct value *out)
{
    bool reals = a->kind == VALUE_REAL || b->kind == VALUE_REAL || op == OP_DIV ||
                 (op == OP_POW && whole(b) < 0);
    if (!reals)
        return integers(r, op, whole(a), whole(b), out);
    double x = value_number(a), y = value_number(b), made;
    if (y == 0 && (op == OP_DIV || op == OP_FLOOR || op == OP_MOD))
        return render_fail(r, VIREO_INVALID, "division by zero");
    switch (op) {
    case OP_ADD: made = x + y; break;
    case OP_SUB: made = x - y; break;
    case OP_MUL: made = x * y; break;
    case OP_DIV: made = x / y; break;
    case OP_FLOOR: made = floor(x / y); break;
    case OP_MOD: made = x - floor(x / y) * y; break;
    default: made = pow(x, y); break;
    }
    *out = (struct value){.kind = VALUE_REAL, .as.real = made};
    return true;
}

static bool binary(struct render *r, enum operator op, const struct value *a, const struct value *b, struct value *out)
{
    struct text x, y;
    if (op == OP_CONCAT)
        return value_to_text(r, a, &x) && value_to_text(r, b, &y) && join_texts(r, x, y, out);
    if (value_is_number(a) && value_is_number(b))
        return arithmetic(r, op, a, b, out);
    if (op == OP_ADD && a->kind == VALUE_TEXT && b->kind == VALUE_TEXT)
        return join_texts(r, a->as.text, b->as.text, out);
    if (op == OP_ADD && value_is_sequence(a) && value_is_sequence(b))
        return join_lists(r, a, b, out);
    if (op == OP_MUL && a->kind == VALUE_TEXT && b->kind == VALUE_INTEGER)
        return repeat_text(r, a->as.text, b->as.integer, out);
    if (op == OP_MOD && a->kind == VALUE_TEXT)
        return render_fail(r, VIREO_UNSUPPORTED, "formatting by %% is not supported");
    const struct value *missing = a->kind == VALUE_UNDEFINED ? a : b;
    if (missing->kind == VALUE_UNDEFINED)
        return render_fail(r, VIREO_INVALID, "%s is undefined", missing->as.name ? missing->as.name : "an operand");
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**"};
    return render_fail(r, VIREO_INVALID, "%s %s %s is not possible", value_kind_name(a), names[op], value_kind_name(b));
}

static bool eval_chain(struct render *r, const struct node *n, struct value *out)
{
    struct value left, right, made;
    if (!eval(r, n->kids[0], &left))
        return false;
    for (size_t i = 1; i < n->count; i++) {
        if (!eval(r, n->kids[i], &right) || !render_spend(r, 1))
            return false;
        r->line = n->line;
        if (!binary(r, (enum operator)n->ops[i - 1], &left, &right, &made))
            return false;
        left = made;
    }
    *out = left;
    return true;
}

static bool compare(struct render *r, enum operator op, const struct value *a, const struct value *b, bool *out)
{
    int order;
    switch (op) {
    case OP_EQ:
    case OP_NE:
        if (!value_equal(r, a, b, out))
            return false;
        *out = *out == (op == OP_EQ);
        return true;
    case OP_IN:
    case OP_NOT_IN:
        if (!value_contains(r, b, a, out))
            return false;
        *out = *out == (op == OP_IN);
        return true;
    default:
        if (!value_compare(r, a, b, &order))
            return false;
        *out = op == OP_LT ? order < 0 : op == OP_LE ? order <= 0 : op == OP_GT ? order > 0 : order >= 0;
        return true;
    }
}

static bool eval_compare(struct render *r, const struct node *n, struct value *out)
{
    struct value left, right;
    bool yes = true;
    if (!eval(r, n->kids[0], &left))
        return false;
    for (size_t i = 1; i < n->count && yes; i++) {
        if (!eval(r, n->kids[i], &right))
            return false;
        r->line = n->line;
        if (!compare(r, (enum operator)n->ops[i - 1], &left, &right, &yes))
            return false;
        left = right;
    }
    *out = value_bool(yes);
    return true;
}

static bool eval_unary(struct render *r, const struct node *n, struct value *out)
{
    struct value v;
    if (!eval(r, n->kids[0], &v))
        return false;
    if (n->op == OP_NOT) {
        *out = value_bool(!value_truth(&v));
        return true;
    }
    if (!value_is_number(&v))
        return render_fail(r, VIREO_INVALID, "%s has no sign", value_kind_name(&v));
    if (n->op == OP_PLUS) {
        *out = v;
        return true;
    }
    struct value zero = value_integer(0);
    if (v.kind == VALUE_REAL) {
        *out = (struct value){.kind = VALUE_REAL, .as.real = -v.as.real};
        return true;
    }
    return arithmetic(r, OP_SUB, &zero, &v, out);
}

static bool eval_collection(struct render *r, const struct node *n, struct value *out)
{
    if (n->kind == NODE_DICT) {
        struct dict *d = render_take(r, 1, sizeof *d);
        struct value key, value;
        for (size_t i = 0; d && i < n->count; i += 2)
            if (!eval(r, n->kids[i], &key) || !eval(r, n->kids[i + 1], &value) || !dict_set(r, d, key, value))
                return false;
        *out = (struct value){.kind = VALUE_DICT, .as.dict = d};
        return d != NULL;
    }
    struct value *items = render_take(r, n->count, sizeof *items);
    if (!items)
        return false;
    for (size_t i = 0; i < n->count; i++)
        if (!eval(r, n->kids[i], &items[i]))
            return false;
    *out = value_list(items, n->count);
    if (n->kind == NODE_TUPLE)
        out->kind = VALUE_TUPLE;
    return true;
}

static struct value constant(const struct node *n)
{
    struct value v = value_none();
    switch (n->literal) {
    case LITERAL_STRING:
        v = value_text("");
        v.as.text.bytes = n->text;
        v.as.text.length = n->length;
        return v;
    case LITERAL_INTEGER: return value_integer(n->integer);
    case LITERAL_REAL: v.kind = VALUE_REAL; v.as.real = n->real; return v;
    case LITERAL_TRUE: return value_bool(true);
    case LITERAL_FALSE: return value_bool(false);
    case LITERAL_NONE: break;
    }
    return v;
}

static bool eval_words(struct render *r, const struct node *n, struct value *out)
{
    for (size_t i = 0; i < n->count; i++) {
        if (!eval(r, n->kids[i], out))
            return false;
        if (value_truth(out) == (n->kind == NODE_OR))
            break;
    }
    return true;
}

static bool eval_conditional(struct render *r, const struct node *n, struct value *out)
{
    struct value condition;
    if (!eval(r, n->kids[1], &condition))
        return false;
    if (value_truth(&condition))
        return eval(r, n->kids[0], out);
    *out = value_undefined("the inline if without else");
    return !n->kids[2] || eval(r, n->kids[2], out);
}

bool eval(struct render *r, const struct node *n, struct value *out)
{
    bool ok;
    if (!render_enter(r, n))
        return false;
    switch (n->kind) {
    case NODE_CONSTANT: *out = constant(n); ok = true; break;
    case NODE_NAME: ok = find_name(r, n->text, out); break;
    case NODE_LIST:
    case NODE_TUPLE:
    case NODE_DICT: ok = eval_collection(r, n, out); break;
    case NODE_UNARY: ok = eval_unary(r, n, out); break;
    case NODE_CHAIN: ok = eval_chain(r, n, out); break;
    case NODE_COMPARE: ok = eval_compare(r, n, out); break;
    case NODE_AND:
    case NODE_OR: ok = eval_words(r, n, out); break;
    case NODE_CONDITIONAL: ok = eval_conditional(r, n, out); break;
    default: ok = eval_postfix(r, n, out); break;
    }
    r->depth--;
    return ok;
}
