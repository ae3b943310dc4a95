// Lists as the API shows them.
#ifndef VIREO_API_PAGE_H
#define VIREO_API_PAGE_H

#include <jansson.h>
#include <stdbool.h>

// {"object":"list","data":[…],"first_id","last_id","has_more"}; takes `data` (an array of objects with "id"; NULL is an
// allocation failure). NULL without memory.
json_t *api_list(json_t *data, bool has_more);

#endif
