// Runs the statements of a parsed template: they write into the present builder and set names in scopes.
#include "compute/chat/template_eval.h"

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

bool push_scope(struct render *r)
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
    if (!render_enter(r, n))
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
