// What the files of evaluation share (template_eval.c, template_access.c, template_execute.c); nobody else includes it.
// All that return bool: false = the render failed, and says why.
#ifndef VIREO_CHAT_TEMPLATE_EVAL_H
#define VIREO_CHAT_TEMPLATE_EVAL_H

#include "compute/chat/template_internal.h"

// One frame deeper, at the line of `n` (the caller takes r->depth back); holds the limits of depth and steps.
bool render_enter(struct render *r, const struct node *n);
// The variable or function `name`; undefined if there is none.
bool find_name(struct render *r, const char *name, struct value *out);
// `in` through the filter of a NODE_FILTER.
bool filter_node(struct render *r, const struct node *n, const struct value *in, struct value *out);

// ---- template_access.c

// Fails: `v` is undefined, so it has no `what`. Always false.
bool refuse_undefined(struct render *r, const struct value *v, const char *what);
// of[key]; undefined if there is no such element.
bool index_value(struct render *r, const struct value *of, const struct value *key, struct value *out);
// of.name, not a path; undefined if there is no such attribute.
bool one_attribute(struct render *r, const struct value *of, const char *name, struct value *out);
// of[start:stop:step] with the bounds of a NODE_SLICE.
bool slice_value(struct render *r, const struct value *of, const struct node *n, struct value *out);

// ---- template_execute.c

// An empty scope inside the present one; the caller puts r->scope back.
bool push_scope(struct render *r);

#endif
