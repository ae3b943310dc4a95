// What the files of filters share: template_filters.c (texts, numbers, the table) and template_lists.c. Not for others.
#ifndef VIREO_CHAT_TEMPLATE_FILTERS_H
#define VIREO_CHAT_TEMPLATE_FILTERS_H

#include "compute/chat/template_internal.h"

// `in` filtered into *out; false: the render failed, and says why.
typedef bool filter_function(struct render *r, const struct value *in, const struct call *c, struct value *out);
typedef filter_function *filter_fn;

// The items of a list, a mapping or a text, in the arena of the render: for filters that reorder or cut.
bool copy_items(struct render *r, const struct value *in, struct value **items, size_t *count);

// template_lists.c
filter_function filter_first, filter_last, filter_list, filter_reverse, filter_unique, filter_sort, filter_items,
    filter_dictsort, filter_map, filter_select, filter_reject, filter_selectattr, filter_rejectattr, filter_sum,
    filter_min, filter_max;

#endif
