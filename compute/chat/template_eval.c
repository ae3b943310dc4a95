// Runs a parsed template: statements write into the present builder, expressions give values.
#include "compute/chat/template_internal.h"

#include "compute/base/check.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Frames of eval and execute on the C stack: a level of nesting in the source is at most a dozen of them.
enum { MAX_FRAMES = 16 * TEMPLATE_MAX_DEPTH };

static bool enter(struct render *r, const struct node *n)
{
    r->line = n->line;
    if (++r->depth > MAX_FRAMES)
        return render_fail(r, VIREO_TOO_LARGE, "nested too deeply");
    return render_spend(r, 1);
}

// ---- names

static bool find_name(struct render *r, const char *name, struct value *out)
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

static bool assign(struct render *r, const struct node *target, struct value value)
{
    if (target->kind == NODE_NAME)
        return dict_set(r, &r->scope->variables, value_text(target->text), value);
    if (target->kind == NODE_POSTFIX) {
        struct value of;
        if (!find_name(r, target->kids[0]->text, &of))
            return false;
        if (of.kind != VALUE_NAMESPACE || target->kids[1]->kind != NODE_ATTRIBUTE)
            return render_fail(r, VIREO_INVALID, "only attributes of a namespace can be set, \"%s\" is %s",
                               target->kids[0]->text, value_kind_name(&of));
        return dict_set(r, of.as.dict, value_text(target->kids[1]->text), value);
    }
    struct value *items;
    size_t count;
    if (!value_items(r, &value, &items, &count))
        return false;
    if (count != target->count)
        return render_fail(r, VIREO_INVALID, "%zu values for %zu names", count, target->count);
    for (size_t i = 0; i < count; i++)
        if (!assign(r, target->kids[i], items[i]))
            return false;
    return true;
}

static bool push_scope(struct render *r)
{
    struct scope *s = render_take(r, 1, sizeof *s);
    if (!s)
        return false;
    s->parent = r->scope;
    r->scope = s;
    return true;
}

// A scope for each turn of a loop; `used` (NULL at first) is the one of the last turn, taken again where that is safe.
static bool push_turn(struct render *r, struct scope *used)
{
    if (!used || used->captured)
        return push_scope(r);
    used->variables.count = 0;
    r->scope = used;
    return true;
}

// ---- attributes, indices, slices

static bool loop_attribute(const struct loop *l, const char *name, struct value *out)
{
    int64_t i = (int64_t)l->index, n = (int64_t)l->count;
    const struct {
        const char *name;
        struct value value;
    } known[] = {
        {"index0", value_integer(i)},
        {"index", value_integer(i + 1)},
        {"revindex0", value_integer(n - 1 - i)},
        {"revindex", value_integer(n - i)},
        {"first", value_bool(i == 0)},
        {"last", value_bool(i == n - 1)},
        {"length", value_integer(n)},
        {"depth", value_integer(l->depth)},
        {"depth0", value_integer(l->depth - 1)},
        {"previtem", i > 0 ? l->items[i - 1] : value_undefined("loop.previtem")},
        {"nextitem", i + 1 < n ? l->items[i + 1] : value_undefined("loop.nextitem")},
    };
    for (size_t k = 0; k < VIREO_COUNT(known); k++) {
        if (strcmp(known[k].name, name) == 0) {
            *out = known[k].value;
            return true;
        }
    }
    return false;
}

static bool refuse_undefined(struct render *r, const struct value *v, const char *what)
{
    return render_fail(r, VIREO_INVALID, "%s is undefined, so it has no %s", v->as.name ? v->as.name : "the value",
                       what);
}

static bool index_value(struct render *r, const struct value *of, const struct value *key, struct value *out)
{
    if (of->kind == VALUE_UNDEFINED)
        return refuse_undefined(r, of, "elements");
    *out = value_undefined("an element that does not exist");
    if (key->kind == VALUE_TEXT) {
        bool found;
        if (!value_lookup(r, of, key->as.text, out, &found))
            return false;
        if (!found)
            *out = value_undefined(NULL);
        return true;
    }
    if (of->kind == VALUE_DICT) {
        for (size_t i = 0; i < of->as.dict->count; i++) {
            bool same;
            if (!value_equal(r, &of->as.dict->pairs[i].key, key, &same))
                return false;
            if (same) {
                *out = of->as.dict->pairs[i].value;
                return true;
            }
        }
        return true;
    }
    if (key->kind != VALUE_INTEGER || (!value_is_sequence(of) && of->kind != VALUE_TEXT))
        return true;
    int64_t i = key->as.integer;
    if (of->kind == VALUE_JSON) { // without unwrapping the whole array
        int64_t n = (int64_t)json_array_size(of->as.json.value);
        i += i < 0 ? n : 0;
        if (i >= 0 && i < n)
            *out = value_json(json_array_get(of->as.json.value, (size_t)i),
                              of->as.json.origin == ORIGIN_BY_INDEX ? (int32_t)i : of->as.json.origin, NULL);
        return true;
    }
    struct value *items;
    size_t count;
    if (!value_items(r, of, &items, &count))
        return false;
    i += i < 0 ? (int64_t)count : 0;
    if (i >= 0 && i < (int64_t)count)
        *out = items[i];
    return true;
}

static bool one_attribute(struct render *r, const struct value *of, const char *name, struct value *out)
{
    if (of->kind == VALUE_UNDEFINED)
        return refuse_undefined(r, of, name);
    if (of->kind == VALUE_LOOP && loop_attribute(of->as.loop, name, out))
        return true;
    bool found;
    if (!value_lookup(r, of, value_text(name).as.text, out, &found))
        return false;
    if (!found)
        *out = value_undefined(arena_copy_string(&r->arena, name));
    return true;
}

// `name` may be a path, as in map(attribute="function.name") or attribute="0".
bool get_attribute(struct render *r, const struct value *of, const char *name, size_t length, struct value *out)
{
    struct value at = *of;
    for (size_t start = 0; start <= length;) {
        size_t end = start;
        while (end < length && name[end] != '.')
            end++;
        char part[128];
        if (end - start >= sizeof part || end == start)
            return render_fail(r, VIREO_INVALID, "\"%.*s\" is not the name of an attribute",
                               (int)VIREO_MIN(length, 60u), name);
        memcpy(part, name + start, end - start);
        part[end - start] = 0;
        char *rest;
        long number = strtol(part, &rest, 10);
        struct value next;
        if (*rest == 0 && part[0] >= '0' && part[0] <= '9') {
            struct value key = value_integer(number);
            if (!index_value(r, &at, &key, &next))
                return false;
        } else if (!one_attribute(r, &at, part, &next)) {
            return false;
        }
        at = next;
        start = end + 1;
    }
    *out = at;
    return true;
}

static bool slice_bound(struct render *r, const struct node *n, bool *given, int64_t *out)
{
    struct value v;
    *given = false;
    if (!n)
        return true;
    if (!eval(r, n, &v))
        return false;
    if (v.kind == VALUE_NONE)
        return true;
    if (v.kind != VALUE_INTEGER)
        return render_fail(r, VIREO_INVALID, "a slice needs integers, got %s", value_kind_name(&v));
    *given = true;
    *out = VIREO_MAX(VIREO_MIN(v.as.integer, INT32_MAX), -INT32_MAX);
    return true;
}

// As Python's slice.indices().
static bool slice_value(struct render *r, const struct value *of, const struct node *n, struct value *out)
{
    bool has_start, has_stop, has_step;
    int64_t start = 0, stop = 0, step = 1;
    if (!slice_bound(r, n->kids[0], &has_start, &start) || !slice_bound(r, n->kids[1], &has_stop, &stop) ||
        !slice_bound(r, n->kids[2], &has_step, &step))
        return false;
    if (!has_step)
        step = 1;
    if (step == 0)
        return render_fail(r, VIREO_INVALID, "the step of a slice must not be 0");
    if (of->kind == VALUE_UNDEFINED)
        return refuse_undefined(r, of, "elements");
    if (of->kind != VALUE_TEXT && !value_is_sequence(of))
        return render_fail(r, VIREO_INVALID, "%s cannot be sliced", value_kind_name(of));
    struct value *items = NULL;
    size_t length;
    // Strings with step 1 are cut without taking them apart.
    bool text = of->kind == VALUE_TEXT, whole = text && step == 1;
    if (!(whole ? value_length(r, of, &length) : value_items(r, of, &items, &length)))
        return false;
    int64_t count = (int64_t)length, low = step > 0 ? 0 : -1, high = step > 0 ? count : count - 1;
    start = !has_start ? (step > 0 ? low : high) : start < 0 ? VIREO_MAX(start + count, low) : VIREO_MIN(start, high);
    stop = !has_stop ? (step > 0 ? high : low) : stop < 0 ? VIREO_MAX(stop + count, low) : VIREO_MIN(stop, high);
    if (whole) {
        size_t from = 0, to, k = 0;
        bool ok = true;
        for (; (int64_t)k < start && from < of->as.text.length; k++)
            from += text_step(of->as.text, from);
        for (to = from; (int64_t)k < stop && to < of->as.text.length; k++)
            to += text_step(of->as.text, to);
        *out = (struct value){.kind = VALUE_TEXT, .as.text = text_slice(r, of->as.text, from, to, &ok)};
        return ok;
    }
    int64_t made = step > 0 ? (stop > start ? (stop - start + step - 1) / step : 0)
                            : (start > stop ? (start - stop - step - 1) / -step : 0);
    struct value *kept = render_spend(r, (size_t)made / 4) ? render_take(r, (size_t)made, sizeof *kept) : NULL;
    if (!kept)
        return false;
    for (int64_t i = 0; i < made; i++)
        kept[i] = items[start + i * step];
    *out = value_list(kept, (size_t)made);
    if (of->kind == VALUE_TUPLE)
        out->kind = VALUE_TUPLE;
    if (!text)
        return true;
    struct builder b = {0};
    for (int64_t i = 0; i < made; i++)
        if (!builder_add(r, &b, kept[i].as.text))
            return false;
    *out = builder_value(&b);
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

static bool filter_node(struct render *r, const struct node *n, const struct value *in, struct value *out)
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
    if (!enter(r, n))
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

// ---- statements

static bool execute_if(struct render *r, const struct node *n)
{
    size_t i = 0;
    for (; i + 1 < n->count; i += 2) {
        struct value condition;
        if (!eval(r, n->kids[i], &condition))
            return false;
        if (value_truth(&condition))
            return execute(r, n->kids[i + 1]);
    }
    return i == n->count || execute(r, n->kids[i]);
}

// The items for which the condition of "for x in items if condition" holds.
static bool keep_matching(struct render *r, const struct node *n, struct value **items, size_t *count)
{
    struct scope *outer = r->scope, *turn = NULL;
    size_t kept = 0;
    struct value *made = render_take(r, *count, sizeof *made), condition;
    if (!made)
        return false;
    for (size_t i = 0; i < *count; i++) {
        if (!push_turn(r, turn) || !assign(r, n->kids[0], (*items)[i]) || !eval(r, n->kids[2], &condition))
            return false;
        turn = r->scope;
        if (value_truth(&condition))
            made[kept++] = (*items)[i];
        r->scope = outer;
    }
    *items = made;
    *count = kept;
    return true;
}

static bool execute_for(struct render *r, const struct node *n)
{
    struct value list;
    struct loop loop = {.depth = r->loops + 1};
    struct value *items;
    struct scope *outer = r->scope, *turn = NULL;
    if (!eval(r, n->kids[1], &list) || !value_items(r, &list, &items, &loop.count) ||
        (n->kids[2] && !keep_matching(r, n, &items, &loop.count)))
        return false;
    if (loop.count == 0)
        return !n->kids[4] || execute(r, n->kids[4]);
    loop.items = items;
    r->loops++;
    // On the arena: a namespace may keep it beyond the loop.
    struct loop *kept = render_take(r, 1, sizeof *kept);
    if (!kept)
        return false;
    *kept = loop;
    for (size_t i = 0; i < loop.count; i++) {
        kept->index = i;
        struct value itself = {.kind = VALUE_LOOP, .as.loop = kept};
        if (!render_spend(r, 1) || !push_turn(r, turn) ||
            !dict_set(r, &r->scope->variables, value_text("loop"), itself) || !assign(r, n->kids[0], items[i]) ||
            !execute(r, n->kids[3]))
            return false;
        turn = r->scope;
        r->scope = outer;
        enum flow flow = r->flow;
        r->flow = FLOW_NEXT;
        if (flow == FLOW_BREAK)
            break;
    }
    r->loops--;
    return true;
}

// Body of {% set x %} or {% filter f %}: what it prints, through the filters from kids[first] on.
static bool capture(struct render *r, const struct node *body, const struct node *n, size_t first, struct value *out)
{
    struct builder b = {0}, *target = r->out;
    struct scope *outer = r->scope;
    r->out = &b;
    if (!push_scope(r) || !execute(r, body))
        return false;
    r->out = target;
    r->scope = outer;
    struct value v = builder_value(&b), next;
    for (size_t i = first; i < n->count; i++, v = next)
        if (!filter_node(r, n->kids[i], &v, &next))
            return false;
    *out = v;
    return true;
}

static bool print(struct render *r, const struct value *v)
{
    struct text t;
    return value_to_text(r, v, &t) && builder_add(r, r->out, t);
}

static bool define_macro(struct render *r, const struct node *n)
{
    struct macro *m = render_take(r, 1, sizeof *m);
    if (!m)
        return false;
    *m = (struct macro){n, r->scope};
    for (struct scope *s = r->scope; s; s = s->parent)
        s->captured = true;
    return dict_set(r, &r->scope->variables, value_text(n->text), (struct value){.kind = VALUE_MACRO, .as.macro = m});
}

bool execute(struct render *r, const struct node *n)
{
    struct value v;
    bool ok = true;
    if (!enter(r, n))
        return false;
    switch (n->kind) {
    case NODE_BODY:
        for (size_t i = 0; i < n->count && ok && r->flow == FLOW_NEXT; i++)
            ok = execute(r, n->kids[i]);
        break;
    case NODE_TEXT: ok = builder_add_own(r, r->out, n->text, n->length, TEMPLATE_OWN); break;
    case NODE_OUTPUT: ok = eval(r, n->kids[0], &v) && print(r, &v); break;
    case NODE_IF: ok = execute_if(r, n); break;
    case NODE_FOR: ok = execute_for(r, n); break;
    case NODE_SET: ok = eval(r, n->kids[1], &v) && assign(r, n->kids[0], v); break;
    case NODE_CAPTURE: ok = capture(r, n->kids[1], n, 2, &v) && assign(r, n->kids[0], v); break;
    case NODE_FILTERED: ok = capture(r, n->kids[0], n, 1, &v) && print(r, &v); break;
    case NODE_MACRO: ok = define_macro(r, n); break;
    case NODE_BREAK: r->flow = FLOW_BREAK; break;
    default: r->flow = FLOW_CONTINUE; break;
    }
    r->depth--;
    return ok;
}
